//! Commands that end early, and go on.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::MIB;
use crate::faulty::{Faults, Faulty};
use crate::linux::text;
use crate::run::{Done, Running, command, event, flash};
use crate::server::{Fault, Server};
use crate::things::{Good, Image, beside, does_not_boot, foreign};

/// Bytes of a file and of what is on a disk, in parts that are used.
fn is_on(disk: &Faulty, image: &Path) {
    let file = File::open(image).unwrap();
    let size = file.metadata().unwrap().len();
    let mut expected = vec![0; MIB as usize];
    for at in (0..size).step_by(MIB as usize) {
        file.read_exact_at(&mut expected, at).unwrap();
        assert!(disk.at(at, MIB as usize) == expected, "MiB {} differs", at / MIB);
    }
}

#[test]
fn e2e_flash_what_was_killed_or_interrupted_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let image = foreign(dir.path(), 300 * MIB);
    let size = 320 * MIB;
    // The journal is brought up to date every 128 MiB.
    let disk = Faulty::new(size, Faults { stall: Some(150 * MIB..151 * MIB), ..Faults::default() });
    let mut killed = Running::start(&mut command(text(&image), &[&disk.id]));
    disk.wait_stalled();
    killed.signal(Signal::SIGKILL);
    disk.stall_next(Some(290 * MIB..291 * MIB));
    assert!(!killed.0.wait().unwrap().success());
    drop(killed);
    does_not_boot(&disk.head(1024));

    // The same command goes on, and is interrupted in good order.
    let before = disk.written();
    let mut interrupted = Running::start(&mut command(text(&image), &[&disk.id]));
    disk.wait_stalled();
    interrupted.signal(Signal::SIGINT);
    interrupted.until("headnode: stopping");
    disk.release();
    let done = interrupted.end();
    assert_eq!(done.status.code(), Some(130), "{done:?}");
    let line = format!("headnode: {}: interrupted", disk.name);
    assert!(done.err.contains(&line) && done.err.contains("goes on where it was"), "{done:?}");
    assert!(disk.written() - before < 180 * MIB, "it began anew");
    does_not_boot(&disk.head(1024));

    let done = flash(&image, &[&disk.id], &["--json"]).good();
    let events = done.events();
    let offset = event(&events, "resumed").unwrap()["offset"].as_u64().unwrap();
    assert!(offset >= 280 * MIB, "{offset}: the journal was not flushed");
    let last = events.last().unwrap();
    assert!(last["written"].as_u64().unwrap() < 30 * MIB, "{last}");
    assert!(last["resumed"].as_u64().unwrap() >= 270 * MIB, "{last}");
    assert_eq!(last["verified"], 300 * MIB);
    is_on(&disk, &image);

    // A key that is whole is written from its begin.
    let done = flash(&image, &[&disk.id], &["--json"]).good();
    assert!(event(&done.events(), "resumed").is_none());
}

#[test]
fn e2e_flash_a_server_that_drops_is_asked_again_and_one_that_stays_away_is_told() {
    let image = Image::new();
    let server = Server::start();
    for path in ["/key.img", "/gone/key.img"] {
        server.put(path, fs::read(&image.path).unwrap());
        for end in [".manifest.json", ".bmap"] {
            let bytes = fs::read(beside(&image.path, end)).unwrap();
            server.put(&format!("{path}{end}"), bytes);
        }
    }
    // Waiting for one that stays away takes half a minute: begun first.
    let disk = Good::new(image.size + 8 * MIB);
    let away = "/gone/key.img";
    server.fail(away, [Fault::None, Fault::Drop(5 << 20)]);
    server.always(away, Fault::Status(503));
    let url = format!("{}{away}", server.url);
    let waiting = Running::start(&mut command(&url, &[&disk.id]));

    let other = Good::new(image.size + 8 * MIB);
    server.fail("/key.img", [Fault::None, Fault::Drop(5 << 20), Fault::Status(503)]);
    let url = format!("{}/key.img", server.url);
    let done = Done::of(&mut command(&url, &[&other.id])).good();
    assert!(done.err.contains("again in"), "{done:?}");
    other.is_whole(&image);

    let start = format!("headnode: {}: ", disk.name);
    waiting.end().failed(&[&start, "given up", "503", "does not boot"]);
    does_not_boot(&disk.at(0, 1024));
    // It comes back: what is there is not fetched again.
    server.put(away, fs::read(&image.path).unwrap());
    let url = format!("{}{away}", server.url);
    let done = Done::of(command(&url, &[&disk.id]).arg("--json")).good();
    let events = done.events();
    assert!(event(&events, "resumed").is_some(), "{events:?}");
    disk.is_whole(&image);
}
