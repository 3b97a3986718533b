//! Where an image goes: a sparse file, plain or compressed, that appears under its name only when
//! it is whole; hashed while it is written.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use headnode_model::manifest::Range;
use sha2::{Digest, Sha256};

use super::Sink;

/// The unit in which holes are found: a block of zeroes is not written. A multiple of the 4 KiB
/// that bmap tools count in, and a divisor of the partitions' alignment.
pub const BLOCK: usize = 64 * 1024;

static ZEROES: [u8; BLOCK] = [0; BLOCK];

/// How an image file is packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all: a sparse raw image.
    #[default]
    None,
    /// zstd, on two threads.
    Zstd,
    /// gzip, for tools that know nothing newer.
    Gzip,
}

impl Compression {
    /// The suffix of a file packed so, with its dot.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    /// How a file that begins with these bytes is packed.
    pub fn of_magic(head: &[u8]) -> Self {
        if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else if head.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else {
            Self::None
        }
    }
}

enum Packer {
    Raw(File),
    Zstd(Box<zstd::Encoder<'static, BufWriter<File>>>),
    Gzip(Box<flate2::write::GzEncoder<BufWriter<File>>>),
}

impl Packer {
    fn new(file: File, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Raw(file),
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(BufWriter::new(file), 3)?;
                encoder.multithread(2)?;
                encoder.include_checksum(true)?;
                Self::Zstd(Box::new(encoder))
            }
            Compression::Gzip => {
                let level = flate2::Compression::new(1);
                Self::Gzip(Box::new(flate2::GzBuilder::new().write(BufWriter::new(file), level)))
            }
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Raw(file) => file.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
        }
    }

    fn skip(&mut self, block: &[u8]) -> io::Result<()> {
        match self {
            Self::Raw(file) => file.seek(SeekFrom::Current(block.len() as i64)).map(|_| ()),
            _ => self.write(block),
        }
    }

    fn finish(self, size: u64) -> io::Result<File> {
        let inner =
            |buffer: BufWriter<File>| buffer.into_inner().map_err(|error| error.into_error());
        match self {
            Self::Raw(file) => file.set_len(size).map(|()| file),
            Self::Zstd(encoder) => inner(encoder.finish()?),
            Self::Gzip(encoder) => inner(encoder.finish()?),
        }
    }
}

/// Writes an image from its first byte to its last one.
pub struct Output {
    packer: Packer,
    block: Vec<u8>,
    /// Bytes before `block`.
    offset: u64,
    /// Bytes that were no holes.
    mapped: u64,
    ranges: Vec<Range>,
    range: Option<(u64, Sha256)>,
    partition: Option<Sha256>,
    progress: Box<dyn FnMut(u64)>,
}

/// What was written.
pub struct Written {
    /// The file, not yet flushed to the disk.
    pub file: File,
    /// The image's size in bytes, unpacked.
    pub size: u64,
    /// Bytes that are no holes.
    pub mapped: u64,
    /// The parts that are no holes.
    pub ranges: Vec<Range>,
}

impl Output {
    /// Writes into `file`; `progress` is called now and then with the bytes of the image so far.
    ///
    /// # Errors
    /// When the compressor cannot be started.
    pub fn new(
        file: File,
        compression: Compression,
        progress: impl FnMut(u64) + 'static,
    ) -> io::Result<Self> {
        Ok(Self {
            packer: Packer::new(file, compression)?,
            block: Vec::with_capacity(BLOCK),
            offset: 0,
            mapped: 0,
            ranges: Vec::new(),
            range: None,
            partition: None,
            progress: Box::new(progress),
        })
    }

    /// Bytes of the image so far.
    pub fn position(&self) -> u64 {
        self.offset + self.block.len() as u64
    }

    /// Zeroes up to an offset in bytes.
    ///
    /// # Errors
    /// When writing fails, or when the offset is behind us.
    pub fn zeroes_to(&mut self, offset: u64) -> io::Result<()> {
        let missing = offset.checked_sub(self.position());
        self.zeroes(missing.ok_or_else(|| io::Error::other("the image's layout runs backwards"))?)
    }

    /// Begins to hash a partition; it must begin and end at multiples of [`BLOCK`].
    ///
    /// # Errors
    /// When it does not.
    pub fn begin_partition(&mut self) -> io::Result<()> {
        self.at_boundary()?;
        self.partition = Some(Sha256::new());
        Ok(())
    }

    /// The SHA-256 of the partition that ends here, in hex.
    ///
    /// # Errors
    /// When it does not end at a multiple of [`BLOCK`].
    pub fn end_partition(&mut self) -> io::Result<String> {
        self.at_boundary()?;
        Ok(hex(self.partition.take().unwrap_or_default()))
    }

    fn at_boundary(&self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        Err(io::Error::other("a partition does not begin or end at a multiple of 64 KiB"))
    }

    /// Ends the image; its size is what has been written.
    ///
    /// # Errors
    /// When writing the rest fails.
    pub fn finish(mut self) -> io::Result<Written> {
        self.flush_block()?;
        self.end_range();
        let file = self.packer.finish(self.offset)?;
        (self.progress)(self.offset);
        Ok(Written { file, size: self.offset, mapped: self.mapped, ranges: self.ranges })
    }

    fn flush_block(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        if !block.is_empty() {
            let hole = ZEROES.starts_with(&block);
            self.put(&block, hole)?;
        }
        self.block = block;
        self.block.clear();
        Ok(())
    }

    fn put(&mut self, block: &[u8], hole: bool) -> io::Result<()> {
        if let Some(partition) = &mut self.partition {
            partition.update(block);
        }
        if hole {
            self.end_range();
            self.packer.skip(block)?;
        } else {
            let (_, hash) = self.range.get_or_insert_with(|| (self.offset, Sha256::new()));
            hash.update(block);
            self.packer.write(block)?;
            self.mapped += block.len() as u64;
        }
        self.offset += block.len() as u64;
        if self.offset.is_multiple_of(4 << 20) {
            (self.progress)(self.offset);
        }
        Ok(())
    }

    fn end_range(&mut self) {
        if let Some((offset, hash)) = self.range.take() {
            self.ranges.push(Range { offset, length: self.offset - offset, sha256: hex(hash) });
        }
    }
}

impl Sink for Output {
    fn data(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK {
                self.flush_block()?;
            }
        }
        Ok(())
    }

    fn zeroes(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            if self.block.is_empty() && count >= BLOCK as u64 {
                self.put(&ZEROES, true)?;
                count -= BLOCK as u64;
            } else {
                let room = (BLOCK - self.block.len()) as u64;
                let now = usize::try_from(count.min(room)).unwrap_or(BLOCK);
                self.data(&ZEROES[..now])?;
                count -= now as u64;
            }
        }
        Ok(())
    }
}

/// A finished SHA-256 as hexadecimal digits.
pub fn hex(hash: Sha256) -> String {
    use std::fmt::Write as _;
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn holes_are_found_hashed_and_left_out() {
        let file = tempfile::tempfile().unwrap();
        let mut out = Output::new(file, Compression::None, |_| ()).unwrap();
        out.data(b"head").unwrap();
        out.zeroes_to(1 << 20).unwrap();
        out.begin_partition().unwrap();
        out.zeroes(BLOCK as u64).unwrap();
        out.data(&[7; BLOCK]).unwrap();
        out.zeroes_to(2 << 20).unwrap();
        let digest = out.end_partition().unwrap();
        let mut written = out.finish().unwrap();
        assert_eq!((written.size, written.mapped), (2 << 20, 2 * BLOCK as u64));
        let offsets: Vec<_> = written.ranges.iter().map(|r| (r.offset, r.length)).collect();
        assert_eq!(offsets, [(0, BLOCK as u64), ((1 << 20) + BLOCK as u64, BLOCK as u64)]);
        let mut bytes = Vec::new();
        written.file.rewind().unwrap();
        written.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 2 << 20);
        let mut hash = Sha256::new();
        hash.update(&bytes[1 << 20..]);
        assert_eq!(digest, hex(hash));
        let mut hash = Sha256::new();
        hash.update(&bytes[..BLOCK]);
        assert_eq!(written.ranges[0].sha256, hex(hash));
    }
}
