//! SHA-256 of parts of a stream, on a thread of its own: an image is hashed in several ways while it is
//! written, and one processor would need longer for them than the disk for the writing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use sha2::{Digest, Sha256};

use super::output::{BLOCK, hex};

/// Pieces that wait for a thread at most; with the pieces' size it bounds memory.
const WAITING: usize = 8;

static ZEROES: [u8; BLOCK] = [0; BLOCK];

enum Part {
    Data(Arc<Vec<u8>>),
    Zeroes(u64),
    Begin,
    End,
}

/// Hashes a stream's parts in order.
pub struct Hasher {
    parts: Option<SyncSender<Part>>,
    digests: Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

impl Hasher {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system has none left.
    pub fn new() -> io::Result<Self> {
        let (parts, queue) = sync_channel(WAITING);
        let (done, digests) = channel();
        let work = move || {
            let mut hash = Sha256::new();
            for part in queue {
                match part {
                    Part::Data(bytes) => hash.update(bytes.as_slice()),
                    Part::Zeroes(count) => zeroes(&mut hash, count),
                    Part::Begin => hash = Sha256::new(),
                    Part::End => {
                        // Nobody listens any more when the stream was given up.
                        let _ = done.send(hex(std::mem::take(&mut hash)));
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
    pub fn data(&self, bytes: &Arc<Vec<u8>>) -> io::Result<()> {
        self.send(Part::Data(Arc::clone(bytes)))
    }

    /// Takes `count` zero bytes.
    ///
    /// # Errors
    /// When the thread died.
    pub fn zeroes(&self, count: u64) -> io::Result<()> {
        self.send(Part::Zeroes(count))
    }

    /// Forgets what came since the last end.
    ///
    /// # Errors
    /// When the thread died.
    pub fn begin(&self) -> io::Result<()> {
        self.send(Part::Begin)
    }

    /// Ends a part; its digest will be given by [`Hasher::next`].
    ///
    /// # Errors
    /// When the thread died.
    pub fn end(&self) -> io::Result<()> {
        self.send(Part::End)
    }

    /// Waits for the digest of the oldest part that ended and was not asked for yet, in hex.
    ///
    /// # Errors
    /// When the thread died.
    pub fn next(&self) -> io::Result<String> {
        self.digests.recv().map_err(|_| died())
    }

    fn send(&self, part: Part) -> io::Result<()> {
        let parts = self.parts.as_ref().ok_or_else(died)?;
        parts.send(part).map_err(|_| died())
    }
}

impl Drop for Hasher {
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
        let hasher = Hasher::new().unwrap();
        let piece = |byte: u8| Arc::new(vec![byte; 3]);
        hasher.data(&piece(9)).unwrap();
        hasher.begin().unwrap();
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
        assert_eq!(hasher.next().unwrap(), hex(hash));
        assert_eq!(hasher.next().unwrap(), hex(Sha256::new()));
    }
}
