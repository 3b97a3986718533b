//! What lies between the mapped ranges of an image must read as zeroes. Holes of a sparse file are
//! known to, and need not be read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use headnode_model::manifest::{Personal, Range};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The parts of an image of `size` bytes that no range and no personal part covers: offset and length.
/// These may come in any order, overlap, and reach behind the end.
pub fn gaps(ranges: &[Range], personal: &[Personal], size: u64) -> Vec<(u64, u64)> {
    let ranges = ranges.iter().map(|range| (range.offset, range.length));
    let personal = personal.iter().map(|part| (part.offset, part.length));
    let mut covered: Vec<_> = ranges
        .chain(personal)
        .map(|(offset, length)| (offset.min(size), offset.saturating_add(length).min(size)))
        .collect();
    covered.sort_unstable();
    covered.push((size, size));
    let mut gaps = Vec::new();
    let mut at = 0;
    for (start, end) in covered {
        if start > at {
            gaps.push((at, start - at));
        }
        at = at.max(end);
    }
    gaps
}

/// The first byte within a part of a file that is not zero.
///
/// # Errors
/// When reading fails.
pub fn first_data(file: &File, offset: u64, length: u64) -> io::Result<Option<u64>> {
    let end = offset.saturating_add(length);
    let mut buffer = vec![0; 256 * 1024];
    let zeroes = vec![0; buffer.len()];
    let mut at = offset;
    while at < end {
        at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // No data up to the end of the file.
            Err(Errno::NXIO) => return Ok(None),
            // A device, or a file system without holes: all is data.
            Err(Errno::INVAL | Errno::NOTSUP) => at,
            Err(error) => return Err(error.into()),
        };
        if at >= end {
            return Ok(None);
        }
        let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..count).unwrap_or_default();
        file.read_exact_at(part, at)?;
        if !zeroes.starts_with(part) {
            let within = part.iter().position(|byte| *byte != 0).unwrap_or_default();
            return Ok(Some(at + within as u64));
        }
        at += count as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(offset: u64, length: u64) -> Range {
        Range { offset, length, sha256: String::new() }
    }

    fn part(offset: u64, length: u64) -> Personal {
        Personal { path: String::new(), offset, length, sha256: None }
    }

    #[test]
    fn data_in_a_hole_is_found() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100 << 20).unwrap();
        file.write_all_at(b"x", 70 << 20).unwrap();
        file.write_all_at(&[0; 9], 20 << 20).unwrap();
        assert_eq!(first_data(&file, 5, 99 << 20).unwrap(), Some(70 << 20));
        assert_eq!(first_data(&file, 5, (70 << 20) - 5).unwrap(), None);
        assert_eq!(first_data(&file, (70 << 20) + 1, 100).unwrap(), None);
        assert_eq!(first_data(&file, 99 << 20, 1 << 20).unwrap(), None);
    }

    proptest! {
        #[test]
        fn gaps_are_what_ranges_leave(
            list in proptest::collection::vec((0u64..60, 0u64..20), 0..8),
            parts in proptest::collection::vec((0u64..60, 0u64..5), 0..3),
        ) {
            let mut ranges: Vec<_> = list.iter().map(|(o, l)| range(*o, *l)).collect();
            let personal: Vec<_> = parts.iter().map(|(o, l)| part(*o, *l)).collect();
            let mut left: Vec<bool> = (0..50).map(|at| {
                !list.iter().chain(&parts).any(|(o, l)| (*o..o + l).contains(&at))
            }).collect();
            ranges.push(range(u64::MAX, u64::MAX));
            for (offset, length) in gaps(&ranges, &personal, 50) {
                for place in &mut left[offset as usize..(offset + length) as usize] {
                    prop_assert!(*place);
                    *place = false;
                }
            }
            prop_assert!(left.iter().all(|place| !place));
        }
    }
}
