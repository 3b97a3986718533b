//! What the kernel and udev tell of one disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::disk::Bus;
use super::signature::{plain, text};

/// A file of one value; nothing when it is not there, cannot be read or is empty.
pub(super) fn value(folder: &Path, name: &str) -> Option<String> {
    // Serial numbers come from the device as they are.
    text(&fs::read(folder.join(name)).ok()?)
}

/// A number in such a file.
pub(super) fn number(folder: &Path, name: &str) -> Option<u64> {
    value(folder, name)?.parse().ok()
}

/// Major and minor number, in the form `8:16`.
pub(super) fn device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Names in a folder, sorted; none when it cannot be read.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_by_key(|name| natural(name));
    names
}

/// Sorts `sdb10` behind `sdb9`.
pub(super) fn natural(name: &str) -> (String, u64) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name.get(stem.len()..).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    (stem.to_owned(), number)
}

/// udev's knowledge of a device.
#[derive(Debug, Default)]
pub(super) struct Udev(BTreeMap<String, String>);

impl Udev {
    /// Reads its file in udev's data base; empty without udev.
    pub fn read(run: &Path, number: (u32, u32)) -> Self {
        let path = run.join(format!("udev/data/b{}:{}", number.0, number.1));
        let text = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let pairs = text.lines().filter_map(|line| line.strip_prefix("E:")?.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), plain(value))).collect())
    }

    /// A property, unless it is empty.
    pub fn get(&self, key: &str) -> Option<String> {
        self.0.get(key).filter(|value| !value.is_empty()).cloned()
    }
}

/// Who made a disk and how it is connected.
#[derive(Debug)]
pub(super) struct Identity {
    pub bus: Bus,
    pub vendor: Option<String>,
    pub model: Option<String>,
    pub serial: Option<String>,
    /// The world-wide name or another one that its maker promises to be unique.
    pub wwid: Option<String>,
    pub removable: bool,
}

/// Reads it from the disk's folder in sysfs, whose links are resolved, and from those above it.
pub(super) fn identity(name: &str, folder: &Path, udev: &Udev) -> Identity {
    let bus = bus(name, folder);
    let device = folder.join("device");
    let first = |names: &[&str]| names.iter().find_map(|name| value(&device, name));
    let (mut vendor, mut model, mut serial) = (None, None, None);
    match bus {
        // What the bridge says of itself is what is printed on the stick; the SCSI names behind it
        // are often cut, and its page with a serial often made up.
        Bus::Usb => {
            if let Some(usb) = usb_parent(folder) {
                vendor = value(&usb, "manufacturer");
                model = value(&usb, "product");
                serial = value(&usb, "serial");
            }
            vendor = first(&["vendor"]).or(vendor);
            model = first(&["model"]).or(model);
        }
        Bus::Mmc => {
            model = first(&["name"]);
            serial = first(&["serial"]);
        }
        Bus::Nvme => {
            model = first(&["model"]);
            serial = first(&["serial"]);
        }
        Bus::Virtio => serial = value(folder, "serial"),
        _ => {
            vendor = first(&["vendor"]).filter(|vendor| vendor != "ATA");
            model = first(&["model"]);
        }
    }
    let serial = serial
        .or_else(|| udev.get("ID_SERIAL_SHORT"))
        .or_else(|| first(&["serial"]))
        .or_else(|| page_80(&device));
    let wwid = udev.get("ID_WWN").or_else(|| value(folder, "wwid")).or_else(|| first(&["wwid"]));
    let medium = number(folder, "removable") == Some(1);
    let card = bus == Bus::Mmc && first(&["type"]).as_deref() == Some("SD");
    let removable = bus != Bus::Loop && (medium || bus == Bus::Usb || card);
    Identity { bus, vendor, model, serial, wwid, removable }
}

/// The page of vital product data with the serial number: four bytes, then text (SPC-4, 7.8.18).
fn page_80(device: &Path) -> Option<String> {
    text(fs::read(device.join("vpd_pg80")).ok()?.get(4..)?)
}

fn bus(name: &str, folder: &Path) -> Bus {
    let on = |prefix: &str| {
        folder.iter().any(|part| {
            let digits = part.to_str().and_then(|part| part.strip_prefix(prefix));
            digits.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    match name {
        _ if name.starts_with("loop") => Bus::Loop,
        _ if name.starts_with("nvme") => Bus::Nvme,
        _ if name.starts_with("mmcblk") => Bus::Mmc,
        _ if on("usb") => Bus::Usb,
        _ if on("ata") => Bus::Sata,
        _ if name.starts_with("vd") || on("virtio") => Bus::Virtio,
        _ if name.starts_with("sd") => Bus::Scsi,
        _ => Bus::Other,
    }
}

fn usb_parent(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().find(|above| above.join("idVendor").exists()).map(Path::to_owned)
}

/// An id in the manner of udev's links, of what is always the same; nothing without a serial.
pub(super) fn made_id(identity: &Identity) -> Option<String> {
    let serial = identity.serial.as_ref()?;
    let parts = [identity.vendor.as_ref(), identity.model.as_ref(), Some(serial)];
    let words: Vec<_> = parts.into_iter().flatten().map(|part| word(part)).collect();
    Some(format!("{}-{}", identity.bus.name(), words.join("_")))
}

/// Text with nothing in it that a shell or a path would see as more than a word.
fn word(text: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || "-+.:".contains(c);
    text.chars().map(|c| if keep(c) { c } else { '_' }).collect()
}
