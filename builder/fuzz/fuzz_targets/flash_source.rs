//! Reads lists of digests and packed images made of the fuzzer's bytes: nothing may panic, hang or take
//! memory without bound.
#![no_main]

use std::io::Read;

use headnode::flash::source::{Packing, unpacker};
use headnode::manifest::sums;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let list = sums::parse(text);
        let _ = sums::find(&list, "a.img");
        for listed in &list {
            if let Some(name) = &listed.name {
                // What was read can be written, and is read so again.
                let again = sums::text([(name.as_str(), listed.sha256.as_str())]);
                assert_eq!(sums::parse(&again).first(), Some(listed), "{again:?}");
            }
        }
    }
    let Some((kind, data)) = data.split_first() else { return };
    let packing = match kind % 5 {
        0 => Packing::of_head(data),
        1 => Packing::Zstd,
        2 => Packing::Gzip,
        3 => Packing::Xz,
        _ => Packing::Bzip2,
    };
    if let Ok(reader) = unpacker(packing, data) {
        let mut unpacked = Vec::new();
        let _ = reader.take(1 << 20).read_to_end(&mut unpacked);
    }
});
