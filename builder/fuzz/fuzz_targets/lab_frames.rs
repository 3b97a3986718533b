//! Bytes of a QEMU (or of whoever opened its socket) on their way into the lab's switch.
#![no_main]

use headnode::lab::switch::{Decoder, MAX_FRAME, addresses, sender_ip};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let step = usize::from(data.first().copied().unwrap_or(1)).max(1);
    let mut decoder = Decoder::default();
    for piece in data.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.len() <= MAX_FRAME);
                    let _ = addresses(frame);
                    let _ = sender_ip(frame);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(decoder.waiting() <= data.len());
    }
});
