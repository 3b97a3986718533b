//! Copies a content into a stream, and holds it to the size that was planned.

use std::io::{self, Read};

use super::{Content, Sink};

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// Which side failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The content cannot be read, or has changed.
    #[error("{0}")]
    Read(#[source] io::Error),
    /// The stream cannot be written.
    #[error("{0}")]
    Write(#[source] io::Error),
}

/// Reads a content; an error when it has another size than when it was added.
pub struct Exact<'a> {
    data: Box<dyn Read + 'a>,
    left: u64,
}

impl<'a> Exact<'a> {
    /// Opens a content.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(content: &'a Content) -> io::Result<Self> {
        Ok(Self { data: content.open()?, left: content.size() })
    }
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            return match self.data.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::other("it became longer while the image was written")),
            };
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.data.read(buffer.get_mut(..most).unwrap_or_default())?;
        if count == 0 {
            let left = self.left;
            let what = format!("it became {left} bytes shorter while the image was written");
            return Err(io::Error::other(what));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Bytes that are read at once of a content: no more than it has, most are small.
pub fn buffer_size(content: &Content) -> usize {
    // One more, so that its end is seen by the first reading.
    usize::try_from(content.size()).map_or(BUFFER, |size| size.saturating_add(1).min(BUFFER))
}

/// Copies all of the content of the file `path`; a personal part is told as such.
///
/// # Errors
/// When it cannot be read, has another size than when it was added, or writing fails.
pub fn copy_file(path: &str, content: &Content, out: &mut dyn Sink) -> Result<(), Error> {
    if !content.is_personal() {
        return copy(content, out);
    }
    out.begin_personal(path).map_err(Error::Write)?;
    copy(content, out)?;
    out.end_personal().map_err(Error::Write)
}

/// Copies all of a content.
///
/// # Errors
/// When it cannot be read, has another size than when it was added, or writing fails.
pub fn copy(content: &Content, out: &mut dyn Sink) -> Result<(), Error> {
    let mut data = Exact::open(content).map_err(Error::Read)?;
    let mut buffer = vec![0; buffer_size(content)];
    loop {
        match data.read(&mut buffer).map_err(Error::Read)? {
            0 => return Ok(()),
            count => {
                out.data(buffer.get(..count).unwrap_or_default()).map_err(Error::Write)?;
            }
        }
    }
}
