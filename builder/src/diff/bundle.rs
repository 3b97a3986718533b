//! What is in a bundle (`bundle/*.cpio.zst`): the headnode's own programs and configuration lie there,
//! and that a bundle changed says little.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::rc::Rc;

use cpio::newc;
use headnode_model::paths;
use sha2::{Digest as _, Sha256};

use crate::assemble::PXE_BUNDLE;
use crate::source::platform::tarball::Limited;

/// The most that is unpacked of a bundle, in bytes; ours have some 100 MB.
const MAX_UNPACKED: u64 = 1 << 30;
/// Bytes that an entry's header with its name may take; Linux has no longer names.
const MAX_HEADER: u64 = 8192;
/// The most files of a bundle.
const MAX_FILES: usize = 100_000;
/// Texts up to this size are kept, in bytes.
const MAX_TEXT: u64 = 64 << 10;
/// What all texts together may take, in bytes.
const MAX_TEXTS: u64 = 64 << 20;

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Size in bytes.
    pub size: u64,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// SHA-256 of its content, or of a symbolic link's target.
    pub digest: [u8; 32],
    /// Its content, when that is small and a text.
    pub text: Option<String>,
}

impl Packed {
    /// Whether another file is the same.
    pub fn same(&self, other: &Self) -> bool {
        (self.mode, self.digest) == (other.mode, other.digest)
    }
}

/// Whether a file of the key, or of those for a boot server, is a bundle.
pub fn is_bundle(path: &str) -> bool {
    [paths::BUNDLE_HEADNODE, paths::BUNDLE_NODE, PXE_BUNDLE].contains(&path)
}

/// The files of a bundle by path; folders are left out.
///
/// # Errors
/// When it is damaged, or absurdly large.
pub fn read(packed: impl Read) -> io::Result<BTreeMap<String, Packed>> {
    const S_IFMT: u32 = 0o170_000;
    const S_IFDIR: u32 = 0o040_000;
    let room = Rc::new(Cell::new(u64::MAX));
    let inner = zstd::Decoder::new(packed)?.take(MAX_UNPACKED);
    let mut archive = Limited { inner, room: Rc::clone(&room) };
    let mut files = BTreeMap::new();
    let mut texts = 0;
    loop {
        room.set(MAX_HEADER);
        let mut reader = newc::Reader::new(archive)?;
        room.set(u64::MAX);
        let entry = reader.entry();
        if entry.is_trailer() {
            return Ok(files);
        }
        let (size, mode) = (u64::from(entry.file_size()), entry.mode());
        let name: String = entry.name().replace(char::is_control, "\u{fffd}");
        let mut hash = Sha256::new();
        let keep = size <= MAX_TEXT && texts + size <= MAX_TEXTS;
        let mut kept = Vec::new();
        let mut buffer = [0; 32 * 1024];
        loop {
            let part = match reader.read(&mut buffer)? {
                0 => break,
                count => buffer.get(..count).unwrap_or_default(),
            };
            hash.update(part);
            if keep {
                kept.extend_from_slice(part);
            }
        }
        archive = reader.finish()?;
        if mode & S_IFMT == S_IFDIR {
            continue;
        }
        let text = String::from_utf8(kept).ok().filter(|text| keep && !text.contains('\0'));
        texts += text.as_ref().map_or(0, |text| text.len() as u64);
        files.insert(name, Packed { size, mode, digest: hash.finalize().into(), text });
        if files.len() > MAX_FILES {
            return Err(io::Error::other("the bundle holds more than 100000 files"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn bundle(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, content) in files {
            let entry = newc::Builder::new(name).mode(0o100_644);
            let mut writer = entry.write(archive, content.len() as u32);
            writer.write_all(content).unwrap();
            archive = writer.finish().unwrap();
        }
        newc::trailer(archive).unwrap()
    }

    #[test]
    fn files_are_listed_with_their_texts() {
        let packed =
            zstd::encode_all(&bundle(&[("etc/a", b"x\n"), ("bin/b", &[0; 9])])[..], 1).unwrap();
        let files = read(&packed[..]).unwrap();
        assert_eq!(files["etc/a"].text.as_deref(), Some("x\n"));
        assert_eq!((files["bin/b"].size, &files["bin/b"].text), (9, &None));
        assert!(read(&packed[..packed.len() - 9]).is_err());
    }

    #[test]
    fn a_name_takes_no_memory_without_bound() {
        let long = "x".repeat(100_000);
        let packed = zstd::encode_all(&bundle(&[(&long, b"")])[..], 1).unwrap();
        let error = read(&packed[..]).unwrap_err().to_string();
        assert!(error.contains("impossibly long"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bundle_panics(changes in proptest::collection::vec((0usize..400, any::<u8>()), 0..6)) {
            let mut archive = bundle(&[("etc/a", b"x\n"), ("bin/b", &[0; 9])]);
            for (at, byte) in changes {
                if let Some(place) = archive.get_mut(at) {
                    *place = byte;
                }
            }
            let _ = read(&zstd::encode_all(&archive[..], 1).unwrap()[..]);
            let _ = read(&archive[..]);
        }
    }
}
