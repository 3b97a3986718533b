//! GRUB for BIOS and UEFI, put together by `grub-mkimage` from Debian's module packages.
//!
//! Both images hold every module that the key's `grub.cfg` uses, so that nothing but the
//! configuration is read from the key before the menu shows. The embedded configuration finds the
//! key by its marker file and prefers the disk that GRUB itself came from.

use std::fs;
use std::path::{Path, PathBuf};

use headnode_command::Command;
use headnode_model::paths::KEY_MARKER;

use crate::image::SECTOR;
use crate::image::layout::{CORE_SECTORS, CORE_START, ROOT_NUMBER};
use crate::source::platform::Kind;

/// Where Debian's packages put GRUB's modules.
pub const MODULES: &str = "/usr/lib/grub";
/// GRUB's folder on the key.
pub const FOLDER: &str = "boot/grub";

/// Modules of both images.
const COMMON: &[&str] = &[
    "part_gpt",
    "part_msdos",
    "fat",
    "search",
    "search_fs_file",
    "search_label",
    "normal",
    "configfile",
    "linux",
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
/// What starts a SmartOS kernel, and iPXE, on BIOS and on UEFI; the latter is `chain`'s there.
const SMARTOS: [&[&str]; 2] = [&["multiboot", "linux16"], &["multiboot2"]];
/// Modules of the image for BIOS.
const BIOS: &[&str] = &["biosdisk", "at_keyboard", "vga_text"];
/// Modules of the image for UEFI.
const EFI: &[&str] = &["efi_gop", "efi_uga", "efifwsetup", "all_video", "gfxterm", "font"];

/// Where `boot.img` is told the sector of the core image (GRUB: `include/grub/i386/pc/boot.h`).
const BOOT_KERNEL_SECTOR: usize = 0x5c;
/// Where `boot.img` jumps over its use of the drive number that the BIOS gives.
const BOOT_DRIVE_CHECK: usize = 0x66;
/// The part of `boot.img` that reads by cylinder, head and sector when the BIOS cannot read by sector
/// number, from its beginning on: every BIOS that starts a USB key can.
const BOOT_CHS: usize = 0xde;
/// How that part begins: it asks for the disk's geometry.
const CHS_CODE: [u8; 11] = [0xb4, 0x08, 0xcd, 0x13, 0x73, 0x0d, 0x5a, 0x84, 0xd2, 0x0f, 0x83];
/// Where it loads the address of the message that there is none, and where it jumps to what tells that.
const CHS_FAILS: [(usize, u8); 2] = [(0xeb, 0xbe), (0xee, 0xe9)];
/// Where SmartOS looks for the version of the key's layout, and the version that says that the key is
/// the third partition of a GPT (C§1.4). It lies within the part that is no longer used.
const BOOT_LAYOUT: (usize, [u8; 2]) = (0xfa, [2, 0]);
/// Where the first sector of the core image keeps its list of blocks: the first entry ends with it.
const CORE_BLOCKLIST: usize = SECTOR as usize - 12;

/// Why GRUB could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `grub-mkimage` failed.
    #[error(transparent)]
    Command(#[from] headnode_command::Error),
    /// A file could not be read or written.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// GRUB's files are not of the form known to this program.
    #[error("{path}: {what}: this is not the boot code of GRUB 2")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is odd.
        what: &'static str,
    },
}

/// GRUB, ready to be placed.
pub struct Grub {
    /// Boot code for the MBR: 440 bytes that load `core`.
    pub boot_code: Vec<u8>,
    /// The BIOS image, for the BIOS boot partition.
    pub core: Vec<u8>,
    /// The UEFI image.
    pub efi: Vec<u8>,
}

/// The programs and module folders that are missing, as `(what, Debian package)`.
pub fn missing() -> Vec<(String, &'static str)> {
    let mut missing = Vec::new();
    if which("grub-mkimage").is_none() {
        missing.push(("the program grub-mkimage".to_owned(), "grub-common"));
    }
    let folders =
        [("i386-pc/boot.img", "grub-pc-bin"), ("x86_64-efi/moddep.lst", "grub-efi-amd64-bin")];
    for (file, package) in folders {
        let path = Path::new(MODULES).join(file);
        if !path.exists() {
            missing.push((format!("GRUB's file {}", path.display()), package));
        }
    }
    missing
}

/// The place of a program in `PATH`.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Puts GRUB together in the folder `work`, to start platforms of a kind.
///
/// # Errors
/// See [`Error`].
pub fn build(work: &Path, kind: Kind) -> Result<Grub, Error> {
    let early = work.join("early.cfg");
    // The rescue parser runs this: plain commands only. The hint makes the disk that GRUB came from
    // win over another key in the machine.
    let script = format!("search.file /{KEY_MARKER} root $root\nset prefix=($root)/{FOLDER}\n");
    fs::write(&early, script).map_err(|source| Error::Io {
        doing: "writing",
        path: early.clone(),
        source,
    })?;
    let [bios_more, efi_more] = if kind == Kind::SmartOs { SMARTOS } else { [&[] as &[&str]; 2] };
    let core = mkimage(work, "i386-pc", "core.img", &[BIOS, bios_more], &early)?;
    let efi = mkimage(work, "x86_64-efi", "bootx64.efi", &[EFI, efi_more], &early)?;
    let boot = Path::new(MODULES).join("i386-pc/boot.img");
    let mut boot_code = patch_boot(read(&boot)?, &boot)?;
    if kind == Kind::SmartOs {
        tell_layout(&mut boot_code, &boot)?;
    }
    let core = patch_core(core)?;
    Ok(Grub { boot_code, core, efi })
}

fn mkimage(
    work: &Path,
    format: &str,
    name: &str,
    modules: &[&[&str]],
    early: &Path,
) -> Result<Vec<u8>, Error> {
    let out = work.join(name);
    Command::new("grub-mkimage")
        .args(["-O", format, "-d"])
        .arg(Path::new(MODULES).join(format))
        .arg("-c")
        .arg(early)
        .arg("-p")
        // Without a disk before the comma, GRUB fills in the one it was started from.
        .arg(format!("(,gpt{ROOT_NUMBER})/{FOLDER}"))
        .arg("-o")
        .arg(&out)
        .args(COMMON)
        .args(modules.iter().copied().flatten())
        .run()?;
    read(&out)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io { doing: "reading", path: path.to_owned(), source })
}

/// Tells the MBR's boot code where the core image is, as `grub-bios-setup` does.
fn patch_boot(mut boot: Vec<u8>, path: &Path) -> Result<Vec<u8>, Error> {
    let form = |what| Error::Form { path: path.to_owned(), what };
    if boot.len() != SECTOR as usize || boot[510..] != [0x55, 0xaa] {
        return Err(form("it is not a signed sector"));
    }
    if boot[BOOT_KERNEL_SECTOR..BOOT_KERNEL_SECTOR + 8] != 1_u64.to_le_bytes() {
        return Err(form("the core image's sector is not at its place"));
    }
    boot[BOOT_KERNEL_SECTOR..BOOT_KERNEL_SECTOR + 8].copy_from_slice(&CORE_START.to_le_bytes());
    if boot[BOOT_DRIVE_CHECK] != 0xeb {
        return Err(form("the check of the drive number is not at its place"));
    }
    // For BIOSes that give the number of a floppy when they start a key.
    boot[BOOT_DRIVE_CHECK..BOOT_DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    boot.truncate(crate::image::gpt::BOOT_CODE);
    Ok(boot)
}

/// Tells SmartOS where on the disk the key is, in the place where it looks for that: there is code of
/// GRUB, which is skipped by failing at once where it would fail without a geometry.
fn tell_layout(boot: &mut [u8], path: &Path) -> Result<(), Error> {
    let [(message, load), (end, jump)] = CHS_FAILS;
    let known = boot.get(BOOT_CHS..BOOT_CHS + CHS_CODE.len()) == Some(&CHS_CODE);
    if !known || boot[message] != load || boot[end] != jump {
        let what =
            "its reading by cylinders is not at its place, where SmartOS looks for the layout";
        return Err(Error::Form { path: path.to_owned(), what });
    }
    boot.copy_within(message..end, BOOT_CHS);
    // The jump is relative to where it ends.
    let at = BOOT_CHS + (end - message);
    let moved = u16::try_from(end - at).unwrap_or(0);
    let distance = u16::from_le_bytes([boot[end + 1], boot[end + 2]]).wrapping_add(moved);
    boot[at] = jump;
    boot[at + 1..at + 3].copy_from_slice(&distance.to_le_bytes());
    let (at, version) = BOOT_LAYOUT;
    boot[at..at + version.len()].copy_from_slice(&version);
    Ok(())
}

/// Tells the first sector of the core image where the rest of it is.
fn patch_core(mut core: Vec<u8>) -> Result<Vec<u8>, Error> {
    let form = |what| Error::Form { path: PathBuf::from("core.img"), what };
    let sectors = (core.len() as u64).div_ceil(SECTOR);
    if !(2..=CORE_SECTORS).contains(&sectors) {
        return Err(form("it does not fit into the BIOS boot partition"));
    }
    let list = &mut core[CORE_BLOCKLIST..SECTOR as usize];
    let length = u64::from(u16::from_le_bytes([list[8], list[9]]));
    if length != sectors - 1 {
        return Err(form("its list of blocks does not cover it"));
    }
    list[..8].copy_from_slice(&(CORE_START + 1).to_le_bytes());
    Ok(core)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_told_where_no_code_is_run() {
        let path = Path::new(MODULES).join("i386-pc/boot.img");
        let before = read(&path).unwrap();
        let mut after = before.clone();
        tell_layout(&mut after, &path).unwrap();
        // mov $message, %si; jmp to what tells it: the same place as before.
        assert_eq!(after[0xde..0xe1], before[0xeb..0xee]);
        let target = |bytes: &[u8], at: usize| {
            assert_eq!(bytes[at], 0xe9);
            (at + 3) as u16 + u16::from_le_bytes([bytes[at + 1], bytes[at + 2]])
        };
        assert_eq!(target(&after, 0xe1), target(&before, 0xee));
        assert_eq!(after[BOOT_LAYOUT.0..][..2], BOOT_LAYOUT.1);
        let changed: Vec<_> = (0..512).filter(|at| after[*at] != before[*at]).collect();
        assert!(changed.iter().all(|at| (0xde..0xe4).contains(at) || (0xfa..0xfc).contains(at)));
        let error = tell_layout(&mut vec![0; 512], &path).unwrap_err().to_string();
        assert!(error.contains("reading by cylinders"), "{error}");
    }
}
