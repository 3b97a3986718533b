//! SHA-256 of parts of a stream, on a thread of its own: an image is hashed in several ways while it is
//! written, and one processor would need longer for them than the disk for the writing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::{self, JoinHandle};

use sha2::{Digest, Sha256};

use super::output::BLOCK;
use twin::Twin;

#[cfg(target_arch = "x86_64")]
mod instructions;
#[cfg(not(target_arch = "x86_64"))]
mod instructions {
    //! None that hash twice at once.

    /// There is none of these.
    pub enum Instructions {}

    impl Instructions {
        /// None.
        pub fn found() -> Option<Self> {
            None
        }

        /// Is never called.
        pub fn compress(&self, _: [&mut [u32; 8]; 2], _: &[[u8; 64]]) {
            match *self {}
        }
    }
}
pub mod twin;

static ZEROES: [u8; BLOCK] = [0; BLOCK];

enum Part<T> {
    Data(Arc<T>),
    Zeroes(u64),
    /// Zeroes of no part.
    Unused(u64),
    End,
}

/// What the thread makes.
enum Hashes {
    Parts(Sha256),
    All(Box<Twin>),
}

impl Hashes {
    fn data(&mut self, bytes: &[u8]) {
        match self {
            Self::Parts(hash) => hash.update(bytes),
            Self::All(twin) => twin.update(bytes, true),
        }
    }

    fn zeroes(&mut self, count: u64, of_part: bool) {
        match self {
            Self::Parts(hash) if of_part => zeroes(hash, count),
            Self::Parts(_) => {}
            Self::All(twin) => in_blocks(count, |bytes| twin.update(bytes, of_part)),
        }
    }

    fn end_part(&mut self) -> [u8; 32] {
        match self {
            Self::Parts(hash) => std::mem::take(hash).finalize().into(),
            Self::All(twin) => twin.end_part(),
        }
    }
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
        Self::start(waiting, Hashes::Parts(Sha256::new()))
    }

    /// The same, but the stream as a whole is hashed as well. Parts, and what is of none, must begin at
    /// multiples of 64 bytes.
    ///
    /// # Errors
    /// When the operating system has no thread left.
    pub fn with_whole(waiting: usize) -> io::Result<Self> {
        Self::start(waiting, Hashes::All(Box::default()))
    }

    fn start(waiting: usize, mut hashes: Hashes) -> io::Result<Self> {
        let (parts, queue) = sync_channel::<Part<T>>(waiting);
        let (done, digests) = channel();
        let work = move || {
            for part in queue {
                match part {
                    Part::Data(piece) => hashes.data((*piece).as_ref()),
                    Part::Zeroes(count) => hashes.zeroes(count, true),
                    Part::Unused(count) => hashes.zeroes(count, false),
                    Part::End => {
                        // Nobody listens any more when the stream was given up.
                        let _ = done.send(hashes.end_part());
                    }
                }
            }
            if let Hashes::All(twin) = hashes {
                let _ = done.send(twin.end());
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

    /// Takes `count` zero bytes that belong to no part.
    ///
    /// # Errors
    /// When the thread died.
    pub fn unused(&self, count: u64) -> io::Result<()> {
        self.send(Part::Unused(count))
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

    /// Ends the stream, when all its parts' digests were asked for; gives the digest of all of it. Only
    /// for what [`Hasher::with_whole`] made.
    ///
    /// # Errors
    /// When the thread died.
    pub fn whole(mut self) -> io::Result<[u8; 32]> {
        drop(self.parts.take());
        self.next()
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
pub fn zeroes(hash: &mut Sha256, count: u64) {
    in_blocks(count, |bytes| hash.update(bytes));
}

fn in_blocks(mut count: u64, mut take: impl FnMut(&[u8])) {
    while count > 0 {
        let now = usize::try_from(count).unwrap_or(BLOCK).min(BLOCK);
        take(ZEROES.get(..now).unwrap_or_default());
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

    #[test]
    fn the_whole_has_what_no_part_has() {
        let hasher = Hasher::with_whole(4).unwrap();
        let mut hash = Sha256::new();
        for number in 0..3_u8 {
            let piece = vec![number; BLOCK];
            hasher.data(&Arc::new(piece.clone())).unwrap();
            hasher.zeroes(640).unwrap();
            hasher.end().unwrap();
            hasher.unused(100 << 10).unwrap();
            hash.update(&piece);
            zeroes(&mut hash, 640 + (100 << 10));
        }
        for number in 0..3_u8 {
            let part = [vec![number; BLOCK], vec![0; 640]].concat();
            assert_eq!(hasher.next().unwrap(), *Sha256::digest(part));
        }
        assert_eq!(hasher.whole().unwrap(), *hash.finalize());
    }
}
