//! Reads the partitions of an MBR, and of the chain of extended ones within it; bounded, as an image
//! may come from anywhere.

use std::io::{self, Read, Seek};

use super::head;
use crate::image::SECTOR;

/// Most partitions within an extended one.
const MAX_LOGICAL: u32 = 60;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its number: 1 to 4, from 5 within an extended one.
    pub number: u32,
    /// Its type.
    pub kind: u8,
    /// Whether it is the active one.
    pub active: bool,
    /// First sector.
    pub start: u64,
    /// Number of sectors, at least 1.
    pub sectors: u64,
}

/// What an MBR tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mbr {
    /// The disk's signature.
    pub disk_id: u32,
    /// The partitions that lie on the disk.
    pub partitions: Vec<Partition>,
    /// What is wrong with others.
    pub notes: Vec<String>,
}

/// Reads the MBR of a disk of `size` bytes; `None` when its first sector is not signed.
///
/// # Errors
/// When reading fails.
pub fn read(disk: &mut (impl Read + Seek), size: u64) -> io::Result<Option<Mbr>> {
    let Some(sector) = signed(disk, 0)? else { return Ok(None) };
    let mut found = Mbr { disk_id: long(&sector, 440), ..Mbr::default() };
    let mut extended = None;
    for (number, entry) in (1..).zip(entries(&sector)) {
        let Some(partition) = partition(number, entry, 0) else { continue };
        if EXTENDED.contains(&partition.kind) {
            extended = Some(partition.start);
        } else {
            found.keep(partition, size);
        }
    }
    let Some(base) = extended else { return Ok(Some(found)) };
    let mut at = base;
    for number in 5..5 + MAX_LOGICAL {
        let Some(sector) = signed(disk, at)? else {
            found.notes.push(format!("the chain of logical partitions breaks at sector {at}"));
            return Ok(Some(found));
        };
        let [first, next, ..] = entries(&sector);
        if let Some(partition) = partition(number, first, at) {
            found.keep(partition, size);
        }
        match partition(0, next, base) {
            Some(next) if EXTENDED.contains(&next.kind) => at = next.start,
            _ => return Ok(Some(found)),
        }
    }
    found.notes.push(format!("there are more than {MAX_LOGICAL} logical partitions, or a circle"));
    Ok(Some(found))
}

impl Mbr {
    fn keep(&mut self, partition: Partition, size: u64) {
        if partition.start + partition.sectors <= size / SECTOR {
            self.partitions.push(partition);
        } else {
            let number = partition.number;
            self.notes.push(format!("partition {number} reaches behind the end of the disk"));
        }
    }
}

fn signed(disk: &mut (impl Read + Seek), at: u64) -> io::Result<Option<Vec<u8>>> {
    let bytes = head(disk, at.saturating_mul(SECTOR), SECTOR)?;
    Ok((bytes.get(510..) == Some(&[0x55, 0xaa])).then_some(bytes))
}

fn entries(sector: &[u8]) -> [&[u8]; 4] {
    [446, 462, 478, 494].map(|at| sector.get(at..at + 16).unwrap_or_default())
}

fn partition(number: u32, entry: &[u8], base: u64) -> Option<Partition> {
    let (status, kind) = (*entry.first()?, *entry.get(4)?);
    let (start, sectors) = (u64::from(long(entry, 8)), u64::from(long(entry, 12)));
    let used = kind != 0 && sectors != 0;
    used.then_some(Partition { number, kind, active: status == 0x80, start: base + start, sectors })
}

fn long(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..at + 4).and_then(|part| part.try_into().ok());
    u32::from_le_bytes(part.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn put(disk: &mut [u8], sector: usize, slot: usize, kind: u8, start: u32, sectors: u32) {
        let at = sector * 512 + 446 + slot * 16;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    #[test]
    fn primary_and_logical_partitions_are_found_and_circles_end() {
        let mut disk = vec![0; 100 * 512];
        put(&mut disk, 0, 0, 0x0c, 1, 9);
        put(&mut disk, 0, 1, 0x05, 20, 80);
        put(&mut disk, 0, 2, 0x83, 90, 11);
        put(&mut disk, 20, 0, 0x83, 1, 5);
        put(&mut disk, 20, 1, 0x05, 10, 10);
        put(&mut disk, 30, 0, 0x83, 1, 5);
        let found = read(&mut Cursor::new(&disk), 51_200).unwrap().unwrap();
        let places: Vec<_> = found.partitions.iter().map(|p| (p.number, p.start)).collect();
        assert_eq!(places, [(1, 1), (5, 21), (6, 31)]);
        assert!(found.notes[0].contains("partition 3"), "{:?}", found.notes);
        put(&mut disk, 30, 1, 0x05, 0, 10);
        let found = read(&mut Cursor::new(&disk), 51_200).unwrap().unwrap();
        assert!(found.notes.iter().any(|note| note.contains("circle")), "{:?}", found.notes);
        assert_eq!(read(&mut Cursor::new([0; 512]), 512).unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_mbr_panics(bytes in proptest::collection::vec(any::<u8>(), 512 * 4), start in 0u32..4) {
            let mut disk = bytes;
            put(&mut disk, 0, 1, 0x05, start, 4);
            put(&mut disk, start as usize, 3, 0x05, 1, 4);
            let found = read(&mut Cursor::new(&disk), disk.len() as u64).unwrap().unwrap();
            for partition in found.partitions {
                prop_assert!(partition.start + partition.sectors <= 4);
            }
        }
    }
}
