//! Unpacks qcow2 files of any origin into raw images: every number is checked before it is used,
//! memory stays bounded. What needs other files or keys (backing files, encryption) is refused.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::image::unpack::{Error, Raw, Unnamed, be32, be64, read_at};

/// How such a file begins.
pub const MAGIC: &[u8] = b"QFI\xfb";
const FORMAT: &str = "qcow2";
/// The largest table of tables that QEMU makes, in bytes.
const MAX_L1: u64 = 32 << 20;
/// Features that cannot be ignored but change nothing for a reader: "was not closed", "is corrupt"
/// is not among them.
const DIRTY: u64 = 1;
/// The compression type field is in use.
const COMPRESSION_TYPE: u64 = 1 << 3;
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes, whatever lies there.
const ZERO: u64 = 1;
/// What a compressed cluster takes at least: deflate makes no less than a 1032nd of anything.
const DEFLATE_MOST: u64 = 1032;
/// The same for zstd, in bytes: header and one block of one byte.
const ZSTD_LEAST: u64 = 6;
/// The bits of an entry that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Unpacks a file into an unnamed sparse one; `progress` is called with the bytes of the image so
/// far.
///
/// # Errors
/// When it cannot be read, is damaged, or needs what is not at hand.
pub fn unpack(file: &File, progress: &mut dyn FnMut(u64)) -> Result<File, Error> {
    let damaged = |what| Error::Damaged { format: FORMAT, what };
    let refuse = |what| Error::Unsupported { format: FORMAT, what };
    let header = read_at(file, 0, 112).map_err(|_| damaged("it is too short"))?;
    if !header.starts_with(MAGIC) {
        return Err(damaged("its signature is missing"));
    }
    let features = match be32(&header, 4) {
        2 => 0,
        3 => be64(&header, 72),
        _ => return Err(refuse("its version is neither 2 nor 3")),
    };
    if features & !(DIRTY | COMPRESSION_TYPE) != 0 {
        return Err(refuse("it is marked as corrupt or has features that are not known here"));
    }
    if be64(&header, 8) != 0 {
        return Err(refuse("it holds only what differs from another file"));
    }
    if be32(&header, 32) != 0 {
        return Err(refuse("it is encrypted"));
    }
    let zstd = match header.get(104) {
        Some(1) if features & COMPRESSION_TYPE != 0 => true,
        Some(_) if features & COMPRESSION_TYPE != 0 => return Err(refuse("its compression")),
        _ => false,
    };
    let bits = be32(&header, 20);
    if !(9..=21).contains(&bits) {
        return Err(damaged("its clusters have an impossible size"));
    }
    let cluster = 1_u64 << bits;
    let (size, l1_at) = (be64(&header, 24), be64(&header, 40));
    let per_table = cluster / 8;
    let tables = size.div_ceil(cluster).div_ceil(per_table);
    if tables * 8 > MAX_L1 || u64::from(be32(&header, 36)) < tables {
        return Err(damaged("its size and its tables do not fit"));
    }
    let l1 = read_at(file, l1_at, tables * 8)?;
    let raw = Raw::new(size)?;
    let mut unnamed = Unnamed::all(file)?;
    for (number, entry) in (0..).zip(l1.chunks_exact(8)) {
        let at = be64(entry, 0) & OFFSET;
        if at == 0 {
            continue;
        }
        unnamed.take(cluster, FORMAT)?;
        let table = read_at(file, at, cluster)?;
        for (index, entry) in (0..).zip(table.chunks_exact(8)) {
            let entry = be64(entry, 0);
            let place = (number * per_table + index) * cluster;
            if place >= size {
                break;
            }
            if entry & COMPRESSED != 0 {
                let (bytes, packed) = compressed(file, entry, bits, zstd)?;
                // The last sector may be the next one's first.
                let least = if zstd { ZSTD_LEAST } else { cluster / DEFLATE_MOST };
                unnamed.take((packed.saturating_sub(511)).max(least).max(1), FORMAT)?;
                raw.write(&bytes, place)?;
            } else if entry & OFFSET != 0 && entry & ZERO == 0 {
                unnamed.take(cluster, FORMAT)?;
                raw.write(&read_at(file, entry & OFFSET, cluster)?, place)?;
            }
        }
        progress(((number + 1) * per_table * cluster).min(size));
    }
    Ok(raw.finish())
}

/// A compressed cluster, and the bytes of the file that it may lie in.
fn compressed(file: &File, entry: u64, bits: u32, zstd: bool) -> Result<(Vec<u8>, u64), Error> {
    let damaged = |what| Error::Damaged { format: FORMAT, what };
    let shift = 62 - (bits - 8);
    let at = entry & ((1 << shift) - 1);
    let sectors = (entry & (COMPRESSED - 1)) >> shift;
    // The last sector need not be whole at the end of the file.
    let mut packed = vec![0; usize::try_from((sectors + 1) * 512 - at % 512).unwrap_or(0)];
    let mut filled = 0;
    while let Some(rest) = packed.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    packed.truncate(filled);
    let cluster = 1_u64 << bits;
    let mut bytes = Vec::new();
    let result = if zstd {
        let decoder = zstd::Decoder::with_buffer(&packed[..]).map(|d| d.single_frame());
        decoder.and_then(|decoder| decoder.take(cluster).read_to_end(&mut bytes))
    } else {
        flate2::bufread::DeflateDecoder::new(&packed[..]).take(cluster).read_to_end(&mut bytes)
    };
    match result {
        Ok(_) if bytes.len() as u64 == cluster => Ok((bytes, filled as u64)),
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Err(error.into()),
        _ => Err(damaged("a compressed cluster cannot be unpacked")),
    }
}
