//! Deflate (RFC 1951) in pieces, and gzip (RFC 1952) of many pieces as one member.
//!
//! One member, because some readers stop after the first one; in pieces, because several threads
//! then work on a file. Each piece may refer to the 32 KiB before it, so little is lost by that.

use std::io::{self, Write};
use std::sync::Arc;

use flate2::{Compress, Compression, FlushCompress, Status};

use super::pool::{Ordered, Pool};

/// Bytes of a stream that are compressed as one piece.
const PIECE: usize = 1 << 20;
/// How far deflate refers back.
const WINDOW: usize = 32 << 10;
/// The level of compression everywhere: what is large in an image is compressed already.
pub const LEVEL: u32 = 3;

/// In what a compressed piece is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrap {
    /// zlib's header and checksum (RFC 1950).
    Zlib,
    /// Nothing; nothing refers back further than 4 KiB, which is all that QEMU promises to read.
    RawSmallWindow,
}

/// Compresses a whole piece by itself.
///
/// # Errors
/// Never for pieces that fit into memory.
pub fn whole(bytes: &[u8], wrap: Wrap) -> io::Result<Vec<u8>> {
    let level = Compression::new(LEVEL);
    let compress = match wrap {
        Wrap::Zlib => Compress::new(level, true),
        Wrap::RawSmallWindow => Compress::new_with_window_bits(level, false, 12),
    };
    squeeze(compress, bytes, FlushCompress::Finish)
}

fn squeeze(mut compress: Compress, bytes: &[u8], flush: FlushCompress) -> io::Result<Vec<u8>> {
    // More than the worst case of any level: 9 bits for a byte, and headers.
    let mut packed = Vec::with_capacity(bytes.len() + bytes.len() / 4 + 1024);
    let status = compress.compress_vec(bytes, &mut packed, flush).map_err(io::Error::other)?;
    let taken = compress.total_in() == bytes.len() as u64 && packed.len() < packed.capacity();
    let ended = flush != FlushCompress::Finish || status == Status::StreamEnd;
    if taken && ended { Ok(packed) } else { Err(io::Error::other("deflate ran out of room")) }
}

/// A compressed piece of a gzip member.
#[derive(Clone)]
struct Piece {
    packed: Arc<Vec<u8>>,
    checksum: crc32fast::Hasher,
}

fn piece(before: &[u8], bytes: &[u8]) -> io::Result<Piece> {
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    if !before.is_empty() {
        compress.set_dictionary(before).map_err(io::Error::other)?;
    }
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(bytes);
    let packed = squeeze(compress, bytes, FlushCompress::Sync)?;
    Ok(Piece { packed: Arc::new(packed), checksum })
}

/// Writes a gzip file without name and time; the same bytes for any number of threads.
pub struct GzipWriter<W: Write> {
    out: W,
    queue: Ordered<io::Result<Piece>>,
    /// The bytes of the next piece.
    bytes: Vec<u8>,
    /// The last [`WINDOW`] bytes before it.
    before: Arc<Vec<u8>>,
    /// Whether `bytes` and `before` are nothing but zeroes.
    blank: (bool, bool),
    /// A piece of zeroes behind zeroes.
    blank_piece: Option<Piece>,
    checksum: crc32fast::Hasher,
    size: u64,
}

impl<W: Write> GzipWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When its header cannot be written.
    pub fn new(mut out: W, pool: Arc<Pool>) -> io::Result<Self> {
        // Deflate; no flags, no time, no hint at the level; from Unix.
        out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3])?;
        Ok(Self {
            out,
            queue: Ordered::new(pool),
            bytes: Vec::with_capacity(PIECE),
            before: Arc::default(),
            blank: (true, false),
            blank_piece: None,
            checksum: crc32fast::Hasher::new(),
            size: 0,
        })
    }

    /// Writes `count` zeroes, which is far faster than writing them as bytes.
    ///
    /// # Errors
    /// When writing fails.
    pub fn zeroes(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let room = (PIECE - self.bytes.len()) as u64;
            let now = count.min(room);
            self.bytes.resize(self.bytes.len() + usize::try_from(now).unwrap_or(0), 0);
            count -= now;
            self.piece_if_full()?;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When writing the rest fails.
    pub fn finish(mut self) -> io::Result<W> {
        if !self.bytes.is_empty() {
            self.end_piece()?;
        }
        while let Some(piece) = self.queue.pop()? {
            self.write_piece(piece)?;
        }
        // An empty last block, as every piece so far promised that more would come.
        self.out.write_all(&[3, 0])?;
        self.out.write_all(&self.checksum.finalize().to_le_bytes())?;
        self.out.write_all(&((self.size & 0xffff_ffff) as u32).to_le_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn piece_if_full(&mut self) -> io::Result<()> {
        if self.bytes.len() == PIECE { self.end_piece() } else { Ok(()) }
    }

    fn end_piece(&mut self) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(PIECE));
        self.size += bytes.len() as u64;
        let tail = bytes.get(bytes.len().saturating_sub(WINDOW)..).unwrap_or_default().to_vec();
        let before = std::mem::replace(&mut self.before, Arc::new(tail));
        let all_blank = self.blank == (true, true) && bytes.len() == PIECE;
        self.blank = (true, self.blank.0);
        let oldest = match &self.blank_piece {
            Some(blank) if all_blank => self.queue.push_ready(Ok(blank.clone()))?,
            None if all_blank => {
                let blank = piece(&before, &bytes)?;
                self.blank_piece = Some(blank.clone());
                self.queue.push_ready(Ok(blank))?
            }
            _ => self.queue.push(move || piece(&before, &bytes))?,
        };
        oldest.map_or(Ok(()), |piece| self.write_piece(piece))
    }

    fn write_piece(&mut self, piece: io::Result<Piece>) -> io::Result<()> {
        let piece = piece?;
        self.checksum.combine(&piece.checksum);
        self.out.write_all(&piece.packed)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.bytes.len());
        let now = bytes.get(..count).unwrap_or_default();
        if count > 0 {
            self.blank.0 = false;
        }
        self.bytes.extend_from_slice(now);
        self.piece_if_full()?;
        Ok(count)
    }

    /// Does nothing: a piece that ended early would make other bytes of the same content.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    fn gzip(parts: &[(u8, usize)], threads: usize) -> Vec<u8> {
        let mut writer = GzipWriter::new(Vec::new(), Pool::new(threads).unwrap()).unwrap();
        for (byte, count) in parts {
            match byte {
                0 => writer.zeroes(*count as u64).unwrap(),
                _ => writer.write_all(&vec![*byte; *count]).unwrap(),
            }
        }
        writer.finish().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn one_member_that_depends_on_the_content_only(
            parts in proptest::collection::vec((0u8..4, 0usize..3_000_000), 0..6),
        ) {
            let packed = gzip(&parts, 1);
            prop_assert_eq!(&packed, &gzip(&parts, 5));
            let expected: Vec<u8> =
                parts.iter().flat_map(|(byte, count)| vec![*byte; *count]).collect();
            // This decoder reads one member only.
            let mut decoder = flate2::bufread::GzDecoder::new(&packed[..]);
            let mut found = Vec::new();
            decoder.read_to_end(&mut found).unwrap();
            prop_assert!(found == expected);
            prop_assert!(decoder.into_inner().is_empty(), "something lies behind the member");
            // Zeroes are zeroes, however they come.
            let mut writer = GzipWriter::new(Vec::new(), Pool::new(2).unwrap()).unwrap();
            writer.write_all(&expected).unwrap();
            prop_assert!(writer.finish().unwrap() == packed);
        }
    }

    #[test]
    fn small_windows_are_kept() {
        // What repeats after 8 KiB must not be found.
        let mut noise = vec![0; 8192];
        let mut state = 1_u32;
        for byte in &mut noise {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        let twice = [noise.clone(), noise.clone()].concat();
        assert!(whole(&twice, Wrap::RawSmallWindow).unwrap().len() > 16_000);
        assert!(whole(&twice, Wrap::Zlib).unwrap().len() < 10_000);
    }
}
