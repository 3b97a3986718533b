//! Where an image goes: one stream that is hashed and made into several files at once, each by a
//! sink of its own: a sparse raw file, packed ones, disks of virtual machines.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use headnode_model::manifest::{Personal, Range};
use sha2::{Digest, Sha256};

use super::Sink;
use super::chunk::{Chunk, Pool as Chunks};
use super::deflate::GzipWriter;
use super::direct::Raw;
use super::hashing::Hasher;
use super::hashing::twin::Twin;
use super::pool::Pool;
use crate::platform::cache::hex as bytes_hex;

/// The unit in which holes are found: a block of zeroes is not written. A multiple of the 4 KiB
/// that bmap tools count in.
pub const BLOCK: usize = 64 * 1024;
// So that a personal part is a range of its own.
const _: () = assert!(headnode_model::personal::SIZE.is_multiple_of(BLOCK));

/// The longest range with a digest of its own: what has to be read to find damage, or written again
/// when a key turns out to be bad there.
pub const MAX_RANGE: u64 = 8 << 20;

/// Bytes that are handed on at once: few hand-overs, and they stay in the caches.
const PIECE: usize = 16 * BLOCK;
/// Pieces that are filled, hashed or written at most; with their size it bounds memory.
const PIECES: usize = 8;

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
}

/// Makes a file of an image's stream.
///
/// It is given whole blocks of [`BLOCK`] bytes, each at a multiple of that, and holes that begin at
/// such; only the last block or hole of the image may be shorter.
pub trait ImageSink: Sink {
    /// Takes the next blocks, which others look at as well.
    ///
    /// # Errors
    /// When writing fails.
    fn chunk(&mut self, chunk: &Arc<Chunk>) -> io::Result<()> {
        chunk.bytes().chunks(BLOCK).try_for_each(|block| self.data(block))
    }

    /// Ends the file; the image is as large as what has been given.
    ///
    /// # Errors
    /// When writing the rest fails.
    fn finish(self: Box<Self>) -> io::Result<File>;
}

/// A sink for the raw image, packed or not.
///
/// # Errors
/// When the compressor cannot be started.
pub fn packed(
    file: File,
    compression: Compression,
    pool: &Arc<Pool>,
) -> io::Result<Box<dyn ImageSink>> {
    Ok(match compression {
        Compression::None => Box::new(Raw::new(file)?),
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(BufWriter::new(file), 3)?;
            // The result is the same for any number of threads above 0.
            encoder.multithread(2)?;
            encoder.include_checksum(true)?;
            Box::new(Zstd(encoder))
        }
        Compression::Gzip => {
            Box::new(Gzip(GzipWriter::new(BufWriter::new(file), Arc::clone(pool))?))
        }
    })
}

struct Zstd(zstd::Encoder<'static, BufWriter<File>>);

impl Sink for Zstd {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn zeroes(&mut self, count: u64) -> io::Result<()> {
        io::copy(&mut io::repeat(0).take(count), &mut self.0).map(|_| ())
    }
}

impl ImageSink for Zstd {
    fn finish(self: Box<Self>) -> io::Result<File> {
        self.0.finish()?.into_inner().map_err(|error| error.into_error())
    }
}

struct Gzip(GzipWriter<BufWriter<File>>);

impl Sink for Gzip {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn zeroes(&mut self, count: u64) -> io::Result<()> {
        self.0.zeroes(count)
    }
}

impl ImageSink for Gzip {
    fn finish(self: Box<Self>) -> io::Result<File> {
        self.0.finish()?.into_inner().map_err(|error| error.into_error())
    }
}

/// Writes an image from its first byte to its last one.
pub struct Output {
    sinks: Vec<Box<dyn ImageSink>>,
    block: Vec<u8>,
    /// Whether all of `block` is unused.
    unused: bool,
    /// Bytes before `block`.
    offset: u64,
    /// Bytes that are used.
    mapped: u64,
    /// The ranges so far, each with its path when it is a personal part.
    ranges: Vec<(Range, Option<String>)>,
    /// Where the range that is being written begins.
    range: Option<u64>,
    /// The personal part that is being written.
    personal: Option<String>,
    chunks: Chunks,
    /// Blocks that neither sinks nor hashers have got yet; they come before `hole`.
    piece: Option<Chunk>,
    /// Zero bytes that they have not got yet.
    hole: u64,
    /// Whether these are used.
    hole_used: bool,
    hashers: Hashers,
    progress: Box<dyn FnMut(u64)>,
}

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    /// Zeroes that count.
    Zeroes,
    Unused,
}

/// The threads that hash, each begun when it is needed first.
#[derive(Default)]
struct Hashers {
    ranges: Option<Hasher<Chunk>>,
    /// The image as a whole, when the thread of the ranges does not do that as well.
    whole: Option<Hasher<Chunk>>,
    /// Whether it does.
    together: bool,
}

fn begun(hasher: &mut Option<Hasher<Chunk>>) -> io::Result<&mut Hasher<Chunk>> {
    let there = match hasher.take() {
        Some(there) => there,
        None => Hasher::new(PIECES)?,
    };
    Ok(hasher.insert(there))
}

/// What was written.
pub struct Written {
    /// The file of each sink, in the order of the sinks, not yet flushed to the disk.
    pub files: Vec<File>,
    /// The image's size in bytes, unpacked.
    pub size: u64,
    /// Bytes that are used.
    pub mapped: u64,
    /// The used parts, in pieces of at most [`MAX_RANGE`] bytes. What lies between them is zeroes as
    /// well, but a disk need not have them.
    pub ranges: Vec<Range>,
    /// The personal parts, which no range covers, each with its digest.
    pub personal: Vec<Personal>,
    /// SHA-256 of the image, unpacked, in hex; when it was asked for.
    pub sha256: Option<String>,
}

impl Output {
    /// Feeds these sinks; `progress` is called now and then with the bytes of the image so far.
    pub fn new(sinks: Vec<Box<dyn ImageSink>>, progress: impl FnMut(u64) + 'static) -> Self {
        Self {
            sinks,
            block: Vec::with_capacity(BLOCK),
            unused: true,
            offset: 0,
            mapped: 0,
            ranges: Vec::new(),
            range: None,
            personal: None,
            chunks: Chunks::new(PIECES, PIECE),
            piece: None,
            hole: 0,
            hole_used: false,
            hashers: Hashers::default(),
            progress: Box::new(progress),
        }
    }

    /// Hashes the image as a whole, too; before anything is written.
    ///
    /// # Errors
    /// When no thread can be begun, or something was written.
    pub fn hash_whole(&mut self) -> io::Result<()> {
        if self.position() > 0 {
            return Err(io::Error::other("a part of the image is written already"));
        }
        self.hash_whole_by(Twin::pays())
    }

    /// The same by one thread for both hashes, or by two.
    fn hash_whole_by(&mut self, together: bool) -> io::Result<()> {
        if together {
            self.hashers.ranges = Some(Hasher::with_whole(PIECES)?);
            self.hashers.together = true;
        } else {
            begun(&mut self.hashers.whole)?;
        }
        Ok(())
    }

    /// Bytes of the image so far.
    pub fn position(&self) -> u64 {
        self.offset + self.block.len() as u64
    }

    /// Unused zeroes up to an offset in bytes.
    ///
    /// # Errors
    /// When writing fails, or when the offset is behind us.
    pub fn zeroes_to(&mut self, offset: u64) -> io::Result<()> {
        let missing = offset.checked_sub(self.position());
        self.unused(missing.ok_or_else(|| io::Error::other("the image's layout runs backwards"))?)
    }

    /// Ends the image; its size is what has been written.
    ///
    /// # Errors
    /// When writing the rest fails.
    pub fn finish(mut self) -> io::Result<Written> {
        self.flush_block()?;
        self.end_range()?;
        self.hand_over()?;
        let (mut ranges, mut personal) = (Vec::new(), Vec::new());
        for (range, path) in std::mem::take(&mut self.ranges) {
            let Range { offset, length, .. } = range;
            let sha256 = bytes_hex(&begun(&mut self.hashers.ranges)?.next()?);
            match path {
                Some(path) => {
                    personal.push(Personal { path, offset, length, sha256: Some(sha256) });
                }
                None => ranges.push(Range { offset, length, sha256 }),
            }
        }
        let Hashers { ranges: hasher, whole, together } = self.hashers;
        let sha256 = match (hasher.filter(|_| together), whole) {
            (Some(both), _) => Some(both.whole()?),
            (None, Some(whole)) => {
                whole.end()?;
                Some(whole.next()?)
            }
            (None, None) => None,
        };
        let sha256 = sha256.map(|digest| bytes_hex(&digest));
        let files = self.sinks.into_iter().map(ImageSink::finish).collect::<io::Result<_>>()?;
        (self.progress)(self.offset);
        let (size, mapped) = (self.offset, self.mapped);
        Ok(Written { files, size, mapped, ranges, personal, sha256 })
    }

    fn flush_block(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        if !block.is_empty() {
            let kind = match (self.unused, ZEROES.starts_with(&block)) {
                (true, _) => Kind::Unused,
                (false, true) => Kind::Zeroes,
                (false, false) => Kind::Data,
            };
            self.put(&block, kind)?;
        }
        self.block = block;
        self.block.clear();
        self.unused = true;
        Ok(())
    }

    fn put(&mut self, block: &[u8], kind: Kind) -> io::Result<()> {
        let count = block.len() as u64;
        let used = kind != Kind::Unused;
        if !used || self.range.is_some_and(|begin| self.offset - begin >= MAX_RANGE) {
            self.end_range()?;
        }
        let other_hole = self.hole > 0 && (kind == Kind::Data || used != self.hole_used);
        if other_hole {
            self.hand_over()?;
        }
        if used {
            self.range.get_or_insert(self.offset);
            self.mapped += count;
        }
        if kind == Kind::Data {
            let mut piece = match self.piece.take() {
                Some(piece) => piece,
                None => self.chunks.take(self.offset),
            };
            let (added, full) = (piece.add(block), piece.length + BLOCK > PIECE);
            self.piece = Some(piece);
            if !added {
                return Err(io::Error::other("there was no room for a block of the image"));
            }
            if full {
                self.hand_over()?;
            }
        } else {
            self.hole += count;
            self.hole_used = used;
        }
        self.offset += count;
        if self.offset.is_multiple_of(4 << 20) {
            (self.progress)(self.offset);
        }
        Ok(())
    }

    /// Gives hashers and sinks what they have not got yet.
    fn hand_over(&mut self) -> io::Result<()> {
        let Hashers { ranges, whole, together } = &mut self.hashers;
        if let Some(piece) = self.piece.take().map(Arc::new) {
            begun(ranges)?.data(&piece)?;
            if let Some(whole) = whole {
                whole.data(&piece)?;
            }
            self.sinks.iter_mut().try_for_each(|sink| sink.chunk(&piece))?;
        }
        let hole = std::mem::take(&mut self.hole);
        if hole > 0 {
            if self.hole_used {
                begun(ranges)?.zeroes(hole)?;
            } else if *together {
                begun(ranges)?.unused(hole)?;
            }
            if let Some(whole) = whole {
                whole.zeroes(hole)?;
            }
            self.sinks.iter_mut().try_for_each(|sink| sink.zeroes(hole))?;
        }
        Ok(())
    }

    fn end_range(&mut self) -> io::Result<()> {
        if let Some(offset) = self.range.take() {
            self.hand_over()?;
            begun(&mut self.hashers.ranges)?.end()?;
            // Its digest comes at the end.
            let length = self.offset - offset;
            let range = Range { offset, length, sha256: String::new() };
            self.ranges.push((range, self.personal.clone()));
        }
        Ok(())
    }
}

impl Sink for Output {
    fn data(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // Whole blocks need not be gathered first.
            while self.block.is_empty()
                && let Some((block, later)) = bytes.split_at_checked(BLOCK)
            {
                let kind = if ZEROES == block { Kind::Zeroes } else { Kind::Data };
                self.put(block, kind)?;
                bytes = later;
            }
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            self.unused &= now.is_empty();
            bytes = later;
            if self.block.len() == BLOCK {
                self.flush_block()?;
            }
        }
        Ok(())
    }

    fn zeroes(&mut self, count: u64) -> io::Result<()> {
        self.nothing(count, Kind::Zeroes)
    }

    fn unused(&mut self, count: u64) -> io::Result<()> {
        self.nothing(count, Kind::Unused)
    }

    fn begin_personal(&mut self, path: &str) -> io::Result<()> {
        self.border(path)?;
        if let Some(other) = self.personal.replace(path.to_owned()) {
            return Err(io::Error::other(format!("{path} begins within {other}")));
        }
        Ok(())
    }

    fn end_personal(&mut self) -> io::Result<()> {
        self.border("a personal part")?;
        self.personal = None;
        Ok(())
    }
}

impl Output {
    /// Ends the range that is being written; a block must not belong to two.
    fn border(&mut self, what: &str) -> io::Result<()> {
        if !self.block.is_empty() {
            let at = self.position();
            let why = format!("{what} begins or ends at byte {at}, within a block");
            return Err(io::Error::other(why));
        }
        self.end_range()
    }

    fn nothing(&mut self, mut count: u64, kind: Kind) -> io::Result<()> {
        while count > 0 {
            if self.block.is_empty() && count >= BLOCK as u64 {
                self.put(&ZEROES, kind)?;
                count -= BLOCK as u64;
                continue;
            }
            let room = (BLOCK - self.block.len()) as u64;
            let now = count.min(room);
            let length = self.block.len() + usize::try_from(now).unwrap_or(BLOCK);
            self.block.resize(length, 0);
            self.unused &= kind == Kind::Unused;
            count -= now;
            if self.block.len() == BLOCK {
                self.flush_block()?;
            }
        }
        Ok(())
    }
}

/// A finished SHA-256 as hexadecimal digits.
pub fn hex(hash: Sha256) -> String {
    bytes_hex(&hash.finalize())
}

#[cfg(test)]
mod tests;
