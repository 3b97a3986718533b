//! Looks after the cache: what is in it, what may go, what is damaged.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::cache::{About, Cache, Error};
use super::digest::Digests;
use crate::spec::form::is_hex;

/// An object in a list.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    /// Seconds since 1970 when it was last used.
    pub used: u64,
    /// Name, version and address of its last use.
    #[serde(flatten)]
    pub about: About,
}

/// What the clean-up is to keep.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Everything that was used since then.
    pub since: Option<SystemTime>,
    /// The most recently used that together have no more than so many bytes.
    pub bytes: Option<u64>,
    /// These digests, whatever their age.
    pub digests: BTreeSet<String>,
}

/// What the clean-up did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cleaned {
    /// What was deleted.
    pub deleted: Vec<Listed>,
    /// What should have gone but is in use.
    pub in_use: Vec<Listed>,
    /// How many broken-off transfers were deleted.
    pub partial: usize,
    /// Bytes that are left.
    pub left: u64,
}

impl Cache {
    /// Everything in the cache, the most recently used first.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let mut all = Vec::new();
        for folder in self.items(&self.folder.join("objects"))? {
            for path in self.items(&folder)? {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                // Gone since, or nothing of ours.
                let Ok(meta) = fs::metadata(&path) else { continue };
                if !is_hex(name, 64) {
                    continue;
                }
                let used = meta
                    .modified()
                    .ok()
                    .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
                let about = fs::read(self.about_path(name)).ok();
                let about = about.and_then(|text| serde_json::from_slice(&text).ok());
                all.push(Listed {
                    sha256: name.to_owned(),
                    size: meta.len(),
                    used: used.unwrap_or_default().as_secs(),
                    about: about.unwrap_or_default(),
                });
            }
        }
        all.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.sha256.cmp(&b.sha256)));
        Ok(all)
    }

    fn items(&self, folder: &Path) -> Result<Vec<PathBuf>, Error> {
        let wrong = |source| self.error("reading", folder, source);
        let mut paths = Vec::new();
        for item in fs::read_dir(folder).map_err(wrong)? {
            paths.push(item.map_err(wrong)?.path());
        }
        paths.sort();
        Ok(paths)
    }

    /// Deletes what is not to be kept. What a running build uses stays in any case.
    ///
    /// # Errors
    /// When something cannot be deleted.
    pub fn clean(&self, keep: &Keep) -> Result<Cleaned, Error> {
        let mut cleaned = Cleaned::default();
        let since = keep.since.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        for object in self.list()? {
            let old = since.is_some_and(|since| object.used < since.as_secs());
            let much = keep.bytes.is_some_and(|most| cleaned.left + object.size > most);
            if !(old || much) || keep.digests.contains(&object.sha256) {
                cleaned.left += object.size;
            } else if self.delete(&object.sha256)? {
                cleaned.deleted.push(object);
            } else {
                cleaned.left += object.size;
                cleaned.in_use.push(object);
            }
        }
        cleaned.partial = self.clean_partial(keep)?;
        self.clean_known()?;
        Ok(cleaned)
    }

    /// Deletes an object unless it is in use.
    fn delete(&self, sha256: &str) -> Result<bool, Error> {
        let path = self.object_path(sha256);
        let _gate = self.gate()?;
        let Ok(file) = File::open(&path) else { return Ok(true) };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(source)) => return Err(self.error("locking", &path, source)),
        }
        self.remove(&path)?;
        self.remove(&self.about_path(sha256))?;
        Ok(true)
    }

    fn clean_partial(&self, keep: &Keep) -> Result<usize, Error> {
        let mut count = 0;
        for path in self.items(&self.folder.join("partial"))? {
            if path.extension().is_none_or(|end| end != "lock") {
                continue;
            }
            let Ok(lock) = File::open(&path) else { continue };
            // In use; or another clean-up deleted it since we opened it, and somebody else may have
            // made a new one, which we do not hold.
            if lock.try_lock().is_err() || lock.metadata().is_ok_and(|meta| meta.nlink() == 0) {
                continue;
            }
            let data = path.with_extension("");
            let touched = fs::metadata(&data).and_then(|meta| meta.modified()).ok();
            // Without a word on age, what may still be resumed today stays.
            let since = keep.since.unwrap_or_else(|| days_ago(1));
            if touched.is_some_and(|time| time >= since) {
                continue;
            }
            count += usize::from(touched.is_some());
            self.remove(&data)?;
            self.remove(&path.with_extension("json"))?;
            self.remove(&path)?;
        }
        Ok(count)
    }

    /// Deletes what stands for objects that are gone.
    fn clean_known(&self) -> Result<(), Error> {
        for path in self.items(&self.folder.join("known"))? {
            let sha256 = fs::read_to_string(&path).unwrap_or_default();
            if !self.object_path(sha256.trim()).exists() {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Reads an object anew and says whether it is what its name says. Damaged ones are deleted
    /// with `repair`, so that the next fetch brings them again.
    ///
    /// # Errors
    /// When it cannot be read or deleted.
    pub fn verify(&self, sha256: &str, repair: bool) -> Result<bool, Error> {
        let path = self.object_path(sha256);
        let digests = match Digests::of_file(&path, None) {
            Ok(digests) => digests,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(source) => return Err(self.error("reading", &path, source)),
        };
        let whole = digests.sha256 == sha256;
        if !whole && repair {
            self.remove(&path)?;
            self.remove(&self.about_path(sha256))?;
        }
        Ok(whole)
    }
}

/// The time so many days ago.
pub fn days_ago(days: u64) -> SystemTime {
    let ago = Duration::from_secs(days.saturating_mul(24 * 3600));
    SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts down also when its thread panics, so that the others end.
    struct Running<'a>(&'a AtomicUsize);

    impl Drop for Running<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Locks on files opened apart count within a process as they do between processes.
    #[test]
    fn what_is_held_stays_whatever_others_delete() {
        const USERS: usize = 4;
        let dir = tempfile::tempdir().unwrap();
        let running = AtomicUsize::new(USERS);
        let deleted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for user in 0..USERS {
                let (dir, running, deleted) = (&dir, Running(&running), &deleted);
                scope.spawn(move || {
                    let _running = running;
                    let cache = Cache::open(dir.path()).unwrap();
                    let mut round = 0;
                    // However slow the others are: until they found something that nobody holds.
                    while round < 60 || deleted.load(Ordering::SeqCst) == 0 {
                        round += 1;
                        let text = format!("content {}", (user + round) % 3);
                        let object = cache.put(text.as_bytes(), &About::default()).unwrap();
                        let again = cache.get(&object.sha256).unwrap().unwrap();
                        assert_eq!(fs::read_to_string(&again.path).unwrap(), text);
                        drop(object);
                        assert_eq!(fs::read_to_string(&again.path).unwrap(), text);
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    let cache = Cache::open(dir.path()).unwrap();
                    while running.load(Ordering::SeqCst) > 0 {
                        let keep = Keep { bytes: Some(0), ..Keep::default() };
                        let cleaned = cache.clean(&keep).unwrap();
                        deleted.fetch_add(cleaned.deleted.len(), Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
