//! A manifest of an image.
#![no_main]

use headnode::source::imgmanifest::{ImageManifest, for_key};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(manifest) = ImageManifest::parse(text) {
        let key = for_key(text).expect("a manifest is an object");
        let key = String::from_utf8(key).expect("JSON is UTF-8");
        let again = ImageManifest::parse(&key).expect("the key's form is a manifest too");
        assert_eq!(again.uuid, manifest.uuid);
    }
});
