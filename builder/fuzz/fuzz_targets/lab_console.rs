//! Bytes of a guest's serial console on their way to lines of text.
#![no_main]

use headnode::lab::console::Lines;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = Lines::at(0);
    let mut end = 0;
    lines.push(data, |line| {
        assert!(!line.text.contains(['\n', '\r', '\u{1b}']));
        assert!(line.end >= end);
        end = line.end;
    });
    let _ = lines.unfinished();
});
