//! Writes past the page cache (`O_DIRECT`), from buffers that are aligned as that asks: a new image
//! is larger than most caches and not read again soon, and pages for it cost more time than the disk.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::Sink;
use super::chunk::{Chunk, Pool};
use super::output::ImageSink;

/// Addresses, offsets and lengths of direct transfers are multiples of this many bytes: what every
/// disk and file system known is content with.
pub const ALIGNMENT: usize = 4096;
/// Chunks that wait to be written at most.
const WAITING: usize = 4;

/// Bytes in memory at an address that direct transfers can use.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// So many zero bytes.
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length + ALIGNMENT - 1];
        // The vector is never resized, so its bytes stay where they are.
        let start = (ALIGNMENT - bytes.as_ptr().addr() % ALIGNMENT) % ALIGNMENT;
        Self { bytes, start, length }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.start..self.start + self.length).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + self.length).unwrap_or_default()
    }
}

/// Turns direct transfers of an open file on or off; tells whether they are as was asked: not every
/// file system has them.
pub fn set_direct(file: &File, on: bool) -> bool {
    let change = |flags: OFlags| if on { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT };
    fcntl_getfl(file.as_fd()).and_then(|flags| fcntl_setfl(file.as_fd(), change(flags))).is_ok()
}

/// A sparse raw image.
pub struct Raw {
    size: u64,
    chunks: SyncSender<Arc<Chunk>>,
    /// Absent when it was asked for its error.
    thread: Option<JoinHandle<io::Result<File>>>,
}

impl Raw {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// When the operating system has none left.
    pub fn new(file: File) -> io::Result<Self> {
        let (chunks, queue) = sync_channel::<Arc<Chunk>>(WAITING);
        let write = move || {
            set_direct(&file, true);
            for chunk in queue {
                if !chunk.length.is_multiple_of(ALIGNMENT) {
                    // The image's end.
                    set_direct(&file, false);
                }
                write(&file, chunk.bytes(), chunk.offset)?;
            }
            set_direct(&file, false);
            Ok(file)
        };
        let thread = thread::Builder::new().name("write".to_owned()).spawn(write)?;
        Ok(Self { size: 0, chunks, thread: Some(thread) })
    }
}

/// Writes; without `O_DIRECT` where a file system took the flag, but not the write.
fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    match file.write_all_at(bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            set_direct(file, false);
            file.write_all_at(bytes, offset)
        }
        done => done,
    }
}

impl Raw {
    /// What the thread says that takes nothing more.
    fn told(&mut self) -> io::Error {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(told))) => told,
            _ => io::Error::other("the thread that writes ended before its time"),
        }
    }
}

impl Sink for Raw {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut chunk = Pool::new(1, bytes.len()).take(self.size);
        chunk.add(bytes);
        self.chunk(&Arc::new(chunk))
    }

    fn zeroes(&mut self, count: u64) -> io::Result<()> {
        self.size += count;
        Ok(())
    }
}

impl ImageSink for Raw {
    fn chunk(&mut self, chunk: &Arc<Chunk>) -> io::Result<()> {
        self.size = chunk.end();
        self.chunks.send(Arc::clone(chunk)).map_err(|_| self.told())
    }

    fn finish(self: Box<Self>) -> io::Result<File> {
        let Self { size, chunks, thread } = *self;
        drop(chunks);
        let ended = thread.map(JoinHandle::join);
        let died = || io::Error::other("the thread that writes ended before its time");
        let file = ended.and_then(Result::ok).ok_or_else(died)??;
        file.set_len(size)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;
    use crate::image::output::BLOCK;

    #[test]
    fn buffers_are_aligned() {
        for length in [1, ALIGNMENT, 1 << 20] {
            let mut buffer = Buffer::new(length);
            assert_eq!(buffer.len(), length);
            assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0);
            buffer[length - 1] = 1;
        }
    }

    #[test]
    fn holes_stay_and_the_end_may_be_short() {
        for folder in [std::env::temp_dir(), std::path::PathBuf::from("/dev/shm")] {
            let file = tempfile::tempfile_in(folder).unwrap();
            let mut raw = Box::new(Raw::new(file).unwrap());
            let mut expected = Vec::new();
            for number in 0..60_u8 {
                raw.data(&[number; BLOCK]).unwrap();
                expected.extend([number; BLOCK]);
                if number % 25 == 0 {
                    raw.zeroes(3 * BLOCK as u64).unwrap();
                    expected.extend([0; 3 * BLOCK]);
                }
            }
            raw.data(b"end").unwrap();
            expected.extend(b"end");
            let mut file = raw.finish().unwrap();
            let mut found = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut found).unwrap();
            assert!(found == expected);
        }
    }

    #[test]
    fn what_the_thread_could_not_write_is_told() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut raw = Box::new(Raw::new(full).unwrap());
        let error = (0..1000).find_map(|_| raw.data(&[1; BLOCK]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    }
}
