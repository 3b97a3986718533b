//! The cache of fetched parts: each file once, under its SHA-256, shared by all builds of a user.
//!
//! ```text
//! artefacts/objects/ab/abcd…   whole files, read-only
//! artefacts/partial/<id>       transfers under way, or to be resumed; beside each a lock and notes
//! artefacts/known/<key>        which SHA-256 a source's own digest (md5, sha1, ETag) stands for
//! artefacts/about/<sha256>     name and address, for people
//! ```
//!
//! A file appears among the objects by renaming, after it was synced, so it is whole or not there,
//! whatever was killed. Who uses an object holds a shared lock on it, and the clean-up deletes only
//! what it can lock alone; all locks are the kernel's, so a dead process holds none.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::digest;
use crate::spec::form::is_hex;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done, as "reading".
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no room.
    #[error(
        "the file system of the cache {} is full; what was transferred is kept and resumed: make \
         room, with `headnode cache gc` for instance, or give another place with --cache",
        path.display()
    )]
    Full {
        /// The cache's folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The cache.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(super) folder: PathBuf,
}

/// A file in the cache, which stays there as long as this value lives.
#[derive(Debug, Clone)]
pub struct Object {
    /// Where it is.
    pub path: PathBuf,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    _held: Arc<File>,
}

/// What is told of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The part's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it came from.
    pub url: String,
}

/// A place for a transfer, held by one process at a time.
#[derive(Debug)]
pub struct Slot {
    cache: Cache,
    path: PathBuf,
    file: File,
    _lock: File,
}

impl Cache {
    /// Opens the cache below `folder`, making what is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let folder = folder.join("artefacts");
        let cache = Self { folder };
        for part in ["objects", "partial", "known", "about"] {
            let path = cache.folder.join(part);
            fs::create_dir_all(&path).map_err(|source| cache.error("making", &path, source))?;
        }
        Ok(cache)
    }

    /// Turns what the operating system said into an error; a full disk is told as that.
    pub fn error(&self, doing: &'static str, path: &Path, source: io::Error) -> Error {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded => Error::Full { path: self.folder.clone(), source },
            _ => Error::Io { doing, path: path.to_owned(), source },
        }
    }

    pub(super) fn object_path(&self, sha256: &str) -> PathBuf {
        self.folder.join("objects").join(sha256.get(..2).unwrap_or_default()).join(sha256)
    }

    pub(super) fn about_path(&self, sha256: &str) -> PathBuf {
        self.folder.join("about").join(sha256)
    }

    /// Held while objects appear or disappear: otherwise one could be put in the place of another
    /// that is just being deleted, and be deleted in its stead.
    pub(super) fn gate(&self) -> Result<File, Error> {
        let path = self.folder.join("gate");
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let gate = open.map_err(|source| self.error("opening", &path, source))?;
        gate.lock().map_err(|source| self.error("locking", &path, source))?;
        Ok(gate)
    }

    /// The object with this SHA-256, when it is there. It counts as used now.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn get(&self, sha256: &str) -> Result<Option<Object>, Error> {
        if !is_hex(sha256, 64) {
            return Ok(None);
        }
        let path = self.object_path(sha256);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.error("opening", &path, source)),
        };
        file.lock_shared().map_err(|source| self.error("locking", &path, source))?;
        let meta = file.metadata().map_err(|source| self.error("looking at", &path, source))?;
        // The clean-up deleted it between our opening and our locking it.
        if meta.nlink() == 0 {
            return Ok(None);
        }
        // Its age is for the clean-up only; another user's file keeps its own.
        let _ = file.set_modified(SystemTime::now());
        let held = Arc::new(file);
        Ok(Some(Object { path, sha256: sha256.to_owned(), size: meta.len(), _held: held }))
    }

    /// The object that a source's own digest stands for, when it is there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn known(&self, key: &str) -> Result<Option<Object>, Error> {
        let path = self.known_path(key);
        match fs::read_to_string(&path) {
            Ok(text) => self.get(text.trim()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.error("reading", &path, source)),
        }
    }

    fn known_path(&self, key: &str) -> PathBuf {
        // A key may be an address with an ETag: a digest of it is always a file name.
        self.folder.join("known").join(digest::sha256(key.as_bytes()))
    }

    /// A place for a transfer; `id` is the same for the same file of the same source. Waits while
    /// another process has it, after calling `waiting` once.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub fn slot(&self, id: &str, waiting: impl FnOnce()) -> Result<Slot, Error> {
        let path = self.folder.join("partial").join(digest::sha256(id.as_bytes()));
        let lock_path = path.with_extension("lock");
        let open = |path: &Path, read: bool| {
            OpenOptions::new()
                .read(read)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(|source| self.error("opening", path, source))
        };
        let mut waiting = Some(waiting);
        loop {
            let lock = open(&lock_path, false)?;
            let wrong = |source| self.error("locking", &lock_path, source);
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    lock.lock().map_err(wrong)?;
                }
                Err(TryLockError::Error(source)) => return Err(wrong(source)),
            }
            // The clean-up deleted it between our opening and our locking it.
            if lock.metadata().map_err(wrong)?.nlink() > 0 {
                let file = open(&path, true)?;
                return Ok(Slot { cache: self.clone(), path, file, _lock: lock });
            }
        }
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.error("deleting", path, error))
            }
            _ => Ok(()),
        }
    }

    /// Writes a small file whole.
    fn write(&self, path: &Path, text: &[u8]) -> Result<(), Error> {
        let wrong = |source| self.error("writing", path, source);
        let folder = path.parent().unwrap_or(&self.folder);
        let mut file = tempfile::Builder::new().prefix(".").tempfile_in(folder).map_err(wrong)?;
        file.write_all(text).map_err(wrong)?;
        file.as_file().sync_data().map_err(wrong)?;
        file.persist(path).map_err(|error| wrong(error.error))?;
        Ok(())
    }

    /// Puts bytes into the cache.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put(&self, bytes: &[u8], about: &About) -> Result<Object, Error> {
        let sha256 = digest::sha256(bytes);
        if let Some(object) = self.get(&sha256)? {
            return Ok(object);
        }
        let slot = self.slot(&format!("bytes {sha256}"), || {})?;
        slot.begin()?;
        let wrong = |source| self.error("writing", &slot.path, source);
        (&slot.file).write_all(bytes).map_err(wrong)?;
        slot.commit(&sha256, &[], about)
    }
}

impl Slot {
    /// Where the transfer is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where what is known of it may be written.
    pub fn notes(&self) -> PathBuf {
        self.path.with_extension("json")
    }

    /// The file, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// An error about this place.
    pub fn error(&self, doing: &'static str, source: io::Error) -> Error {
        self.cache.error(doing, &self.path, source)
    }

    /// Throws away what is there.
    ///
    /// # Errors
    /// When that fails.
    pub fn begin(&self) -> Result<(), Error> {
        use io::Seek;
        let wrong = |source| self.cache.error("emptying", &self.path, source);
        self.file.set_len(0).map_err(wrong)?;
        (&self.file).rewind().map_err(wrong)?;
        self.cache.remove(&self.notes())
    }

    /// Makes the file an object, which has this SHA-256, and notes the source's keys for it.
    ///
    /// # Errors
    /// When that fails; the transfer is kept then.
    pub fn commit(self, sha256: &str, keys: &[String], about: &About) -> Result<Object, Error> {
        let cache = &self.cache;
        let text = serde_json::to_vec(about).unwrap_or_default();
        let note = || -> Result<(), Error> {
            cache.write(&cache.about_path(sha256), &text)?;
            keys.iter().try_for_each(|key| cache.write(&cache.known_path(key), sha256.as_bytes()))
        };
        let path = cache.object_path(sha256);
        let folder = path.parent().unwrap_or(&cache.folder).to_owned();
        fs::create_dir_all(&folder).map_err(|source| cache.error("making", &folder, source))?;
        let wrong = |source| cache.error("writing", &self.path, source);
        self.file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(wrong)?;
        self.file.sync_all().map_err(wrong)?;
        let size = self.file.metadata().map_err(wrong)?.len();
        let gate = cache.gate()?;
        // The same content came from elsewhere: whoever uses that one has its lock on it.
        if let Some(object) = cache.get(sha256)? {
            cache.remove(&self.path)?;
            cache.remove(&self.notes())?;
            note()?;
            return Ok(object);
        }
        // Before it can be seen by the clean-up.
        self.file.lock_shared().map_err(wrong)?;
        fs::rename(&self.path, &path).map_err(wrong)?;
        drop(gate);
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| cache.error("syncing", &folder, source))?;
        cache.remove(&self.notes())?;
        note()?;
        let held = Arc::new(self.file);
        Ok(Object { path, sha256: sha256.to_owned(), size, _held: held })
    }
}
