//! A GUID partition table says where the disk ends, and has its backup there (UEFI specification
//! 2.10, section 5.3.2). An image is mostly smaller than the disk: partitioners complain of a table
//! that is not moved to the real end.

use crate::image::SECTOR;

const HEADER: usize = SECTOR as usize;
const HEADER_SIZE: usize = 92;
const MBR_TABLE: usize = 446;
/// Type of the MBR's entry that protects a GUID partition table.
const PROTECTIVE: u8 = 0xee;

/// A backup table, and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// In bytes from the disk's begin.
    pub offset: u64,
    /// Entries and header, up to the disk's end.
    pub bytes: Vec<u8>,
}

/// Changes the table in the head of a disk of `size` bytes so that it ends where the disk does, and
/// gives its backup. Without a table that is in order, or with one that does end there, nothing is
/// changed.
pub fn move_to_end(head: &mut [u8], size: u64) -> Option<Backup> {
    let header: [u8; HEADER_SIZE] = head.get(HEADER..HEADER + HEADER_SIZE)?.try_into().ok()?;
    let number = |at: usize| u64::from_le_bytes(array(&header, at));
    let small = |at: usize| u32::from_le_bytes(array(&header, at));
    let mut blank = header;
    blank[16..20].fill(0);
    let in_order = header.starts_with(b"EFI PART")
        && small(12) as usize == HEADER_SIZE
        && crc32fast::hash(&blank) == small(16)
        && number(24) == 1;
    let last = (size / SECTOR).checked_sub(1)?;
    if !in_order || number(32) == last {
        return None;
    }
    let begin = usize::try_from(number(72).checked_mul(SECTOR)?).ok()?;
    let length = usize::try_from(u64::from(small(80)) * u64::from(small(84))).ok()?;
    let mut entries = head.get(begin..begin.checked_add(length)?)?.to_vec();
    if crc32fast::hash(&entries) != small(88) {
        return None;
    }
    entries.resize(length.next_multiple_of(HEADER), 0);
    let entry_sectors = entries.len() as u64 / SECTOR;
    let entries_at = last.checked_sub(entry_sectors)?;
    // The old end of the usable sectors may be lower still: a smaller disk holds no partition more.
    if entries_at.checked_sub(1)? < number(48) {
        return None;
    }
    let mut primary = header;
    primary[32..40].copy_from_slice(&last.to_le_bytes());
    primary[48..56].copy_from_slice(&(entries_at - 1).to_le_bytes());
    let mut other = primary;
    other[24..32].copy_from_slice(&last.to_le_bytes());
    other[32..40].copy_from_slice(&1_u64.to_le_bytes());
    other[72..80].copy_from_slice(&entries_at.to_le_bytes());
    for header in [&mut primary, &mut other] {
        header[16..20].fill(0);
        let sum = crc32fast::hash(header.as_slice());
        header[16..20].copy_from_slice(&sum.to_le_bytes());
    }
    head.get_mut(HEADER..HEADER + HEADER_SIZE)?.copy_from_slice(&primary);
    for entry in head.get_mut(MBR_TABLE..MBR_TABLE + 64)?.chunks_exact_mut(16) {
        if entry.get(4) == Some(&PROTECTIVE) {
            let first = u64::from(u32::from_le_bytes(array(entry, 8)));
            let sectors = u32::try_from(last.saturating_sub(first) + 1).unwrap_or(u32::MAX);
            entry[12..16].copy_from_slice(&sectors.to_le_bytes());
        }
    }
    let mut bytes = entries;
    bytes.extend(other);
    bytes.resize((entry_sectors * SECTOR + SECTOR) as usize, 0);
    Some(Backup { offset: entries_at * SECTOR, bytes })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::image::gpt::{Partition, TYPE_DATA, Table};

    fn table(sectors: u64) -> Table {
        let partition = Partition {
            name: "root".to_owned(),
            kind: TYPE_DATA,
            guid: Uuid::from_u128(5),
            start: 2048,
            sectors: 4096,
        };
        Table { guid: Uuid::from_u128(42), sectors, partitions: vec![(3, partition)] }
    }

    fn head(sectors: u64) -> Vec<u8> {
        let mut head = table(sectors).head(&[0x90; 440]);
        head.resize(1 << 20, 0);
        head
    }

    #[test]
    fn the_table_is_that_of_a_disk_of_that_size() {
        for sectors in [8193, 100_000, 5_000_000_000] {
            let mut moved = head(8192);
            let backup = move_to_end(&mut moved, sectors * SECTOR).unwrap();
            assert!(moved == head(sectors), "{sectors}");
            assert_eq!(backup.bytes, table(sectors).tail());
            assert_eq!(backup.offset + backup.bytes.len() as u64, sectors * SECTOR);
        }
    }

    #[test]
    fn others_find_it_in_order() {
        let mut disk = head(8192);
        let size = 20_000 * SECTOR;
        let backup = move_to_end(&mut disk, size).unwrap();
        disk.resize(backup.offset as usize, 0);
        disk.extend(&backup.bytes);
        assert_eq!(Table::read(&mut Cursor::new(&disk), size).unwrap(), table(20_000));
        let other = gptman::GPT::read_from(&mut Cursor::new(&disk), SECTOR).unwrap();
        assert_eq!(other.header.backup_lba, 19_999);
    }

    #[test]
    fn what_is_no_table_or_in_its_place_stays() {
        for (mut bytes, sectors) in [(head(8192), 8192), (head(8192), 100), (vec![0; 1 << 20], 99)]
        {
            let before = bytes.clone();
            assert_eq!(move_to_end(&mut bytes, sectors * SECTOR), None);
            assert!(bytes == before);
        }
        let mut damaged = head(8192);
        damaged[600] ^= 1;
        damaged[1100] ^= 1;
        assert_eq!(move_to_end(&mut damaged, 1 << 30), None);
    }

    proptest! {
        #[test]
        fn no_header_panics(changes in proptest::collection::vec((440usize..700, any::<u8>()), 1..9), size: u64) {
            let mut bytes = head(8192);
            for (at, value) in changes {
                bytes[at] = value;
            }
            bytes[512 + 16..512 + 20].fill(0);
            let sum = crc32fast::hash(&bytes[512..512 + 92]);
            bytes[512 + 16..512 + 20].copy_from_slice(&sum.to_le_bytes());
            let _ = move_to_end(&mut bytes, size);
        }
    }
}
