//! SHA-1 digests of boot archives, which the illumos kernel checks (C§4.3).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha1::{Digest, Sha1};

/// Most files whose digests are remembered: platforms on a headnode are few.
const MOST: usize = 256;
/// A file is read in pieces of so many bytes.
const PIECE: usize = 1 << 18;

/// A version of a file: its size, and when it was changed.
type Version = (u64, i64, i64);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// Somebody reads the file.
    Reading,
    Digest(String),
    /// It could not be read; it is tried again when it has changed.
    Failed,
}

/// Digests of files, computed once per version, in the background. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Digests {
    all: Arc<Mutex<HashMap<PathBuf, (Version, Told)>>>,
    /// One file at a time: disks and processors have other work.
    reader: Arc<Mutex<()>>,
}

impl Digests {
    fn all(&self) -> MutexGuard<'_, HashMap<PathBuf, (Version, Told)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of a file as it is now, in hex digits; `None` while it is not known yet: reading
    /// has then begun.
    pub fn get(&self, path: &Path) -> Option<String> {
        let about = fs::metadata(path).ok()?;
        let version = (about.len(), about.mtime(), about.mtime_nsec());
        let mut all = self.all();
        match all.get(path) {
            Some((known, Told::Digest(digest))) if *known == version => {
                return Some(digest.clone());
            }
            // Also of another version: one thread at a time reads a file that is being copied.
            Some((_, Told::Reading)) => return None,
            Some((known, Told::Failed)) if *known == version => return None,
            _ => {}
        }
        if all.len() >= MOST && !all.contains_key(path) {
            all.retain(|_, (_, told)| *told == Told::Reading);
        }
        all.insert(path.to_owned(), (version, Told::Reading));
        drop(all);
        let (this, of) = (self.clone(), path.to_owned());
        let read = move || this.read(of, version);
        if let Err(error) = std::thread::Builder::new().name("digest".to_owned()).spawn(read) {
            self.all().remove(path);
            tracing::warn!("digests of boot archives are not computed: {error}");
        }
        None
    }

    fn read(&self, path: PathBuf, version: Version) {
        let _one = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let told = match sha1(&path) {
            Ok(digest) => {
                tracing::info!(file = %path.display(), sha1 = digest, "digest computed");
                Told::Digest(digest)
            }
            Err(error) => {
                tracing::error!(file = %path.display(), "computing the digest: {error}");
                Told::Failed
            }
        };
        self.all().insert(path, (version, told));
    }
}

fn sha1(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut piece) = (Sha1::new(), vec![0; PIECE]);
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&piece[..length]);
    }
}

/// The SHA-1 of some bytes in hex digits.
pub(super) fn sha1_of(bytes: &[u8]) -> String {
    hex(&Sha1::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn wait(digests: &Digests, path: &Path) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(digest) = digests.get(path) {
                return digest;
            }
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_digest_comes_later_and_again_when_the_file_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, digests) = (dir.path().join("a"), Digests::default());
        assert_eq!(digests.get(&path), None);
        fs::write(&path, "abc").unwrap();
        assert_eq!(digests.get(&path), None);
        assert_eq!(wait(&digests, &path), "a9993e364706816aba3e25717850c26c9cd0d89d");
        fs::write(&path, "").unwrap();
        assert_eq!(wait(&digests, &path), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(sha1_of(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }
}
