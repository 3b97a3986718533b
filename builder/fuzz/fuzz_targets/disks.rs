//! Unpacks qcow2 and vmdk files made of the fuzzer's bytes: nothing may panic, hang, or take memory or
//! room on disk without bound.
#![no_main]

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use headnode::image::unpack::MAX_SIZE;
use headnode::image::{qcow2, vmdk};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let mut bytes = data.to_vec();
    // What the fuzzer could hardly guess: signature, version, that there is no other file, no key.
    let (magic, version, zero) = match kind % 4 {
        0 => (&b"QFI\xfb"[..], &[0, 0, 0, 2][..], 8..16),
        1 => (&b"QFI\xfb"[..], &[0, 0, 0, 3][..], 8..16),
        _ => (&b"KDMV"[..], &[1, 0, 0, 0][..], 4..4),
    };
    let Some(head) = bytes.get_mut(..80) else { return };
    head[..4].copy_from_slice(magic);
    head[4..8].copy_from_slice(version);
    head[zero].fill(0);
    if kind % 4 < 2 {
        head[32..36].fill(0);
    }
    let Ok(mut file) = tempfile::tempfile() else { return };
    if file.write_all(&bytes).is_err() {
        return;
    }
    let unpacked = match kind % 4 {
        0 | 1 => qcow2::reader::unpack(&file, &mut |_| ()),
        _ => vmdk::reader::unpack(&file, &mut |_| ()),
    };
    if let Ok(raw) = unpacked {
        let meta = raw.metadata().expect("an open file");
        assert!(meta.len() <= MAX_SIZE);
        // No packing makes more of a byte than this.
        assert!(meta.blocks() * 512 <= (bytes.len() as u64 + 1) * (1 << 20), "{}", meta.blocks());
    }
});
