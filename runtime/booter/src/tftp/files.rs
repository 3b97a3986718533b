//! The files that are handed out: those in one flat folder, and nothing else.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

/// Larger files are no boot programs; kernels and archives go by HTTP.
const SIZE_LIMIT: u64 = 32 << 20;

/// Why a file is not handed out.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The name is not that of a file in a flat folder.
    #[error("its name is not a plain file name")]
    Name,
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// A folder, a link or a device.
    #[error("it is not a regular file of a boot program's size")]
    Kind,
    /// Reading failed.
    #[error("reading it: {0}")]
    Io(#[from] io::Error),
}

/// How long a file that is being sent is taken for unchanged: a thousand machines that ask for the
/// same boot program need not wait for a thousand looks at the disk.
const FRESH: Duration = Duration::from_millis(200);

/// Which content a file had: changes when the file is replaced.
type Version = (u64, u64, i64, i64);

/// Contents that a transfer is sending at the moment, by file name.
type Shared = HashMap<String, Known>;

#[derive(Debug)]
struct Known {
    version: Version,
    /// When the version was last looked at.
    checked: Instant,
    content: Weak<Vec<u8>>,
}

/// A folder of boot programs. Transfers that run at the same time share a file's content.
/// Cloning shares them.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

impl Files {
    /// The files in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, shared: Arc::default() }
    }

    /// A file's content, when it is being sent to somebody else and was looked at just now. Never
    /// blocks.
    pub fn hot(&self, name: &str) -> Option<Arc<Vec<u8>>> {
        let name = name.strip_prefix('/').unwrap_or(name);
        // Who reads a file from disk holds the lock.
        let shared = match self.shared.try_lock() {
            Ok(shared) => shared,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let known = shared.get(name).filter(|known| known.checked.elapsed() < FRESH)?;
        known.content.upgrade()
    }

    /// A file's content. Blocks while it is read from disk.
    ///
    /// # Errors
    /// Why it is not handed out.
    pub fn read(&self, name: &str) -> Result<Arc<Vec<u8>>, Refused> {
        // Firmware asks for `/name` when it takes a path for relative to the root.
        let name = name.strip_prefix('/').unwrap_or(name);
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(Refused::Name);
        }
        let path = self.folder.join(name);
        let not_followed = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(&path);
        let file = match not_followed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refused::Missing),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(Refused::Kind),
            other => other?,
        };
        let about = file.metadata()?;
        if !about.is_file() || about.len() > SIZE_LIMIT {
            return Err(Refused::Kind);
        }
        let version = (about.ino(), about.len(), about.mtime(), about.mtime_nsec());
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let checked = Instant::now();
        if let Some(known) = shared.get_mut(name)
            && known.version == version
            && let Some(content) = known.content.upgrade()
        {
            known.checked = checked;
            return Ok(content);
        }
        let content = Arc::new(whole(file, about.len())?);
        // Bounded by the number of files in the folder.
        let known = Known { version, checked, content: Arc::downgrade(&content) };
        shared.insert(name.to_owned(), known);
        Ok(content)
    }
}

fn whole(file: File, length: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(SIZE_LIMIT).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_of_the_folder_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("ipxe");
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(folder.join("a.kpxe"), "abc").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
        let files = Files::new(folder.clone());
        let first = files.read("a.kpxe").unwrap();
        assert_eq!(*first, b"abc");
        assert!(Arc::ptr_eq(&first, &files.hot("/a.kpxe").unwrap()));
        assert!(Arc::ptr_eq(&first, &files.read("/a.kpxe").unwrap()));
        for name in ["", "/", "..", "../secret", "//a.kpxe", "sub/x", "a\\b", ".hidden", "a\0", "é"]
        {
            assert!(matches!(files.read(name), Err(Refused::Name)), "{name:?}");
        }
        assert!(matches!(files.read("none"), Err(Refused::Missing)));
        assert!(matches!(files.read("link"), Err(Refused::Kind)));
        assert!(matches!(files.read("sub"), Err(Refused::Kind)));
        std::fs::write(folder.join("a.kpxe"), "newer").unwrap();
        assert_eq!(*files.read("a.kpxe").unwrap(), b"newer");
        // Nobody holds it any more.
        drop(first);
        assert!(files.hot("a.kpxe").is_none());
    }
}
