//! Digests of files: our own, and those that sources publish.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::image::output::hex;
use crate::spec::form::is_hex;

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

/// All digests of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// Size in bytes.
    pub size: u64,
    /// In hex.
    pub md5: String,
    /// In hex.
    pub sha1: String,
    /// In hex.
    pub sha256: String,
}

impl Digests {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        Self::of_reader(File::open(path)?)
    }

    /// Of bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        // Reading from memory does not fail.
        Self::of_reader(bytes).unwrap_or_else(|_| Self {
            size: 0,
            md5: String::new(),
            sha1: String::new(),
            sha256: String::new(),
        })
    }

    fn of_reader(mut file: impl Read) -> io::Result<Self> {
        let (mut md5, mut sha1, mut sha256) = (Md5::new(), Sha1::new(), Sha256::new());
        let mut size = 0;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = file.read(&mut buffer)?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            size += bytes.len() as u64;
            md5.update(bytes);
            sha1.update(bytes);
            sha256.update(bytes);
        }
        let text = |bytes: &[u8]| crate::platform::cache::hex(bytes);
        Ok(Self {
            size,
            md5: text(&md5.finalize()),
            sha1: text(&sha1.finalize()),
            sha256: text(&sha256.finalize()),
        })
    }

    /// The one of the same kind as `other`.
    pub fn like(&self, other: &Digest) -> Digest {
        match other {
            Digest::Md5(_) => Digest::Md5(self.md5.clone()),
            Digest::Sha1(_) => Digest::Sha1(self.sha1.clone()),
            Digest::Sha256(_) => Digest::Sha256(self.sha256.clone()),
        }
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
        let digests = Digests::of_file(&path).unwrap();
        // RFC 1321 and FIPS 180.
        assert_eq!(digests.md5, "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(digests.sha1, "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(digests.sha256, sha256(b"abc"));
        assert!(digests.sha256.starts_with("ba7816bf"));
        let digest: Digest = format!("md5:{}", digests.md5).parse().unwrap();
        assert_eq!(digests.like(&digest), digest);
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
