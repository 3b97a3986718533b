//! Writes cpio archives in the `newc` format, the one that Linux unpacks as its initial file
//! system (Linux: `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Streaming: an entry's data goes from a reader to the writer without being held. The result
//! depends on the entries alone: inode numbers count up from 1, device numbers are 0.

use std::io::{self, Read, Write};

/// The largest file that the format can hold: its size field has 8 hexadecimal digits.
pub const MAX_FILE: u64 = 0xffff_ffff;
/// The longest path and symbolic link target that Linux unpacks (`PATH_MAX` with its final NUL).
const MAX_PATH: usize = 4095;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is empty, absolute, too long, or has a part that is empty, `.` or `..`.
    #[error("{0:?} is no path for a cpio archive: it must be relative, plain and below 4096 bytes")]
    Path(String),
    /// Entries came in another order than [`Writer::append`] asks for, or twice.
    #[error("cpio entry {path:?} follows {before:?}: entries must be sorted and unique")]
    Order {
        /// The entry before it.
        before: String,
        /// The entry that is out of order.
        path: String,
    },
    /// The file is larger than [`MAX_FILE`].
    #[error("{path:?} has {size} bytes; a cpio archive holds files of up to {MAX_FILE}")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// The reader gave another number of bytes than was announced.
    #[error("{path:?} was announced with {announced} bytes, but its content is {}",
        if *.longer { "longer" } else { "shorter" })]
    Size {
        /// The file.
        path: String,
        /// The size that was announced.
        announced: u64,
        /// Whether there was more than announced.
        longer: bool,
    },
    /// Reading an entry's data failed.
    #[error("reading the content of {path:?}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the reader said.
        source: io::Error,
    },
    /// Writing the archive failed.
    #[error("writing a cpio archive: {0}")]
    Write(#[source] io::Error),
}

/// What an entry of the archive is called and who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path below the archive's root, without a leading `/`.
    pub path: &'a str,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change, seconds since 1970.
    pub mtime: u32,
    /// How many names the file has; 1 unless it has hard links.
    pub links: u32,
    /// The inode number that an earlier name of the same file was given, for a hard link.
    pub inode: Option<u32>,
    /// Major and minor number of a device node; (0, 0) for everything else.
    pub device: (u32, u32),
}

impl<'a> Entry<'a> {
    fn new(path: &'a str, mode: u32, mtime: u32) -> Self {
        Self { path, mode, uid: 0, gid: 0, mtime, links: 1, inode: None, device: (0, 0) }
    }

    /// A folder of root's; `mode` are its permission bits.
    pub fn dir(path: &'a str, mode: u32, mtime: u32) -> Self {
        Self::new(path, S_IFDIR | (mode & !S_IFMT), mtime)
    }

    /// A regular file of root's; `mode` are its permission bits.
    pub fn file(path: &'a str, mode: u32, mtime: u32) -> Self {
        Self::new(path, S_IFREG | (mode & !S_IFMT), mtime)
    }

    /// A symbolic link of root's; its data is the target.
    pub fn symlink(path: &'a str, mtime: u32) -> Self {
        Self::new(path, S_IFLNK | 0o777, mtime)
    }
}

/// Writes an archive entry by entry.
///
/// ```
/// use headnode::image::cpio::{Entry, Writer};
/// let mut archive = Writer::new(Vec::new());
/// archive.append(&Entry::dir("etc", 0o755, 0), 0, &mut std::io::empty())?;
/// archive.append(&Entry::file("etc/motd", 0o644, 0), 6, &mut &b"hello\n"[..])?;
/// let bytes = archive.finish()?;
/// assert_eq!(bytes.len() % 512, 0);
/// # Ok::<(), headnode::image::cpio::Error>(())
/// ```
pub struct Writer<W: Write> {
    out: W,
    next_inode: u32,
    last: Option<String>,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// An archive without entries.
    pub fn new(out: W) -> Self {
        Self { out, next_inode: 1, last: None, written: 0 }
    }

    /// Adds an entry with `size` bytes of data and returns its inode number.
    ///
    /// Entries come sorted by path, a folder before what is in it (`a`, `a/b`, `a.b`). Hard links:
    /// the first name carries the data, further ones give its inode number and no data; all of
    /// them tell the number of links. Linux, GNU cpio and libarchive read that.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn append(
        &mut self,
        entry: &Entry<'_>,
        size: u64,
        data: &mut dyn Read,
    ) -> Result<u32, Error> {
        let path = entry.path;
        if path.len() > MAX_PATH || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::Path(path.to_owned()));
        }
        if let Some(last) = &self.last
            && !last.split('/').lt(path.split('/'))
        {
            return Err(Error::Order { before: last.clone(), path: path.to_owned() });
        }
        let Ok(size32) = u32::try_from(size) else {
            return Err(Error::TooLarge { path: path.to_owned(), size });
        };
        let inode = entry.inode.unwrap_or(self.next_inode);
        if entry.inode.is_none() {
            self.next_inode += 1;
        }
        self.header(entry, inode, size32).map_err(Error::Write)?;
        let wrong = |longer| Error::Size { path: path.to_owned(), announced: size, longer };
        let copied = copy(data, size, &mut self.out, path)?;
        if copied < size {
            return Err(wrong(false));
        }
        let mut one = [0];
        let more = data.read(&mut one);
        if more.map_err(|source| Error::Read { path: path.to_owned(), source })? > 0 {
            return Err(wrong(true));
        }
        self.written += size;
        self.pad(4).map_err(Error::Write)?;
        self.last = Some(path.to_owned());
        Ok(inode)
    }

    /// Ends the archive, filled up to a multiple of 512 bytes, and gives the writer back.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(mut self) -> Result<W, Error> {
        self.header(&Entry::new("TRAILER!!!", 0, 0), 0, 0).map_err(Error::Write)?;
        self.pad(512).map_err(Error::Write)?;
        Ok(self.out)
    }

    fn header(&mut self, entry: &Entry<'_>, inode: u32, size: u32) -> io::Result<()> {
        let name_size = entry.path.len() + 1;
        let fields = [
            inode,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.links,
            entry.mtime,
            size,
            0,
            0,
            entry.device.0,
            entry.device.1,
            u32::try_from(name_size).unwrap_or(u32::MAX),
            0,
        ];
        let mut header = String::with_capacity(110 + name_size);
        header.push_str("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        header.push_str(entry.path);
        header.push('\0');
        self.out.write_all(header.as_bytes())?;
        self.written += header.len() as u64;
        self.pad(4)
    }

    fn pad(&mut self, unit: u64) -> io::Result<()> {
        const ZEROES: [u8; 512] = [0; 512];
        let missing = self.written.next_multiple_of(unit) - self.written;
        let zeroes = ZEROES.get(..usize::try_from(missing).unwrap_or(0)).unwrap_or(&ZEROES);
        self.written += missing;
        self.out.write_all(zeroes)
    }
}

/// Like `io::copy`, but tells a failing reader from a failing writer.
fn copy(data: &mut dyn Read, size: u64, out: &mut dyn Write, path: &str) -> Result<u64, Error> {
    let mut buffer = vec![0; 64 * 1024];
    let mut data = data.take(size);
    let mut copied = 0;
    loop {
        let count = match data.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        out.write_all(buffer.get(..count).unwrap_or(&buffer)).map_err(Error::Write)?;
        copied += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(
        archive: &mut Writer<Vec<u8>>,
        entry: &Entry<'_>,
        size: u64,
        mut data: &[u8],
    ) -> Result<u32, Error> {
        archive.append(entry, size, &mut data)
    }

    #[test]
    fn an_independent_reader_reads_it_back() {
        let mut archive = Writer::new(Vec::new());
        append(&mut archive, &Entry::dir("a", 0o755, 7), 0, b"").unwrap();
        let first = Entry { links: 2, ..Entry::file("a/b", 0o600, 7) };
        let inode = append(&mut archive, &first, 3, b"one").unwrap();
        let second = Entry { links: 2, inode: Some(inode), ..Entry::file("a/c", 0o600, 7) };
        assert_eq!(append(&mut archive, &second, 0, b"").unwrap(), inode);
        append(&mut archive, &Entry::symlink("a.d", 7), 3, b"a/b").unwrap();
        let bytes = archive.finish().unwrap();
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            let e = reader.entry();
            seen.push((e.name().to_owned(), e.mode(), e.ino(), e.nlink(), e.mtime(), data));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("a".to_owned(), 0o040_755, 1, 1, 7, b"".to_vec()),
            ("a/b".to_owned(), 0o100_600, 2, 2, 7, b"one".to_vec()),
            ("a/c".to_owned(), 0o100_600, 2, 2, 7, b"".to_vec()),
            ("a.d".to_owned(), 0o120_777, 3, 1, 7, b"a/b".to_vec()),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn wrong_order_path_and_size_are_refused() {
        let mut archive = Writer::new(Vec::new());
        append(&mut archive, &Entry::file("b", 0o644, 0), 0, b"").unwrap();
        let order = append(&mut archive, &Entry::file("a", 0o644, 0), 0, b"");
        assert!(matches!(order, Err(Error::Order { .. })));
        let twice = append(&mut archive, &Entry::file("b", 0o644, 0), 0, b"");
        assert!(matches!(twice, Err(Error::Order { .. })));
        for path in ["", "/c", "c//d", "../c", "c/."] {
            let error = append(&mut archive, &Entry::file(path, 0o644, 0), 0, b"");
            assert!(matches!(error, Err(Error::Path(_))), "{path}");
        }
        let short = append(&mut archive, &Entry::file("c", 0o644, 0), 2, b"x");
        assert!(short.unwrap_err().to_string().contains("shorter"));
        let long = append(&mut archive, &Entry::file("d", 0o644, 0), 0, b"x");
        assert!(long.unwrap_err().to_string().contains("longer"));
        let large = append(&mut archive, &Entry::file("e", 0o644, 0), MAX_FILE + 1, b"");
        assert!(matches!(large, Err(Error::TooLarge { .. })));
    }
}
