//! What servers say about their files: Manta listings and pointers, HTML indexes, lists of digests.
#![no_main]

use headnode::source::digest::sums;
use headnode::source::listing::{index, manta, pointer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let items = manta(text).unwrap_or_default();
    let plain = |name: &str| !name.contains('/') && !matches!(name, "" | "." | "..");
    assert!(items.iter().all(|item| plain(&item.name)));
    assert!(index(text).iter().all(|name| plain(name)));
    if let Ok(path) = pointer(text) {
        assert!(path.starts_with('/') && path.split('/').skip(1).all(plain));
    }
    for (name, hex) in sums(text, 32).unwrap_or_default() {
        assert!(plain(&name) || name.starts_with('.'));
        assert_eq!(hex.len(), 32);
    }
});
