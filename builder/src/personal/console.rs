//! The console that a site chooses, as the image's loader reads it.

use headnode_model::manifest::Personal;
use headnode_model::personal::Part;

use crate::source::platform::Kind;
use crate::spec::Console;

/// The variable that GRUB's menus read, see `boot/grub/grub.cfg` of the overlays.
const VARIABLE: &str = "headnode_console";

const CONSOLES: [Console; 5] =
    [Console::Vga, Console::Serial, Console::Serial2, Console::Serial3, Console::Serial4];

/// The part of an image that tells its loader the console, and what it must hold.
///
/// # Errors
/// When the image has no such part, or the port is not named.
pub fn content(
    console: Console,
    places: &[Personal],
    os: Option<Kind>,
) -> Result<(Part, Vec<u8>), String> {
    let has = |part: Part| places.iter().any(|place| place.path == part.path());
    if console == Console::SerialDev {
        return Err("--console serial: name the port, ttyS0 to ttyS3 (ttya to ttyd)".to_owned());
    }
    if has(Part::GrubEnvironment) {
        let part = Part::GrubEnvironment;
        let name = if os == Some(Kind::SmartOs) { console.illumos() } else { console.name() };
        let mut text = part.blank().to_vec();
        text.extend(format!("{VARIABLE}={name}\n").bytes());
        return Ok((part, text));
    }
    if has(Part::LoaderConf) {
        let name = console.illumos();
        // The loader's own output goes to the screen as well.
        let both = if name == "text" { name.to_owned() } else { format!("{name},text") };
        let text = format!("console=\"{both}\"\nos_console=\"{name}\"\n");
        return Ok((Part::LoaderConf, text.into_bytes()));
    }
    Err("the image has no place for the console: its loader cannot be told".to_owned())
}

/// Checks what GRUB will read, and gives the console that it names.
///
/// # Errors
/// When GRUB would not take it.
pub fn of_grub(text: &str) -> Result<Option<String>, String> {
    let mut chosen = None;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once('=') {
            None => return Err(format!("{line:?} is no line of an environment block")),
            Some((VARIABLE, value)) if known(value) => chosen = Some(value.to_owned()),
            Some((VARIABLE, value)) => return Err(format!("there is no console {value:?}")),
            // GRUB's menu reads nothing else.
            Some(_) => {}
        }
    }
    Ok(chosen)
}

/// Checks what the illumos loader will read, and gives the console that it names.
///
/// # Errors
/// When the loader would stop at a line.
pub fn of_loader(text: &str) -> Result<Option<String>, String> {
    let mut chosen = None;
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let Some((name, value)) = line.split_once('=') else {
            return Err(format!("{line:?} is no assignment"));
        };
        if name.trim() == "os_console" {
            chosen = Some(value.trim().trim_matches('"').to_owned());
        }
    }
    Ok(chosen)
}

fn known(value: &str) -> bool {
    CONSOLES.iter().any(|console| value == console.name() || value == console.illumos())
}
