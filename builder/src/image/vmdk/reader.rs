//! Unpacks vmdk files that hold their data themselves (`streamOptimized`, `monolithicSparse`), of any
//! origin, into raw images: every number is checked before it is used, memory stays bounded.

use std::fs::File;
use std::io::Read;

use crate::image::SECTOR;
use crate::image::unpack::{Error, Raw, Unnamed, le32, le64, read_at};

/// How such a file begins.
pub const MAGIC: &[u8] = b"KDMV";
const FORMAT: &str = "vmdk";
const COMPRESSED: u32 = 1 << 16;
/// Grains are never larger than this, in sectors.
const MAX_GRAIN: u64 = 2048;
/// Larger directories are refused, in bytes.
const MAX_DIRECTORY: u64 = 64 << 20;
/// An entry of a table that stands for zeroes, as 0 does.
const ZEROED: u32 = 1;

/// Unpacks a file into an unnamed sparse one; `progress` is called with the bytes of the image so
/// far.
///
/// # Errors
/// When it cannot be read, is damaged, or needs what is not at hand.
pub fn unpack(file: &File, progress: &mut dyn FnMut(u64)) -> Result<File, Error> {
    let damaged = |what| Error::Damaged { format: FORMAT, what };
    let mut header = read_at(file, 0, SECTOR).map_err(|_| damaged("it is too short"))?;
    if le64(&header, 56) == super::DIRECTORY_AT_END {
        // The footer is the last sector but one.
        let length = file.metadata()?.len();
        let at = length.checked_sub(2 * SECTOR).ok_or_else(|| damaged("it has no footer"))?;
        header = read_at(file, at, SECTOR)?;
    }
    if !header.starts_with(MAGIC) {
        return Err(damaged("its signature or its footer is missing"));
    }
    let compressed = le32(&header, 8) & COMPRESSED != 0;
    if compressed && header.get(77..79) != Some(&[1, 0]) {
        let what = "its compression";
        return Err(Error::Unsupported { format: FORMAT, what });
    }
    let [capacity, grain] = [12, 20].map(|at| le64(&header, at));
    let (per_table, directory_at) = (u64::from(le32(&header, 44)), le64(&header, 56));
    if !(1..=MAX_GRAIN).contains(&grain) || per_table == 0 || per_table > 1 << 16 {
        return Err(damaged("its grains or tables have an impossible size"));
    }
    let tables = capacity.div_ceil(grain * per_table);
    let size = capacity.checked_mul(SECTOR).filter(|_| tables * 4 <= MAX_DIRECTORY);
    let size = size.ok_or_else(|| damaged("it is impossibly large"))?;
    let place = |sector: u64| {
        sector.checked_mul(SECTOR).ok_or_else(|| damaged("a place is behind the end"))
    };
    let directory = read_at(file, place(directory_at)?, tables * 4)?;
    let raw = Raw::new(size)?;
    let mut unnamed = Unnamed::all(file)?;
    for (number, entry) in (0..).zip(directory.chunks_exact(4)) {
        let at = le32(entry, 0);
        if at == 0 {
            continue;
        }
        unnamed.take(per_table * 4, FORMAT)?;
        let table = read_at(file, place(u64::from(at))?, per_table * 4)?;
        for (index, entry) in (0..).zip(table.chunks_exact(4)) {
            let (entry, lba) = (le32(entry, 0), (number * per_table + index) * grain);
            if lba >= capacity {
                break;
            }
            if entry <= ZEROED {
                continue;
            }
            let at = place(u64::from(entry))?;
            let bytes = if compressed {
                // Its marker names its place in the image: no two entries share one.
                inflate(file, at, lba, grain * SECTOR)?
            } else {
                unnamed.take(grain * SECTOR, FORMAT)?;
                read_at(file, at, grain * SECTOR)?
            };
            raw.write(&bytes, lba * SECTOR)?;
        }
        progress(((number + 1) * per_table * grain * SECTOR).min(size));
    }
    Ok(raw.finish())
}

/// The grain behind the marker at `at`, which must name this sector of the image.
fn inflate(file: &File, at: u64, lba: u64, size: u64) -> Result<Vec<u8>, Error> {
    let damaged = |what| Error::Damaged { format: FORMAT, what };
    let marker = read_at(file, at, 12)?;
    let length = u64::from(le32(&marker, 8));
    if le64(&marker, 0) != lba || length > 2 * size + SECTOR {
        return Err(damaged("a grain is not where the table says"));
    }
    let packed = read_at(file, at + 12, length)?;
    let mut bytes = Vec::new();
    let unpacked =
        flate2::bufread::ZlibDecoder::new(&packed[..]).take(size + 1).read_to_end(&mut bytes);
    match unpacked {
        Ok(_) if bytes.len() as u64 <= size => Ok(bytes),
        _ => Err(damaged("a compressed grain cannot be unpacked")),
    }
}
