//! Reads the boot catalogue of an image ("El Torito" 1.0, chapter 2).

use std::io::{Read, Seek};

use super::{Error, Volume, le32};
use crate::image::iso::BLOCK;

/// An entry of the boot catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// 0 for BIOSes, 0xEF for UEFI.
    pub platform: u8,
    /// Whether it may be started.
    pub bootable: bool,
    /// Which medium it plays; 0 for none.
    pub emulation: u8,
    /// Sectors of 512 bytes to read; for UEFI 0 and 1 mean all up to the end.
    pub sectors: u16,
    /// Offset in bytes from the start of the image.
    pub offset: u64,
}

impl<D: Read + Seek> Volume<D> {
    /// The boot catalogue's entries; none when there is no catalogue.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn boot_entries(&mut self) -> Result<Vec<BootEntry>, Error> {
        let Some(at) = self.catalogue else { return Ok(Vec::new()) };
        let damaged = |what| Error::Damaged { path: "the boot catalogue".to_owned(), what };
        let bytes = self.at(at, BLOCK)?;
        let word = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
        let sum = bytes[..32].chunks_exact(2).map(word).fold(0, u16::wrapping_add);
        if bytes[0] != 1 || sum != 0 || bytes[30..32] != [0x55, 0xaa] {
            return Err(damaged("its first entry is not valid"));
        }
        let mut platform = bytes[1];
        // The entry behind the first one has no header of its own.
        let mut left = 1;
        let mut entries = Vec::new();
        for entry in bytes[32..].chunks_exact(32) {
            if left == 0 {
                if !matches!(entry[0], 0x90 | 0x91) {
                    break;
                }
                (platform, left) = (entry[1], word(&entry[2..4]));
                continue;
            }
            // Extensions of the entry before.
            if entry[0] == 0x44 {
                continue;
            }
            left -= 1;
            entries.push(BootEntry {
                platform,
                bootable: entry[0] == 0x88,
                emulation: entry[1] & 0x0f,
                sectors: word(&entry[6..8]),
                offset: u64::from(le32(entry, 8)) * BLOCK,
            });
        }
        Ok(entries)
    }
}
