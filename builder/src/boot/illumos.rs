//! The illumos loader, prepared for the layout of Triton's images (C§1.13).
//!
//! On BIOS machines the MBR's boot code loads `gptzfsboot` from its partition, by a sector number
//! that is written into it; `gptzfsboot` finds the key by the sector number that is written into
//! what looks like its multiboot header, and loads `/boot/loader` from there. UEFI machines start
//! the loader on the ESP, which looks for the key by itself.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use crate::image::SECTOR;
use crate::image::layout::{CORE_SECTORS, Layout};
use crate::source::platform::loader::{GPTZFSBOOT, LOADER_EFI, PMBR, VERSION};
use crate::source::platform::multiboot;
use crate::source::platform::tarball::Item;

/// What `usb-key.sh` reads from the boot sector: the version of the layout (C§1.4).
const LAYOUT_VERSION: [u8; 2] = [2, 0];
/// Bytes that hold no code in a GPT's boot sector, cleared as `installboot` does.
const CLEARED: std::ops::Range<usize> = 0x03..0x3e;
const AT_VERSION: usize = 0xfa;
const AT_STAGE2_SECTORS: usize = 0xfc;
const AT_STAGE2_START: usize = 0xfe;
/// Where a multiboot header has `bss_end_addr`.
const AT_BSS_END: usize = 24;
/// No loader for UEFI is larger than this, in bytes.
const MAX_EFI: u64 = 64 << 20;

/// Why the loader's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("reading the illumos loader's {path}: {source}")]
    Read {
        /// Path in the loader's tarball.
        path: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("the illumos loader's {path} cannot be used: {why}")]
    Form {
        /// Path in the loader's tarball.
        path: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// The loader, ready to be placed.
pub struct Illumos {
    /// The boot sector, all but the disk's identifier patched.
    pub boot_code: Vec<u8>,
    /// `gptzfsboot`, patched.
    pub core: Vec<u8>,
    /// The loader for UEFI.
    pub efi: Vec<u8>,
    /// Everything of its tarball, for the key.
    pub files: BTreeMap<String, Item>,
    /// Its version; empty when the tarball does not tell.
    pub version: String,
}

/// Patches the loader's parts for the layout.
///
/// # Errors
/// See [`Error`].
pub fn prepare(files: BTreeMap<String, Item>) -> Result<Illumos, Error> {
    let core_size = CORE_SECTORS * SECTOR;
    let core = read(&files, GPTZFSBOOT, core_size)?;
    let boot_code = boot_sector(read(&files, PMBR, SECTOR)?, core.len() as u64)?;
    let core = stage2(core)?;
    let efi = read(&files, LOADER_EFI, MAX_EFI)?;
    if !efi.starts_with(b"MZ") {
        return Err(form(LOADER_EFI, "it is no program for UEFI: it does not begin with MZ"));
    }
    let version = match files.get(VERSION) {
        Some(_) => String::from_utf8_lossy(&read(&files, VERSION, 4096)?).trim().to_owned(),
        None => String::new(),
    };
    Ok(Illumos { boot_code, core, efi, files, version })
}

fn form(path: &'static str, why: impl Into<String>) -> Error {
    Error::Form { path, why: why.into() }
}

fn read(files: &BTreeMap<String, Item>, path: &'static str, most: u64) -> Result<Vec<u8>, Error> {
    let Some(item) = files.get(path) else { return Err(form(path, "it is missing")) };
    if item.size > most {
        let why = format!("it has {} bytes, there is room for {most}", item.size);
        return Err(form(path, why));
    }
    fs::read(&item.place).map_err(|source| Error::Read { path, source })
}

/// Tells the boot sector where the second stage is.
fn boot_sector(mut sector: Vec<u8>, stage2_size: u64) -> Result<Vec<u8>, Error> {
    if sector.len() as u64 != SECTOR || sector.get(510..) != Some(&[0x55, 0xaa]) {
        return Err(form(PMBR, "it is not one sector that ends with 55 AA"));
    }
    let start = Layout::Illumos.root_start() - CORE_SECTORS;
    let sectors = u16::try_from(stage2_size.div_ceil(SECTOR)).unwrap_or(u16::MAX);
    if let Some(part) = sector.get_mut(CLEARED) {
        part.fill(0);
    }
    put(&mut sector, AT_VERSION, &LAYOUT_VERSION);
    put(&mut sector, AT_STAGE2_SECTORS, &sectors.to_le_bytes());
    put(&mut sector, AT_STAGE2_START, &start.to_le_bytes());
    Ok(sector)
}

/// Tells the second stage where the key is.
fn stage2(mut core: Vec<u8>) -> Result<Vec<u8>, Error> {
    let Some(header) = multiboot::find_first(&core) else {
        return Err(form(GPTZFSBOOT, "it has no multiboot header to write the key's place to"));
    };
    let at = header + AT_BSS_END;
    if core.len() < at + 8 {
        return Err(form(GPTZFSBOOT, "its multiboot header is cut off"));
    }
    put(&mut core, at, &Layout::Illumos.root_start().to_le_bytes());
    Ok(core)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(part) = bytes.get_mut(at..at + value.len()) {
        part.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_loader_is_told() {
        let error = boot_sector(vec![0; 512], 0).unwrap_err().to_string();
        assert!(error.contains("boot/pmbr") && error.contains("55 AA"), "{error}");
        let error = stage2(vec![0; 4096]).unwrap_err().to_string();
        assert!(error.contains("boot/gptzfsboot") && error.contains("multiboot"), "{error}");
        let header = [0x1bad_b002_u32, 0, 0_u32.wrapping_sub(0x1bad_b002)];
        let header: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(stage2(header).unwrap_err().to_string().contains("cut off"));
        let error = prepare(BTreeMap::new()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
