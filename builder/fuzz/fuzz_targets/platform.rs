//! What a platform is made of: its lock file, what apt writes, copyright files; and the catalogue of
//! firmware.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use headnode::platform::apt::index::{Found, Uri, describe, field};
use headnode::platform::copyright::licences;
use headnode::platform::lock::Lock;
use headnode::source::firmware;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(lock) = Lock::parse(text, Path::new("platform.lock")) {
        let written = lock.to_text().expect("it was checked");
        let again = Lock::parse(&written, Path::new("platform.lock"));
        assert_eq!(again.expect("what is written is read"), lock);
    }
    let named = licences(text);
    assert!(named.is_sorted() && named.iter().all(|name| !name.is_empty() && name.len() <= 200));
    if let Ok(catalogue) = firmware::parse(text) {
        assert!(catalogue.firmware.len() <= text.len());
    }
    // Every line may name a package, every paragraph describe one.
    let mirrors = BTreeMap::from([("debian", "m".to_owned())]);
    let mut found = BTreeMap::new();
    for uri in text.lines().filter_map(Uri::parse) {
        let entry = Found { url: uri.url, ..Found::default() };
        found.insert((uri.name, uri.version), entry);
    }
    for paragraph in text.split("\n\n") {
        if let (Some(name), Some(version), Some(file)) =
            (field(paragraph, "Package"), field(paragraph, "Version"), field(paragraph, "Filename"))
        {
            let entry = Found { url: format!("m/{file}"), ..Found::default() };
            found.insert((name.to_owned(), version.to_owned()), entry);
        }
    }
    let before = found.len();
    let packages = describe(text, &mut found, &mirrors);
    assert_eq!(packages.len() + found.len(), before);
    assert!(packages.iter().all(|package| package.archive == "debian"));
});
