//! Looks into tars, packed or not, and into packed keys made of the fuzzer's bytes: nothing may panic,
//! hang, take memory without bound, or be found outside of the archive.
#![no_main]

use std::fs::File;
use std::io::Write;

use headnode::contents::{archive, pxe};
use headnode::image::reader::ImageFile;
use libfuzzer_sys::fuzz_target;

fn file(bytes: &[u8]) -> Option<File> {
    let mut file = tempfile::tempfile().ok()?;
    file.write_all(bytes).ok()?;
    Some(file)
}

fuzz_target!(|data: &[u8]| {
    // The checksums of headers are made right, so that what is behind them is reached.
    let mut tar = data.to_vec();
    for block in tar.chunks_exact_mut(512) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar.extend([0; 1024]);
    let Some(tar_file) = file(&tar) else { return };
    if let Ok(found) = archive::read(&tar_file, tar.len() as u64) {
        for entry in &found.files.entries {
            assert!(!entry.path.split('/').any(|part| matches!(part, "" | "." | "..")));
            for (at, length) in entry.extents.iter().flatten() {
                assert!(at.checked_add(*length).is_some_and(|end| end <= tar.len() as u64));
            }
        }
        if let Some(entry) = found.files.files().next() {
            let _ = archive::sparse(&tar_file, &entry.path, |_| Ok(()));
        }
    }
    let Some(packed) = file(data) else { return };
    for path in ["key.cpio.zst", "fulliso.tgz"] {
        let entry = headnode::contents::Entry {
            path: path.to_owned(),
            folder: false,
            size: data.len() as u64,
            extents: Ok(vec![(0, data.len() as u64)]),
        };
        let _ = pxe::key(&packed, &entry, 1 << 20, true, &mut |_| ());
    }
    let _ = ImageFile::of_file(packed, 1 << 20, &mut |_| ());
});
