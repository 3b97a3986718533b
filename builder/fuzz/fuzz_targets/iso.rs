//! Reads ISO images, their boot catalogues and block maps made of the fuzzer's bytes: nothing may
//! panic, hang or take memory without bound.
#![no_main]

use std::io::Cursor;

use headnode::image::iso::Volume;
use headnode::manifest::bmap::Bmap;
use libfuzzer_sys::fuzz_target;

/// Where the first descriptor lies.
const DESCRIPTORS: usize = 16 * 2048;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Bmap::parse(text);
    }
    // The system's area is not read; of the descriptor the fuzzer chooses everything but what it
    // could hardly guess.
    let mut bytes = vec![0; DESCRIPTORS];
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(2048).max(DESCRIPTORS + 3 * 2048), 0);
    bytes[DESCRIPTORS..DESCRIPTORS + 7].copy_from_slice(b"\x01CD001\x01");
    bytes[DESCRIPTORS + 128..DESCRIPTORS + 132].copy_from_slice(&[0, 8, 8, 0]);
    // The root begins within the fuzzer's bytes.
    bytes[DESCRIPTORS + 158] &= 31;
    bytes[DESCRIPTORS + 159..DESCRIPTORS + 162].fill(0);
    let length = bytes.len() as u64;
    let Ok(mut volume) = Volume::open(Cursor::new(bytes), 0, length) else { return };
    let _ = volume.boot_entries();
    let nodes = volume.walk().unwrap_or_default();
    for node in nodes.iter().filter(|node| !node.folder).take(16) {
        let _ = volume.extents(node);
    }
});
