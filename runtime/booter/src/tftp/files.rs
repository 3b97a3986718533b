//! The files that are handed out: those in one flat folder or, without a headnode, in a whole tree;
//! and nothing else.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use crate::http::Folders;

/// Larger files are no boot programs; kernels and archives go by HTTP.
const SIZE_LIMIT: u64 = 32 << 20;

/// Of a whole tree, kernels and archives too: loaders without iPXE fetch them by TFTP.
const TREE_LIMIT: u64 = 128 << 20;

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
    /// Whole trees of folders instead of the one.
    trees: Option<Arc<Folders>>,
    shared: Arc<Mutex<Shared>>,
}

impl Files {
    /// The files in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, trees: None, shared: Arc::default() }
    }

    /// The files in `folder` and in the folders below it; those that it lacks come from `more`.
    pub fn below(folder: PathBuf, more: &Path) -> Self {
        let trees = Folders::default().with("", &folder).with("", more);
        Self { trees: Some(Arc::new(trees)), ..Self::new(folder) }
    }

    /// The name under which a file is looked for.
    fn key<'a>(&self, name: &'a str) -> &'a str {
        match &self.trees {
            // Firmware asks for `/name` when it takes a path for relative to the root.
            None => name.strip_prefix('/').unwrap_or(name),
            // And GRUB for `//name`.
            Some(_) => name.trim_start_matches('/'),
        }
    }

    /// A file's content, when it is being sent to somebody else and was looked at just now. Never
    /// blocks.
    pub fn hot(&self, name: &str) -> Option<Arc<Vec<u8>>> {
        // Who reads a file from disk holds the lock.
        let shared = match self.shared.try_lock() {
            Ok(shared) => shared,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let name = self.key(name);
        let known = shared.get(name).filter(|known| known.checked.elapsed() < FRESH)?;
        known.content.upgrade()
    }

    /// A file's content. Blocks while it is read from disk.
    ///
    /// # Errors
    /// Why it is not handed out.
    pub fn read(&self, name: &str) -> Result<Arc<Vec<u8>>, Refused> {
        let name = self.key(name);
        let file = match &self.trees {
            None => self.flat(name)?,
            Some(trees) => below(trees, name)?,
        };
        let limit = if self.trees.is_some() { TREE_LIMIT } else { SIZE_LIMIT };
        let about = file.metadata()?;
        if !about.is_file() || about.len() > limit {
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

    fn flat(&self, name: &str) -> Result<File, Refused> {
        if !plain(name) {
            return Err(Refused::Name);
        }
        let not_followed = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(self.folder.join(name));
        match not_followed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Refused::Missing),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Err(Refused::Kind),
            other => Ok(other?),
        }
    }
}

fn plain(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(letter)
}

/// A file in a tree: never outside of it, whatever links there are.
fn below(trees: &Folders, name: &str) -> Result<File, Refused> {
    // PXELINUX asks for names with `:` and `+`.
    let part = |part: &str| plain(&part.replace([':', '+', '@', '~', '='], "_"));
    if !name.split('/').all(part) {
        return Err(Refused::Name);
    }
    match trees.open_new(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Refused::Missing),
        other => Ok(other?),
    }
}

fn whole(file: File, length: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(length).read_to_end(&mut content)?;
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

    #[test]
    fn trees_are_read_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (root, more) = (dir.path().join("root"), dir.path().join("more"));
        for folder in [root.join("pxelinux.cfg"), more.clone()] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(root.join("pxelinux.cfg/01-02-03"), "config").unwrap();
        std::fs::write(root.join("a"), "the root's").unwrap();
        std::fs::write(more.join("a"), "the package's").unwrap();
        std::fs::write(more.join("b"), "b of the package").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        let files = Files::below(root, &more);
        for (name, content) in [
            ("pxelinux.cfg/01-02-03", "config"),
            ("//pxelinux.cfg/01-02-03", "config"),
            ("a", "the root's"),
            ("/b", "b of the package"),
        ] {
            assert_eq!(&*files.read(name).unwrap(), content.as_bytes(), "{name}");
        }
        for name in
            ["", "/", "../secret", "pxelinux.cfg/../../secret", "pxelinux.cfg//a", ".x", "a/.x"]
        {
            assert!(matches!(files.read(name), Err(Refused::Name)), "{name:?}");
        }
        assert!(matches!(files.read("link"), Err(Refused::Missing)));
        assert!(matches!(files.read("pxelinux.cfg/none"), Err(Refused::Missing)));
        assert!(files.read("pxelinux.cfg").is_err());
    }
}
