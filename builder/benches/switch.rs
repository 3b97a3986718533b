//! How fast the switch moves one download from one machine to another: `cargo bench --bench switch`.
//!
//! A node's boot archive of some 75 MB comes this way, in frames of 1514 bytes.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use headnode::lab::switch::Switch;

const FRAME: usize = 1514;
const FRAMES: usize = 200_000;
/// Frames that a QEMU hands to its socket before the next call, at best.
const BURST: usize = 16;

fn main() {
    let recording = std::env::args().any(|a| a == "record");
    let folder = tempfile::tempdir().unwrap();
    let switch = Switch::new();
    if recording {
        switch.record(&folder.path().join("bench.pcap")).unwrap();
    }
    let (a, b) = (switch.add_port("a"), switch.add_port("b"));
    let (mut sender, theirs) = UnixStream::pair().unwrap();
    a.attach(theirs).unwrap();
    let (mut receiver, theirs) = UnixStream::pair().unwrap();
    b.attach(theirs).unwrap();
    let mut frame = (FRAME as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&[0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x00, 0x45]);
    frame.resize(4 + FRAME, 7);
    let burst = frame.repeat(BURST);
    // The receiver tells how far it is, as TCP's window does, so that no queue overflows.
    let (told, hears) = std::sync::mpsc::channel::<usize>();
    let begin = Instant::now();
    let writer = std::thread::spawn(move || {
        let mut acknowledged = 0;
        for sent in 0..FRAMES / BURST {
            while sent * burst.len() > acknowledged + (2 << 20) {
                acknowledged = hears.recv().unwrap();
            }
            sender.write_all(&burst).unwrap();
        }
        sender
    });
    let total = FRAMES / BURST * BURST * (FRAME + 4);
    let mut bytes = vec![0; 64 << 10];
    let mut got = 0;
    while got < total {
        got += receiver.read(&mut bytes).unwrap();
        let _ = told.send(got);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let rate = total as f64 / seconds / 1e6;
    writer.join().unwrap();
    println!(
        "{FRAMES} frames of {FRAME} bytes in {seconds:.2} s: {rate:.0} MB/s, {:.0} frames/s{}",
        FRAMES as f64 / seconds,
        if recording { ", recorded" } else { "" }
    );
    assert_eq!(b.stats().dropped_full, 0);
}
