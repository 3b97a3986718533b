//! What a build needs, found and looked at before anything is done.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;
use headnode_model::stamp::Stamp;

use crate::boot::{grub, smartos};
use crate::image::output::Compression;
use crate::source::firmware::{self, Catalogue, LoaderKind};
use crate::source::platform::{self, Kind};
use crate::source::programs;
use crate::spec::{Console, Size, Spec};

/// Seconds that the boot menu waits by default: enough to reach a key, short in an unattended boot.
const MENU_TIMEOUT: u16 = 2;

/// Everything that a build needs, found and looked at.
pub struct Inputs {
    /// The platforms' tarballs, of any kind, at least one.
    pub platforms: Vec<PathBuf>,
    /// What boots by default: the platform of this stamp, else the first one.
    pub default_platform: Option<Stamp>,
    /// The illumos loader's tarball; GRUB is the loader without it.
    pub boot: Option<PathBuf>,
    /// How a SmartOS headnode boots.
    pub smartos: smartos::Options,
    /// More files of the key: path on it, place on this machine. For SmartOS keys, whose names are
    /// all in lower case, letters are made so. They win over the overlays' and the loader's.
    pub extra: Vec<(String, PathBuf)>,
    /// Folder of ready programs, or else the workspace to build them in. Images that boot SmartOS
    /// carry none.
    pub programs: Option<Programs>,
    /// Folder of overlays.
    pub overlays: PathBuf,
    /// The firmware and the versions of its packages.
    pub firmware: Vec<(firmware::Entry, String)>,
    /// Answers to first boot's questions.
    pub answers: Option<PathBuf>,
    /// Keys that may log in as root.
    pub authorized_keys: Option<PathBuf>,
    /// Where the image goes, when it is named.
    pub output: Option<PathBuf>,
    /// How it is packed.
    pub compress: Compression,
    /// Its size.
    pub size: Size,
    /// The console of the default menu entry.
    pub console: Console,
    /// Seconds that the menu waits.
    pub timeout: u16,
}

impl Inputs {
    /// The boot loader that the image gets.
    pub fn loader(&self) -> LoaderKind {
        if self.boot.is_some() { LoaderKind::Illumos } else { LoaderKind::Grub }
    }
}

/// Where our programs come from.
pub enum Programs {
    /// They lie in this folder.
    Ready(PathBuf),
    /// They are built in this workspace.
    Build(PathBuf),
}

/// What is missing, gathered so that all of it is told at once.
#[derive(Default)]
struct Missing {
    problems: Vec<String>,
    packages: Vec<String>,
}

impl Missing {
    fn say(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }
}

/// Finds all inputs; everything that is missing is told at once.
///
/// # Errors
/// When anything is missing.
pub fn inputs(spec: Spec) -> anyhow::Result<Inputs> {
    let mut missing = Missing::default();
    let workspace = programs::workspace();
    let loader = if spec.boot.is_some() { LoaderKind::Illumos } else { LoaderKind::Grub };
    if loader == LoaderKind::Grub {
        for (what, package) in grub::missing() {
            missing.say(format!("{what} is missing"));
            missing.packages.push(package.to_owned());
        }
    }
    let (platforms, kind) = platforms(spec.platform, &mut missing);
    if loader == LoaderKind::Illumos && kind == Kind::Linux && !platforms.is_empty() {
        missing.say(
            "the illumos loader (--boot) starts SmartOS only, but the first platform is Linux",
        );
    }
    let programs = match kind {
        Kind::SmartOs => None,
        Kind::Linux => our_programs(spec.runtime_dir, workspace.as_deref(), &mut missing),
    };
    let in_tree = |name: &str| workspace.as_ref().map(|workspace| workspace.join(name));
    let overlays = spec.overlays.or_else(|| in_tree("overlays"));
    if overlays.as_ref().is_none_or(|folder| !folder.join("key").is_dir()) {
        missing.say(match &overlays {
            Some(folder) => format!("{} is no folder of overlays: it lacks key/", folder.display()),
            None => "there are no overlays: give their folder with --overlays".to_owned(),
        });
    }
    let catalogue = spec.firmware.or_else(|| in_tree(firmware::CATALOGUE));
    let found = match catalogue.map(|path| firmware::read(&path)) {
        None => {
            missing.say("there is no firmware catalogue: give it with --firmware");
            Vec::new()
        }
        Some(Err(error)) => {
            missing.say(error.to_string());
            Vec::new()
        }
        Some(Ok(catalogue)) => versions(catalogue, loader, &mut missing),
    };
    for (what, path) in [
        ("answers file", &spec.answer_file),
        ("authorized keys file", &spec.authorized_keys),
        ("loader", &spec.boot),
    ] {
        if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
            missing.say(format!("the {what} {} does not exist", path.display()));
        }
    }
    if let Some(path) = spec.answer_file.as_ref().filter(|path| path.is_file()) {
        let parsed = fs::read(path).map_err(|error| error.to_string()).and_then(|text| {
            serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(&text)
                .map_err(|error| error.to_string())
        });
        if let Err(error) = parsed {
            missing.say(format!("the answers file {}: {error}", path.display()));
        }
    }
    let Missing { problems, mut packages } = missing;
    let (Some(overlays), true) = (overlays, problems.is_empty()) else {
        packages.sort();
        packages.dedup();
        let mut text = format!("the build lacks what it needs:\n  {}", problems.join("\n  "));
        if !packages.is_empty() {
            text.push_str(&format!("\nInstall with: apt-get install {}", packages.join(" ")));
        }
        bail!(text);
    };
    Ok(Inputs {
        platforms,
        default_platform: None,
        boot: spec.boot,
        smartos: smartos_options(&spec),
        extra: Vec::new(),
        programs,
        overlays,
        firmware: found,
        answers: spec.answer_file,
        authorized_keys: spec.authorized_keys,
        output: spec.output,
        compress: spec.compress.unwrap_or_default(),
        size: spec.size.unwrap_or_default(),
        console: spec.console.unwrap_or_default(),
        timeout: spec.timeout.unwrap_or(MENU_TIMEOUT),
    })
}

/// The platforms, and what the first one is.
fn platforms(given: Vec<PathBuf>, missing: &mut Missing) -> (Vec<PathBuf>, Kind) {
    let platforms = match given.is_empty() {
        true => platform::newest(Path::new("out")).into_iter().collect(),
        false => given,
    };
    if platforms.is_empty() {
        missing.say(
            "there is no platform: give one with --platform, or make one in out/ with \
             `headnode platform build`",
        );
    }
    let mut first = None;
    for path in &platforms {
        if !path.is_file() {
            missing.say(format!("the platform {} does not exist", path.display()));
        } else if first.is_none() {
            match platform::kind(path) {
                Ok(kind) => first = Some(kind),
                Err(error) => missing.say(error.to_string()),
            }
        }
    }
    (platforms, first.unwrap_or(Kind::Linux))
}

fn our_programs(
    ready: Option<PathBuf>,
    workspace: Option<&Path>,
    missing: &mut Missing,
) -> Option<Programs> {
    match (ready, workspace) {
        (Some(folder), _) => {
            if let Err(error) = programs::check(&folder) {
                missing.say(error.to_string());
            }
            Some(Programs::Ready(folder))
        }
        (None, Some(workspace)) => Some(Programs::Build(workspace.to_owned())),
        (None, None) => {
            missing.say(
                "the programs sdc, sdc-agent, sdc-booter, sdc-control and sdc-setup are not at \
                 hand: start this command within the source tree, where it builds them, or give \
                 their folder with --runtime-dir",
            );
            None
        }
    }
}

/// How a SmartOS headnode boots. Without a wish its console is Triton's default, the second serial
/// port.
fn smartos_options(spec: &Spec) -> smartos::Options {
    let default = smartos::Options::default();
    let serial_dev = spec.parts.serial_dev.as_deref();
    let port = |name: &str| smartos::SERIAL.into_iter().find(|port| *port == name);
    let console = spec.console.map(|console| console.with_serial_dev(serial_dev).illumos());
    let serial = serial_dev.or(console).and_then(port).unwrap_or(default.serial);
    smartos::Options {
        console: console.unwrap_or(serial),
        serial,
        smt: spec.parts.smt_enabled.unwrap_or(default.smt),
        ipxe: spec.parts.ipxe.unwrap_or(default.ipxe),
        ..default
    }
}

fn versions(
    catalogue: Catalogue,
    loader: LoaderKind,
    missing: &mut Missing,
) -> Vec<(firmware::Entry, String)> {
    let mut found = Vec::new();
    let carried = |entry: &firmware::Entry| entry.loader.is_none_or(|with| with == loader);
    for entry in catalogue.firmware.into_iter().filter(carried) {
        if let Some(file) = entry.file.as_ref().filter(|file| !file.is_file()) {
            missing.say(format!("{} ({}) is missing", file.display(), entry.name));
            missing.packages.push(entry.package);
            continue;
        }
        match firmware::package_version(&entry.package) {
            Some(version) => found.push((entry, version)),
            None => {
                missing.say(format!("the Debian package {} is not installed", entry.package));
                missing.packages.push(entry.package);
            }
        }
    }
    found
}
