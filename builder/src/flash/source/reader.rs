//! Reading an image forwards.

use std::io::{self, BufReader, Read};
use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::ahead::{Ahead, Piece, Stream};
use super::describe::Expected;
use super::local::{Forwards, Local, Opened};
use super::parts::Parts;
use super::{Error, Input, Packing, Source, unpacker};

/// Size and number of pieces of a packed file that wait to be unpacked.
const PACKED: (usize, usize) = (256 << 10, 8);
/// Size and number of pieces of an image that wait to be taken.
pub(super) const PIECES: (usize, usize) = (1 << 20, 3);

/// Reads an image from its beginning to its end.
pub struct Reader {
    kind: Kind,
    place: String,
    at: u64,
    size: Option<u64>,
    /// A local file that is read through queues.
    opened: Option<Opened>,
}

enum Kind {
    Local(Box<Local>),
    Flow(Flow),
    Parts(Box<Parts>),
}

impl Reader {
    pub(super) fn new(source: &Source) -> Result<Self, Error> {
        let place = source.place.clone();
        let mut opened = None;
        let kind = match (&source.input, source.packing) {
            (Input::Local(file), Packing::None) => {
                Kind::Local(Box::new(Local::new(file.clone(), source.file.clone())))
            }
            (Input::Local(file), _) => {
                opened = Some(file.clone());
                let from = Forwards { opened: file.clone(), at: 0 };
                let ahead = match source.file.clone() {
                    None => unpack(source, BufReader::with_capacity(PACKED.0, from))?,
                    expected => {
                        let file = file.clone();
                        let read = move |at, buffer: &mut [u8]| file.read(at, buffer);
                        unpack(source, Stream::from(fetch(&place, PACKED, expected, read)?))?
                    }
                };
                Kind::Flow(ahead.into())
            }
            (Input::Remote(remote), packing) => {
                let mut again = remote.again();
                let (until, expected) = (remote.size(), source.file.clone());
                match (packing, &source.map.ranges, source.map.size) {
                    (Packing::None, Some(ranges), Some(size)) if expected.is_none() => {
                        Kind::Parts(Box::new(Parts::new(again, ranges, size)))
                    }
                    (packing, ..) => {
                        let raw = packing == Packing::None;
                        let read = move |at, buffer: &mut [u8]| again.read(at, until, buffer);
                        let sizes = if raw { PIECES } else { PACKED };
                        let fetched = fetch(&place, sizes, expected, read)?;
                        let ahead = match raw {
                            true => fetched,
                            false => unpack(source, Stream::from(fetched))?,
                        };
                        Kind::Flow(ahead.into())
                    }
                }
            }
        };
        Ok(Self { kind, place, at: 0, size: source.map.size, opened })
    }

    /// Fills the buffer with the image's bytes at `offset`, a byte count from the image's beginning;
    /// less only at the image's end. Offsets only grow: what lies before the last byte read cannot be
    /// had again. What is skipped is not read at all from raw files and raw addresses, unless a digest
    /// of the whole has to be checked; of packed images it is unpacked and thrown away.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        if offset < self.at {
            return Err(Error::Backwards { offset, at: self.at });
        }
        let left = self.size.map_or(u64::MAX, |size| size.saturating_sub(offset));
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        let result = match &mut self.kind {
            _ if buffer.is_empty() => Ok(0),
            Kind::Local(local) => local.read(offset, buffer),
            Kind::Parts(parts) => parts.read(offset, buffer),
            Kind::Flow(flow) => flow.read(offset, buffer),
        };
        let count = result.map_err(|error| honest(self.opened.as_ref(), error, offset))?;
        self.at = offset + count as u64;
        Ok(count)
    }

    /// The next part of the image at or behind `offset` that is no hole of a sparse file; `None` when
    /// the rest is one hole. Of anything but raw local files, the rest of the image; its end may be
    /// `u64::MAX` when it is not known.
    ///
    /// # Errors
    /// When the operating system cannot tell.
    pub fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>, Error> {
        match &self.kind {
            Kind::Local(local) => local.opened.next_data(offset),
            _ => {
                let rest = offset..self.size.unwrap_or(u64::MAX);
                Ok((!rest.is_empty()).then_some(rest))
            }
        }
    }

    /// Whether [`Reader::next_data`] knows holes.
    pub fn knows_holes(&self) -> bool {
        matches!(self.kind, Kind::Local(_))
    }

    /// Checks whether a local file is still what it was when it was opened.
    ///
    /// # Errors
    /// When it has changed.
    pub fn unchanged(&self) -> Result<(), Error> {
        match (&self.kind, &self.opened) {
            (Kind::Local(local), _) => local.opened.check(self.at),
            (_, Some(opened)) => opened.check(self.at),
            (_, None) => Ok(()),
        }
    }

    /// Checks what is known at the end only, and reads what is left for that: digests of the file and
    /// of the image, that a packed file ends as it should, and that a local file did not change since
    /// it was opened. To be called before the flashed disk is made bootable.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn finish(self) -> Result<(), Error> {
        let Self { kind, at, opened, .. } = self;
        match kind {
            Kind::Local(local) => local.finish(),
            Kind::Parts(_) => Ok(()),
            Kind::Flow(mut flow) => {
                flow.drain().map_err(|error| honest(opened.as_ref(), error, at))?;
                opened.map_or(Ok(()), |opened| opened.check(at))
            }
        }
    }

    /// Where the image lies, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }
}

/// What a file that is changed under its reader looks like is not what is wrong with it.
fn honest(opened: Option<&Opened>, error: Error, at: u64) -> Error {
    opened.and_then(|opened| opened.check(at).err()).unwrap_or(error)
}

/// Pieces that follow each other.
struct Flow {
    ahead: Ahead,
    piece: Option<Piece>,
}

impl From<Ahead> for Flow {
    fn from(ahead: Ahead) -> Self {
        Self { ahead, piece: None }
    }
}

impl Flow {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = offset + filled as u64;
            while self.piece.as_ref().is_none_or(|piece| piece.end() <= at) {
                let used = self.piece.take();
                self.piece = self.ahead.next(used)?;
                if self.piece.is_none() {
                    return Ok(filled);
                }
            }
            filled += self.piece.as_ref().map_or(0, |piece| piece.copy(at, rest));
        }
        Ok(filled)
    }

    fn drain(&mut self) -> Result<(), Error> {
        let mut used = self.piece.take();
        while let Some(piece) = self.ahead.next(used)? {
            used = Some(piece);
        }
        Ok(())
    }
}

/// Reads a file on a thread of its own, and compares its digest at its end.
fn fetch(
    place: &str,
    (size, count): (usize, usize),
    expected: Option<Expected>,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, Error> + Send + 'static,
) -> Result<Ahead, Error> {
    let name = place.to_owned();
    Ahead::start(place, size, count, move |feed| {
        let mut hash = expected.is_some().then(Sha256::new);
        let mut at = 0;
        loop {
            let mut buffer = feed.buffer();
            let mut filled = 0;
            while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match read(at + filled as u64, rest)? {
                    0 => break,
                    count => filled += count,
                }
            }
            buffer.truncate(filled);
            if let Some(hash) = &mut hash {
                hash.update(&buffer);
            }
            if !buffer.is_empty() {
                feed.send(at, buffer)?;
            }
            at += filled as u64;
            if filled < size {
                break;
            }
        }
        match (hash, expected) {
            (Some(hash), Some(expected)) => expected.check(hash, &name),
            _ => Ok(()),
        }
    })
}

/// Unpacks a file on a thread of its own.
fn unpack(source: &Source, from: impl io::BufRead + Send + 'static) -> Result<Ahead, Error> {
    let (place, packing) = (source.place.clone(), source.packing);
    let (size, says, expected) = (source.map.size, source.says.clone(), source.content.clone());
    Ahead::start(&source.place, PIECES.0, PIECES.1, move |feed| {
        let mut at = 0;
        let failed = |error, offset| {
            Error::from_io(error, |error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    Error::CutOff { place: place.clone(), packing: packing.name(), offset }
                }
                _ => Error::Damaged {
                    place: place.clone(),
                    packing: packing.name(),
                    offset,
                    why: error.to_string(),
                },
            })
        };
        let mut from = unpacker(packing, from).map_err(|error| failed(error, 0))?;
        let mut hash = expected.is_some().then(Sha256::new);
        loop {
            let mut buffer = feed.buffer();
            // The first byte too many is one too many.
            let room = size.map_or(u64::MAX, |size| (size - at).saturating_add(1));
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(buffer.len());
            let mut filled = 0;
            while let Some(rest) = buffer.get_mut(filled..room).filter(|rest| !rest.is_empty()) {
                match from.read(rest) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed(error, at + filled as u64)),
                }
            }
            let end = at + filled as u64;
            if let Some(size) = size.filter(|size| end > *size) {
                return Err(Error::TooLong { place: place.clone(), size, says: says.clone() });
            }
            buffer.truncate(filled);
            if let Some(hash) = &mut hash {
                hash.update(&buffer);
            }
            if !buffer.is_empty() {
                feed.send(at, buffer)?;
            }
            at = end;
            if filled < room {
                break;
            }
        }
        if let Some(size) = size.filter(|size| *size != at) {
            return Err(Error::Size { place: place.clone(), found: at, size, says });
        }
        match (hash, &expected) {
            (Some(hash), Some(expected)) => {
                expected.check(hash, &format!("the content of {place}"))
            }
            _ => Ok(()),
        }
    })
}
