//! SHA-256 of parts of a stream, on a thread of its own: an image is hashed in several ways while it is
//! written, and one processor would need longer for them than the disk for the writing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::{self, JoinHandle};

use sha2::{Digest, Sha256};

use super::output::BLOCK;

static ZEROES: [u8; BLOCK] = [0; BLOCK];

enum Part<T> {
    Data(Arc<T>),
    Zeroes(u64),
    End,
}

/// Hashes a stream's parts in order; `T` is a piece of the stream.
pub struct Hasher<T> {
    parts: Option<SyncSender<Part<T>>>,
    digests: Receiver<[u8; 32]>,
    thread: Option<JoinHandle<()>>,
}

impl<T: AsRef<[u8]> + Send + Sync + 'static> Hasher<T> {
    /// Starts the thread. At most `waiting` pieces wait for it; with their size that bounds memory.
    ///
    /// # Errors
    /// When the operating system has none left.
    pub fn new(waiting: usize) -> io::Result<Self> {
        let (parts, queue) = sync_channel::<Part<T>>(waiting);
        let (done, digests) = channel();
        let work = move || {
            let mut hash = Sha256::new();
            for part in queue {
                match part {
                    Part::Data(piece) => hash.update((*piece).as_ref()),
                    Part::Zeroes(count) => zeroes(&mut hash, count),
                    Part::End => {
                        // Nobody listens any more when the stream was given up.
                        let _ = done.send(std::mem::take(&mut hash).finalize().into());
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("hash".to_owned()).spawn(work)?;
        Ok(Self { parts: Some(parts), digests, thread: Some(thread) })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the thread died.
    pub fn data(&self, bytes: &Arc<T>) -> io::Result<()> {
        self.send(Part::Data(Arc::clone(bytes)))
    }

    /// Takes `count` zero bytes.
    ///
    /// # Errors
    /// When the thread died.
    pub fn zeroes(&self, count: u64) -> io::Result<()> {
        self.send(Part::Zeroes(count))
    }

    /// Ends a part; its digest will be given by [`Hasher::next`].
    ///
    /// # Errors
    /// When the thread died.
    pub fn end(&self) -> io::Result<()> {
        self.send(Part::End)
    }

    /// Waits for the digest of the oldest part that ended and was not asked for yet.
    ///
    /// # Errors
    /// When the thread died.
    pub fn next(&self) -> io::Result<[u8; 32]> {
        self.digests.recv().map_err(|_| died())
    }

    /// The same without waiting; nothing when that digest is still being made.
    ///
    /// # Errors
    /// When the thread died.
    pub fn ready(&self) -> io::Result<Option<[u8; 32]>> {
        match self.digests.try_recv() {
            Ok(digest) => Ok(Some(digest)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(died()),
        }
    }

    fn send(&self, part: Part<T>) -> io::Result<()> {
        let parts = self.parts.as_ref().ok_or_else(died)?;
        parts.send(part).map_err(|_| died())
    }
}

impl<T> Drop for Hasher<T> {
    fn drop(&mut self) {
        drop(self.parts.take());
        if let Some(thread) = self.thread.take() {
            // How it ended was told by the channels.
            let _ = thread.join();
        }
    }
}

/// Adds so many zero bytes to a hash.
pub fn zeroes(hash: &mut Sha256, mut count: u64) {
    while count > 0 {
        let now = usize::try_from(count).unwrap_or(BLOCK).min(BLOCK);
        hash.update(ZEROES.get(..now).unwrap_or_default());
        count -= now as u64;
    }
}

fn died() -> io::Error {
    io::Error::other("a thread that hashes ended before its time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_hashed_in_order() {
        let hasher = Hasher::new(16).unwrap();
        let piece = |byte: u8| Arc::new(vec![byte; 3]);
        // More than may wait.
        for number in 0..100 {
            hasher.data(&piece(number)).unwrap();
        }
        hasher.zeroes(100_000).unwrap();
        hasher.end().unwrap();
        hasher.end().unwrap();
        let mut hash = Sha256::new();
        (0..100).for_each(|number| hash.update([number; 3]));
        hash.update(vec![0; 100_000]);
        assert_eq!(hasher.next().unwrap(), *hash.finalize());
        assert_eq!(hasher.next().unwrap(), *Sha256::digest([]));
        assert_eq!(hasher.ready().unwrap(), None);
    }
}
