use std::io::Write as _;

use super::*;
use crate::image::cpio::{self, Writer};
use proptest::prelude::*;
use tar::EntryType::{self, Directory, Fifo, GNULongName, Link, Regular, Symlink};

/// What reading such a packed key says; none of them has a manifest.
fn said(path: &str, packed: &[u8]) -> String {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(packed).unwrap();
    let size = packed.len() as u64;
    let extents = Ok(vec![(0, size)]);
    let entry = Entry { path: path.to_owned(), folder: false, size, extents };
    let found = key(&file, &entry, 1 << 40, false, &mut |_| ());
    found.err().expect("it has no manifest").to_string()
}

fn zstd(archive: &[u8]) -> String {
    said(PXE_KEY, &zstd::encode_all(archive, 1).unwrap())
}

fn cpio(entries: &[(cpio::Entry<'_>, &[u8])]) -> Vec<u8> {
    let mut archive = Writer::new(Vec::new());
    for (entry, data) in entries {
        archive.append(entry, data.len() as u64, &mut &data[..]).unwrap();
    }
    archive.finish().unwrap()
}

fn gzip(entries: &[(EntryType, &str, &[u8])]) -> String {
    let fast = flate2::Compression::fast();
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), fast));
    for (kind, path, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_path(path).unwrap();
        header.set_entry_type(*kind);
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, *data).unwrap();
    }
    said(PXE_DISC, &tar.into_inner().unwrap().finish().unwrap())
}

#[test]
fn links_and_devices_of_a_packed_key_are_refused() {
    use cpio::Entry;
    let dir = Entry::dir("headnode-key", 0o755, 0);
    let file = Entry::file("headnode-key/a", 0o644, 0);
    let whole = [(dir, &b""[..]), (file, b"abc")];
    assert_eq!(zstd(&cpio(&whole)), "it holds no manifest.json");
    for bad in [
        Entry::symlink("headnode-key/b", 0),
        Entry { mode: 0o020_666, device: (1, 3), ..Entry::file("headnode-key/b", 0, 0) },
        Entry { links: 2, ..Entry::file("headnode-key/b", 0o644, 0) },
        Entry::file("headnode-kez", 0o644, 0),
        Entry::dir("root", 0o777, 0),
    ] {
        let [dir, file] = whole;
        let text = zstd(&cpio(&[dir, file, (bad, b"")]));
        let right = text.contains("neither a plain file") || text.contains("not below");
        assert!(right, "{bad:?}: {text}");
    }
    let only = Entry::file("headnode-key", 0o644, 0);
    assert!(zstd(&cpio(&[(only, b"")])).contains("neither a plain file"));

    let whole = [(Directory, "d/", &b""[..]), (Regular, "d/a", b"abc")];
    assert_eq!(gzip(&whole), "it holds no manifest.json");
    for kind in [Link, Symlink, Fifo, EntryType::XGlobalHeader] {
        let text = gzip(&[whole[0], whole[1], (kind, "b", b"")]);
        assert!(text.contains("\"b\", which is neither a plain file"), "{kind:?}: {text}");
    }
}

#[test]
fn nothing_hides_behind_the_end_of_a_packed_key() {
    let whole = cpio(&[(cpio::Entry::file("headnode-key/a", 0o644, 0), b"abc")]);
    let padded = [&whole[..], &[0; 4096]].concat();
    assert_eq!(zstd(&padded), "it holds no manifest.json");
    for behind in [&whole[..], &b"x"[..]] {
        let text = zstd(&[&padded[..], behind].concat());
        assert!(text.contains("follows the end"), "{text}");
    }
    // Packed by itself, as Linux takes it, too.
    let packed = zstd::encode_all(&whole[..], 1).unwrap();
    let text = said(PXE_KEY, &[&packed[..], &packed[..]].concat());
    assert!(text.contains("follows the end"), "{text}");
}

#[test]
fn names_in_a_packed_key_take_no_memory_without_bound() {
    let mut long = b"headnode-key/".to_vec();
    long.resize(9000, b'x');
    let long = String::from_utf8(long).unwrap();
    // Our own writer makes no such names.
    let mut archive = cpio(&[(cpio::Entry::file("headnode-key/a", 0o644, 0), b"abc")]);
    archive.truncate(110);
    archive.splice(94..102, format!("{:08X}", long.len() + 1).bytes());
    archive.extend(long.bytes());
    archive.extend([0; 1000]);
    let text = zstd(&archive);
    assert!(text.contains("impossibly long"), "{text}");

    let size = (1 << 20) - 2048;
    let names: Vec<Vec<u8>> =
        (0..66).map(|n| [&[b'0' + n][..], &vec![b'x'; size]].concat()).collect();
    let pairs =
        names.iter().flat_map(|name| [(GNULongName, "x", &name[..]), (Regular, "y", &b""[..])]);
    let pairs: Vec<_> = pairs.collect();
    assert_eq!(gzip(&pairs[..40]), "it holds no manifest.json");
    assert!(gzip(&pairs).contains("names of its files"));
}

#[test]
fn folders_are_not_taken_for_files() {
    let entry = |path: &str, folder| {
        let extents = Ok(Vec::new());
        Entry { path: path.to_owned(), folder, size: 0, extents }
    };
    let of = |entries| FileSystem { kind: "tar", label: String::new(), block: 512, entries };
    let files = of(vec![entry(SUMS, false), entry("a.ipxe", false), entry(PXE_KEY, false)]);
    assert!(is_pxe(&files) && key_of(&files).is_some());
    let folders = of(vec![entry(SUMS, true), entry("a.ipxe", false), entry(PXE_KEY, true)]);
    assert!(!is_pxe(&folders) && key_of(&folders).is_none());
}

proptest! {
    #[test]
    fn any_bytes_of_a_packed_key_are_survived(
        changes in proptest::collection::vec((0usize..2048, any::<u8>()), 0..8),
    ) {
        let dir = cpio::Entry::dir("headnode-key", 0o755, 0);
        let file = cpio::Entry::file("headnode-key/manifest.json", 0o644, 0);
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(8);
        tar.append_data(&mut header, "manifest.json", &b"{\"a\": 1}"[..]).unwrap();
        let mut archives = [
            cpio(&[(dir, b""), (file, b"{\"a\": 1}")]),
            tar.into_inner().unwrap(),
        ];
        for archive in &mut archives {
            for (at, byte) in &changes {
                if let Some(place) = archive.get_mut(*at) {
                    *place = *byte;
                }
            }
        }
        let [linux, smartos] = archives;
        prop_assert!(!zstd(&linux).is_empty());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&smartos).unwrap();
        prop_assert!(!said(PXE_DISC, &gzip.finish().unwrap()).is_empty());
    }
}
