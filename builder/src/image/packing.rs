//! How files are packed, and unpackers, each a reader over a reader. Files of several members, frames or streams are read as
//! one, as the tools that made them do.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

/// How an image is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    None,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
    /// The .xz format, <https://tukaani.org/xz/xz-file-format.txt>.
    Xz,
    /// The format of bzip2.
    Bzip2,
}

impl Packing {
    /// How a file that begins with these bytes is packed.
    pub fn of_head(head: &[u8]) -> Self {
        match head {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame: pzstd's files begin with one.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // The first block, or the end of a file of nothing.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => Self::Bzip2,
            _ => Self::None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "raw",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        }
    }
}

/// Largest window of zstd that is accepted, as its power of two: what `zstd -d` accepts.
const WINDOW: u32 = 27;
/// Most memory that the xz decoder may take, in bytes: `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// Unpacks; what is not packed comes through as it is.
///
/// # Errors
/// When the unpacker cannot be set up.
pub fn unpacker<'a>(
    packing: Packing,
    from: impl BufRead + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match packing {
        Packing::None => Box::new(from),
        Packing::Gzip => Box::new(Gzip { member: Some(GzDecoder::new(from)), rest: None }),
        Packing::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(XzDecoder::new_stream(from, stream))
        }
        Packing::Bzip2 => Box::new(MultiBzDecoder::new(from)),
        Packing::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(from)?;
            decoder.window_log_max(WINDOW)?;
            Box::new(decoder)
        }
    })
}

/// Counts what is read, for who shows how far it is.
pub struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Counted<R> {
    /// A reader, and the bytes that were read of it so far.
    pub fn new(inner: R) -> (Self, Arc<AtomicU64>) {
        let count = Arc::new(AtomicU64::new(0));
        (Self { inner, count: Arc::clone(&count) }, count)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Members of gzip one after the other, with zeroes behind the last, as tapes have them and `gzip`
/// allows: flate2's own reader of many members takes those for damage.
struct Gzip<R> {
    member: Option<GzDecoder<R>>,
    rest: Option<R>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(member) = &mut self.member {
                match member.read(buffer)? {
                    0 => self.rest = self.member.take().map(GzDecoder::into_inner),
                    count => return Ok(count),
                }
            }
            let Some(rest) = &mut self.rest else { return Ok(0) };
            let zeroes = rest.fill_buf()?.iter().take_while(|byte| **byte == 0).count();
            rest.consume(zeroes);
            if !rest.fill_buf()?.is_empty() && zeroes == 0 {
                self.member = self.rest.take().map(GzDecoder::new);
            } else if zeroes == 0 {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// Packed by the tool itself.
    fn packed(tool: &str, bytes: &[u8]) -> Vec<u8> {
        let mut command = Command::new(tool);
        command.args(["-c", "-1", "-q"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut to = child.stdin.take().unwrap();
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || to.write_all(&bytes).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        unpacker(Packing::of_head(bytes), bytes)?.read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn members_are_read_as_one() {
        let one: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(n) >> 9) as u8).collect();
        let two = b"second".repeat(30_000);
        let all = [&one[..], &two].concat();
        for tool in ["zstd", "gzip", "xz", "bzip2"] {
            let first = packed(tool, &one);
            assert_ne!(Packing::of_head(&first), Packing::None);
            let mut both = [first.clone(), packed(tool, &[]), packed(tool, &two)].concat();
            assert_eq!(unpacked(&both).unwrap(), all, "{tool}");
            // Cut off anywhere but between members, it is an error.
            for cut in [3, 9, first.len() / 2, first.len() - 1, both.len() - 1, both.len() - 9] {
                let error = unpacked(&both[..cut]);
                if cut >= 6 {
                    let error = error.unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{tool} {cut}: {error}");
                }
            }
            let middle = first.len() / 2;
            both[middle] ^= 0x55;
            assert!(unpacked(&both).is_err(), "{tool}");
        }
    }

    #[test]
    fn what_lies_behind_the_last_member() {
        let plain = vec![7; 100_000];
        for (tool, zeroes) in [("gzip", true), ("xz", true), ("zstd", false), ("bzip2", false)] {
            let mut packed = packed(tool, &plain);
            packed.extend_from_slice(&[0; 512]);
            assert_eq!(unpacked(&packed).ok(), zeroes.then(|| plain.clone()), "{tool}");
            packed.extend_from_slice(b"garbage garbage garbage");
            assert!(unpacked(&packed).is_err(), "{tool}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            kind in 0usize..5, body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let magic: [&[u8]; 5] = [
                &[],
                &[0x28, 0xb5, 0x2f, 0xfd],
                &[0x1f, 0x8b, 8],
                &[0xfd, b'7', b'z', b'X', b'Z', 0],
                b"BZh91AY&SY",
            ];
            let bytes = [magic[kind], &body].concat();
            // Little can come out of so little, but for runs.
            let mut to = Vec::new();
            if let Ok(reader) = unpacker(Packing::of_head(&bytes), &bytes[..]) {
                let _ = reader.take(1 << 20).read_to_end(&mut to);
            }
        }
    }
}
