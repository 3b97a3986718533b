//! What readers of virtual machines' disks share: the raw image that they make, and bounded reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::output::BLOCK;

/// The largest image that is unpacked, in bytes.
pub const MAX_SIZE: u64 = 16 << 40;

static ZEROES: [u8; BLOCK] = [0; BLOCK];

/// Why a file cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error("unpacking the image: {0}")]
    Io(#[from] io::Error),
    /// Its structures contradict themselves.
    #[error("the {format} file is damaged: {what}")]
    Damaged {
        /// The format.
        format: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// It cannot be read here.
    #[error("the {format} file cannot be read here: {what}; `qemu-img convert -O raw` may help")]
    Unsupported {
        /// The format.
        format: &'static str,
        /// What is not supported.
        what: &'static str,
    },
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// An unnamed sparse file that becomes the raw image.
pub struct Raw {
    file: File,
    size: u64,
}

impl Raw {
    /// An image of this many zero bytes.
    ///
    /// # Errors
    /// When it is too large or cannot be created.
    pub fn new(size: u64) -> io::Result<Self> {
        if size > MAX_SIZE {
            return Err(io::Error::other(format!(
                "an image of {size} bytes is larger than 16 TiB"
            )));
        }
        let file = tempfile::tempfile()?;
        file.set_len(size)?;
        Ok(Self { file, size })
    }

    /// Writes what is within the image and not zero.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let room = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        for (number, block) in (0..).zip(bytes.chunks(BLOCK)) {
            if !ZEROES.starts_with(block) {
                self.file.write_all_at(block, offset + number * BLOCK as u64)?;
            }
        }
        Ok(())
    }

    /// The file.
    pub fn finish(self) -> File {
        self.file
    }
}

/// The bytes of a file that its tables have not named yet. No place is named twice in files that
/// programs write; a small file whose tables name one place over and over would fill a disk.
pub struct Unnamed(u64);

impl Unnamed {
    /// All bytes of a file.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn all(file: &File) -> io::Result<Self> {
        Ok(Self(file.metadata()?.len()))
    }

    /// Takes so many bytes of a file of this format.
    ///
    /// # Errors
    /// When not so many are left.
    pub fn take(&mut self, bytes: u64, format: &'static str) -> Result<(), Error> {
        let what = "its tables name one place more than once";
        let left = self.0.checked_sub(bytes).ok_or(Error::Damaged { format, what })?;
        self.0 = left;
        Ok(())
    }
}

/// Reads so many bytes at an offset; the caller bounds them.
///
/// # Errors
/// When the file ends before.
pub fn read_at(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    // So that nothing is set aside for what is not there.
    let end =
        offset.checked_add(length).filter(|end| file.metadata().is_ok_and(|m| *end <= m.len()));
    if end.is_none() {
        let what = "a part of the file lies behind its end";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

/// Four bytes, most significant first; 0 behind the end.
pub fn be32(from: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes(from, at))
}

/// Eight bytes, most significant first; 0 behind the end.
pub fn be64(from: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes(from, at))
}

/// Four bytes, least significant first; 0 behind the end.
pub fn le32(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(from, at))
}

/// Eight bytes, least significant first; 0 behind the end.
pub fn le64(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(from, at))
}
