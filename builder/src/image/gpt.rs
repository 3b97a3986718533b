//! The partition table: a GUID partition table (UEFI specification 2.10, chapter 5) behind a
//! protective MBR whose boot code is given by the caller.
//!
//! Written as two byte strings, for the head and the tail of a disk, because the image is made in
//! one pass; reading is bounded and checks everything, because an image may come from anywhere.

use std::io::{self, Read, Seek, SeekFrom};

use uuid::Uuid;

use super::SECTOR;

/// Type of an EFI system partition.
pub const TYPE_ESP: Uuid = Uuid::from_u128(0xC12A7328_F81F_11D2_BA4B_00A0C93EC93B);
/// Type of GRUB's BIOS boot partition ("Hah!IdontNeedEFI").
pub const TYPE_BIOS_BOOT: Uuid = Uuid::from_u128(0x21686148_6449_6E6F_744E_656564454649);
/// Type of a partition that holds a file system for any operating system (FAT here).
pub const TYPE_DATA: Uuid = Uuid::from_u128(0xEBD0A0A2_B9E5_4433_87C0_68B6B72699C7);
/// Type of an illumos boot partition, which holds the loader's second stage raw (C§1.13).
pub const TYPE_ILLUMOS_BOOT: Uuid = Uuid::from_u128(0x6A82CB45_1DD2_11B2_99A6_080020736631);
/// Type of an illumos root partition (C§1.13).
pub const TYPE_ILLUMOS_ROOT: Uuid = Uuid::from_u128(0x6A85CF4D_1DD2_11B2_99A6_080020736631);
/// Type of an illumos reserved partition (C§1.13).
pub const TYPE_ILLUMOS_RESERVED: Uuid = Uuid::from_u128(0x6A945A3B_1DD2_11B2_99A6_080020736631);

/// Sectors at the head of the disk: MBR, header, entries.
pub const HEAD_SECTORS: u64 = 2 + ENTRY_SECTORS;
/// Sectors at the tail of the disk: entries, header.
pub const TAIL_SECTORS: u64 = 1 + ENTRY_SECTORS;
/// Bytes of boot code that a protective MBR has room for.
pub const BOOT_CODE: usize = 440;
/// Where the table of the MBR begins: boot code that needs no disk signature may reach up to here.
pub const MBR_TABLE: usize = 446;

const ENTRY_SECTORS: u64 = 32;
const ENTRIES: usize = 128;
const ENTRY_SIZE: usize = 128;
const HEADER_SIZE: usize = 92;
const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Tables with more or larger entries than these are refused when read.
const MAX_ENTRIES: u32 = 1024;
const MAX_ENTRY_SIZE: u32 = 4096;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name, at most 36 UTF-16 units.
    pub name: String,
    /// What it is for.
    pub kind: Uuid,
    /// Its identifier.
    pub guid: Uuid,
    /// First sector.
    pub start: u64,
    /// Number of sectors, at least 1.
    pub sectors: u64,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The disk's identifier.
    pub guid: Uuid,
    /// Size of the disk in sectors.
    pub sectors: u64,
    /// The partitions with their numbers, from 1, in ascending order.
    pub partitions: Vec<(u32, Partition)>,
}

/// Why a disk has no usable partition table.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("reading the partition table: {0}")]
    Io(#[from] io::Error),
    /// The table is broken.
    #[error("the {which} partition table is damaged: {what}")]
    Damaged {
        /// `primary` or `backup`.
        which: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

impl Table {
    /// The first [`HEAD_SECTORS`] of the disk. At most [`MBR_TABLE`] bytes of boot code are used.
    pub fn head(&self, boot_code: &[u8]) -> Vec<u8> {
        let mut head = self.protective_mbr(boot_code).to_vec();
        head.extend(self.header(1, self.sectors - 1, 2));
        head.extend(self.entries());
        head
    }

    /// The last [`TAIL_SECTORS`] of the disk.
    pub fn tail(&self) -> Vec<u8> {
        let mut tail = self.entries();
        tail.extend(self.header(self.sectors - 1, 1, self.sectors - TAIL_SECTORS));
        tail
    }

    fn protective_mbr(&self, boot_code: &[u8]) -> [u8; SECTOR as usize] {
        let mut mbr = [0; SECTOR as usize];
        for (to, from) in mbr.iter_mut().zip(boot_code.iter().take(MBR_TABLE)) {
            *to = *from;
        }
        // One entry of type EE over the whole disk, CHS as the specification's table 5.4 has it.
        let size = u32::try_from(self.sectors - 1).unwrap_or(u32::MAX);
        let mut entry = vec![0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0];
        entry.extend(size.to_le_bytes());
        mbr[MBR_TABLE..MBR_TABLE + 16].copy_from_slice(&entry);
        mbr[510] = 0x55;
        mbr[511] = 0xaa;
        mbr
    }

    fn entries(&self) -> Vec<u8> {
        let mut entries = vec![0; ENTRIES * ENTRY_SIZE];
        for (number, partition) in &self.partitions {
            let mut entry = Vec::with_capacity(ENTRY_SIZE);
            entry.extend(partition.kind.to_bytes_le());
            entry.extend(partition.guid.to_bytes_le());
            entry.extend(partition.start.to_le_bytes());
            entry.extend((partition.start + partition.sectors - 1).to_le_bytes());
            entry.extend([0; 8]);
            entry.extend(partition.name.encode_utf16().take(36).flat_map(u16::to_le_bytes));
            let at = (*number as usize).saturating_sub(1) * ENTRY_SIZE;
            if let Some(slot) = entries.get_mut(at..at + entry.len()) {
                slot.copy_from_slice(&entry);
            }
        }
        entries
    }

    fn header(&self, own: u64, other: u64, entries_at: u64) -> Vec<u8> {
        let build = |crc: u32| {
            let mut header = Vec::with_capacity(SECTOR as usize);
            header.extend(SIGNATURE);
            header.extend(0x0001_0000_u32.to_le_bytes());
            header.extend((HEADER_SIZE as u32).to_le_bytes());
            header.extend(crc.to_le_bytes());
            header.extend([0; 4]);
            header.extend(own.to_le_bytes());
            header.extend(other.to_le_bytes());
            header.extend(HEAD_SECTORS.to_le_bytes());
            header.extend((self.sectors - TAIL_SECTORS - 1).to_le_bytes());
            header.extend(self.guid.to_bytes_le());
            header.extend(entries_at.to_le_bytes());
            header.extend((ENTRIES as u32).to_le_bytes());
            header.extend((ENTRY_SIZE as u32).to_le_bytes());
            header.extend(crc32fast::hash(&self.entries()).to_le_bytes());
            header
        };
        let mut header = build(crc32fast::hash(&build(0)));
        header.resize(SECTOR as usize, 0);
        header
    }

    /// Reads the table of a disk of `size` bytes and checks it, the backup too.
    ///
    /// # Errors
    /// When the disk has none, when it is damaged, or when the two copies differ.
    pub fn read(disk: &mut (impl Read + Seek), size: u64) -> Result<Self, Error> {
        let sectors = size / SECTOR;
        let primary = read_copy(disk, sectors, 1, "primary")?;
        let backup = read_copy(disk, sectors, sectors - 1, "backup")?;
        if primary != backup {
            let what = "it differs from the primary one".to_owned();
            return Err(Error::Damaged { which: "backup", what });
        }
        Ok(primary)
    }

    /// Reads and checks the table at the disk's head alone, for images whose backup is not at their
    /// end: those cut off or made larger by others.
    ///
    /// # Errors
    /// When the disk has none, or it is damaged.
    pub fn read_primary(disk: &mut (impl Read + Seek), size: u64) -> Result<Self, Error> {
        read_copy(disk, size / SECTOR, 1, "primary")
    }
}

fn read_copy(
    disk: &mut (impl Read + Seek),
    sectors: u64,
    at: u64,
    which: &'static str,
) -> Result<Table, Error> {
    let damaged = |what: &str| Error::Damaged { which, what: what.to_owned() };
    if sectors < HEAD_SECTORS + TAIL_SECTORS + 1 {
        return Err(damaged("the disk is too small to hold one"));
    }
    let header = read_at(disk, at * SECTOR, SECTOR)?;
    if !header.starts_with(SIGNATURE) {
        return Err(damaged("its signature \"EFI PART\" is missing"));
    }
    let header_size = u32_at(&header, 12) as usize;
    let Some(mut covered) = header.get(..header_size).map(<[u8]>::to_vec) else {
        return Err(damaged("its header has an impossible size"));
    };
    if header_size < HEADER_SIZE {
        return Err(damaged("its header is too small"));
    }
    covered[16..20].fill(0);
    if crc32fast::hash(&covered) != u32_at(&header, 16) {
        return Err(damaged("the checksum of its header is wrong"));
    }
    if u64_at(&header, 24) != at {
        return Err(damaged("it belongs at another place"));
    }
    let (count, entry_size) = (u32_at(&header, 80), u32_at(&header, 84));
    let odd_size = entry_size < ENTRY_SIZE as u32 || !entry_size.is_power_of_two();
    if count > MAX_ENTRIES || entry_size > MAX_ENTRY_SIZE || odd_size {
        return Err(damaged("its entries have an impossible number or size"));
    }
    let entries_at = u64_at(&header, 72);
    let bytes = u64::from(count) * u64::from(entry_size);
    if entries_at.checked_mul(SECTOR).and_then(|at| at.checked_add(bytes)) > Some(sectors * SECTOR)
        || entries_at >= sectors
    {
        return Err(damaged("its entries lie behind the end of the disk"));
    }
    let entries = read_at(disk, entries_at * SECTOR, bytes)?;
    if crc32fast::hash(&entries) != u32_at(&header, 88) {
        return Err(damaged("the checksum of its entries is wrong"));
    }
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(entries.chunks_exact(entry_size as usize)) {
        let kind = uuid_at(entry, 0);
        if kind.is_nil() {
            continue;
        }
        let (start, last) = (u64_at(entry, 32), u64_at(entry, 40));
        if start < 2 || last < start || last >= sectors {
            return Err(damaged(&format!("partition {number} lies outside of the disk")));
        }
        let units: Vec<u16> = entry[56..128]
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .take_while(|unit| *unit != 0)
            .collect();
        let name = String::from_utf16_lossy(&units);
        let guid = uuid_at(entry, 16);
        let partition = Partition { name, kind, guid, start, sectors: last - start + 1 };
        partitions.push((number, partition));
    }
    let mut by_start: Vec<_> = partitions.iter().collect();
    by_start.sort_by_key(|(_, partition)| partition.start);
    for pair in by_start.windows(2) {
        if let [(a, first), (b, second)] = pair
            && first.start + first.sectors > second.start
        {
            return Err(damaged(&format!("partitions {a} and {b} overlap")));
        }
    }
    Ok(Table { guid: uuid_at(&header, 56), sectors, partitions })
}

fn read_at(disk: &mut (impl Read + Seek), at: u64, length: u64) -> io::Result<Vec<u8>> {
    disk.seek(SeekFrom::Start(at))?;
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    disk.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(array(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn table() -> Table {
        let partition = |name: &str, kind, start, sectors| Partition {
            name: name.to_owned(),
            kind,
            guid: Uuid::from_u128(u128::from(start) << 64 | 0xabc),
            start,
            sectors,
        };
        Table {
            guid: Uuid::from_u128(42),
            sectors: 8192,
            partitions: vec![
                (1, partition("system", TYPE_ESP, 2048, 2048)),
                (3, partition("root", TYPE_DATA, 4096, 2048)),
            ],
        }
    }

    fn disk(table: &Table) -> Vec<u8> {
        let mut disk = table.head(&[0x90; 440]);
        disk.resize(((table.sectors - TAIL_SECTORS) * SECTOR) as usize, 0);
        disk.extend(table.tail());
        disk
    }

    #[test]
    fn what_is_written_is_read_back_also_by_another_reader() {
        let table = table();
        let disk = disk(&table);
        let size = disk.len() as u64;
        assert_eq!(size, table.sectors * SECTOR);
        assert_eq!(Table::read(&mut Cursor::new(&disk), size).unwrap(), table);
        let other = gptman::GPT::read_from(&mut Cursor::new(&disk), SECTOR).unwrap();
        assert_eq!(other.header.disk_guid, table.guid.to_bytes_le());
        assert_eq!(other[3].starting_lba, 4096);
        assert_eq!(other[3].partition_name.as_str(), "root");
        assert_eq!(disk[440..446], [0; 6], "boot code ends before the disk signature");
        let long = table.head(&[0x90; 600]);
        assert_eq!(long[445..448], [0x90, 0, 0], "boot code ends before the MBR's table");
    }

    #[test]
    fn damage_is_told() {
        let good = disk(&table());
        let size = good.len() as u64;
        for (at, word) in [
            (512, "signature"),
            (512 + 60, "checksum of its header"),
            (1024 + 33, "checksum of its entries"),
            (good.len() - 512 + 60, "backup"),
        ] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let error = Table::read(&mut Cursor::new(bad), size).unwrap_err().to_string();
            assert!(error.contains(word), "{at}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(changes in proptest::collection::vec((512usize..1536, any::<u8>()), 1..8)) {
            let mut bad = disk(&table());
            for (at, value) in changes {
                bad[at] = value;
            }
            // Make both checksums right again, so that the checks behind them are reached.
            let entries_at = 1024;
            let crc = crc32fast::hash(&bad[entries_at..entries_at + 128 * 128]);
            bad[512 + 88..512 + 92].copy_from_slice(&crc.to_le_bytes());
            bad[512 + 16..512 + 20].fill(0);
            let crc = crc32fast::hash(&bad[512..512 + 92]);
            bad[512 + 16..512 + 20].copy_from_slice(&crc.to_le_bytes());
            let size = bad.len() as u64;
            let _ = Table::read(&mut Cursor::new(bad), size);
        }
    }
}
