//! What lies on a disk or partition, told from its bytes: a partition table, a file system, or the
//! label of a volume manager.
//!
//! Everything read here was written by others. A reading is bounded, and one that is not
//! possible is the end of one look, not of all.

use std::io::{self, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};

use super::label;

/// A partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// A GUID partition table (UEFI specification, chapter 5).
    Gpt,
    /// A PC's master boot record.
    Mbr,
}

impl Table {
    /// Its name as people say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt => "GPT",
            Self::Mbr => "MBR",
        }
    }
}

/// What a disk or partition holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its partition table.
    pub table: Option<Table>,
    /// File system or volume member, in the words of `blkid`: `vfat`, `LVM2_member`, `zfs_member` …
    pub kind: Option<String>,
    /// Its label; of a volume member the name of its group, pool or array.
    pub label: Option<String>,
    /// Why nothing of it is known.
    pub unreadable: Option<String>,
}

/// Reads from anywhere of a disk.
pub(super) struct View<'a, R> {
    disk: &'a mut R,
    /// Its size in bytes.
    pub size: u64,
    /// The first failure that was not the disk's end.
    failed: Option<io::Error>,
}

impl<R: Read + Seek> View<'_, R> {
    /// The bytes there, or nothing when the disk does not have all of them.
    pub fn at(&mut self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        if at.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Vec::new();
        }
        let seen = self.disk.seek(SeekFrom::Start(at));
        match seen.and_then(|_| self.disk.read_exact(&mut bytes)) {
            Ok(()) => bytes,
            Err(error) => {
                self.failed.get_or_insert(error);
                Vec::new()
            }
        }
    }
}

/// Looks at a disk or partition of `size` bytes with sectors of `sector` bytes.
///
/// # Errors
/// When nothing of it can be read.
pub fn look(disk: &mut (impl Read + Seek), size: u64, sector: u32) -> io::Result<Content> {
    let mut view = View { disk, size, failed: None };
    let head = view.at(0, 4096.min(usize::try_from(size).unwrap_or(4096)));
    if let Some(error) = view.failed.take() {
        return Err(error);
    }
    let found = label::member(&mut view).or_else(|| file_system(&mut view, &head));
    let (kind, label) = found.map_or((None, None), |(kind, label)| (Some(kind.to_owned()), label));
    let boot_sector = matches!(kind.as_deref(), Some("vfat" | "ntfs" | "exfat"));
    let gpt = view.at(u64::from(sector), 8) == *b"EFI PART";
    let table = match gpt {
        true => Some(Table::Gpt),
        // A boot sector has the same mark at its end.
        false if !boot_sector && is_mbr(&head) => Some(Table::Mbr),
        false => None,
    };
    Ok(Content { table, kind, label, unreadable: None })
}

fn is_mbr(head: &[u8]) -> bool {
    if head.get(510..512) != Some(&[0x55, 0xaa]) {
        return false;
    }
    let entries: Vec<_> = head.get(446..510).unwrap_or_default().chunks_exact(16).collect();
    entries.iter().all(|entry| matches!(entry[0], 0 | 0x80))
        && entries.iter().any(|entry| entry[4] != 0 && entry[12..16] != [0; 4])
}

/// A kind and perhaps a label.
pub(super) type Found = (&'static str, Option<String>);

fn file_system(view: &mut View<impl Read + Seek>, head: &[u8]) -> Option<Found> {
    let at = |from: usize, length: usize| head.get(from..from + length).unwrap_or_default();
    if at(0, 6) == b"LUKS\xba\xbe" {
        // Only its second version has a label (LUKS2 on-disk format, chapter 2.1).
        let label = (at(6, 2) == [0, 2]).then(|| text(at(24, 48))).flatten();
        return Some(("crypto_LUKS", label));
    }
    if at(0, 4) == b"XFSB" {
        return Some(("xfs", text(at(108, 12))));
    }
    if at(0, 4) == b"hsqs" {
        return Some(("squashfs", None));
    }
    if at(1024 + 56, 2) == [0x53, 0xef] {
        return Some((ext_version(head), text(at(1024 + 120, 16))));
    }
    if at(1024, 4) == 0xf2f5_2010_u32.to_le_bytes() {
        return Some(("f2fs", None));
    }
    for page in [4096, 8192, 16_384, 65_536] {
        if view.at(page - 10, 10) == *b"SWAPSPACE2" {
            return Some(("swap", text(at(1024 + 28, 16))));
        }
    }
    let btrfs = view.at(65_536, 0x12b + 256);
    if btrfs.get(64..72) == Some(b"_BHRfS_M") {
        return Some(("btrfs", text(btrfs.get(0x12b..).unwrap_or_default())));
    }
    let volume = view.at(32_768, 72);
    if volume.get(1..6) == Some(b"CD001") {
        return Some(("iso9660", text(volume.get(40..72).unwrap_or_default())));
    }
    if at(510, 2) != [0x55, 0xaa] {
        return None;
    }
    match at(3, 8) {
        b"NTFS    " => return Some(("ntfs", None)),
        b"EXFAT   " => return Some(("exfat", None)),
        _ => {}
    }
    let label = match (at(82, 8), at(54, 5)) {
        (b"FAT32   ", _) => at(71, 11),
        (_, b"FAT12" | b"FAT16") => at(43, 11),
        _ => return None,
    };
    Some(("vfat", text(label).filter(|label| label != "NO NAME")))
}

/// Which of the family it is, by its features (kernel documentation, ext4/super).
fn ext_version(head: &[u8]) -> &'static str {
    let word = |at: usize| {
        let bytes = head.get(1024 + at..1024 + at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let (compatible, incompatible, read_only) = (word(0x5c), word(0x60), word(0x64));
    // Whatever ext3 does not know makes it ext4.
    if incompatible & !0x16 != 0 || read_only & !0x7 != 0 {
        "ext4"
    } else if compatible & 0x4 != 0 {
        "ext3"
    } else {
        "ext2"
    }
}

/// Text up to its first zero; nothing when there is none. It goes to terminals: what could steer one
/// is replaced.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = plain(&String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()));
    (!text.is_empty()).then_some(text)
}

/// A name of somebody else's without blanks around it and without control characters.
pub(super) fn plain(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn of(bytes: &[u8]) -> Content {
        look(&mut Cursor::new(bytes), bytes.len() as u64, 512).unwrap()
    }

    #[test]
    fn a_boot_sector_is_no_partition_table() {
        let mut disk = vec![0; 1 << 20];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(of(&disk), Content::default());
        disk[450] = 0x0c;
        disk[458] = 1;
        assert_eq!(of(&disk).table, Some(Table::Mbr));
        disk[82..90].copy_from_slice(b"FAT32   ");
        disk[71..82].copy_from_slice(b"BOOT\x1b[2J   ");
        let content = of(&disk);
        assert_eq!((content.table, content.kind.as_deref()), (None, Some("vfat")));
        assert_eq!(content.label.as_deref(), Some("BOOT\u{fffd}[2J"));
        disk[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(of(&disk).table, Some(Table::Gpt));
    }

    #[test]
    fn the_table_is_looked_for_behind_the_disks_own_sector() {
        let mut disk = vec![0; 1 << 20];
        disk[4096..4104].copy_from_slice(b"EFI PART");
        assert_eq!(of(&disk).table, None);
        let content = look(&mut Cursor::new(&disk), disk.len() as u64, 4096).unwrap();
        assert_eq!(content.table, Some(Table::Gpt));
    }

    #[test]
    fn what_cannot_be_read_is_told_and_what_is_short_is_empty() {
        assert_eq!(of(&[]), Content::default());
        assert_eq!(of(&[1; 100]), Content::default());
        assert!(look(&mut Cursor::new([0; 10]), 1 << 20, 512).is_err(), "shorter than it says");
    }

    proptest! {
        #[test]
        fn no_content_panics(
            changes in proptest::collection::vec((0usize..300_000, any::<u64>()), 0..64),
            size in 0usize..300_000,
            mark in 0usize..10,
        ) {
            let mut disk = vec![0_u8; size];
            let marks: [(usize, &[u8]); 10] = [
                (512, b"LABELONE"), (536, b"LVM2 001"), (4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
                (16_384, &[1, 1]), (131_072, &[0x0c, 0xb1, 0xba, 0]), (1080, &[0x53, 0xef]),
                (0, b"LUKS\xba\xbe"), (65_600, b"_BHRfS_M"), (4086, b"SWAPSPACE2"), (0, b""),
            ];
            for (at, bytes) in marks.iter().skip(mark).take(3) {
                if let Some(place) = disk.get_mut(*at..at + bytes.len()) {
                    place.copy_from_slice(bytes);
                }
            }
            for (at, value) in changes {
                if let Some(place) = disk.get_mut(at..at + 8) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
            }
            let _ = look(&mut Cursor::new(&disk), size as u64, 512);
        }
    }
}
