//! Bundles that are compared: cpio archives packed by zstd.
#![no_main]

use headnode::diff::bundle::read;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = read(data);
    // The fuzzer finds no packed archive by itself.
    let packed = zstd::encode_all(data, 1).expect("memory");
    let Ok(files) = read(&packed[..]) else { return };
    for (name, file) in &files {
        assert!(!name.contains(char::is_control), "{name:?}");
        assert!(file.size <= data.len() as u64);
        assert!(file.text.as_ref().is_none_or(|text| text.len() as u64 == file.size));
    }
});
