//! What an image is good for: layout, loaders, platforms, Triton's images; found by looking, without
//! a manifest.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use super::{Contents, Entry, FileSystem, Part, Scheme, head, pxe};
use crate::image::SECTOR;

/// The largest configuration file that is read, in bytes.
const MAX_TEXT: u64 = 256 << 10;
/// How far behind its start a stage 2 may have its multiboot header (Multiboot 0.6.96, 3.1).
const MULTIBOOT_SEARCH: u64 = 8192;
/// More platforms than this are not told.
const MAX_PLATFORMS: usize = 1000;
const MULTIBOOT_MAGIC: [u8; 4] = 0x1bad_b002_u32.to_le_bytes();

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Which kind of image it seems to be.
    pub layout: String,
    /// Loaders, with the places where they are.
    pub loaders: Vec<Loader>,
    /// Platforms.
    pub platforms: Vec<Platform>,
    /// What the illumos loader is told (`boot/loader.conf`), secrets left out.
    pub loader_conf: BTreeMap<String, String>,
    /// Number of zone images (`images/*.imgmanifest`).
    pub images: usize,
    /// Services of Triton (`zones/*`), sorted.
    pub zones: Vec<String>,
    /// What `version` says, on keys of headnodes.
    pub version: Option<String>,
}

/// A loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loader {
    /// What it is.
    pub what: &'static str,
    /// Where it is: `MBR`, or a path as `inspect` and `extract` name it.
    pub place: String,
    /// Its size in bytes, when it is a file.
    pub size: Option<u64>,
}

/// A platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Platform {
    /// Its stamp as the folder has it; empty on a SmartOS image, which has one platform only.
    pub stamp: String,
    /// `smartos` or `linux`.
    pub os: &'static str,
    /// The kernel's path.
    pub kernel: String,
    /// Size of all its files in bytes.
    pub size: u64,
    /// Whether its boot archive has a hash beside it (C§1.10); `None` without a boot archive.
    pub hash: Option<bool>,
}

/// Files that are loaders, on any file system of the image.
const FILES: [(&str, &str); 12] = [
    ("efi/boot/bootx64.efi", "UEFI loader"),
    ("efi/boot/bootaa64.efi", "UEFI loader (ARM64)"),
    ("boot/loader", "illumos loader"),
    ("boot/loader64.efi", "illumos loader for UEFI"),
    ("boot/gptzfsboot", "illumos stage 2"),
    ("boot/cdboot", "illumos stage 2 for optical disks"),
    ("boot/pmbr", "illumos stage 1"),
    ("boot/grub/grub.cfg", "GRUB's configuration"),
    ("boot/grub/stage2_eltorito", "GRUB 0.97 for optical disks"),
    ("boot/grub/menu.lst", "GRUB 0.97's configuration"),
    ("boot/ipxe.lkrn", "iPXE for BIOS"),
    ("boot/ipxe.efi", "iPXE for UEFI"),
];

/// Looks at an image.
///
/// # Errors
/// When it cannot be read.
pub fn survey(contents: &Contents) -> io::Result<Survey> {
    let mut disk = &contents.image.file;
    let sector = head(&mut disk, 0, SECTOR)?;
    let mut loaders = Vec::new();
    loaders.extend(stage1(&sector, &contents.scheme));
    for part in &contents.parts {
        loaders.extend(raw_stage2(contents, part)?);
        let Some(files) = &part.files else { continue };
        for (path, what) in FILES {
            if let Some(entry) = find(files, path) {
                let place = place(contents, part, &entry.path);
                loaders.push(Loader { what, place, size: Some(entry.size) });
            }
        }
    }
    let key = contents.key().and_then(|part| part.files.as_ref());
    let platforms = key.map(platforms).unwrap_or_default();
    let text = |path: &str| -> io::Result<Option<String>> {
        let Some(entry) = key.and_then(|files| find(files, path)) else { return Ok(None) };
        // What cannot be read is shown as what it is: absent.
        let bytes = contents.small(entry, MAX_TEXT).ok();
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let loader_conf = text("boot/loader.conf")?.map(|text| settings(&text)).unwrap_or_default();
    let version = text("version")?.map(|text| text.trim().to_owned());
    let mut zones: Vec<String> = Vec::new();
    let mut images = 0;
    for entry in key.iter().flat_map(|files| &files.entries) {
        match entry.path.split('/').collect::<Vec<_>>()[..] {
            ["images", name] if name.ends_with(".imgmanifest") => images += 1,
            ["zones", name] if entry.folder => zones.push(name.to_owned()),
            _ => {}
        }
    }
    zones.sort();
    let layout = layout(contents, &sector, &platforms, zones.is_empty());
    Ok(Survey { layout, loaders, platforms, loader_conf, images, zones, version })
}

/// A path as it is named to people: that of another partition than the key's with its name.
pub fn place(contents: &Contents, part: &Part, path: &str) -> String {
    let is_key = contents.key().is_some_and(|key| std::ptr::eq(key, part));
    if is_key { path.to_owned() } else { format!("{}:{path}", prefix(part)) }
}

/// What a partition is called before the colon: its name, else its number.
pub fn prefix(part: &Part) -> String {
    if part.name.is_empty() { part.number.to_string() } else { part.name.clone() }
}

/// A file by its path, whatever the case.
fn find<'a>(files: &'a FileSystem, path: &str) -> Option<&'a Entry> {
    files.files().find(|entry| entry.path.eq_ignore_ascii_case(path))
}

/// The boot code of the first sector (C§1.4, C§1.13).
fn stage1(sector: &[u8], scheme: &Scheme) -> Option<Loader> {
    let code = sector.get(..440)?;
    if matches!(scheme, Scheme::None | Scheme::Tar) || code.iter().all(|byte| *byte == 0) {
        return None;
    }
    let what = if is_illumos(sector) {
        "illumos stage 1 (layout 2)"
    } else if code.windows(4).any(|part| part == b"GRUB") {
        "GRUB's boot code"
    } else {
        "boot code of another loader"
    };
    Some(Loader { what, place: "MBR".to_owned(), size: None })
}

/// Whether the first sector is patched as illumos' `installboot` does it: version 2.0 and a stage 2
/// that lies on the disk.
fn is_illumos(sector: &[u8]) -> bool {
    let stage2 = sector.get(0xfe..0x106).and_then(|part| part.try_into().ok());
    sector.get(0xfa..0xfc) == Some(&[2, 0])
        && u64::from_le_bytes(stage2.unwrap_or_default()) != 0
        && sector.get(3..0x3e).is_some_and(|part| part.iter().all(|byte| *byte == 0))
}

/// A stage 2 that lies raw in its partition.
fn raw_stage2(contents: &Contents, part: &Part) -> io::Result<Option<Loader>> {
    if part.files.is_some() || !matches!(part.kind, "illumos boot" | "BIOS boot") {
        return Ok(None);
    }
    let mut disk = &contents.image.file;
    let code = head(&mut disk, part.offset, MULTIBOOT_SEARCH.min(part.length))?;
    let header = |chunk: &[u8]| {
        let sum = chunk.chunks_exact(4).take(3).fold(0_u32, |sum, word| {
            sum.wrapping_add(u32::from_le_bytes(word.try_into().unwrap_or_default()))
        });
        chunk.starts_with(&MULTIBOOT_MAGIC) && sum == 0
    };
    let what = if code.iter().all(|byte| *byte == 0) {
        return Ok(None);
    } else if part.kind == "BIOS boot" {
        "GRUB's core image"
    } else if code.windows(12).step_by(4).any(header) {
        "illumos stage 2 (multiboot)"
    } else {
        "a stage 2 without multiboot header"
    };
    Ok(Some(Loader { what, place: format!("{}:", prefix(part)), size: None }))
}

/// Whether a folder is called as platforms are.
pub(crate) fn is_stamp(name: &str) -> bool {
    name.parse::<headnode_model::stamp::Stamp>().is_ok()
}

/// Platforms below `os/` (Triton) and in `platform/` (SmartOS).
fn platforms(files: &FileSystem) -> Vec<Platform> {
    const KERNELS: [(&str, &str); 3] = [
        ("i86pc/kernel/amd64/unix", "smartos"),
        ("x86_64/vmlinuz", "linux"),
        ("i86pc/kernel/unix", "smartos"),
    ];
    let mut found: Vec<Platform> = Vec::new();
    for entry in files.files() {
        let lower = entry.path.to_ascii_lowercase();
        for (kernel, os) in KERNELS {
            let Some(root) = lower.strip_suffix(kernel) else { continue };
            if found.len() >= MAX_PLATFORMS {
                break;
            }
            let root = entry.path.get(..root.len()).unwrap_or_default();
            let stamp = match root.trim_end_matches('/').split('/').collect::<Vec<_>>()[..] {
                ["os", stamp, "platform"] => stamp,
                ["platform"] => "",
                // The files for a boot server, and platforms' tarballs.
                [stamp, "platform"] if is_stamp(stamp) => stamp,
                [top] if top.strip_prefix("platform-").is_some_and(is_stamp) => {
                    top.trim_start_matches("platform-")
                }
                _ => continue,
            };
            let size = files.files().filter(|e| e.path.starts_with(root)).map(|e| e.size).sum();
            let archive = format!("{root}i86pc/amd64/boot_archive");
            let hash =
                find(files, &archive).map(|_| find(files, &format!("{archive}.hash")).is_some());
            let stamp = stamp.to_owned();
            found.push(Platform { stamp, os, kernel: entry.path.clone(), size, hash });
        }
    }
    found.sort_by(|a, b| a.stamp.cmp(&b.stamp));
    found
}

/// The assignments of a `loader.conf`: `name="value"` lines.
fn settings(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (key, value) = line.split('#').next()?.split_once('=')?;
        let key = key.trim();
        let secret = headnode_model::answers::is_secret(key);
        (!key.is_empty() && !secret)
            .then(|| (key.to_owned(), value.trim().trim_matches('"').to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn layout(contents: &Contents, sector: &[u8], platforms: &[Platform], no_zones: bool) -> String {
    let key = contents.key().and_then(|part| part.files.as_ref());
    let has = |path: &str| key.is_some_and(|files| files.entry(path).is_some());
    let ours = has(headnode_model::paths::KEY_MANIFEST);
    let marker = has(headnode_model::paths::KEY_MARKER);
    let smartos = platforms.iter().any(|platform| platform.os == "smartos");
    let archive = contents.scheme == Scheme::Tar;
    let what = match (ours, marker, smartos, no_zones) {
        _ if archive && key.is_some_and(pxe::is_pxe) => "the files for a boot server",
        (true, ..) if archive => "a headnode's key with our manifest",
        (_, false, ..) if archive && !platforms.is_empty() => "a platform",
        (_, false, ..) if archive => "files of something else",
        (true, ..) => "a headnode image with our manifest",
        (_, true, _, false) => "a Triton headnode's key",
        (_, true, ..) => "a key of SmartOS or Triton",
        (_, _, true, _) => "a SmartOS image",
        _ if !platforms.is_empty() => "an image with a platform",
        _ => "an image of something else",
    };
    let disk = match contents.scheme {
        Scheme::Gpt if is_illumos(sector) => "illumos disk layout 2 (GPT)",
        Scheme::Gpt => "GPT",
        Scheme::Mbr => "MBR",
        Scheme::None => "no partitions",
        Scheme::Tar => "tar",
    };
    format!("{what}, {disk}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loader_conf_is_read_without_its_secrets() {
        let text =
            "# c\nbootfile=\"/os/x/unix\"\nconsole = \"ttyb\" # why\nroot_shadow='$6$'\nbroken\n";
        let found = settings(text);
        assert_eq!(found["bootfile"], "/os/x/unix");
        assert_eq!(found["console"], "ttyb");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn boot_code_is_told_apart() {
        let mut sector = vec![0; 512];
        assert_eq!(stage1(&sector, &Scheme::Gpt), None);
        sector[0] = 0xeb;
        assert_eq!(stage1(&sector, &Scheme::Gpt).unwrap().what, "boot code of another loader");
        sector[0xfa] = 2;
        sector[0xfe..0x102].copy_from_slice(&526_336_u32.to_le_bytes());
        assert_eq!(stage1(&sector, &Scheme::Gpt).unwrap().what, "illumos stage 1 (layout 2)");
        sector[0x180..0x184].copy_from_slice(b"GRUB");
        sector[0xfa] = 0;
        assert_eq!(stage1(&sector, &Scheme::Gpt).unwrap().what, "GRUB's boot code");
    }
}
