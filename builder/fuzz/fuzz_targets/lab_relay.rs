//! Frames of a rack's nodes, and of who else is on the admin network, on their way into the router.
#![no_main]

use headnode::lab::Rack;
use headnode::lab::relay::{Router, Side};
use libfuzzer_sys::fuzz_target;

/// The router's addresses on its two sides.
const MACS: [[u8; 6]; 2] = [[0x52, 0x54, 0, 0, 2, 1], [0x52, 0x54, 0, 0, 2, 2]];

fuzz_target!(|data: &[u8]| {
    let mut router = Router::new(Rack::default());
    let mut out = Vec::new();
    let mut rest = data;
    // A byte that tells side and kind, two for the length, then the frame behind its addresses.
    while let [how, high, low, bytes @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(bytes.len());
        let (body, next) = bytes.split_at(length);
        rest = next;
        let side = if how & 1 == 0 { Side::Uplink } else { Side::Rack };
        let to = if how & 2 == 0 { MACS[usize::from(how & 1)] } else { [0xff; 6] };
        let kind = if how & 4 == 0 { [8, 0] } else { [8, 6] };
        let frame = [&to[..], &[0x52, 0x54, 0, 0, 0, 9], &kind, body].concat();
        router.handle(side, &frame, &mut out);
        assert!(out.len() <= 65, "a frame made {}", out.len());
        for (_, frame) in out.drain(..) {
            assert!((34..=1514).contains(&frame.len()), "a frame of {} bytes", frame.len());
        }
    }
});
