//! One image in every format: what other programs read from each, and that a format depends on
//! nothing but the content. Needs qemu-utils, 7zip, gzip and zstd, as `ci/setup` installs them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use headnode::image::Sink;
use headnode::image::output::{BLOCK, Compression, ImageSink, Output, Written, packed};
use headnode::image::pool::Pool;
use headnode::image::qcow2::Qcow2;
use headnode::image::vmdk::{Vmdk, blank};
use nix::sys::stat::{Mode, umask};
use proptest::prelude::*;

#[path = "support/noise.rs"]
mod noise;

use noise::noise;

const NAMES: [&str; 5] = ["a.img", "a.img.zst", "a.img.gz", "a.qcow2", "a.vmdk"];

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; ci/setup installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}", output.status);
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What an image is made of.
#[derive(Debug, Clone)]
enum Part {
    Zeroes(u64),
    /// Bytes that compress well.
    Text(usize),
    /// Bytes that do not.
    Noise(usize),
}

/// Makes all formats in a folder; the size becomes a multiple of 512.
fn make(folder: &Path, parts: &[Part], threads: usize) -> Written {
    let pool = Pool::new(threads).unwrap();
    let file = |name: &str| File::create(folder.join(name)).unwrap();
    let pack = |name, how| packed(file(name), how, &pool).unwrap();
    let sinks: Vec<Box<dyn ImageSink>> = vec![
        pack("a.img", Compression::None),
        pack("a.img.zst", Compression::Zstd),
        pack("a.img.gz", Compression::Gzip),
        Box::new(Qcow2::new(file("a.qcow2"), Arc::clone(&pool))),
        Box::new(Vmdk::new(file("a.vmdk"), "a.vmdk", Arc::clone(&pool)).unwrap()),
    ];
    let mut out = Output::new(sinks, |_| ());
    for (number, part) in (1..).zip(parts) {
        match part {
            Part::Zeroes(count) => out.unused(*count).unwrap(),
            Part::Text(size) => {
                let line = format!("part {number} of an image that compresses well\n");
                out.data(&line.as_bytes().repeat(size / line.len() + 1)[..*size]).unwrap();
            }
            Part::Noise(size) => out.data(&noise(number, *size)).unwrap(),
        }
    }
    let end = (out.position() + 512).next_multiple_of(512);
    out.zeroes_to(end).unwrap();
    out.finish().unwrap()
}

/// Asks the other programs whether all is one and the same image.
fn check(folder: &Path, size: u64) {
    let [raw, zst, gz, qcow2, vmdk] = NAMES.map(|name| folder.join(name));
    assert_eq!(fs::metadata(&raw).unwrap().len(), size);
    for (image, format) in [(&qcow2, "qcow2"), (&vmdk, "vmdk")] {
        let said = run("qemu-img", &["check", "-f", format, text(image)]);
        assert!(said.contains("No errors were found"), "{said}");
        let said =
            run("qemu-img", &["compare", "-f", "raw", "-F", format, text(&raw), text(image)]);
        assert!(said.contains("Images are identical") && !said.contains("mismatch"), "{said}");
    }
    for (packed, unpack) in [
        (&zst, "zstd -dc \"$1\" | cmp - \"$2\""),
        (&gz, "gzip -dc \"$1\" | cmp - \"$2\""),
        (&qcow2, "7zz e -so \"$1\" | cmp - \"$2\""),
        (&vmdk, "7zz e -so \"$1\" | cmp - \"$2\""),
    ] {
        let said = run("sh", &["-c", unpack, "sh", text(packed), text(&raw)]);
        assert_eq!(said, "", "{unpack}");
    }
}

#[test]
fn other_programs_read_every_format() {
    let parts = [
        Part::Text(100),
        Part::Zeroes(1 << 20),
        Part::Noise(3 * BLOCK + 17),
        Part::Text(5 * BLOCK),
        Part::Noise(BLOCK),
        Part::Text(BLOCK / 2),
        // Over the borders of tables of grains and tables of clusters.
        Part::Zeroes(70 << 20),
        Part::Text(200),
        Part::Zeroes(600 << 20),
        Part::Noise(9 * BLOCK),
        Part::Text(40 * BLOCK),
        Part::Zeroes(3 << 20),
        Part::Text(9),
    ];
    let dir = tempfile::tempdir().unwrap();
    let written = make(dir.path(), &parts, 2);
    assert_eq!(written.files.len(), NAMES.len());
    check(dir.path(), written.size);
    let info = run("qemu-img", &["info", "--output=json", text(&dir.path().join("a.vmdk"))]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["format"], "vmdk");
    assert_eq!(info["format-specific"]["data"]["create-type"], "streamOptimized");
    assert_eq!(info["virtual-size"], written.size);
    for name in &NAMES[1..] {
        let size = fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size < 2 << 20, "{name} has {size} bytes: holes are not left out");
    }
}

/// An empty disk: others find nothing wrong with it, before and after they have written to it.
#[test]
fn an_empty_disk_can_be_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zpool.vmdk");
    for gib in [0, blank::MAX_GIB + 1] {
        let error = blank::write(&mut File::create(&path).unwrap(), "x", gib).unwrap_err();
        assert!(error.to_string().contains("a disk has 1 to 2047 GiB"), "{error}");
    }
    for gib in [1, 3, 60, blank::MAX_GIB] {
        let mut file = File::create(&path).unwrap();
        blank::write(&mut file, "zpool \"1\".vmdk", gib).unwrap();
        let info = run("qemu-img", &["info", "--output=json", text(&path)]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["format"], "vmdk");
        assert_eq!(info["virtual-size"], gib << 30);
        let data = &info["format-specific"]["data"];
        assert_eq!(data["create-type"], "monolithicSparse");
        assert_eq!(data["extents"][0]["filename"], text(&path));
        let blocks = file.metadata().unwrap().blocks() * 512;
        assert!(blocks < (1 << 20) + gib * 1024, "{gib} GiB: {blocks} bytes are in use");
        let said = run("qemu-img", &["check", "-f", "vmdk", text(&path)]);
        assert!(said.contains("No errors were found"), "{said}");
        let map = run("qemu-img", &["map", "--output=json", text(&path)]);
        assert!(!map.contains("\"data\": true"), "{map}");
        let last = (gib << 30) - 65_536;
        for at in [0, last / 2 / 65_536 * 65_536, last] {
            let write = format!("write -P 165 {at} 64k");
            run("qemu-io", &["-f", "vmdk", "-c", &write, text(&path)]);
            let read = format!("read -P 165 {at} 64k");
            let said = run("qemu-io", &["-f", "vmdk", "-c", &read, text(&path)]);
            assert!(said.contains("read 65536/65536") && !said.contains("failed"), "{said}");
        }
        let said = run("qemu-img", &["check", "-f", "vmdk", text(&path)]);
        assert!(said.contains("No errors were found"), "{said}");
    }
    // Both directories of a disk tell the same tables to those who look at either.
    blank::write(&mut File::create(&path).unwrap(), "x", 2).unwrap();
    let bytes = fs::read(&path).unwrap();
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let [redundant, first] = [48, 56].map(|at| long(at) * 512);
    let shift = u32::try_from((first - redundant) / 512).unwrap();
    let entry = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    for table in 0..64 {
        assert_eq!(entry(redundant + 4 * table) + shift, entry(first + 4 * table));
    }
    assert_eq!(long(64) * 512, bytes.len());
}

#[test]
fn an_image_of_zeroes_can_be_had_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let written = make(dir.path(), &[Part::Zeroes(1 << 20)], 1);
    assert_eq!((written.mapped, written.ranges.len()), (0, 0));
    check(dir.path(), written.size);
}

#[test]
fn the_virtual_disks_identifier_follows_from_the_content() {
    let id = |parts: &[Part]| -> String {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), parts, 1);
        let bytes = fs::read(dir.path().join("a.vmdk")).unwrap();
        let description = String::from_utf8_lossy(&bytes[512..1024]).into_owned();
        description.lines().find(|line| line.starts_with("CID=")).unwrap().to_owned()
    };
    let one = id(&[Part::Text(1000)]);
    assert_eq!(one, id(&[Part::Text(1000)]));
    assert_ne!(one, id(&[Part::Text(1001)]));
    assert_ne!(one, id(&[Part::Text(1000), Part::Zeroes(1 << 20)]));
}

#[test]
fn formats_depend_on_the_content_only() {
    let parts = [Part::Noise(1_500_000), Part::Zeroes(9 << 20), Part::Text(5_000_000)];
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    make(dirs[0].path(), &parts, 1);
    umask(Mode::from_bits_truncate(0o077));
    make(dirs[1].path(), &parts, 7);
    for name in NAMES {
        let [one, other] = [0, 1].map(|at: usize| fs::read(dirs[at].path().join(name)).unwrap());
        assert!(one == other, "{name} differs");
    }
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        (0u64..5 << 20).prop_map(Part::Zeroes),
        (0usize..400_000).prop_map(Part::Text),
        (0usize..400_000).prop_map(Part::Noise),
        (0usize..4).prop_map(|blocks| Part::Noise(blocks * BLOCK)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    #[test]
    fn any_image_is_the_same_in_every_format(parts in proptest::collection::vec(part(), 0..12)) {
        let dir = tempfile::tempdir().unwrap();
        let written = make(dir.path(), &parts, 2);
        check(dir.path(), written.size);
    }
}
