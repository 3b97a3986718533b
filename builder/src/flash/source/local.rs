//! Raw images of this machine: read in place, holes told as such.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::Error;
use super::describe::Expected;
use crate::image::output::hex;

/// How far the kernel is asked to read ahead, in bytes.
const AHEAD: u64 = 8 << 20;
const BLOCK: usize = 256 << 10;

static ZEROES: [u8; BLOCK] = [0; BLOCK];

/// An open file, and what it was like then.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub file: Arc<File>,
    pub place: String,
    /// In bytes.
    pub size: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    links: u64,
}

impl State {
    fn of(meta: &Metadata) -> Self {
        Self {
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            links: meta.nlink(),
        }
    }
}

impl Opened {
    /// Opens an image: a file, or a disk to be copied.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let place = path.display().to_string();
        let failed = |source| Error::Read { place: place.clone(), offset: 0, source };
        let no_image = |what: &str| Error::NoImage { place: place.clone(), what: what.to_owned() };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        // Before it is opened: that of a pipe would wait for a writer.
        if !kind.is_file() && !kind.is_block_device() {
            let what = if kind.is_dir() { "a folder, not an image" } else { "no file" };
            return Err(no_image(what));
        }
        let file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let size = match kind.is_block_device() {
            true => seek(&file, SeekFrom::End(0)).map_err(|error| failed(error.into()))?,
            false => meta.len(),
        };
        if size == 0 {
            return Err(no_image("empty"));
        }
        // Hints: nothing is wrong where they are not taken.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        Ok(Self { file: Arc::new(file), state: State::of(&meta), place, size })
    }

    /// Fills the buffer; less only at the end of the file.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = offset + filled as u64;
            match self.file.read_at(rest, at) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Read { place: self.place.clone(), offset: at, source });
                }
            }
        }
        Ok(filled)
    }

    /// Whether it is still what it was.
    pub fn check(&self, offset: u64) -> Result<(), Error> {
        let changed = |what: String| Error::Changed { place: self.place.clone(), offset, what };
        let meta = self.file.metadata().map_err(|source| Error::Read {
            place: self.place.clone(),
            offset,
            source,
        })?;
        let (was, is) = (self.state, State::of(&meta));
        if was.size != is.size {
            return Err(changed(format!("it had {} bytes, and has {} now", was.size, is.size)));
        }
        // A new file in its place changes the old one's links and no byte of it.
        if was.modified != is.modified || (was.changed != is.changed && was.links == is.links) {
            return Err(changed("its times are others now".to_owned()));
        }
        Ok(())
    }

    /// Names its content as well as a file can.
    pub fn identity(&self) -> String {
        let State { size, modified, .. } = self.state;
        let ino = self.file.metadata().map(|meta| (meta.dev(), meta.ino())).unwrap_or_default();
        format!("{ino:?} {size} {modified:?}")
    }

    /// The next part with data at or behind `offset`.
    pub fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, Error> {
        if offset >= self.size {
            return Ok(None);
        }
        let failed =
            |error: Errno| Error::Read { place: self.place.clone(), offset, source: error.into() };
        let start = match seek(&*self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // A disk, or a file system without holes: all is data.
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(Some(offset..self.size)),
            Err(error) => return Err(failed(error)),
        };
        let end = seek(&*self.file, SeekFrom::Hole(start)).map_err(failed)?;
        let range = start..end.min(self.size);
        Ok((!range.is_empty()).then_some(range))
    }
}

/// Sequential reading, for unpackers.
pub(super) struct Forwards {
    pub opened: Opened,
    pub at: u64,
}

impl Read for Forwards {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.opened.read(self.at, buffer).map_err(Error::into_io)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// A reader of a raw image.
pub(super) struct Local {
    pub opened: Opened,
    whole: Option<(Sha256, Expected)>,
    /// How much of it the digest has, in bytes.
    hashed: u64,
    advised: u64,
}

impl Local {
    pub fn new(opened: Opened, expected: Option<Expected>) -> Self {
        let whole = expected.map(|expected| (Sha256::new(), expected));
        Self { opened, whole, hashed: 0, advised: 0 }
    }

    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        self.hash_to(offset)?;
        let count = self.opened.read(offset, buffer)?;
        let end = offset + count as u64;
        if count < buffer.len() && end < self.opened.size {
            let what = format!("it ends after {end} of {} bytes", self.opened.size);
            return Err(Error::Changed { place: self.opened.place.clone(), offset: end, what });
        }
        if let Some((hash, _)) = &mut self.whole {
            hash.update(buffer.get(..count).unwrap_or_default());
            self.hashed = end;
        }
        // So that the disk works while the caller writes.
        if end + AHEAD / 2 > self.advised {
            let from = self.advised.max(end);
            self.advised = end + AHEAD;
            let length = std::num::NonZeroU64::new(self.advised - from);
            let _ = fadvise(&*self.opened.file, from, length, Advice::WillNeed);
        }
        Ok(count)
    }

    /// Takes what the caller skips into the digest of the whole.
    fn hash_to(&mut self, offset: u64) -> Result<(), Error> {
        let Some((hash, _)) = &mut self.whole else { return Ok(()) };
        let mut buffer = Vec::new();
        while self.hashed < offset {
            let data = self.opened.next_data(self.hashed)?.unwrap_or(offset..offset);
            let hole = data.start.min(offset) - self.hashed;
            let mut left = hole;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
                hash.update(ZEROES.get(..most).unwrap_or_default());
                left -= most as u64;
            }
            self.hashed += hole;
            let end = data.end.min(offset);
            while self.hashed < end {
                let most = usize::try_from(end - self.hashed).unwrap_or(usize::MAX).min(BLOCK);
                buffer.resize(most, 0);
                let count = self.opened.read(self.hashed, &mut buffer)?;
                if count < most {
                    return self.opened.check(self.hashed).and(Err(Error::Read {
                        place: self.opened.place.clone(),
                        offset: self.hashed,
                        source: io::ErrorKind::UnexpectedEof.into(),
                    }));
                }
                hash.update(&buffer);
                self.hashed += most as u64;
            }
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<(), Error> {
        self.hash_to(self.opened.size)?;
        self.opened.check(self.opened.size)?;
        match self.whole {
            Some((hash, expected)) => expected.check(hash, &self.opened.place),
            None => Ok(()),
        }
    }
}

impl Expected {
    /// Whether a digest is the one that it should be.
    pub fn check(&self, hash: Sha256, place: &str) -> Result<(), Error> {
        let found = hex(hash);
        if found == self.sha256 {
            return Ok(());
        }
        Err(Error::Digest {
            place: place.to_owned(),
            found,
            expected: self.sha256.clone(),
            list: self.list.clone(),
        })
    }
}
