use std::io::Write as _;

use super::*;
use proptest::prelude::*;
use tar::EntryType::{
    Directory, Fifo, GNULongName, Link, Regular, Symlink, XGlobalHeader, XHeader,
};

/// A tar entry whose path is taken as it is; the tar crate's builder refuses bad ones.
fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, data: &[u8]) {
    let link = matches!(kind, Link | Symlink);
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(if link { 0 } else { data.len() as u64 });
    if link {
        header.as_old_mut().linkname[..data.len()].copy_from_slice(data);
    }
    header.set_cksum();
    tar.append(&header, if link { &[] } else { data }).unwrap();
}

fn made(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind, data) in entries {
        append(&mut tar, path, *kind, data);
    }
    tar.into_inner().unwrap()
}

fn looked(bytes: &[u8]) -> Result<(Archive, File), Error> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Ok((read(&file, bytes.len() as u64)?, file))
}

fn of(entries: &[(&str, tar::EntryType, &[u8])]) -> Result<(Archive, File), Error> {
    let bytes = made(entries);
    assert!(is_tar(&bytes));
    looked(&bytes)
}

fn content(file: &File, entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    let extents = entry.extents.as_ref().unwrap();
    super::super::Extents::new(file, extents).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn files_and_what_links_lead_to_are_found() {
    let (found, file) = of(&[
        ("./", Directory, b""),
        ("pax_global_header", XGlobalHeader, b"14 comment=ab\n"),
        ("./c/d", Symlink, b"../a/b"),
        ("./a/b", Regular, &[7; 1000]),
        ("./a/", Directory, b""),
        ("./c/e", Link, b"c/d"),
        ("./c/gone", Symlink, b"nothing"),
        ("./c/folder", Symlink, b"../a"),
        ("./c/round", Symlink, b"round"),
        ("./pipe", Fifo, b""),
        ("./a.b", Regular, b""),
        ("./evil\u{1b}[2J", Regular, b"x"),
    ])
    .unwrap();
    let told: Vec<_> = found.files.entries.iter().map(|e| (e.path.as_str(), e.folder)).collect();
    let files = ["a/b", "a.b", "c/d", "c/e", "evil\u{fffd}[2J"];
    let mut expected: Vec<_> = files.map(|path| (path, false)).to_vec();
    expected.extend([("a", true), ("c", true)]);
    expected.sort_by(|a, b| a.0.split('/').cmp(b.0.split('/')));
    assert_eq!(told, expected);
    for path in ["a/b", "c/d", "c/e"] {
        assert_eq!(content(&file, found.files.entry(path).unwrap()), [7; 1000], "{path}");
    }
    assert!(found.notes[0].starts_with("3 links") && found.notes[1].starts_with("1 entries"));
}

#[test]
fn hostile_archives_are_one_clear_error() {
    for path in ["../x", "/etc/x", "a/../../x", "a/..", "./.."] {
        let error = of(&[(path, Regular, b"x")]).unwrap_err();
        assert!(matches!(&error, Error::Escapes(found) if found == path), "{path}: {error}");
    }
    assert!(matches!(of(&[("./", Regular, b"x")]).unwrap_err(), Error::Escapes(_)));
    for (kind, target) in [(Symlink, "../../x"), (Symlink, "/etc/shadow"), (Link, "../x")] {
        let error = of(&[("a/l", kind, target.as_bytes())]).unwrap_err();
        assert!(error.to_string().contains("leads out"), "{error}");
    }
    let error = of(&[("a", Regular, b"1"), ("a", Regular, b"2")]).unwrap_err();
    assert!(matches!(error, Error::Twice(_)), "{error}");
    let error = of(&[("a\u{1}", Regular, b"1"), ("a\u{2}", Regular, b"2")]).unwrap_err();
    assert!(matches!(error, Error::Twice(_)), "{error}");
    for (first, second) in [("a", "a/b"), ("a/b", "a")] {
        let error = of(&[(first, Regular, b""), (second, Regular, b"")]).unwrap_err();
        assert!(matches!(error, Error::FileAndFolder(_)), "{error}");
    }
    let long = vec![b'a'; 2 << 20];
    for kind in [GNULongName, XHeader] {
        let error = of(&[("x", kind, &long), ("a", Regular, b"")]).unwrap_err();
        assert!(error.to_string().contains("impossibly long"), "{error}");
    }
    let mut many = Vec::new();
    let mut header = tar::Header::new_gnu();
    for number in 0..=MAX_ENTRIES {
        header.set_path(format!("{number}")).unwrap();
        header.set_size(0);
        header.set_cksum();
        many.extend(header.as_bytes());
    }
    assert!(matches!(looked(&many).unwrap_err(), Error::TooMany));
    // Few entries that make many folders.
    let deep = "a/".repeat(40_000);
    let entries: Vec<_> = (0..6).map(|n| format!("{n}/{deep}")).collect();
    let mut bytes = Vec::new();
    for path in &entries {
        let one = [("x", GNULongName, path.as_bytes()), ("y", Directory, b"")];
        let one = made(&one);
        bytes.extend(&one[..one.len() - 1024]);
    }
    assert!(matches!(looked(&bytes).unwrap_err(), Error::TooMany));
}

#[test]
fn headers_for_all_entries_hold_comments_only() {
    let long = vec![b'a'; 2 << 20];
    for (records, word) in [
        (&b"14 comment=ab\n11 path=xy\n"[..], "\"path\""),
        (b"9 size=1\n", "\"size\""),
        (b"15 linkpath=xy\n", "\"linkpath\""),
        (b"14 comment=ab\n\n11 path=xy\n", "malformed"),
        (b"15 comment=ab\n", "malformed"),
        (&long, "impossibly long"),
    ] {
        let error = of(&[("g", XGlobalHeader, records), ("a", Regular, b"")]).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn links_do_not_multiply_what_is_there() {
    // A sparse file, so that it takes no room here.
    let file = tempfile::tempfile().unwrap();
    let size = 200 << 30;
    let mut header = tar::Header::new_gnu();
    header.set_path("a").unwrap();
    header.set_size(size);
    header.set_cksum();
    file.write_all_at(header.as_bytes(), 0).unwrap();
    let looked = |links: usize| {
        let names: Vec<String> = (0..links).map(|number| format!("l{number}")).collect();
        let entries: Vec<_> = names.iter().map(|name| (&name[..], Link, &b"a"[..])).collect();
        let more = made(&entries);
        file.write_all_at(&more, 512 + size).unwrap();
        read(&file, 512 + size + more.len() as u64)
    };
    assert_eq!(looked(5).unwrap().files.entries.len(), 6);
    assert!(matches!(looked(6).unwrap_err(), Error::Links));
}

#[test]
fn a_part_of_an_archive_is_told_as_such() {
    let bytes = made(&[("a/b", Regular, &[7; 3000]), ("c", Regular, &[8; 600])]);
    looked(&bytes).unwrap();
    // The second block of zeroes is not needed; everything before is.
    for cut in (512..bytes.len() - 512).step_by(256) {
        let error = looked(&bytes[..cut]).unwrap_err();
        assert!(matches!(error, Error::Truncated), "{cut}: {error}");
    }
    let mut huge = bytes.clone();
    huge[124..136].copy_from_slice(b"77777777777\0");
    for block in huge.chunks_exact_mut(512).take(1) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    assert!(matches!(looked(&huge).unwrap_err(), Error::Truncated));
}

#[test]
fn other_files_are_no_archives() {
    let tar = made(&[("a", Regular, b"x")]);
    assert!(is_tar(&tar) && !is_tar(&tar[..511]) && !is_tar(&[0; 1024]));
    let mut changed = tar.clone();
    changed[0] = b'b';
    assert!(!is_tar(&changed) && !is_tar(&[0xff; 512]) && !is_tar(&[b' '; 512]));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        changes in proptest::collection::vec((0usize..7000, any::<u8>()), 0..8),
        right in any::<bool>(),
    ) {
        let mut bytes = made(&[
            ("a/b", Regular, &[7; 700]),
            ("x", XHeader, b"19 path=some/thing\n"),
            ("g", XGlobalHeader, b"14 comment=ab\n"),
            ("y", Regular, b"z"),
            ("l", Symlink, b"a/b"),
            ("f/", Directory, b""),
        ]);
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        // So that what is behind the checksum is reached.
        for block in bytes.chunks_exact_mut(512).filter(|block| right && block[0] != 0) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        if let Ok((found, _)) = looked(&bytes) {
            for entry in &found.files.entries {
                prop_assert!(!entry.path.split('/').any(|part| matches!(part, "" | "." | "..")));
                for (at, length) in entry.extents.iter().flatten() {
                    prop_assert!(at + length <= bytes.len() as u64);
                }
            }
        }
    }

    #[test]
    fn what_was_put_in_is_found(
        files in proptest::collection::btree_map("[a-z]{1,200}(/[a-z.é]{1,9}x){0,3}", any::<Vec<u8>>(), 0..12),
    ) {
        let plain = files.keys().all(|path| {
            !files.keys().any(|other| other.starts_with(&format!("{path}/")))
        });
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in &files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, &bytes[..]).unwrap();
        }
        match looked(&tar.into_inner().unwrap()) {
            Ok((found, file)) => {
                prop_assert!(plain);
                let told: BTreeMap<_, _> = found
                    .files
                    .files()
                    .map(|entry| (entry.path.clone(), content(&file, entry)))
                    .collect();
                prop_assert_eq!(told, files);
            }
            Err(error) => prop_assert!(!plain, "{}", error),
        }
    }
}
