//! Digests of files of this machine that were read before: a file with the same place, size, inode
//! and times of change has the same content, and gigabytes need not be read again because one file of
//! a tree has changed.
//!
//! The time of the last change of the inode (ctime) counts as well, which programs cannot set; and a
//! file that changed less than a second ago is not remembered, as it may change again within the
//! clock's resolution. What a build writes is hashed anew in any case.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::cache::{Cache, Error};
use super::digest::{Digest, Digests};

/// Files that are remembered at most; those that were not asked for the longest time are forgotten.
const MOST: usize = 200_000;
/// How long ago a file must have changed to be remembered.
const SETTLED: Duration = Duration::from_secs(1);

/// Everything by which a changed file is told from an unchanged one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stat {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    path: PathBuf,
    stat: Stat,
    sha256: String,
    /// The digest of another kind that was asked for, as `kind:hex`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    like: Option<String>,
    /// When it was asked for last: seconds since 1970.
    used: u64,
}

/// The files that were read before.
#[derive(Debug)]
pub struct Seen {
    place: PathBuf,
    known: Mutex<HashMap<PathBuf, Known>>,
    now: SystemTime,
}

impl Seen {
    /// What a cache remembers. What cannot be read is as good as not remembered.
    pub fn open(cache: &Cache) -> Self {
        let place = cache.folder.join("seen.json");
        let known: Vec<Known> = fs::File::open(&place)
            .ok()
            .and_then(|file| serde_json::from_reader(BufReader::new(file)).ok())
            .unwrap_or_default();
        let known = known.into_iter().map(|known| (known.path.clone(), known)).collect();
        Self { place, known: Mutex::new(known), now: SystemTime::now() }
    }

    /// The digests of a file: remembered ones, or those that reading it gives, when `check` finds
    /// nothing wrong with them.
    ///
    /// # Errors
    /// When the file cannot be read, or that of `check`.
    pub fn digests<E: From<io::Error>>(
        &self,
        path: &Path,
        like: Option<&Digest>,
        check: impl Fn(&Digests) -> Result<(), E>,
    ) -> Result<Digests, E> {
        let stat = Stat::of(&fs::metadata(path)?);
        // Whoever works elsewhere may mean another file by a relative path.
        let key = std::path::absolute(path)?;
        if let Some(digests) = self.remembered(&key, &stat, like) {
            return Ok(digests);
        }
        let digests = Digests::of_file(path, like)?;
        check(&digests)?;
        let settled = u64::try_from(stat.changed.0.max(stat.modified.0)).unwrap_or(u64::MAX);
        let settled = Duration::from_secs(settled).saturating_add(Duration::from_secs(1)) + SETTLED;
        if settled <= since_1970(self.now) && Stat::of(&fs::metadata(path)?) == stat {
            let known = Known {
                path: key.clone(),
                stat,
                sha256: digests.sha256.clone(),
                like: digests.like.as_ref().map(ToString::to_string),
                used: since_1970(self.now).as_secs(),
            };
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, known);
        }
        Ok(digests)
    }

    fn remembered(&self, key: &Path, stat: &Stat, like: Option<&Digest>) -> Option<Digests> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get_mut(key).filter(|known| known.stat == *stat)?;
        let told = known.like.as_ref().and_then(|text| text.parse::<Digest>().ok());
        let same_kind = |told: &Digest| {
            like.is_some_and(|like| std::mem::discriminant(like) == std::mem::discriminant(told))
        };
        let told = told.filter(same_kind);
        if told.is_some() != like.is_some() {
            return None;
        }
        known.used = since_1970(self.now).as_secs();
        Some(Digests { size: stat.size, sha256: known.sha256.clone(), like: told })
    }

    /// Remembers it for the next time.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(self, cache: &Cache) -> Result<(), Error> {
        let known = self.known.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Known> = known.into_values().collect();
        all.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.path.cmp(&b.path)));
        all.truncate(MOST);
        let write = || -> io::Result<()> {
            let folder = self.place.parent().unwrap_or(Path::new("."));
            let mut file = BufWriter::new(tempfile::NamedTempFile::new_in(folder)?);
            serde_json::to_writer(&mut file, &all)?;
            file.flush()?;
            let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.persist(&self.place).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|source| cache.error("writing", &self.place, source))
    }
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        cache: Cache,
        read: Cell<u32>,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(dir.path()).unwrap();
            Self { dir, cache, read: Cell::new(0) }
        }

        /// Asks at this time; whether the file had to be read is counted.
        fn ask(&self, later: u64, like: Option<&Digest>) -> Digests {
            let mut seen = Seen::open(&self.cache);
            seen.now = SystemTime::now() + Duration::from_secs(later);
            let count = |_: &Digests| {
                self.read.set(self.read.get() + 1);
                Ok::<(), io::Error>(())
            };
            let digests = seen.digests(&self.dir.path().join("file"), like, count).unwrap();
            seen.save(&self.cache).unwrap();
            digests
        }

        fn write(&self, text: &str) {
            fs::write(self.dir.path().join("file"), text).unwrap();
        }
    }

    #[test]
    fn an_unchanged_file_is_read_once_and_a_changed_one_again() {
        let place = Place::new();
        place.write("one");
        let first = place.ask(10, None);
        assert_eq!(place.ask(20, None), first);
        assert_eq!(place.read.get(), 1);
        // Another digest is asked for, then both are known.
        let like = Digest::Sha1(String::new());
        let both = place.ask(30, Some(&like));
        assert_eq!(place.ask(40, Some(&like)), both);
        assert_eq!((place.read.get(), both.sha256), (2, first.sha256.clone()));
        // As long and with the old time: only the inode tells.
        let path = place.dir.path().join("file");
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let before = fs::metadata(&path).unwrap();
        let changed = |now: &fs::Metadata| {
            (before.ctime(), before.ctime_nsec()) != (now.ctime(), now.ctime_nsec())
        };
        // The kernel's clock for it may have ticked since the first writing, or not.
        while !changed(&fs::metadata(&path).unwrap()) {
            place.write("two");
            fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
        }
        assert_ne!(place.ask(50, None).sha256, first.sha256);
    }

    #[test]
    fn a_file_that_has_just_changed_is_not_trusted() {
        let place = Place::new();
        place.write("one");
        place.ask(0, None);
        place.ask(0, None);
        assert_eq!(place.read.get(), 2);
    }

    #[test]
    fn damaged_notes_are_as_good_as_none() {
        let place = Place::new();
        place.write("one");
        place.ask(10, None);
        fs::write(place.cache.folder.join("seen.json"), "[{\"path\":").unwrap();
        place.ask(10, None);
        assert_eq!(place.read.get(), 2);
    }

    #[test]
    fn what_is_found_wrong_is_not_remembered() {
        let place = Place::new();
        place.write("one");
        let mut seen = Seen::open(&place.cache);
        seen.now += Duration::from_secs(10);
        let path = place.dir.path().join("file");
        let wrong = |_: &Digests| Err(io::Error::other("wrong"));
        assert!(seen.digests(&path, None, wrong).is_err());
        assert!(seen.known.lock().unwrap().is_empty());
    }
}
