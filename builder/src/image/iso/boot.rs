//! What makes an image boot: loaders that are told where they lie, the El Torito boot catalogue.

use super::{BLOCK, Error};
use crate::image::Content;

/// First block of the volume descriptors, which the boot information table names.
const DESCRIPTORS: u32 = 16;
/// What the boot information table takes up (mkisofs(8), "EL TORITO BOOT INFORMATION TABLE").
const INFO_TABLE: std::ops::Range<usize> = 8..64;

/// How an image boots; nothing of it for one that does not.
#[derive(Debug, Clone, Default)]
pub struct Boot {
    /// From a CD, by a BIOS.
    pub bios: Option<Bios>,
    /// From a CD or a disk, by UEFI firmware.
    pub efi: Option<Efi>,
    /// From a disk, by a BIOS: at most 440 bytes for the MBR, which load the loader of `bios`.
    pub mbr: Option<Loader>,
}

impl Boot {
    /// With illumos' loader, from CDs by both kinds of firmware and by UEFI from disks (C§1.14):
    /// `cdboot`, which finds the rest on the CD itself, and its program for UEFI.
    pub fn illumos(cdboot: Vec<u8>, loader: Content) -> Self {
        // All of it is read, as mkisofs asks for when not told otherwise.
        let load_sectors = u16::try_from(cdboot.len().div_ceil(512)).unwrap_or(u16::MAX);
        Self {
            bios: Some(Bios {
                path: "boot/cdboot".to_owned(),
                loader: Loader { bytes: cdboot, places: Vec::new() },
                info_table: true,
                load_sectors,
            }),
            efi: Some(Efi {
                path: "boot/efiboot.img".to_owned(),
                label: "system".to_owned(),
                files: vec![("efi/boot/bootx64.efi".to_owned(), loader)],
                // As on Triton's key (C§1.13).
                sectors: 524_288,
            }),
            mbr: None,
        }
    }
}

/// A loader that a BIOS reads from a CD, without emulating a floppy or disk.
#[derive(Debug, Clone)]
pub struct Bios {
    /// Its path on the image.
    pub path: String,
    /// The loader.
    pub loader: Loader,
    /// Whether it wants a boot information table at its bytes 8 to 63.
    pub info_table: bool,
    /// How many sectors of 512 bytes the BIOS reads.
    pub load_sectors: u16,
}

/// A loader for UEFI firmware, in an EFI system partition of its own.
#[derive(Debug, Clone)]
pub struct Efi {
    /// The partition's path on the image.
    pub path: String,
    /// Its volume label.
    pub label: String,
    /// Its files.
    pub files: Vec<(String, Content)>,
    /// Its size in sectors of 512 bytes, at least 68,000; becomes a multiple of 128.
    pub sectors: u64,
}

/// Machine code, and where it wants to be told the place of the BIOS loader on the disk.
#[derive(Debug, Clone)]
pub struct Loader {
    /// The code.
    pub bytes: Vec<u8>,
    /// What is written into it.
    pub places: Vec<Place>,
}

/// A number of 64 bits, least significant byte first, that names a sector of 512 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Where in the code.
    pub offset: usize,
    /// What is added to the first sector of the BIOS loader.
    pub add: u64,
}

impl Loader {
    /// The code, with its places filled in for a BIOS loader that begins at this block.
    pub(super) fn placed(&self, name: &str, block: u32) -> Result<Vec<u8>, Error> {
        let mut bytes = self.bytes.clone();
        for place in &self.places {
            let end = place.offset.checked_add(8);
            let slot = end.and_then(|end| bytes.get_mut(place.offset..end));
            let why = "it is shorter than the places that must be filled in";
            let slot = slot.ok_or_else(|| Error::Loader { name: name.to_owned(), why })?;
            slot.copy_from_slice(&(u64::from(block) * (BLOCK / 512) + place.add).to_le_bytes());
        }
        Ok(bytes)
    }
}

impl Bios {
    /// The loader as it lies on the image at this block.
    pub(super) fn placed(&self, block: u32) -> Result<Vec<u8>, Error> {
        let mut bytes = self.loader.placed(&self.path, block)?;
        if self.info_table {
            let sum = bytes.get(INFO_TABLE.end..).unwrap_or_default().chunks(4).map(word);
            let sum = sum.fold(0, u32::wrapping_add);
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let why = "it is too short for a boot information table";
            let table = bytes
                .get_mut(INFO_TABLE)
                .ok_or_else(|| Error::Loader { name: self.path.clone(), why })?;
            table.fill(0);
            let values = [DESCRIPTORS, block, length, sum];
            for (slot, value) in table.chunks_exact_mut(4).zip(values) {
                slot.copy_from_slice(&value.to_le_bytes());
            }
        }
        Ok(bytes)
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

const X86: u8 = 0;
const EFI: u8 = 0xef;

/// The boot catalogue: `bios` is block and sectors to load, `efi` the block of the partition.
pub(super) fn catalogue(bios: Option<(u32, u16)>, efi: Option<u32>) -> Vec<u8> {
    // 0 sectors: all up to the end of the medium, as UEFI says; the field is too small for a FAT32
    // volume, which tells its size itself.
    let efi = efi.map(|block| entry(block, 0));
    let mut bytes = Vec::new();
    match (bios, efi) {
        (Some((block, sectors)), efi) => {
            bytes.extend(validation(X86));
            bytes.extend(entry(block, sectors));
            if let Some(entry) = efi {
                let mut header = vec![0x91, EFI, 1, 0];
                header.resize(32, 0);
                bytes.extend(header);
                bytes.extend(entry);
            }
        }
        (None, Some(entry)) => {
            bytes.extend(validation(EFI));
            bytes.extend(entry);
        }
        (None, None) => {}
    }
    bytes
}

/// The first entry; all its words add up to 0.
fn validation(platform: u8) -> Vec<u8> {
    let mut entry = vec![1, platform];
    entry.resize(30, 0);
    entry.extend([0x55, 0xaa]);
    let sum = entry.chunks(2).map(word).fold(0, u32::wrapping_add);
    let missing = (sum as u16).wrapping_neg().to_le_bytes();
    entry[28..30].copy_from_slice(&missing);
    entry
}

/// A bootable entry without emulation, loaded to the usual segment.
fn entry(block: u32, sectors: u16) -> Vec<u8> {
    let mut entry = vec![0x88, 0, 0, 0, 0, 0];
    entry.extend(sectors.to_le_bytes());
    entry.extend(block.to_le_bytes());
    entry.resize(32, 0);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_are_told_their_place() {
        // The values that xorriso writes for block 34.
        let loader = Loader { bytes: vec![1; 80], places: vec![Place { offset: 70, add: 5 }] };
        let bios =
            Bios { path: "b".into(), loader: loader.clone(), info_table: true, load_sectors: 4 };
        let bytes = bios.placed(34).unwrap();
        assert_eq!(bytes[70..78], 141_u64.to_le_bytes());
        assert_eq!(bytes[8..20], [16, 0, 0, 0, 34, 0, 0, 0, 80, 0, 0, 0]);
        assert!(bytes[..8].iter().all(|byte| *byte == 1) && bytes[24..64] == [0; 40]);
        let words = [0x0101_0101_u32, 0x008d_0101, 0, 0x0101_0000];
        let sum = words.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word));
        assert_eq!(bytes[20..24], sum.to_le_bytes());

        let short = Loader { bytes: vec![0; 77], ..loader };
        assert!(matches!(short.placed("b", 34), Err(Error::Loader { .. })));
        let bios = Bios { loader: Loader { bytes: vec![0; 63], places: vec![] }, ..bios };
        assert!(matches!(bios.placed(34), Err(Error::Loader { .. })));
    }
}
