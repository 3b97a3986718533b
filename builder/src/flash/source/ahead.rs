//! Reading ahead: a thread that makes pieces, and a bounded queue of them.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::Error;

/// Some bytes of an image or a file.
#[derive(Debug)]
pub(super) struct Piece {
    /// Where they are, in bytes.
    pub offset: u64,
    /// They.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// Where it ends, in bytes.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// Copies what it has from `at` on, which is within it.
    pub fn copy(&self, at: u64, to: &mut [u8]) -> usize {
        let from = usize::try_from(at - self.offset).ok().and_then(|from| self.bytes.get(from..));
        let from = from.unwrap_or_default();
        let count = from.len().min(to.len());
        if let (Some(to), Some(from)) = (to.get_mut(..count), from.get(..count)) {
            to.copy_from_slice(from);
        }
        count
    }
}

type Message = Result<Option<Piece>, Error>;

/// The end of the queue where pieces come out.
pub(super) struct Ahead {
    place: String,
    pieces: Receiver<Message>,
    spare: SyncSender<Vec<u8>>,
    ended: bool,
}

/// The end of the queue where pieces are put in.
pub(super) struct Feed {
    size: usize,
    pieces: SyncSender<Message>,
    spare: Receiver<Vec<u8>>,
}

impl Ahead {
    /// Starts a thread that makes pieces of at most `size` bytes, of which `count` may wait: two more
    /// are in hands. It ends at its next piece once this is dropped.
    pub fn start(
        place: &str,
        size: usize,
        count: usize,
        work: impl FnOnce(&mut Feed) -> Result<(), Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let (to, pieces) = sync_channel(count);
        let (spare, used) = sync_channel(count + 2);
        let mut feed = Feed { size, pieces: to, spare: used };
        let work = move || {
            let result = work(&mut feed).map(|()| None);
            // Nobody may be there any more.
            let _ = feed.pieces.send(result);
        };
        thread::Builder::new()
            .name("flash source".to_owned())
            .spawn(work)
            .map_err(|error| Error::Thread { place: place.to_owned(), why: error.to_string() })?;
        Ok(Self { place: place.to_owned(), pieces, spare, ended: false })
    }

    /// The next piece; `None` behind the last. `used` is what is no longer needed.
    pub fn next(&mut self, used: Option<Piece>) -> Result<Option<Piece>, Error> {
        if let Some(used) = used {
            // When the thread ended, nobody wants it.
            let _ = self.spare.try_send(used.bytes);
        }
        if self.ended {
            return Ok(None);
        }
        let lost = |_| {
            let why = "it ended without a word after an earlier error".to_owned();
            Err(Error::Thread { place: self.place.clone(), why })
        };
        let piece = self.pieces.recv().unwrap_or_else(lost)?;
        self.ended = piece.is_none();
        Ok(piece)
    }
}

impl Feed {
    /// A buffer to fill.
    pub fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.try_recv().unwrap_or_default();
        buffer.resize(self.size, 0);
        buffer
    }

    /// Hands over what was filled. The error says that nobody wants it any more.
    pub fn send(&mut self, offset: u64, bytes: Vec<u8>) -> Result<(), Error> {
        self.pieces.send(Ok(Some(Piece { offset, bytes }))).map_err(|_| Error::Thread {
            place: "the image".to_owned(),
            why: "nobody reads it any more".to_owned(),
        })
    }
}

/// A queue whose pieces follow each other, as a reader.
pub(super) struct Stream {
    ahead: Ahead,
    piece: Option<Piece>,
    used: usize,
}

impl From<Ahead> for Stream {
    fn from(ahead: Ahead) -> Self {
        Self { ahead, piece: None, used: 0 }
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.as_ref().is_none_or(|piece| self.used >= piece.bytes.len()) {
            let used = self.piece.take();
            self.used = 0;
            self.piece = self.ahead.next(used).map_err(Error::into_io)?;
            if self.piece.is_none() {
                return Ok(&[]);
            }
        }
        let bytes = self.piece.as_ref().map_or(&[][..], |piece| &piece.bytes);
        Ok(bytes.get(self.used..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
