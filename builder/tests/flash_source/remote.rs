//! Images at web servers, good and bad ones.

use std::sync::{Arc, Mutex};

use headnode::flash::source::{Error, Options, Source, Trust};

use super::server::{Fault, Server};
use super::{MIB, Made, flashed, made, noise, open, options, pack, same, unverified};

struct World {
    server: Server,
    made: Made,
}

const RAW: &str = "/x/a.img";
const ZST: &str = "/x/a.img.zst";

fn zst(made: &Made) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    made.store(&dir.path().join("a.img"));
    std::fs::read(pack(&dir.path().join("a.img"), "zstd")).unwrap()
}

impl World {
    /// With the image raw and packed, and its manifest.
    fn new() -> Self {
        let (server, made) = (Server::start(), made());
        server.put(RAW, made.bytes.clone());
        server.put(ZST, zst(&made));
        server.put("/x/a.img.manifest.json", made.manifest());
        Self { server, made }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.url)
    }

    fn flash(&self, path: &str) -> Result<(), Error> {
        let source = open(self.url(path), &options())?;
        let image = flashed(&source)?;
        assert!(same(&image, &self.made.bytes));
        Ok(())
    }
}

#[test]
fn only_what_is_mapped_is_fetched() {
    let world = World::new();
    let source = open(world.url(RAW), &options()).unwrap();
    assert!(matches!(source.trust(), Trust::Manifest { .. }));
    assert_eq!(source.name(), "a.img");
    let opened = world.server.gets(RAW).len();
    let before = world.server.sent();
    assert!(same(&flashed(&source).unwrap(), &world.made.bytes));
    let ranges: Vec<_> = world.server.gets(RAW).into_iter().flatten().skip(opened).collect();
    assert_eq!(ranges, ["bytes=0-2097151", "bytes=5242880-8388607", "bytes=20971520-21037055"]);
    assert_eq!(world.server.sent() - before, 5 * MIB + (64 << 10));
}

#[test]
fn what_is_skipped_is_not_fetched() {
    let server = Server::start();
    let bytes = noise(40 * MIB, 7);
    let ranges = vec![(0, 40 * MIB)];
    let made = Made { bytes, ranges };
    server.put("/a.img", made.bytes.clone());
    server.put("/a.img.manifest.json", made.manifest());
    let source = open(format!("{}/a.img", server.url), &options()).unwrap();
    let before = server.sent();
    let mut reader = source.reader().unwrap();
    let mut buffer = vec![0; 100_000];
    for offset in [0, 36 * MIB + 77] {
        reader.read(offset, &mut buffer).unwrap();
        assert!(same(&buffer, made.part((offset, 100_000))));
    }
    reader.finish().unwrap();
    assert!(
        server.gets("/a.img").iter().flatten().any(|range| range.starts_with("bytes=37748813-"))
    );
    assert!(server.sent() - before < 30 * MIB);
}

#[test]
fn what_is_not_mapped_can_be_had() {
    let world = World::new();
    let mut unmapped = super::made();
    unmapped.bytes[12 << 20] = 9;
    world.server.put(RAW, unmapped.bytes.clone());
    let source = open(world.url(RAW), &options()).unwrap();
    let mut reader = source.reader().unwrap();
    let mut buffer = vec![1; 13 << 20];
    assert_eq!(reader.read(MIB, &mut buffer).unwrap(), buffer.len());
    assert!(same(&buffer, unmapped.part((MIB, 13 * MIB))));
}

#[test]
fn a_dropped_transfer_goes_on_where_it_broke_off() {
    for path in [RAW, ZST] {
        let world = World::new();
        let source = open(world.url(path), &options()).unwrap();
        world.server.fail(path, [Fault::Drop(700_000), Fault::Drop(1000), Fault::Status(503)]);
        assert!(same(&flashed(&source).unwrap(), &world.made.bytes));
        let gets = world.server.gets(path);
        let from = |start: &str| gets.iter().flatten().any(|range| range.starts_with(start));
        assert!(from("bytes=700000-") && from("bytes=701000-"), "{gets:?}");
    }
}

#[test]
fn silence_is_left() {
    for path in [RAW, ZST] {
        let world = World::new();
        let source = open(world.url(path), &options()).unwrap();
        world.server.fail(path, [Fault::Stall(500_000)]);
        assert!(same(&flashed(&source).unwrap(), &world.made.bytes));
        // And given up in the end.
        world.server.always(path, Fault::Stall(0));
        let error = flashed(&source).unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, Error::GivenUp { failed: 3, .. }), "{said}");
        assert!(said.contains("silent for 0.5 s") && said.contains(path), "{said}");
    }
}

#[test]
fn servers_that_send_little_at_once() {
    let world = World::new();
    world.server.always(RAW, Fault::Cap(10_000));
    world.flash(RAW).unwrap();
    assert!(world.server.gets(RAW).len() > 500);
    world.server.put(ZST, zst(&world.made));
    world.server.always(ZST, Fault::Cap(10_000));
    let source = open(world.url(ZST), &options()).unwrap();
    world.server.fail(ZST, [Fault::Drop(1_000_000)]);
    assert!(same(&flashed(&source).unwrap(), &world.made.bytes));
}

#[test]
fn servers_without_ranges() {
    for path in [RAW, ZST] {
        let world = World::new();
        world.server.always(path, Fault::NoRange);
        world.flash(path).unwrap();
        let opened = world.server.gets(path).len();
        let source = open(world.url(path), &options()).unwrap();
        world.server.fail(path, [Fault::Drop(1_500_000)]);
        assert!(same(&flashed(&source).unwrap(), &world.made.bytes));
        // One for the beginning, one that breaks off, one from the start again.
        assert_eq!(world.server.gets(path).len() - opened, 3);
        // Nor any length.
        world.server.always(path, Fault::NoLength);
        world.flash(path).unwrap();
    }
    let world = World::new();
    world.server.put("/bare.img", world.made.bytes.clone());
    world.server.always("/bare.img", Fault::NoLength);
    let error = open(world.url("/bare.img"), &unverified()).unwrap_err().to_string();
    assert!(error.contains("without a length"), "{error}");
}

#[test]
fn a_file_that_changes_is_never_glued() {
    for path in [RAW, ZST] {
        let world = World::new();
        let source = open(world.url(path), &options()).unwrap();
        world.server.fail(path, [Fault::Stall(300_000)]);
        let server = world.server.clone();
        let change = std::thread::spawn(move || {
            server.wait_stalled();
            let mut other = made();
            other.bytes[0] ^= 1;
            let other = if path == RAW { other.bytes } else { zst(&other) };
            server.put(path, other);
        });
        // It may be asked again before the change is made, and the change be seen by the next one.
        let result = flashed(&source);
        change.join().unwrap();
        let error = result.and_then(|_| flashed(&source)).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
    }
}

#[test]
fn a_file_that_changes_before_it_is_read() {
    let world = World::new();
    for etag in [true, false] {
        world.server.put("/bare.img", world.made.bytes.clone());
        if !etag {
            world.server.without_etag("/bare.img");
        }
        let source = open(world.url("/bare.img"), &unverified()).unwrap();
        world.server.put("/bare.img", noise(MIB, 3));
        if !etag {
            world.server.without_etag("/bare.img");
        }
        let error = flashed(&source).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
    }
    // Its identity is the state of the file, where the server tells that.
    let open = || open(world.url("/bare.img"), &unverified()).unwrap();
    assert_ne!(open().identity(), open().identity());
    world.server.put("/bare.img", noise(MIB, 4));
    let first = open().identity().to_owned();
    assert_eq!(open().identity(), first);
    world.server.put("/bare.img", noise(MIB, 5));
    assert_ne!(open().identity(), first);
}

#[test]
fn lies_and_garbage() {
    let world = World::new();
    let source = open(world.url(RAW), &options()).unwrap();
    for (fault, word) in [
        (Fault::Longer(100), "changed while it was read"),
        (Fault::Garbage, "given up"),
        (Fault::Status(500), "500"),
        (Fault::OtherPart, "another part"),
    ] {
        for path in [RAW, ZST] {
            world.server.always(path, fault.clone());
            let result = match path {
                RAW => flashed(&source).map(|_| ()),
                _ => world.flash(path),
            };
            if let (Fault::Longer(_), Ok(())) = (&fault, &result) {
                // All that was asked for had come.
                assert_eq!(path, RAW);
                continue;
            }
            let error = result.unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(path), "{fault:?}: {error}");
        }
    }
    world.server.put("/page.img", "<!DOCTYPE html><html>Log in first</html>");
    let error = open(world.url("/page.img"), &unverified()).unwrap_err().to_string();
    assert!(error.contains("web page"), "{error}");
    world.server.put("/empty.img", "");
    let error = open(world.url("/empty.img"), &unverified()).unwrap_err().to_string();
    assert!(error.contains("empty"), "{error}");
    let error = open(world.url("/none.img"), &unverified()).unwrap_err().to_string();
    assert!(error.contains("404"), "{error}");
    world.server.fail(RAW, [Fault::Status(403)]);
    let error = open(world.url(RAW), &unverified()).unwrap_err().to_string();
    assert!(error.contains("only public files"), "{error}");
}

#[test]
fn pages_instead_of_404_describe_nothing() {
    let world = World::new();
    world.server.put("/bare.img", world.made.bytes.clone());
    for end in [".manifest.json", ".bmap", ".sha256"] {
        world.server.put(&format!("/bare.img{end}"), "\n<!doctype HTML><html>Not found</html>");
    }
    let error = open(world.url("/bare.img"), &options()).unwrap_err();
    assert!(matches!(error, Error::Unverified { .. }), "{error}");
    let list = format!("{}  bare.img\n", headnode::source::digest::sha256(&world.made.bytes));
    world.server.put("/SHA256SUMS", list);
    let source = open(world.url("/bare.img"), &options()).unwrap();
    assert!(matches!(source.trust(), Trust::Sums { .. }));
    assert!(same(&flashed(&source).unwrap(), &world.made.bytes));
    world.server.put("/bare.img", vec![7; 100_000]);
    let error = flashed(&open(world.url("/bare.img"), &options()).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[test]
fn redirects_are_followed() {
    let world = World::new();
    world.server.redirect("/new.img", RAW);
    world.server.redirect("/new.img.manifest.json", "/x/a.img.manifest.json");
    world.flash("/new.img").unwrap();
    world.server.redirect("/round", "/round");
    let error = open(world.url("/round"), &unverified()).unwrap_err().to_string();
    assert!(error.contains("circle"), "{error}");
}

#[test]
fn mirrors_take_over() {
    for path in [RAW, ZST] {
        let (one, two) = (World::new(), World::new());
        let mirrors = [two.url(path)];
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&told);
        let options = Options {
            mirrors: &mirrors,
            trouble: Some(Arc::new(move |text| log.lock().unwrap().push(text.to_owned()))),
            ..options()
        };
        let source = Source::open(&one.url(path), &options).unwrap();
        one.server.always(path, Fault::Drop(0));
        one.server.fail(path, [Fault::Drop(800_000)]);
        assert!(same(&flashed(&source).unwrap(), &one.made.bytes));
        let gets = two.server.gets(path);
        assert!(gets.iter().flatten().any(|range| range.starts_with("bytes=800000-")), "{gets:?}");
        assert!(told.lock().unwrap().iter().any(|text| text.contains("next mirror")));
        // The first is gone altogether, with its manifest.
        one.server.always(path, Fault::Status(404));
        let source = Source::open(&one.url(path), &options).unwrap();
        assert!(same(&flashed(&source).unwrap(), &one.made.bytes));
        // A mirror of another size is none.
        two.server.put(path, vec![9; 70_000]);
        one.server.always(path, Fault::None);
        let source = Source::open(&one.url(path), &options).unwrap();
        one.server.fail(path, [Fault::Drop(900_000)]);
        assert!(same(&flashed(&source).unwrap(), &one.made.bytes));
        // Both are out.
        one.server.always(path, Fault::Status(404));
        let error = flashed(&source).unwrap_err();
        assert!(error.to_string().contains(path), "{error}");
    }
    let mirrors = ["http://127.0.0.1:1/a.img".to_owned()];
    let options = Options { mirrors: &mirrors, ..unverified() };
    assert!(matches!(Source::open("a.img", &options), Err(Error::Usage(_))));
}
