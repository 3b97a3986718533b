//! The lease file and its log on disk.
//!
//! `leases` holds the table as of some moment and is replaced as a whole; `leases.log` holds what
//! changed since and is only appended to, so that a lease costs one line and not the whole table.
//! When the log has outgrown the table it is set aside as `leases.log.old` and a new one begun,
//! the table is written in the background, and the old log deleted. At a start all three are read
//! in this order, whichever are there: the last word about a machine counts, so that reading a
//! log over a table that has its lines already does no harm. That is why a crash between any two
//! of these steps costs nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::lines::{self, Entry};
use super::{Lease, Leases};
use crate::durable;

/// Files larger than this are not ours: the largest table has 40 MB.
const SIZE_LIMIT: u64 = 256 << 20;
/// A log smaller than this is not worth a new table.
const LOG_SMALL: u64 = 1 << 20;

/// What ends a torn line: no lease has these words.
const TORN: &[u8] = b" cut off\n";

/// Where the leases are kept.
#[derive(Debug)]
pub struct LeaseFile {
    path: PathBuf,
    log: PathBuf,
    old: PathBuf,
    open: Option<Log>,
    /// Size of the table when it was last written.
    table: u64,
    /// A line could not be written: only a new table brings the file up to date.
    behind: bool,
}

#[derive(Debug)]
struct Log {
    file: File,
    length: u64,
}

impl LeaseFile {
    /// The file `leases` in the folder `state`, and its log beside it.
    pub fn new(state: &Path) -> Self {
        Self {
            path: state.join("leases"),
            log: state.join("leases.log"),
            old: state.join("leases.log.old"),
            open: None,
            table: 0,
            behind: false,
        }
    }

    /// Fills the table from the files, and begins a new log. A damaged file costs its damaged
    /// lines only: each is logged, and the file is kept beside as `….damaged`.
    ///
    /// # Errors
    /// When a file is there and cannot be read at all. That the table or the copy of a damaged file
    /// cannot be written (a full disk) is only logged.
    pub fn load(&mut self, leases: &mut Leases) -> io::Result<()> {
        let mut dropped = 0_u32;
        let mut restored = |result: Result<(), super::Refusal>| {
            if let Err(refusal) = result {
                dropped += 1;
                tracing::debug!("a lease is dropped: {refusal}");
            }
        };
        if let Some(text) = read(&self.path)? {
            let (found, problems) = lines::parse_snapshot(&text.0);
            self.report(&self.path, &text.1, &problems, found.len());
            found.into_iter().for_each(|lease| restored(leases.restore(lease)));
        }
        let mut logged = false;
        for path in [&self.old, &self.log] {
            if let Some(text) = read(path)? {
                logged = true;
                let (found, problems): (Vec<Entry>, _) = lines::parse_log(&text.0);
                self.report(path, &text.1, &problems, found.len());
                found.into_iter().for_each(|entry| restored(leases.replay(entry)));
            }
        }
        if dropped > 0 {
            tracing::warn!(
                file = %self.path.display(), leases = dropped,
                "leases are dropped: the networks have changed since they were given"
            );
        }
        if logged && let Err(error) = self.save(leases.iter()) {
            // The logs are still there, and machines boot without a new table, too.
            self.behind = true;
            let file = self.path.display();
            tracing::error!("writing the leases to {file}: {error}; going on with the old files");
        }
        Ok(())
    }

    /// Appends lines; returns only when they are safely on disk.
    ///
    /// # Errors
    /// What the file system says; what was written before is untouched.
    pub fn append(&mut self, text: &str) -> io::Result<()> {
        let written = self.write(text);
        self.behind |= written.is_err();
        written
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        let log = match self.open.take() {
            Some(log) => log,
            None => self.begin()?,
        };
        // Not kept open when that fails: where the file ends then has to be looked at anew.
        let Log { mut file, length } = log;
        let length = durable::append(&mut file, length, text.as_bytes())?;
        self.open = Some(Log { file, length });
        Ok(())
    }

    fn begin(&self) -> io::Result<Log> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.log)?;
        durable::sync_folder(&self.log)?;
        let mut length = file.metadata()?.len();
        let mut last = [b'\n'];
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)?;
        }
        if last != [b'\n'] {
            // A crash or a full disk has torn the last line, and it is still there: the next one must not
            // go on in it, and it must not be read as a whole one, wherever it is torn.
            length = durable::append(&mut file, length, TORN)?;
        }
        Ok(Log { file, length })
    }

    /// Whether the log has outgrown the table.
    pub fn is_full(&self) -> bool {
        let length = self.open.as_ref().map_or(0, |log| log.length);
        self.behind || length > LOG_SMALL.max(self.table.saturating_mul(2))
    }

    /// Sets the log aside. After that, a table that is copied from memory may be written by a
    /// [`Compaction`] while lines are appended to the new log.
    ///
    /// # Errors
    /// What the file system says; the log then goes on.
    pub fn rotate(&mut self) -> io::Result<Compaction> {
        // One from before is still needed when its table could not be written.
        if !self.old.exists() {
            match fs::rename(&self.log, &self.old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.open = None,
            }
            durable::sync_folder(&self.log)?;
        }
        // The table will have all that could not be written so far; what fails from now on is not in it.
        self.behind = false;
        Ok(Compaction { path: self.path.clone(), old: self.old.clone() })
    }

    /// Tells that a [`Compaction`] has ended; the size of the table that it wrote, none when it failed.
    pub fn compacted(&mut self, table: Option<u64>) {
        match table {
            Some(table) => self.table = table,
            None => self.behind = true,
        }
    }

    /// Writes the whole table and deletes the logs.
    ///
    /// # Errors
    /// What the file system says; the old files are then still good.
    pub fn save<'a>(&mut self, leases: impl Iterator<Item = &'a Lease>) -> io::Result<()> {
        let text = lines::snapshot(leases);
        durable::replace(&self.path, text.as_bytes())?;
        self.table = text.len() as u64;
        self.behind = false;
        self.open = None;
        // In this order: the newer log's lines must never be gone while the older's are there.
        remove(&self.old)?;
        remove(&self.log)
    }

    /// Where the table is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn report(&self, path: &Path, raw: &[u8], problems: &[String], good: usize) {
        if problems.is_empty() {
            return;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let kept = path.with_file_name(format!("{name}.damaged"));
        let file = path.display();
        for problem in problems.iter().take(20) {
            tracing::error!(%file, "the lease file is damaged: {problem}");
        }
        let (lines, problems) = (good, problems.len());
        match durable::replace(&kept, raw) {
            Ok(()) => tracing::error!(
                %file, kept = %kept.display(), lines, problems,
                "going on with the leases that could be read; a copy of the damaged file was kept"
            ),
            // A full disk tears lines, and must not keep machines from booting.
            Err(error) => tracing::error!(
                %file, lines, problems,
                "going on with the leases that could be read; no copy of the damaged file could be \
                 kept: {error}"
            ),
        }
    }
}

/// A table that is being written while the new log grows.
#[derive(Debug)]
pub struct Compaction {
    path: PathBuf,
    old: PathBuf,
}

impl Compaction {
    /// Writes the table, deletes the old log, and gives the table's size in bytes.
    ///
    /// # Errors
    /// What the file system says; nothing is lost then.
    pub fn write(self, leases: &[Lease]) -> io::Result<u64> {
        let text = lines::snapshot(leases.iter());
        durable::replace(&self.path, text.as_bytes())?;
        remove(&self.old)?;
        Ok(text.len() as u64)
    }
}

fn read(path: &Path) -> io::Result<Option<(String, Vec<u8>)>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(found) if found.len() > SIZE_LIMIT => {
            let name = path.display();
            return Err(io::Error::other(format!("{name} is far too large for a list of leases")));
        }
        Ok(_) => {}
    }
    let raw = fs::read(path)?;
    Ok(Some((String::from_utf8_lossy(&raw).into_owned(), raw)))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => durable::sync_folder(path),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
