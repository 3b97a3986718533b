//! Reads back what was written, and finds what is otherwise.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::produce::Part;
use super::{CHUNK, Disk, HEAD};
use crate::image::direct::{ALIGNMENT, Buffer};

/// Some read while others hash; disks give more when several reads wait for them.
const THREADS: usize = 4;

/// Why it was not read back.
#[derive(Debug)]
pub enum Error {
    /// The disk cannot be read.
    Read {
        /// Where, in bytes.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// `go_on` said so.
    Stopped,
}

/// The parts that are not on the disk as they should be. What belongs to the disk's head, which is
/// not there yet, is taken from `head`. `go_on` hears of every part that was read.
pub fn bad<'a>(
    disk: &dyn Disk,
    head: &[u8],
    which: &[&'a Part],
    go_on: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Vec<&'a Part>, Error> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new((Vec::new(), None));
    let work = || {
        let mut buffer = Buffer::new(CHUNK);
        loop {
            let Some(part) = which.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            let digest = digest(disk, head, part, &mut buffer);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match digest {
                Ok(digest) if digest == part.sha256 => {}
                Ok(_) => found.0.push(*part),
                Err(error) => found.1 = Some(error),
            }
            if found.1.is_none() && !go_on(part.length) {
                found.1 = Some(Error::Stopped);
            }
            if found.1.is_some() {
                next.store(which.len(), Ordering::Relaxed);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(which.len()) {
            scope.spawn(work);
        }
    });
    let (mut bad, error) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    bad.sort_by_key(|part| part.offset);
    error.map_or(Ok(bad), Err)
}

fn digest(
    disk: &dyn Disk,
    head: &[u8],
    part: &Part,
    buffer: &mut Buffer,
) -> Result<[u8; 32], Error> {
    let mut hash = Sha256::new();
    if part.offset < HEAD {
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let known = head.get(place(part.offset)..place(part.end().min(HEAD)));
        hash.update(known.unwrap_or_default());
    }
    let mut at = part.offset.max(HEAD);
    while at < part.end() {
        let count = usize::try_from(part.end() - at).unwrap_or(CHUNK).min(CHUNK);
        let sector = usize::try_from(disk.sector()).unwrap_or(ALIGNMENT).clamp(512, ALIGNMENT);
        let padded = count.next_multiple_of(sector);
        let bytes = buffer.get_mut(..padded).unwrap_or_default();
        disk.read_at(bytes, at).map_err(|source| Error::Read { offset: at, source })?;
        hash.update(bytes.get(..count).unwrap_or_default());
        at += count as u64;
    }
    Ok(hash.finalize().into())
}
