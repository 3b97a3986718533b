//! Images of every kind become whole keys; those that are not what they should be do not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use headnode::image::SECTOR;

use crate::faulty::{Faults, Faulty};
use crate::linux::{run, text};
use crate::run::{Done, Running, command, flash};
use crate::server::Server;
use crate::things::{Good, Image, beside, does_not_boot};
use crate::{MIB, OLD, PROGRAM};

#[test]
fn e2e_flash_a_key_is_whole_from_every_source() {
    let image = Image::new();
    let public = ["--public-key", text(&image.public)];
    let disk = Good::new(image.size + 37 * MIB + 3 * SECTOR);
    let done = flash(&image.path, &[&disk.id], &public).good();
    disk.is_whole(&image);
    let name = &disk.name;
    for word in ["writing", "flushing", "reading back", "making it bootable"] {
        let line = format!("{name} {word}");
        let count = done.err.lines().filter(|said| said.starts_with(&line)).count();
        assert_eq!(count, 1, "{line}: {done:?}");
    }
    assert!(done.out.starts_with(&format!("{name}: ")) && done.out.lines().count() == 1);
    for word in [" written, ", " unused and left out, ", " read back; "] {
        assert!(done.out.contains(word), "{done:?}");
    }
    assert!(done.err.contains("signed"), "{done:?}");
    let first = disk.digest();

    let done = flash(&image.path, &[&disk.id], &["--json"]).good();
    assert_eq!(done.err, "");
    assert_eq!(disk.digest(), first, "a second run makes another key");
    let events = done.events();
    let phases: Vec<_> = events.iter().filter_map(|event| event["phase"].as_str()).collect();
    assert_eq!(phases, ["prepare", "write", "flush", "verify", "finish"]);
    assert!(events.iter().all(|event| event["disk"] == **name), "{events:?}");
    let last = events.last().unwrap();
    assert_eq!(last["event"], "written");
    assert_eq!(last["verified"], image.mapped());
    assert_eq!(last["written"], image.mapped());
    assert_eq!(last["skipped"], image.size - image.mapped());
    assert_eq!(last["resumed"], 0);

    let server = Server::start();
    for (program, end) in [("zstd", ".zst"), ("gzip", ".gz"), ("xz", ".xz")] {
        run(program, &["-k", "-q", "-1", text(&image.path)]);
        let packed = beside(&image.path, end);
        let other = Good::new(fs::metadata(&disk.file).unwrap().len());
        flash(&packed, &[&other.id], &public).good();
        assert_eq!(other.digest(), first, "{program}");
        server.put(&format!("/key.img{end}"), fs::read(packed).unwrap());
    }
    server.put("/key.img", fs::read(&image.path).unwrap());
    for end in [".manifest.json", ".manifest.json.minisig", ".bmap"] {
        server.put(&format!("/key.img{end}"), fs::read(beside(&image.path, end)).unwrap());
    }
    for end in ["", ".zst"] {
        let other = Good::new(fs::metadata(&disk.file).unwrap().len());
        let url = format!("{}/key.img{end}", server.url);
        Done::of(command(&url, &[&other.id]).args(public)).good();
        assert_eq!(other.digest(), first, "{url}");
    }
    // Of a raw image, only what is used is asked for.
    assert!(server.gets("/key.img").iter().flatten().count() > 0);
}

#[test]
fn e2e_flash_an_image_that_changes_while_it_is_read_does_not_become_a_key() {
    let image = Image::new();
    let at = image.middle();
    let size = image.size + 8 * MIB;
    let dir = tempfile::tempdir().unwrap();
    type Change<'a> = &'a dyn Fn(&Path);
    let changes: [(&str, Change<'_>, Option<&str>); 3] = [
        (
            "truncated",
            &|path| File::options().write(true).open(path).unwrap().set_len(at).unwrap(),
            Some("key.img changed while it was read"),
        ),
        (
            "written over",
            &|path| {
                let file = File::options().write(true).open(path).unwrap();
                let end = image.ranges.last().unwrap();
                file.write_all_at(b"otherwise", end.offset + end.length - 9).unwrap();
            },
            Some("key.img changed while it was read"),
        ),
        // The open file is the old one, and whole.
        (
            "replaced",
            &|path| {
                let new = dir.path().join("new.img");
                fs::write(&new, b"another").unwrap();
                fs::rename(new, path).unwrap();
            },
            None,
        ),
    ];
    for (name, change, error) in changes {
        println!("{name}");
        let (_own, path) = image.copy(&["", ".manifest.json"]);
        let stall = Some(at..at + MIB);
        let disk = Faulty::new(size, Faults { stall, ..Faults::default() });
        let running = Running::start(&mut command(text(&path), &[&disk.id]));
        disk.wait_stalled();
        change(&path);
        disk.release();
        let done = running.end();
        match error {
            Some(word) => {
                let start = format!("headnode: {}: ", disk.name);
                done.failed(&[&start, word, "does not boot"]);
                does_not_boot(&disk.head(1024));
            }
            None => drop(done.good()),
        }
    }
}

#[test]
fn e2e_flash_what_nobody_vouches_for_is_refused_before_anything_is_written() {
    let image = Image::new();
    let size = image.size + 8 * MIB;
    let disk = Good::new(size);
    let untouched = || assert!(disk.at(0, MIB).iter().all(|byte| *byte == OLD));
    let once = |done: Done, words: &[&str]| {
        done.failed(words);
        untouched();
    };
    // Another key.
    let other = image.dir.path().join("other.key");
    run(PROGRAM, &["key", "new", "--no-passphrase", "--output", text(&other)]);
    let public = image.dir.path().join("other.pub");
    once(flash(&image.path, &[&disk.id], &["--public-key", text(&public)]), &["key"]);
    // No signature at all.
    let (_dir, path) = image.copy(&["", ".manifest.json"]);
    once(flash(&path, &[&disk.id], &["--public-key", text(&image.public)]), &["signed"]);
    // A manifest that was changed after it was signed.
    let (_dir, path) = image.copy(&["", ".manifest.json", ".manifest.json.minisig"]);
    let manifest = beside(&path, ".manifest.json");
    let changed = fs::read_to_string(&manifest).unwrap() + " ";
    fs::write(&manifest, changed).unwrap();
    once(flash(&path, &[&disk.id], &["--public-key", text(&image.public)]), &["signature"]);
    // Nothing beside it.
    let (_dir, path) = image.copy(&[""]);
    once(flash(&path, &[&disk.id], &[]), &["--unverified"]);
    flash(&path, &[&disk.id], &["--unverified"]).good();
    disk.is_whole(&image);

    // A byte that is otherwise than the manifest says: seen while it is written.
    let (_dir, path) = image.copy(&["", ".manifest.json"]);
    let at = image.middle();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let start = format!("headnode: {}: ", disk.name);
    let done = flash(&path, &[&disk.id], &[]).failed(&[&start, "damaged", "does not boot"]);
    assert!(done.err.contains("digest"), "{done:?}");
    does_not_boot(&disk.at(0, 1024));
}
