//! GRUB for ISO images that are disks, too: for a BIOS from a CD and from a USB stick, for UEFI
//! firmware from both.
//!
//! One BIOS image serves both: a BIOS loads it from the CD itself, and from a stick the MBR's code
//! loads it. Both ways it must be told where it lies; a reader of `xorriso`'s output finds the same
//! numbers at the same places (`--grub2-mbr`, `--grub2-boot-info`).

use std::fs;
use std::path::{Path, PathBuf};

use headnode_command::Command;

use super::grub::{Error, FOLDER, MODULES};
use crate::image::iso::{Bios, Boot, Efi, Loader, Place};
use crate::image::{Content, SECTOR, gpt};

/// Modules of both images.
const COMMON: &[&str] = &[
    "iso9660",
    "part_gpt",
    "part_msdos",
    "fat",
    "search",
    "search_fs_file",
    "search_label",
    "normal",
    "configfile",
    "linux",
    "multiboot",
    "multiboot2",
    "echo",
    "test",
    "true",
    "regexp",
    "sleep",
    "serial",
    "terminal",
    "hashsum",
    "gcry_crc",
    "halt",
    "reboot",
    "ls",
    "cat",
    "minicmd",
    "probe",
    "chain",
    "date",
    "loadenv",
];
/// Modules of the image for BIOS; `linux16` starts iPXE.
const BIOS: &[&str] = &["biosdisk", "at_keyboard", "vga_text", "linux16"];
/// Modules of the image for UEFI.
const EFI: &[&str] = &["efi_gop", "efi_uga", "efifwsetup", "all_video", "gfxterm", "font"];

/// Where the loaders lie on the image.
pub const BIOS_PATH: &str = "boot/grub/eltorito.img";
/// Where the EFI system partition lies on the image.
pub const ESP_PATH: &str = "boot/grub/efi.img";
/// The partition's volume label.
const ESP_LABEL: &str = "system";
/// Its sectors: about the smallest volume that FAT32 can have, with room for a loader of 10 MiB.
const ESP_SECTORS: u64 = 96 << 10;

/// Where `boot_hybrid.img` is told the sector of the image (GRUB: `include/grub/i386/pc/boot.h`,
/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR` of the hybrid form); it skips the part that a BIOS loads.
const HYBRID_SECTOR: Place = Place { offset: 0x1b0, add: 4 };
/// Where the image's second part is told the sector of the rest of it.
const IMAGE_SECTOR: Place = Place { offset: 2548, add: 5 };
/// Sectors that a BIOS loads: the part that then loads the rest.
const LOAD_SECTORS: u16 = 4;

/// Puts GRUB together in the folder `work`. On start it looks for the volume that holds the file
/// `marker` and prefers the medium that it came from.
///
/// # Errors
/// See [`Error`].
pub fn build(work: &Path, marker: &str) -> Result<Boot, Error> {
    let early = work.join("early-iso.cfg");
    // The rescue parser runs this: plain commands only.
    let script = format!("search.file /{marker} root $root\nset prefix=($root)/{FOLDER}\n");
    fs::write(&early, script).map_err(|source| Error::Io {
        doing: "writing",
        path: early.clone(),
        source,
    })?;
    let image = mkimage(work, "i386-pc-eltorito", "eltorito.img", BIOS, &early)?;
    let efi = mkimage(work, "x86_64-efi", "bootx64-iso.efi", EFI, &early)?;
    let hybrid = Path::new(MODULES).join("i386-pc/boot_hybrid.img");
    let mut code = read(&hybrid)?;
    if code.len() != SECTOR as usize || code[510..] != [0x55, 0xaa] {
        return Err(Error::Form { path: hybrid, what: "it is not a signed sector" });
    }
    code.truncate(gpt::BOOT_CODE);
    Ok(Boot {
        bios: Some(Bios {
            path: BIOS_PATH.to_owned(),
            loader: Loader { bytes: image, places: vec![IMAGE_SECTOR] },
            info_table: true,
            load_sectors: LOAD_SECTORS,
        }),
        efi: Some(Efi {
            path: ESP_PATH.to_owned(),
            label: ESP_LABEL.to_owned(),
            files: vec![("efi/boot/bootx64.efi".to_owned(), Content::from(efi))],
            sectors: ESP_SECTORS,
        }),
        mbr: Some(Loader { bytes: code, places: vec![HYBRID_SECTOR] }),
    })
}

fn mkimage(
    work: &Path,
    format: &str,
    name: &str,
    modules: &[&str],
    early: &Path,
) -> Result<Vec<u8>, Error> {
    let out = work.join(name);
    let folder = if format == "i386-pc-eltorito" { "i386-pc" } else { format };
    Command::new("grub-mkimage")
        .args(["-O", format, "-d"])
        .arg(Path::new(MODULES).join(folder))
        .arg("-c")
        .arg(early)
        .arg("-p")
        .arg(format!("/{FOLDER}"))
        .arg("-o")
        .arg(&out)
        .args(COMMON)
        .args(modules)
        .run()?;
    read(&out)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io {
        doing: "reading",
        path: PathBuf::from(path),
        source,
    })
}
