//! Images on disk.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use headnode::flash::source::{Error, Packing, Trust};
use proptest::prelude::*;

use super::{MIB, flashed, made, noise, open, options, pack, same, tool, unverified};

#[test]
fn whatever_it_is_packed_with() {
    let dir = tempfile::tempdir().unwrap();
    let made = made();
    let raw = dir.path().join("a.img");
    made.store(&raw);
    fs::write(dir.path().join("a.img.manifest.json"), made.manifest()).unwrap();
    let mut identities = Vec::new();
    for (tool, packing) in [
        ("", Packing::None),
        ("zstd", Packing::Zstd),
        ("gzip", Packing::Gzip),
        ("xz", Packing::Xz),
        ("bzip2", Packing::Bzip2),
    ] {
        let path = if tool.is_empty() { raw.clone() } else { pack(&raw, tool) };
        // With its manifest.
        let source = open(&path, &options()).unwrap();
        assert_eq!(source.packing(), packing);
        assert_eq!(super::ranges(source.map()), made.ranges);
        assert!(source.map().is_digested());
        assert_eq!((source.map().size, source.map().sector_size), (Some(24 * MIB), 4096));
        assert!(source.trust().to_string().ends_with("not signed"));
        identities.push(source.identity().to_owned());
        assert!(same(&flashed(&source).unwrap(), &made.bytes), "{tool}");
        // Under a name that tells nothing, without anything.
        let bare = dir.path().join(format!("bare{tool}"));
        fs::copy(&path, &bare).unwrap();
        let error = open(&bare, &options()).unwrap_err().to_string();
        for word in ["bare", ".manifest.json", ".bmap", ".sha256", "SHA256SUMS", "--unverified"] {
            assert!(error.contains(word), "{error}");
        }
        let source = open(&bare, &unverified()).unwrap();
        assert_eq!((source.packing(), source.trust()), (packing, &Trust::None));
        assert_eq!(source.map().size, tool.is_empty().then_some(24 * MIB));
        assert!(same(&flashed(&source).unwrap(), &made.bytes), "{tool}");
        assert!(source.identity().starts_with("file:"));
    }
    identities.dedup();
    assert_eq!(identities.len(), 1, "one manifest, one identity");
}

#[test]
fn holes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let made = made();
    let raw = dir.path().join("a.img");
    made.store(&raw);
    let mut reader = open(&raw, &unverified()).unwrap().reader().unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(range) = reader.next_data(at).unwrap() {
        found.push((range.start, range.end - range.start));
        at = range.end;
    }
    assert_eq!(found, made.ranges);
    assert!(reader.knows_holes());
    let packed = pack(&raw, "zstd");
    let mut reader = open(&packed, &unverified()).unwrap().reader().unwrap();
    assert_eq!(reader.next_data(7).unwrap(), Some(7..u64::MAX));
}

#[test]
fn cut_off_or_damaged_files() {
    let dir = tempfile::tempdir().unwrap();
    let made = made();
    let raw = dir.path().join("a.img");
    made.store(&raw);
    fs::write(dir.path().join("a.img.manifest.json"), made.manifest()).unwrap();
    for tool in ["zstd", "gzip", "xz"] {
        let path = pack(&raw, tool);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() * 2 / 3]).unwrap();
        let error = flashed(&open(&path, &options()).unwrap()).unwrap_err();
        assert!(matches!(error, Error::CutOff { .. }), "{tool}: {error}");
        // Only the last byte, which is behind all data.
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let error = flashed(&open(&path, &options()).unwrap()).unwrap_err();
        assert!(matches!(error, Error::CutOff { .. }), "{tool}: {error}");
        // One member of two.
        let mut damaged = whole.clone();
        damaged.truncate(whole.len() - 1000);
        damaged[whole.len() - 2000] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert!(flashed(&open(&path, &options()).unwrap()).is_err(), "{tool}");
        let mut damaged = whole.clone();
        damaged[1_500_000] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let error = flashed(&open(&path, &options()).unwrap());
        // zstd and gzip tell by their checksums, at the end of the member; all do tell.
        assert!(matches!(error, Err(Error::Damaged { .. })), "{tool}: {error:?}");
        // Too much by one byte, and too little.
        let longer = dir.path().join("longer");
        fs::write(&longer, [&made.bytes[..], b"x"].concat()).unwrap();
        let bomb = fs::read(pack(&longer, tool)).unwrap();
        fs::write(&path, bomb).unwrap();
        let error = flashed(&open(&path, &options()).unwrap()).unwrap_err();
        assert!(matches!(error, Error::TooLong { size, .. } if size == 24 * MIB), "{error}");
        fs::write(&longer, &made.bytes[..made.bytes.len() - 1]).unwrap();
        fs::write(&path, fs::read(pack(&longer, tool)).unwrap()).unwrap();
        let error = flashed(&open(&path, &options()).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Size { .. }), "{error}");
    }
    fs::write(&raw, &made.bytes[1..]).unwrap();
    let error = open(&raw, &options()).unwrap_err();
    assert!(matches!(error, Error::Size { .. }), "{error}");
}

#[test]
fn a_file_that_changes_while_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let made = made();
    let raw = dir.path().join("a.img");
    for tool in ["", "zstd"] {
        made.store(&raw);
        let path = if tool.is_empty() { raw.clone() } else { pack(&raw, tool) };
        let begin = || {
            let mut reader = open(&path, &unverified()).unwrap().reader().unwrap();
            reader.read(0, &mut [0; 4096]).unwrap();
            reader
        };
        let reader = begin();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
        let error = reader.finish().unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
        assert!(error.to_string().contains("flash again"), "{error}");
        // Of the same size, and its time set back.
        let reader = begin();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        let changed = || file.metadata().map(|now| (now.ctime(), now.ctime_nsec())).unwrap();
        let before = changed();
        // The kernel's clock for it may have ticked since the last writing, or not.
        while changed() == before {
            file.write_all_at(b"y", 100).unwrap();
            file.set_modified(time).unwrap();
        }
        let error = reader.finish().unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
        // Cut off under the reader.
        let mut reader = begin();
        file.set_len(MIB).unwrap();
        let mut buffer = vec![0; 4 << 20];
        let error = (0..6).find_map(|n| reader.read(n * 4 * MIB + 4096, &mut buffer).err());
        // What was read ahead may have been all.
        let error = error.unwrap_or_else(|| reader.finish().unwrap_err());
        assert!(matches!(error, Error::Changed { .. }), "{error}");
    }
    // Another file in its place does not matter: the old one is read on.
    made.store(&raw);
    let source = open(&raw, &unverified()).unwrap();
    fs::write(dir.path().join("new"), "other").unwrap();
    fs::rename(dir.path().join("new"), &raw).unwrap();
    assert!(same(&flashed(&source).unwrap(), &made.bytes));
}

#[test]
fn what_is_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("a.img");
    made().store(&raw);
    for (format, magic) in [("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vdi", "vdi"), ("vhdx", "vhdx")]
    {
        let name = format!("a.{format}");
        tool(dir.path(), "qemu-img", &["convert", "-f", "raw", "-O", format, "a.img", &name]);
        let path = dir.path().join(&name);
        for path in [path.clone(), pack(&path, "gzip"), pack(&path, "zstd"), pack(&path, "xz")] {
            let error = open(&path, &unverified()).unwrap_err().to_string();
            let hint = format!("`qemu-img convert -f {magic} -O raw");
            assert!(error.contains(&hint), "{error}");
        }
    }
    let twice = pack(&pack(&raw, "gzip"), "xz");
    assert!(open(&twice, &unverified()).unwrap_err().to_string().contains("packed twice"));
    let error = open(dir.path(), &unverified()).unwrap_err().to_string();
    assert!(error.contains("a folder"), "{error}");
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    assert!(open(&empty, &unverified()).unwrap_err().to_string().contains("empty"));
    tool(dir.path(), "mkfifo", &["pipe"]);
    assert!(open(dir.path().join("pipe"), &unverified()).is_err());
    assert!(matches!(open(dir.path().join("none"), &unverified()), Err(Error::Read { .. })));
}

#[test]
fn what_is_made_up_here_is_never_taken_for_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("a.img");
    for seed in 0..1500 {
        fs::write(&raw, noise(300, seed)).unwrap();
        let opened = open(&raw, &unverified());
        assert!(opened.is_ok(), "seed {seed}: {:?}", opened.err());
    }
}

#[test]
fn going_back_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("a.img");
    made().store(&raw);
    let mut reader = open(&raw, &unverified()).unwrap().reader().unwrap();
    reader.read(100, &mut [0; 10]).unwrap();
    assert!(matches!(
        reader.read(109, &mut [0; 1]),
        Err(Error::Backwards { offset: 109, at: 110 })
    ));
    assert_eq!(reader.read(24 * MIB - 3, &mut [0; 10]).unwrap(), 3);
    assert_eq!(reader.read(24 * MIB + 3, &mut [0; 10]).unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_forward_pattern_reads_the_file(
        length in 1u64..3_000_000,
        steps in proptest::collection::vec((0u64..400_000, 0usize..700_000), 1..12),
        sums in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let bytes = noise(length, length);
        let raw = dir.path().join("a.img");
        fs::write(&raw, &bytes).unwrap();
        let server = super::server::Server::start();
        server.put("/a.img", bytes.clone());
        let mut options = unverified();
        let list = format!("{}\n", headnode::source::digest::sha256(&bytes));
        let list_path = dir.path().join("list");
        fs::write(&list_path, list).unwrap();
        options.sums = sums.then_some(list_path.to_str().unwrap());
        let mut places = vec![raw.to_str().unwrap().to_owned(), format!("{}/a.img", server.url)];
        if !sums {
            places.extend(["zstd", "gzip", "xz"].map(|tool| pack(&raw, tool).to_str().unwrap().to_owned()));
        }
        for place in places {
            let source = open(&place, &options).unwrap();
            let mut reader = source.reader().unwrap();
            let mut at = 0;
            for (gap, count) in &steps {
                let offset = at + gap;
                let mut buffer = vec![0xaa; *count];
                let found = reader.read(offset, &mut buffer).unwrap();
                let begin = usize::try_from(offset.min(length)).unwrap();
                let end = bytes.len().min(begin + count);
                prop_assert!(same(&buffer[..found], &bytes[begin..end]), "{place} {offset}");
                at = offset + found as u64;
            }
            reader.finish().unwrap();
        }
    }

    #[test]
    fn any_forward_pattern_reads_what_is_mapped_and_what_is_not(
        parts in proptest::collection::vec((1u64..700, 1u64..600), 1..8),
        steps in proptest::collection::vec((0u64..2_000_000, 0usize..1_500_000), 1..12),
    ) {
        let mut ranges = Vec::new();
        let mut end = 0;
        for (gap, blocks) in parts {
            ranges.push((end + gap * 4096, blocks * 4096));
            end += (gap + blocks) * 4096;
        }
        let made = super::Made { bytes: noise(end, end), ranges };
        let server = super::server::Server::start();
        server.put("/a.img", made.bytes.clone());
        server.put("/a.img.bmap", made.bmap());
        let source = open(format!("{}/a.img", server.url), &options()).unwrap();
        prop_assert_eq!(super::ranges(source.map()), made.ranges.clone());
        let mut reader = source.reader().unwrap();
        let mut at = 0;
        for (gap, count) in &steps {
            let offset = (at + gap).min(end);
            let mut buffer = vec![0xaa; *count];
            let found = reader.read(offset, &mut buffer).unwrap();
            prop_assert_eq!(found as u64, (end - offset).min(*count as u64));
            prop_assert!(same(&buffer[..found], made.part((offset, found as u64))));
            at = offset + found as u64;
        }
        reader.finish().unwrap();
    }
}
