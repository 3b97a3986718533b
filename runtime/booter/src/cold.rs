//! Files that are not in memory yet.
//!
//! A thread that waits for a disk holds up all that it serves. So the page cache is
//! asked first (`RWF_NOWAIT`: a system call of less than a microsecond for each MiB); what is not
//! there is read in on a thread of its own, and the worker sends it from memory. Reading in, not
//! `posix_fadvise` alone: that only starts to read, and `sendfile` would wait for the rest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::sync::Semaphore;

/// Most threads that read from disk at a time; the runtime's others are for scripts and leases.
static READERS: Semaphore = Semaphore::const_new(8);
/// Bytes that are read in at a time; the kernel reads ahead far more.
const STEP: usize = 128 << 10;

/// Sees to it that a part of a file is in memory.
pub async fn warm(file: &Arc<File>, at: u64, length: u64) -> io::Result<()> {
    let last = at + length.saturating_sub(1);
    let (mut first, mut end) = ([0], [0]);
    // An empty answer is the file's end: there is nothing to wait for.
    if cached(file, &mut first, at).is_some() && cached(file, &mut end, last).is_some() {
        return Ok(());
    }
    let file = Arc::clone(file);
    blocking(move || {
        // Also what is sent next.
        ahead(&file, at, length * 4);
        let mut buffer = vec![0; STEP];
        let (mut at, end) = (at, at + length);
        while at < end {
            let step = usize::try_from(end - at).unwrap_or(STEP).min(STEP);
            let part = buffer.get_mut(..step).unwrap_or_default();
            match file.read_at(part, at) {
                Ok(0) => break,
                Ok(read) => at += read as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
    .await
}

/// Reads up to `length` bytes into an empty buffer.
pub async fn read(
    file: &Arc<File>,
    at: u64,
    mut buffer: Vec<u8>,
    length: usize,
) -> io::Result<Vec<u8>> {
    buffer.resize(length, 0);
    if let Some(read) = cached(file, &mut buffer, at) {
        buffer.truncate(read);
        return Ok(buffer);
    }
    let file = Arc::clone(file);
    blocking(move || {
        let read = file.read_at(&mut buffer, at)?;
        buffer.truncate(read);
        Ok(buffer)
    })
    .await
}

/// Reads what is in memory; `None` when the disk would have to be asked, or the file system cannot
/// tell.
#[cfg(target_os = "linux")]
pub fn cached(file: &File, buffer: &mut [u8], at: u64) -> Option<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};
    let mut parts = [io::IoSliceMut::new(buffer)];
    preadv2(file, &mut parts, at, ReadWriteFlags::NOWAIT).ok()
}

#[cfg(not(target_os = "linux"))]
pub fn cached(_: &File, _: &mut [u8], _: u64) -> Option<usize> {
    None
}

/// Has the kernel start to read `length` bytes from `at` on.
#[cfg(target_os = "linux")]
pub fn ahead(file: &File, at: u64, length: u64) {
    use rustix::fs::{Advice, fadvise};
    // A hint: without it, reading is only slower.
    let _ = fadvise(file, at, std::num::NonZeroU64::new(length), Advice::WillNeed);
}

#[cfg(not(target_os = "linux"))]
pub fn ahead(_: &File, _: u64, _: u64) {}

/// Does `work`, which waits for a disk, on a thread of its own.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let _turn = READERS.acquire().await.map_err(io::Error::other)?;
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn what_is_not_in_memory_is_read_in() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 3 << 20]).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let file = Arc::new(file);
        warm(&file, 0, 1 << 20).await.unwrap();
        assert_eq!(cached(&file, &mut [0; 10], (1 << 20) - 10), Some(10));
        warm(&file, 3 << 20, 1 << 20).await.unwrap();
        let read = read(&file, (3 << 20) - 5, Vec::new(), 100).await.unwrap();
        assert_eq!(read, [7; 5]);
    }
}
