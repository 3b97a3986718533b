//! Digests of files: our own, and those that sources publish.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::image::hashing::Hasher;
use crate::image::output::hex;
use crate::platform::cache::hex as bytes_hex;
use crate::spec::form::is_hex;

/// A file of so many bytes is large: a thread of its own costs it nothing.
const LARGE: u64 = 32 << 20;
/// Bytes that are handed to it at once; they stay in the caches.
const PIECE: usize = 256 << 10;
/// Pieces that wait for it at most.
const WAITING: usize = 8;

/// SHA-256 of bytes, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::new().chain_update(bytes))
}

/// A digest as a source publishes it, in hex. The older two protect from damage only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Digest {
    /// Manta's `md5sums.txt`.
    Md5(String),
    /// IMGAPI's.
    Sha1(String),
    /// Ours, and `SHA256SUMS`.
    Sha256(String),
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Md5(hex) => write!(f, "md5:{hex}"),
            Self::Sha1(hex) => write!(f, "sha1:{hex}"),
            Self::Sha256(hex) => write!(f, "sha256:{hex}"),
        }
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = match text.split_once(':') {
            Some(("md5", hex)) if is_hex(hex, 32) => Self::Md5(hex.to_owned()),
            Some(("sha1", hex)) if is_hex(hex, 40) => Self::Sha1(hex.to_owned()),
            Some(("sha256", hex)) if is_hex(hex, 64) => Self::Sha256(hex.to_owned()),
            _ => {
                return Err(format!(
                    "{text:?} is no digest: it must be md5:, sha1: or sha256: and hex digits"
                ));
            }
        };
        Ok(found)
    }
}

/// What is known of a file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// Size in bytes.
    pub size: u64,
    /// In hex.
    pub sha256: String,
    /// Of the kind that was asked for.
    pub like: Option<Digest>,
}

impl Digests {
    /// Reads a file; besides SHA-256 takes a digest of the kind of `like`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_file(path: &Path, like: Option<&Digest>) -> io::Result<Self> {
        let file = File::open(path)?;
        if like.is_none() && file.metadata()?.len() >= LARGE {
            return Self::of_large(file);
        }
        Self::of(file, like)
    }

    /// Hashes on another thread than it reads on: one large file may be all that is left to do.
    fn of_large(mut file: File) -> io::Result<Self> {
        let hasher = Hasher::new(WAITING)?;
        let mut size = 0;
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let count = (&mut file).take(PIECE as u64).read_to_end(&mut piece)?;
            if count == 0 {
                break;
            }
            size += count as u64;
            hasher.data(&Arc::new(piece))?;
        }
        hasher.end()?;
        Ok(Self { size, sha256: bytes_hex(&hasher.next()?), like: None })
    }

    /// The same of a stream.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(mut file: impl Read, like: Option<&Digest>) -> io::Result<Self> {
        let mut sha256 = Sha256::new();
        let mut md5 = matches!(like, Some(Digest::Md5(_))).then(Md5::new);
        let mut sha1 = matches!(like, Some(Digest::Sha1(_))).then(Sha1::new);
        let mut size = 0;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = file.read(&mut buffer)?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            size += bytes.len() as u64;
            sha256.update(bytes);
            if let Some(md5) = &mut md5 {
                md5.update(bytes);
            }
            if let Some(sha1) = &mut sha1 {
                sha1.update(bytes);
            }
        }
        let sha256 = hex(sha256);
        let md5 = md5.map(|md5| Digest::Md5(bytes_hex(&md5.finalize())));
        let sha1 = sha1.map(|sha1| Digest::Sha1(bytes_hex(&sha1.finalize())));
        let ours = matches!(like, Some(Digest::Sha256(_))).then(|| Digest::Sha256(sha256.clone()));
        Ok(Self { size, like: md5.or(sha1).or(ours), sha256 })
    }
}

/// Reads a list of digests as md5sum and sha256sum write them: hex digits, blanks, a path of which
/// only the last part counts. Lines of another form are skipped, as Triton's build does.
///
/// # Errors
/// When two lines give one name different digests.
pub fn sums(text: &str, digits: usize) -> Result<Vec<(String, String)>, String> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(hex), Some(path), None) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let hex = hex.to_lowercase();
        let name = path.trim_start_matches('*').rsplit('/').next().unwrap_or_default();
        if !is_hex(&hex, digits) || name.is_empty() {
            continue;
        }
        match all.iter().find(|(known, _)| known == name) {
            Some((_, other)) if *other != hex => {
                return Err(format!("it has two digests for {name:?}"));
            }
            Some(_) => {}
            None => all.push((name.to_owned(), hex)),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digests_are_those_of_the_standards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // RFC 1321 and FIPS 180.
        for digest in [
            "md5:900150983cd24fb0d6963f7d28e17f72",
            "sha1:a9993e364706816aba3e25717850c26c9cd0d89d",
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ] {
            let digest: Digest = digest.parse().unwrap();
            let digests = Digests::of_file(&path, Some(&digest)).unwrap();
            assert_eq!(digests.like, Some(digest));
            assert_eq!((digests.size, digests.sha256), (3, sha256(b"abc")));
        }
        assert_eq!(Digests::of_file(&path, None).unwrap().like, None);
    }

    #[test]
    fn large_files_have_the_same_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        for size in [LARGE, LARGE + 1, LARGE + PIECE as u64 - 1] {
            let bytes: Vec<u8> = (0..size).map(|at| (at / 7 % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let expected = Digests { size, sha256: sha256(&bytes), like: None };
            assert_eq!(Digests::of_file(&path, None).unwrap(), expected);
        }
    }

    #[test]
    fn manta_lists_are_read() {
        let md5 = "0123456789ABCDEF0123456789abcdef";
        let text = format!("{md5} bits//platform/platform-master-1.tgz\n\nno line\n{md5}  *b\n");
        let read = sums(&text, 32).unwrap();
        assert_eq!(read[0], ("platform-master-1.tgz".to_owned(), md5.to_lowercase()));
        assert_eq!(read[1].0, "b");
        let twice = format!("{md5} a\n{} x/a", md5.replace('0', "1"));
        assert!(sums(&twice, 32).unwrap_err().contains("two digests"));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            let _ = sums(&text, 32);
            let _ = text.parse::<Digest>();
        }
    }
}
