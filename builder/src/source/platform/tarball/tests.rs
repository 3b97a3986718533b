use super::*;
use proptest::prelude::*;

/// A tar entry whose path is taken as it is; the tar crate's builder refuses bad ones.
fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(if kind.is_file() { data.len() as u64 } else { 0 });
    if !kind.is_file() {
        header.as_old_mut().linkname[..data.len()].copy_from_slice(data);
    }
    header.set_cksum();
    tar.append(&header, if kind.is_file() { data } else { &[] }).unwrap();
}

fn unpacked(bytes: &[u8]) -> Result<BTreeMap<String, Item>, Error> {
    let dir = tempfile::tempdir().unwrap();
    unpack(bytes, dir.path(), &|path| path == "a/b")
}

fn of(entries: &[(&str, tar::EntryType, &[u8])]) -> Result<BTreeMap<String, Item>, Error> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind, data) in entries {
        append(&mut tar, path, *kind, data);
    }
    unpacked(&tar.into_inner().unwrap())
}

use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink, XGlobalHeader};

#[test]
fn files_are_hashed_and_links_followed() {
    let files = of(&[
        ("./a/", Directory, b""),
        ("./a/b", Regular, b"abc"),
        ("c/d", Symlink, b"../a/b"),
        ("c/e", Link, b"c/d"),
    ])
    .unwrap();
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(files.keys().collect::<Vec<_>>(), ["a/b", "c/d", "c/e"]);
    assert!(files.values().all(|item| item.sha256 == sha256 && item.size == 3));
    let sha1 = "a9993e364706816aba3e25717850c26c9cd0d89d";
    assert_eq!(files["a/b"].sha1.as_deref(), Some(sha1));
}

#[test]
fn comments_of_git_are_no_files() {
    let files = of(&[("pax_global_header", XGlobalHeader, b""), ("a", Regular, b"")]).unwrap();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn headers_for_all_entries_hold_comments_only() {
    let with = |records: &[u8], size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(XGlobalHeader);
        header.set_size(size);
        header.set_cksum();
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&header, records).unwrap();
        append(&mut tar, "a", Regular, b"");
        unpacked(&tar.into_inner().unwrap())
    };
    let comment = b"14 comment=ab\n";
    assert_eq!(with(comment, 14).unwrap().keys().collect::<Vec<_>>(), ["a"]);
    let error = with(b"14 comment=ab\n11 path=xy\n", 25).unwrap_err();
    assert!(matches!(&error, Error::Global(key) if key == "path"), "{error}");
    let error = with(b"11 comment=\n", 12).unwrap_err();
    assert!(error.to_string().contains("malformed"), "{error}");
    let long = vec![b'a'; 2 << 20];
    let error = with(&long, 2 << 20).unwrap_err();
    assert!(error.to_string().contains("impossibly long"), "{error}");
}

#[test]
fn what_leads_out_is_refused() {
    for path in ["../x", "/etc/x", "a/../../x", "a/.."] {
        let error = of(&[(path, Regular, b"x")]).unwrap_err();
        assert!(matches!(&error, Error::Escapes(found) if found == path), "{path}: {error}");
    }
    for (target, why) in [
        ("../../x", "leads out"),
        ("/etc/shadow", "leads out"),
        ("gone", "no file"),
        ("l", "no file"),
    ] {
        let error = of(&[("a/l", Symlink, target.as_bytes())]).unwrap_err().to_string();
        assert!(error.contains("\"a/l\"") && error.contains(why), "{error}");
    }
}

#[test]
fn names_that_the_key_cannot_hold_are_refused() {
    let error = of(&[("a/Unix", Regular, b""), ("a/unix", Regular, b"")]).unwrap_err();
    assert!(matches!(&error, Error::Duplicate(a, b) if a == "a/Unix" && b == "a/unix"), "{error}");
    let error = of(&[("A/x", Regular, b""), ("a/y", Regular, b"")]).unwrap_err();
    assert!(matches!(error, Error::Duplicate(..)), "{error}");
    let error = of(&[("a", Regular, b""), ("a", Regular, b"")]).unwrap_err();
    assert!(matches!(error, Error::Duplicate(..)), "{error}");
    for second in [("a/b", Regular), ("a", Directory)] {
        let error = of(&[("a", Regular, b""), (second.0, second.1, b"")]).unwrap_err();
        assert!(matches!(&error, Error::FileAndFolder(path) if path == "a"), "{error}");
    }
    let error = of(&[("dev", Fifo, b"")]).unwrap_err();
    assert!(matches!(&error, Error::Kind(path) if path == "dev"), "{error}");
}

#[test]
fn a_long_name_takes_no_memory_without_bound() {
    // A GNU long name that is said to have 4 GiB, of zeroes.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(4 << 30);
    header.set_cksum();
    let dir = tempfile::tempdir().unwrap();
    let input = header.as_bytes().chain(io::repeat(0).take(4 << 30));
    let error = unpack(input, dir.path(), &|_| false).unwrap_err().to_string();
    assert!(error.contains("impossibly long"), "{error}");
}

#[test]
fn a_tarball_cut_anywhere_is_told_from_a_whole_one() {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "a/b", Regular, &[7; 3000]);
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tarball = dir.path().join("t.tgz");
    for length in (20..gzip.len()).step_by(97).chain([gzip.len() - 1]) {
        std::fs::write(&tarball, &gzip[..length]).unwrap();
        let into = tempfile::tempdir().unwrap();
        let result = unpack_gzip(&tarball, into.path(), &|_| false, &mut |_| ());
        assert!(matches!(result, Err(Error::Truncated)), "{length}: {result:?}");
    }
    std::fs::write(&tarball, &gzip).unwrap();
    let into = tempfile::tempdir().unwrap();
    let mut seen = 0;
    unpack_gzip(&tarball, into.path(), &|_| false, &mut |bytes| seen = bytes).unwrap();
    assert_eq!(seen, gzip.len() as u64);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_write_elsewhere(
        path in "[a./\\\\B]{1,20}", link in "[a./B]{0,20}", place: prop::sample::Index, byte: u8,
    ) {
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "a/b", Regular, b"data");
        append(&mut tar, &path, Regular, b"more");
        append(&mut tar, "l", Symlink, link.as_bytes());
        let mut bytes = tar.into_inner().unwrap();
        let at = place.index(bytes.len());
        bytes[at] = byte;
        let parent = tempfile::tempdir().unwrap();
        let into = parent.path().join("into");
        std::fs::create_dir(&into).unwrap();
        if let Ok(files) = unpack(&bytes[..], &into, &|_| false) {
            for (path, item) in files {
                prop_assert!(!path.split('/').any(|part| matches!(part, "" | "." | "..")));
                prop_assert!(item.place.parent() == Some(&into));
            }
        }
        prop_assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
