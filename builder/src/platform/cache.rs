//! The builder's cache for platforms: packages and finished parts, each under the digest of what
//! it is or of all that it was made from. A name is never used for two contents, so whatever is
//! there is right; it appears by renaming a finished file, so it is whole.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The cache's folder, held for one build at a time.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    _lock: File,
}

impl Cache {
    /// Opens the cache, making its folder when needed, and waits until no other build uses it;
    /// `waiting` is called once if there is one.
    ///
    /// # Errors
    /// When the folder cannot be made or locked.
    pub fn open(folder: &Path, waiting: impl FnOnce()) -> Result<Self> {
        let making = || format!("making the cache folder {}", folder.display());
        for part in ["deb", "root", "modules", "boot", "work"] {
            std::fs::create_dir_all(folder.join(part)).with_context(making)?;
        }
        let path = folder.join("lock");
        let lock = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        let locking = || format!("locking {}", path.display());
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                lock.lock().with_context(locking)?;
            }
            Err(TryLockError::Error(e)) => return Err(e).with_context(locking),
        }
        let cache = Self { folder: std::fs::canonicalize(folder)?, _lock: lock };
        cache.sweep()?;
        Ok(cache)
    }

    /// Removes what an interrupted build left: nobody else is at work while we hold the lock.
    fn sweep(&self) -> Result<()> {
        let work = self.folder.join("work");
        for entry in
            std::fs::read_dir(&work).with_context(|| format!("reading {}", work.display()))?
        {
            let path = entry?.path();
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// The cache's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the package with this SHA-256 is, or would be.
    pub fn deb(&self, sha256: &str) -> PathBuf {
        self.folder.join("deb").join(format!("{sha256}.deb"))
    }

    /// Where a finished part is, or would be; `kind` is `root`, `modules` or `boot`.
    pub fn part(&self, kind: &str, key: &str) -> PathBuf {
        self.folder.join(kind).join(key)
    }

    /// A folder for unfinished files, on the same disk; it goes away with the value.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn work(&self) -> Result<tempfile::TempDir> {
        let folder = self.folder.join("work");
        tempfile::tempdir_in(&folder)
            .with_context(|| format!("making a folder in {}", folder.display()))
    }
}

/// SHA-256 of a file, in hex.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_file(path: &Path) -> Result<String> {
    let reading = || format!("reading {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = file.read(&mut buffer).with_context(reading)?;
        if n == 0 {
            return Ok(hex(&digest.finalize()));
        }
        digest.update(buffer.get(..n).unwrap_or_default());
    }
}

/// SHA-256 over several texts in order, in hex; where one ends and the next begins counts.
pub fn sha256_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    hex(&digest.finalize())
}

/// Bytes as hex digits in lower case.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes a file beside its place, syncs it and renames it there: it is whole or absent.
///
/// # Errors
/// When writing fails, a full disk for instance; nothing is left behind then.
pub fn write_whole<T>(path: &Path, write: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let writing = || format!("writing {}", path.display());
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut file = tempfile::Builder::new()
        .prefix(".headnode-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(writing)?;
    let value = write(file.as_file_mut()).with_context(writing)?;
    file.as_file_mut().flush().and_then(|()| file.as_file().sync_data()).with_context(writing)?;
    file.persist(path).map_err(|e| e.error).with_context(writing)?;
    Ok(value)
}
