//! A disk of this machine as the writer sees it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use super::device::{Disk, Error, Reread, Target, Unmapped};
use super::engine;

/// A disk that is open for writing.
pub struct Key {
    file: File,
    disk: Disk,
    direct: bool,
    target: Mutex<Target>,
}

impl Key {
    /// Takes an open disk.
    ///
    /// # Errors
    /// When the operating system has no more open files.
    pub fn new(target: Target) -> io::Result<Self> {
        let (file, disk) = (target.file().try_clone()?, target.disk().clone());
        let direct = target.is_direct();
        Ok(Self { file, disk, direct, target: Mutex::new(target) })
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    fn target(&self) -> std::sync::MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn plain(error: Error) -> io::Error {
    match error {
        Error::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}

impl engine::Disk for Key {
    fn size(&self) -> u64 {
        self.disk.size
    }

    fn sector(&self) -> u32 {
        self.disk.sector
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<Unmapped> {
        self.target().discard(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.direct {
            // What is read back must come from the disk.
            rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    fn reread_table(&self) -> io::Result<()> {
        match self.target().reread_table().map_err(plain)? {
            Reread::Done => Ok(()),
            Reread::Busy => Err(io::Error::other("a partition of the disk is in use")),
            Reread::NotAllowed => Err(io::Error::other("this user may not ask for it")),
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.target().same(), Err(Error::PulledOut(_) | Error::Changed { .. }))
    }
}
