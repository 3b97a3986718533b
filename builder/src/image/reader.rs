//! Opens an image for random access, whatever it is packed with.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::output::{BLOCK, Compression};

/// An image that can be read at any place.
pub struct ImageFile {
    /// The raw image: the file itself, or its unpacked content in an unnamed sparse file.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// How the file was packed.
    pub compression: Compression,
    /// The size of the file as it was found, in bytes.
    pub packed_size: u64,
}

impl ImageFile {
    /// Opens an image; a packed one is unpacked into an unnamed sparse file in the folder for
    /// temporary files (`TMPDIR`). `progress` is called with the bytes unpacked so far.
    ///
    /// # Errors
    /// When it cannot be read or unpacked.
    pub fn open(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut head = Vec::new();
        (&mut file).take(4).read_to_end(&mut head)?;
        file.rewind()?;
        let compression = Compression::of_magic(&head);
        let packed_size = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let raw = match compression {
            Compression::None => file,
            Compression::Zstd => unpack(&mut zstd::Decoder::new(file)?, progress)?,
            Compression::Gzip => {
                let file = io::BufReader::new(file);
                unpack(&mut flate2::bufread::MultiGzDecoder::new(file), progress)?
            }
        };
        let mut file = raw;
        let size = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        Ok(Self { file, size, compression, packed_size })
    }
}

fn unpack(from: &mut dyn Read, progress: &mut dyn FnMut(u64)) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    let mut block = vec![0; BLOCK];
    let zeroes = vec![0; BLOCK];
    let mut size = 0;
    loop {
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match from.read(rest)? {
                0 => break,
                count => filled += count,
            }
        }
        let part = block.get(..filled).unwrap_or_default();
        if part.is_empty() {
            file.set_len(size)?;
            return Ok(file);
        }
        // A comparison of memory is far faster than looking at each byte.
        if zeroes.starts_with(part) {
            file.seek(SeekFrom::Current(part.len() as i64))?;
        } else {
            file.write_all(part)?;
        }
        size += part.len() as u64;
        if size.is_multiple_of(16 << 20) {
            progress(size);
        }
    }
}
