//! A lock file.
#![no_main]

use headnode::source::lock::{Kind, Lock, changes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(lock) = Lock::parse(text) else { return };
    let again = Lock::parse(&lock.text()).expect("what is written is read");
    assert!(changes(&lock, &again).is_empty());
    for entry in &lock.artefacts {
        assert!(Kind::of(&entry.name).is_some());
        let _ = lock.part(std::slice::from_ref(&entry.name), &entry.asked);
    }
});
