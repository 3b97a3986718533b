//! Digests of an image's parts, on a thread of its own: one processor would need as long for them as
//! the disk for the writing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, channel, sync_channel};

use sha2::{Digest, Sha256};

use super::chunk::Chunk;

/// Chunks that wait for the thread at most.
pub const WAITING: usize = 3;

enum Step {
    Chunk(Arc<Chunk>),
    End,
}

/// Hashes parts one after the other.
pub struct Hasher {
    steps: SyncSender<Step>,
    digests: Receiver<[u8; 32]>,
}

impl Hasher {
    /// Starts the thread, which ends with this value.
    ///
    /// # Errors
    /// When the operating system has none left.
    pub fn new() -> io::Result<Self> {
        let (steps, queue) = sync_channel(WAITING);
        let (done, digests) = channel();
        let work = move || {
            let mut hash = Sha256::new();
            for step in queue {
                match step {
                    Step::Chunk(chunk) => hash.update(chunk.bytes()),
                    Step::End => {
                        // Nobody listens any more when the image was given up.
                        let _ = done.send(std::mem::take(&mut hash).finalize().into());
                    }
                }
            }
        };
        std::thread::Builder::new().name("digest".to_owned()).spawn(work)?;
        Ok(Self { steps, digests })
    }

    /// Takes the next bytes of a part.
    ///
    /// # Errors
    /// When the thread died.
    pub fn add(&self, chunk: Arc<Chunk>) -> anyhow::Result<()> {
        self.step(Step::Chunk(chunk))
    }

    /// Ends a part.
    ///
    /// # Errors
    /// When the thread died.
    pub fn end(&self) -> anyhow::Result<()> {
        self.step(Step::End)
    }

    fn step(&self, step: Step) -> anyhow::Result<()> {
        self.steps.send(step).map_err(|_| died())
    }

    /// The digest of the oldest part that ended and was not asked for; without waiting only when it is
    /// there.
    ///
    /// # Errors
    /// When the thread died.
    pub fn digest(&self, wait: bool) -> anyhow::Result<Option<[u8; 32]>> {
        if wait {
            return self.digests.recv().map(Some).map_err(|_| died());
        }
        match self.digests.try_recv() {
            Ok(digest) => Ok(Some(digest)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(died()),
        }
    }
}

fn died() -> anyhow::Error {
    anyhow::anyhow!("a thread that hashes ended before its time")
}
