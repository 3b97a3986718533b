//! Formats, each a stream of bytes made from data that is known beforehand.

pub mod archive;
pub mod chunk;
pub mod copy;
pub mod cpio;
pub mod deflate;
pub mod direct;
pub mod disk;
pub mod fat;
pub mod gpt;
pub mod hashing;
pub mod iso;
pub mod layout;
pub mod output;
pub mod packing;
pub mod pool;
pub mod pxe;
pub mod qcow2;
pub mod reader;
pub mod ufs;
pub mod unpack;
pub mod vmdk;
pub mod vmx;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes per sector of the images made here.
pub const SECTOR: u64 = 512;

/// Takes a stream of bytes in which long runs of zeroes are told as such.
pub trait Sink {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When writing fails.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Takes `count` zero bytes.
    ///
    /// # Errors
    /// When writing fails.
    fn zeroes(&mut self, count: u64) -> io::Result<()>;

    /// Takes `count` zero bytes that nobody will read: free space. A disk that the image is written
    /// to may keep there what it has.
    ///
    /// # Errors
    /// When writing fails.
    fn unused(&mut self, count: u64) -> io::Result<()> {
        self.zeroes(count)
    }

    /// What comes from here on, up to [`Sink::end_personal`], is the personal part `path`: it may be
    /// overwritten later, and is told apart from the rest where that matters.
    ///
    /// # Errors
    /// When it cannot begin here.
    fn begin_personal(&mut self, path: &str) -> io::Result<()> {
        let _ = path;
        Ok(())
    }

    /// Ends a personal part.
    ///
    /// # Errors
    /// When it cannot end here.
    fn end_personal(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Vec<u8> {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn zeroes(&mut self, count: u64) -> io::Result<()> {
        let count = usize::try_from(count).map_err(io::Error::other)?;
        self.resize(self.len() + count, 0);
        Ok(())
    }
}

/// The content of a file of an image: small ones in memory, large ones by reference.
#[derive(Debug, Clone)]
pub enum Content {
    /// These bytes.
    Bytes(Arc<[u8]>),
    /// The bytes of a personal part. On a disk it begins and ends at multiples of
    /// [`headnode_model::personal::SIZE`], and is told to the [`Sink`] as what it is.
    Personal(Arc<[u8]>),
    /// A file of this machine, and its size in bytes when it was added.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
}

impl Content {
    /// The content of a file of this machine.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn of_file(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let size = std::fs::metadata(&path)?.len();
        Ok(Self::File { path, size })
    }

    /// Whether it is a personal part.
    pub fn is_personal(&self) -> bool {
        matches!(self, Self::Personal(_))
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) | Self::Personal(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// Opens it for reading from the start.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::Bytes(bytes) | Self::Personal(bytes) => Box::new(&bytes[..]),
            Self::File { path, .. } => Box::new(File::open(path)?),
        })
    }

    /// Its CRC-32, as in gzip and PNG.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn crc32(&self) -> io::Result<u32> {
        let mut hash = crc32fast::Hasher::new();
        let mut data = self.open()?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match data.read(&mut buffer)? {
                0 => return Ok(hash.finalize()),
                count => hash.update(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}

impl<T: Into<Vec<u8>>> From<T> for Content {
    fn from(bytes: T) -> Self {
        Self::Bytes(Arc::from(bytes.into()))
    }
}
