//! Ranges, holes and personal parts of what is written.

use std::io::Seek;

use super::*;

#[test]
fn holes_are_found_hashed_and_left_out() {
    for together in [true, false] {
        holes(together);
    }
}

/// Whatever this processor has: by one thread for both hashes, and by two.
fn holes(together: bool) {
    let pool = Pool::new(1).unwrap();
    let raw = packed(tempfile::tempfile().unwrap(), Compression::None, &pool).unwrap();
    let mut out = Output::new(vec![raw], |_| ());
    out.hash_whole_by(together).unwrap();
    out.data(b"head").unwrap();
    assert!(out.hash_whole().is_err());
    out.zeroes_to(1 << 20).unwrap();
    out.unused(BLOCK as u64).unwrap();
    out.data(&[7; BLOCK]).unwrap();
    out.zeroes_to(2 << 20).unwrap();
    let mut written = out.finish().unwrap();
    let file = &mut written.files[0];
    assert_eq!((written.size, written.mapped), (2 << 20, 2 * BLOCK as u64));
    let offsets: Vec<_> = written.ranges.iter().map(|r| (r.offset, r.length)).collect();
    assert_eq!(offsets, [(0, BLOCK as u64), ((1 << 20) + BLOCK as u64, BLOCK as u64)]);
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 2 << 20);
    let mut hash = Sha256::new();
    hash.update(&bytes[..BLOCK]);
    assert_eq!(written.ranges[0].sha256, hex(hash));
    let mut hash = Sha256::new();
    hash.update(&bytes);
    assert_eq!(written.sha256, Some(hex(hash)));
}

#[test]
fn personal_parts_lie_between_ranges() {
    let pool = Pool::new(1).unwrap();
    let raw = packed(tempfile::tempfile().unwrap(), Compression::None, &pool).unwrap();
    let mut out = Output::new(vec![raw], |_| ());
    out.data(&[1; BLOCK]).unwrap();
    for (path, byte) in [("a", 2), ("b", 3)] {
        out.begin_personal(path).unwrap();
        out.data(&[byte; BLOCK]).unwrap();
        out.end_personal().unwrap();
    }
    out.data(&[4; BLOCK + 1]).unwrap();
    assert!(out.begin_personal("c").is_err());
    let written = out.finish().unwrap();
    let sha256 = |byte: u8, count| hex(Sha256::new().chain_update(vec![byte; count]));
    let block = BLOCK as u64;
    let range = |offset, byte, count: usize| Range {
        offset,
        length: count as u64,
        sha256: sha256(byte, count),
    };
    assert_eq!(written.ranges, [range(0, 1, BLOCK), range(3 * block, 4, BLOCK + 1)]);
    let personal = |path: &str, offset, byte| Personal {
        path: path.to_owned(),
        offset,
        length: block,
        sha256: Some(sha256(byte, BLOCK)),
    };
    assert_eq!(written.personal, [personal("a", block, 2), personal("b", 2 * block, 3)]);
    assert_eq!(written.mapped, 4 * block + 1);
}

#[test]
fn every_range_has_its_own_digest_and_long_ones_are_divided() {
    let pool = Pool::new(1).unwrap();
    let raw = packed(tempfile::tempfile().unwrap(), Compression::None, &pool).unwrap();
    let mut out = Output::new(vec![raw], |_| ());
    let mut expected = Vec::new();
    for number in 1..40_u8 {
        // Zeroes that are used count, whether they are told as such or not.
        let mut data = vec![number; if number == 20 { 300 * BLOCK } else { BLOCK }];
        data.extend([0; 2 * BLOCK]);
        out.data(&data[..data.len() - BLOCK]).unwrap();
        out.zeroes(BLOCK as u64).unwrap();
        out.unused(BLOCK as u64).unwrap();
        let ranges = data.chunks(MAX_RANGE as usize);
        expected.extend(ranges.map(|range| hex(Sha256::new().chain_update(range))));
    }
    out.data(b"the last block is short").unwrap();
    expected.push(hex(Sha256::new().chain_update("the last block is short")));
    let written = out.finish().unwrap();
    let digests: Vec<_> = written.ranges.iter().map(|range| range.sha256.clone()).collect();
    assert_eq!(digests, expected);
    assert_eq!(written.sha256, None);
}
