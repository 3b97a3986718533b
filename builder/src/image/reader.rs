//! Opens an image for random access, whatever it is packed with.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::Ordering;

use super::output::BLOCK;
use super::packing::{Counted, Packing, unpacker};
use super::unpack::{be64, le64};
use super::{SECTOR, qcow2, vmdk};

/// The most that is made of a compressed file, in bytes: 1 TiB. No image is as large, but a few
/// kilobytes may say that they are.
pub const MAX_UNPACKED: u64 = 1 << 40;
/// Bytes that are looked at to tell what a file is.
const HEAD: u64 = 512;

/// In which form an image file holds the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is, or compressed as a whole.
    Raw(Packing),
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
            Self::Raw(Packing::of_head(head))
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
    pub compression: Packing,
    /// In which form the file holds the image.
    pub form: Form,
    /// The size of the file as it was found, in bytes.
    pub packed_size: u64,
}

impl ImageFile {
    /// Opens an image; one that is packed or a virtual machine's disk is unpacked into an unnamed
    /// sparse file in the folder for temporary files (`TMPDIR`). `progress` is called with the bytes
    /// of the file that have been read so far.
    ///
    /// # Errors
    /// When it cannot be read or unpacked, or becomes larger than [`MAX_UNPACKED`].
    pub fn open(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<Self> {
        Self::open_within(path, MAX_UNPACKED, progress)
    }

    /// The same; a compressed image that turns out to be larger than `limit` bytes is given up.
    ///
    /// # Errors
    /// When it cannot be read or unpacked, or is larger.
    pub fn open_within(path: &Path, limit: u64, progress: &mut dyn FnMut(u64)) -> io::Result<Self> {
        Self::of_file(File::open(path)?, limit, progress)
    }

    /// The same of an opened file.
    ///
    /// # Errors
    /// As above.
    pub fn of_file(mut file: File, limit: u64, progress: &mut dyn FnMut(u64)) -> io::Result<Self> {
        file.rewind()?;
        let mut head = Vec::new();
        (&mut file).take(HEAD).read_to_end(&mut head)?;
        let form = Form::of_magic(&head);
        let packed_size = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let mut file = match form {
            Form::Raw(Packing::None) => file,
            Form::Qcow2 | Form::Vmdk => {
                let qcow2 = form == Form::Qcow2;
                let of =
                    if qcow2 { be64(&head, 24) } else { le64(&head, 12).saturating_mul(SECTOR) };
                let mut progress = |done| progress(scaled(done, of, packed_size));
                let unpack = if qcow2 { qcow2::reader::unpack } else { vmdk::reader::unpack };
                unpack(&file, &mut progress).map_err(|error| no_room(error.into()))?
            }
            Form::Raw(packing) => {
                let (file, count) = Counted::new(file);
                let from = BufReader::with_capacity(256 * 1024, file);
                let told = |error| unpacking(packing, &error);
                let mut from = Told { inner: unpacker(packing, from).map_err(told)?, told };
                unpack(&mut from, limit, &mut |_| progress(count.load(Ordering::Relaxed)))?
            }
        };
        let size = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let compression = match form {
            Form::Raw(packing) => packing,
            Form::Qcow2 | Form::Vmdk => Packing::None,
        };
        Ok(Self { file, size, compression, form, packed_size })
    }
}

/// How far `done` of `of` is, as a part of `whole`.
pub(crate) fn scaled(done: u64, of: u64, whole: u64) -> u64 {
    let part = u128::from(done) * u128::from(whole) / u128::from(of.max(1));
    u64::try_from(part).unwrap_or(whole).min(whole)
}

/// A reader whose errors are told in other words.
struct Told<R, F> {
    inner: R,
    told: F,
}

impl<R: Read, F: Fn(io::Error) -> io::Error> Read for Told<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => (self.told)(error),
        })
    }
}

/// Why compressed data cannot be unpacked, for people.
fn unpacking(packing: Packing, error: &io::Error) -> io::Error {
    let (kind, name) = (error.kind(), packing.name());
    if error.raw_os_error().is_some() {
        return io::Error::new(kind, error.to_string());
    }
    io::Error::new(
        kind,
        match kind {
            io::ErrorKind::UnexpectedEof => {
                format!(
                    "its {name} data ends too early: a part of the file is missing, get it again"
                )
            }
            _ => format!("its {name} data is damaged ({error}): get the file again"),
        },
    )
}

/// Says what to do when it was a lack of room in the folder for temporary files.
pub(crate) fn no_room(error: io::Error) -> io::Error {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let what = match error.kind() {
        StorageFull => "is full",
        QuotaExceeded => "has no more room for this user (quota)",
        FileTooLarge => "does not take files of this size",
        _ => return error,
    };
    let text = format!(
        "the folder for temporary files, {}, into which it is unpacked, {what}: free some of it, or \
         name another one with TMPDIR",
        std::env::temp_dir().display()
    );
    io::Error::new(error.kind(), text)
}

/// Puts what is read into an unnamed sparse file; more than `limit` bytes are refused. `progress` is
/// called with the bytes so far.
///
/// # Errors
/// When reading or writing fails, or there is more.
pub(crate) fn unpack(
    from: &mut dyn Read,
    limit: u64,
    progress: &mut dyn FnMut(u64),
) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    let mut block = vec![0; BLOCK];
    let zeroes = vec![0; BLOCK];
    let mut size = 0;
    loop {
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match from.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let part = block.get(..filled).unwrap_or_default();
        if part.is_empty() {
            file.set_len(size).map_err(no_room)?;
            return Ok(file);
        }
        size += part.len() as u64;
        if size > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("unpacked, the image is larger than the {limit} bytes that it may have"),
            ));
        }
        // A comparison of memory is far faster than looking at each byte.
        if zeroes.starts_with(part) {
            file.seek(SeekFrom::Current(part.len() as i64))?;
        } else {
            file.write_all(part).map_err(no_room)?;
        }
        if size.is_multiple_of(16 << 20) {
            progress(size);
        }
    }
}
