//! What the templates of the key may use.

use std::collections::BTreeMap;

use headnode_model::{paths, ports};
use serde::Serialize;

use super::{Inputs, VERSION};
use crate::boot::smartos;
use crate::source::platform::{Kind, LINUX, Platform};
use crate::spec::Console;

/// The properties that a SmartOS kernel is given as a file, on the key.
pub(super) const ENVIRONMENT: &str = "boot/smartos.env";

/// A platform as menus name it.
#[derive(Serialize)]
struct Choice {
    /// Its stamp.
    stamp: String,
    /// Its kernel on the key, of a Linux platform.
    kernel: String,
    /// Its initial file system on the key, of a Linux platform.
    initrd: String,
    /// How GRUB's menu starts it, of a SmartOS platform: its stamp as the key has it, and whether
    /// it starts on UEFI machines.
    start: String,
}

impl Choice {
    fn of(platform: &Platform, with_case: bool) -> Self {
        let stamp = folder(platform, with_case);
        let on_key = |path: &str| format!("{}/{stamp}/{path}", paths::PLATFORMS);
        Self {
            stamp: platform.stamp.to_string(),
            kernel: on_key(LINUX[0]),
            initrd: on_key(LINUX[1]),
            start: format!("{stamp} {}", if platform.efi { "efi" } else { "bios" }),
        }
    }
}

/// The name of a platform's folder. SmartOS folds the case of what is on FAT, but not that of a disc
/// or a pool, where Triton has the stamp as it is (C§1.4).
pub(super) fn folder(platform: &Platform, with_case: bool) -> String {
    if with_case { platform.stamp.to_string() } else { platform.stamp.key_name() }
}

/// What all templates may use; `with_case` tells whether the key tells upper from lower case. The first platform boots; the menu offers those of its kind.
pub(super) fn context(
    inputs: &Inputs,
    options: &smartos::Options,
    platforms: &[Platform],
    with_case: bool,
) -> tera::Context {
    let mut context = tera::Context::new();
    context.insert("version", VERSION);
    context.insert("timeout", &inputs.timeout);
    context.insert("console", inputs.console.name());
    context.insert("serial", inputs.serial.name());
    context.insert("serial_unit", &inputs.serial.unit().unwrap_or(0));
    context.insert("consoles", &linux_consoles(inputs));
    let ports = BTreeMap::from([
        ("tftp", ports::TFTP),
        ("booter_http", ports::BOOTER_HTTP),
        ("cnapi", ports::CNAPI),
        ("agent", ports::AGENT),
    ]);
    context.insert("ports", &ports);
    let Some(first) = platforms.first() else { return context };
    context.insert("stamp", &first.stamp.to_string());
    context.insert("platform", &Choice::of(first, with_case));
    let others = platforms.iter().skip(1).filter(|other| other.kind == first.kind);
    let others = others.map(|other| Choice::of(other, with_case));
    context.insert("others", &others.collect::<Vec<_>>());
    if first.kind == Kind::SmartOs {
        smartos(options, &mut context);
    }
    context
}

/// The consoles of a Linux kernel: the last one is where programs write to.
pub(super) fn linux_consoles(inputs: &Inputs) -> String {
    let serial = format!("console={},115200n8", inputs.serial.name());
    let screen = "console=tty0".to_owned();
    let order = if inputs.console == Console::Vga { [serial, screen] } else { [screen, serial] };
    order.join(" ")
}

fn smartos(options: &smartos::Options, context: &mut tera::Context) {
    context.insert("console", options.console);
    context.insert("serial", options.serial);
    let unit = smartos::SERIAL.iter().position(|port| *port == options.serial);
    context.insert("serial_unit", &unit.unwrap_or(0));
    let both = format!("{},text", options.console);
    let loader_console = if options.console == "text" { "text" } else { &both };
    context.insert("loader_console", loader_console);
    context.insert("smt_enabled", &options.smt);
    context.insert("ipxe", &options.ipxe);
    context.insert("properties", &options.command_line());
    context.insert("environment", ENVIRONMENT);
    // The loader's configuration takes a backslash and a quote only behind a backslash.
    let escaped: Vec<smartos::Property> = options
        .properties
        .iter()
        .map(|property| smartos::Property {
            name: property.name.clone(),
            value: property.value.replace('\\', "\\\\").replace('"', "\\\""),
        })
        .collect();
    context.insert("extra_properties", &escaped);
}
