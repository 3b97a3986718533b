//! Any bytes on the HTTP port: the head, its path and its range are read without a panic, no name
//! leaves its folder, and no range leaves its file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sdc_booter::http::head::{HEAD_LIMIT, lines, parse};
use sdc_booter::http::path::{FilePath, file_path};
use sdc_booter::http::range::{Part, part, version};

fuzz_target!(|data: &[u8]| {
    let mut lines = lines();
    let Ok(Some(head)) = parse(data, &mut lines) else { return };
    assert!(head.length <= data.len().min(HEAD_LIMIT));
    if let FilePath::File(name) = file_path(head.path) {
        assert!(!name.contains('\0'));
        assert!(name.split('/').all(|name| !matches!(name, "" | "." | "..")));
    }
    for size in [0, 1, 1000, u64::MAX] {
        if let Part::Bytes { from, length } = part(&head, &version(1, size, 2, 3)) {
            assert!(length > 0 && from.checked_add(length).is_some_and(|end| end <= size));
        }
    }
});
