//! Opens an image for random access, whatever it is packed with.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::output::{BLOCK, Compression};
use super::unpack::MAX_SIZE;
use super::{qcow2, vmdk};

/// In which form an image file holds the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is, or compressed as a whole.
    Raw(Compression),
    /// QEMU's disk format.
    Qcow2,
    /// VMware's disk format.
    Vmdk,
}

impl Form {
    /// The form of a file that begins with these bytes.
    pub fn of_magic(head: &[u8]) -> Self {
        if head.starts_with(qcow2::reader::MAGIC) {
            Self::Qcow2
        } else if head.starts_with(vmdk::reader::MAGIC) {
            Self::Vmdk
        } else {
            Self::Raw(Compression::of_magic(head))
        }
    }
}

/// An image that can be read at any place.
pub struct ImageFile {
    /// The raw image: the file itself, or its unpacked content in an unnamed sparse file.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// How the file was packed; that of disks of virtual machines is `form`'s matter.
    pub compression: Compression,
    /// In which form the file holds the image.
    pub form: Form,
    /// The size of the file as it was found, in bytes.
    pub packed_size: u64,
}

impl ImageFile {
    /// Opens an image; one that is packed or a virtual machine's disk is unpacked into an unnamed sparse file in the folder for
    /// temporary files (`TMPDIR`). `progress` is called with the bytes unpacked so far.
    ///
    /// # Errors
    /// When it cannot be read or unpacked.
    pub fn open(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<Self> {
        Self::open_within(path, MAX_SIZE, progress)
    }

    /// The same; a compressed image that turns out to be larger than `limit` bytes is given up.
    ///
    /// # Errors
    /// When it cannot be read or unpacked, or is larger.
    pub fn open_within(path: &Path, limit: u64, progress: &mut dyn FnMut(u64)) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut head = Vec::new();
        (&mut file).take(4).read_to_end(&mut head)?;
        file.rewind()?;
        let form = Form::of_magic(&head);
        let packed_size = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let raw = match form {
            Form::Raw(Compression::None) => file,
            Form::Qcow2 => qcow2::reader::unpack(&file, progress)?,
            Form::Vmdk => vmdk::reader::unpack(&file, progress)?,
            Form::Raw(Compression::Zstd) => {
                unpack(&mut zstd::Decoder::new(file)?, limit, progress)?
            }
            Form::Raw(Compression::Gzip) => {
                let file = io::BufReader::new(file);
                unpack(&mut flate2::bufread::MultiGzDecoder::new(file), limit, progress)?
            }
        };
        let mut file = raw;
        let size = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let compression = match form {
            Form::Raw(compression) => compression,
            Form::Qcow2 | Form::Vmdk => Compression::None,
        };
        Ok(Self { file, size, compression, form, packed_size })
    }
}

fn unpack(from: &mut dyn Read, limit: u64, progress: &mut dyn FnMut(u64)) -> io::Result<File> {
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
        if size > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("unpacked, the image is larger than the {limit} bytes that it may have"),
            ));
        }
        if size.is_multiple_of(16 << 20) {
            progress(size);
        }
    }
}
