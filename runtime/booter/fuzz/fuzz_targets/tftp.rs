//! Any bytes on the TFTP port are read without a panic, and no name leaves the folder.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sdc_booter::tftp::{Files, Packet};

static FILES: LazyLock<Files> = LazyLock::new(|| Files::new("/nonexistent".into()));

fuzz_target!(|data: &[u8]| {
    if let Ok(Packet::Read(request)) = Packet::parse(data) {
        assert!(FILES.read(&request.name).is_err());
    }
});
