//! Any text is read as a file of decisions without a panic, and each line is read or told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sdc_booter::admission::parse;

fuzz_target!(|text: &str| {
    let (decisions, damaged) = parse(text);
    assert!(decisions.len() + damaged.len() <= text.lines().count());
    for (number, line) in damaged {
        assert_eq!(text.lines().nth(number - 1), Some(line));
    }
});
