//! Unpacks a tarball made of the fuzzer's bytes, and looks for multiboot headers in them: nothing
//! may panic, hang, take memory without bound, or be written outside of the folder.
#![no_main]

use headnode::source::platform::multiboot::{self, Headers};
use headnode::source::platform::tarball;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Headers::find(data);
    let _ = multiboot::find_first(data);
    // The checksums of headers are made right, so that what is behind them is reached.
    let mut tar = data.to_vec();
    for block in tar.chunks_exact_mut(512) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let Ok(parent) = tempfile::tempdir() else { return };
    let into = parent.path().join("into");
    if std::fs::create_dir(&into).is_err() {
        return;
    }
    if let Ok(files) = tarball::unpack(&tar[..], &into, &|path| path.ends_with('a')) {
        for (path, item) in files {
            assert!(!path.split('/').any(|part| matches!(part, "" | "." | "..")), "{path:?}");
            assert!(item.place.parent() == Some(&into), "{:?}", item.place);
        }
    }
    assert!(std::fs::read_dir(parent.path()).is_ok_and(|items| items.count() == 1));
});
