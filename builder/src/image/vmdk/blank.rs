//! An empty disk that grows when it is written to, `monolithicSparse`: the disk for the pool of a
//! virtual machine, as Triton's has one (C§1.13).

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use super::{Adapter, DESCRIPTION, GRAIN, Header, PLAIN, TABLE, description, little_endian, plain};
use crate::image::SECTOR;

/// The largest disk, in GiB: places in the file have 32 bits for sectors, and the tables need room.
pub const MAX_GIB: u64 = 2047;

/// The version of the format without markers.
const VERSION: u32 = 1;
/// New lines are not mangled, and there is a second directory.
const FLAGS: u32 = 1 | 1 << 1;
/// The identifier of a disk's content before anything was written.
const UNTOUCHED: u32 = 0xffff_fffe;
/// Sectors of a table of grains.
const TABLE_SECTORS: u64 = TABLE * 4 / SECTOR;

/// Writes a disk of `gib` GiB into an empty file, which its description calls `name` (see
/// [`super::Vmdk::new`]). The tables for all of the disk are there, as programs that write to such a
/// file expect; they are holes.
///
/// # Errors
/// When it would be larger than [`MAX_GIB`], or the file cannot be written.
pub fn write(file: &mut File, name: &str, gib: u64) -> io::Result<()> {
    if !(1..=MAX_GIB).contains(&gib) {
        return Err(io::Error::other(format!("a disk has 1 to {MAX_GIB} GiB, not {gib}")));
    }
    let capacity = (gib << 30) / SECTOR;
    let tables = capacity.div_ceil(GRAIN * TABLE);
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    let redundant_at = 1 + DESCRIPTION;
    let directory_at = redundant_at + directory_sectors + tables * TABLE_SECTORS;
    let end = directory_at + directory_sectors + tables * TABLE_SECTORS;
    let header = Header {
        version: VERSION,
        flags: FLAGS,
        capacity,
        redundant_at,
        directory_at,
        overhead: end.next_multiple_of(GRAIN),
        packing: PLAIN,
    };
    file.write_all(&header.bytes())?;
    let text = description("monolithicSparse", Adapter::Scsi, UNTOUCHED, capacity, &plain(name));
    file.write_all(text.as_bytes())?;
    for at in [redundant_at, directory_at] {
        // Each directory stands before its tables.
        let first = at + directory_sectors;
        let places: Result<Vec<u32>, _> =
            (0..tables).map(|table| u32::try_from(first + table * TABLE_SECTORS)).collect();
        file.seek(SeekFrom::Start(at * SECTOR))?;
        file.write_all(&little_endian(&places.map_err(io::Error::other)?))?;
    }
    file.set_len(header.overhead * SECTOR)
}
