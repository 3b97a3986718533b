//! Opens what is looked into, whatever it is: a disk in any form, a tree in a tar, or a disk image that
//! lies in a tar with little else, as Triton publishes them (`usb-*.tgz`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use headnode_model::paths;

use super::archive::{self, Archive};
use super::{Contents, Entry, Error, Extents, FileSystem, look, pxe};
use crate::image::iso;
use crate::image::packing::Packing;
use crate::image::reader::{Form, ImageFile, scaled, unpack};
use crate::manifest::PACKED;

/// Endings of raw disk images, maybe packed.
const RAW: [&str; 5] = [".img", ".usb", ".iso", ".raw", ".dd"];
/// Endings of disks of virtual machines.
const MACHINES: [&str; 2] = [".qcow2", ".vmdk"];
/// What only a platform has, below its folder (C§1.10, C§4.5).
const KERNELS: [&str; 2] = ["i86pc/kernel/amd64/unix", "x86_64/vmlinuz"];

/// What was opened.
pub struct Opened {
    /// The image: a disk, or a tar when there is a tree.
    pub image: ImageFile,
    /// The tree of files, when it is a tar with such.
    pub tree: Option<FileSystem>,
    /// The disk image's path in the tar, when it lay in one.
    pub inside: Option<String>,
    /// What of the archive was left out.
    pub left_out: Vec<String>,
    /// What else is odd.
    pub notes: Vec<String>,
}

impl Opened {
    /// Opens a disk or disc, and nothing else.
    ///
    /// # Errors
    /// When it cannot be read or unpacked.
    pub fn disk(path: &Path, limit: u64, progress: &mut dyn FnMut(u64)) -> Result<Self, Error> {
        Ok(Self::of_disk(ImageFile::open_within(path, limit, progress)?))
    }

    fn of_disk(image: ImageFile) -> Self {
        Self { image, tree: None, inside: None, left_out: Vec::new(), notes: Vec::new() }
    }

    /// Whether it is an archive, or lay in one.
    pub fn is_archive(&self) -> bool {
        self.tree.is_some() || self.inside.is_some()
    }
}

/// Opens an image or an archive. What is packed is unpacked into an unnamed sparse file in the folder
/// for temporary files (`TMPDIR`), `limit` bytes at most, and so is a disk image that lies in an
/// archive. `progress` is called with the bytes of the file that have been read so far; when an image is
/// taken out of an archive, once more from the beginning.
///
/// # Errors
/// When it cannot be read or unpacked, or is a damaged or hostile archive.
pub fn open(path: &Path, limit: u64, progress: &mut dyn FnMut(u64)) -> Result<Opened, Error> {
    let image = ImageFile::open_within(path, limit, progress)?;
    if !is_tar(&image)? {
        return Ok(Opened::of_disk(image));
    }
    let Archive { files, notes: left_out } = archive::read(&image.file, image.size)?;
    let disks = if is_tree(&files) { Vec::new() } else { disks(&image.file, &files)? };
    let note = match &disks[..] {
        [] => None,
        [disk] => match take_out(&image, disk, limit, progress)? {
            Ok(inner) => {
                let inside = Some(disk.path.clone());
                return Ok(Opened { inside, left_out, ..Opened::of_disk(inner) });
            }
            Err(why) => {
                Some(format!("its {} looks like a disk image, but is none ({why})", disk.path))
            }
        },
        several => {
            let names: Vec<_> = several.iter().map(|entry| entry.path.as_str()).collect();
            Some(format!(
                "it holds several disk images ({}): take one out with `headnode extract` to look \
                 into it",
                names.join(", ")
            ))
        }
    };
    let notes = note.into_iter().collect();
    Ok(Opened { image, tree: Some(files), inside: None, left_out, notes })
}

/// Whether an opened file is a tar.
///
/// # Errors
/// When it cannot be read.
pub fn is_tar(image: &ImageFile) -> io::Result<bool> {
    Ok(matches!(image.form, Form::Raw(_)) && archive::is_tar(&head(&image.file, 0, 512)?))
}

/// The disk image at a path of an archive, or why it is none.
fn take_out(
    image: &ImageFile,
    disk: &Entry,
    limit: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Result<ImageFile, String>, Error> {
    let (of, whole) = (disk.size, image.packed_size);
    let mut progress = |done| progress(scaled(done, of, whole));
    let raw = match &disk.extents {
        Ok(extents) => unpack(&mut Extents::new(&image.file, extents), limit, &mut progress)?,
        Err(_) => {
            let take = |from: &mut dyn io::Read| unpack(from, limit, &mut progress);
            archive::sparse(&image.file, &disk.path, take)?
        }
    };
    let mut inner = match ImageFile::of_file(raw, limit, &mut progress) {
        Ok(inner) => inner,
        Err(error) => {
            // Not that there is no room, or that this machine fails.
            use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
            let data = matches!(error.kind(), InvalidData | InvalidInput | Other | UnexpectedEof);
            return if data { Ok(Err(error.to_string())) } else { Err(error.into()) };
        }
    };
    match look(&mut inner, &mut Vec::new()) {
        Ok(_) => {}
        Err(Error::Unknown { .. }) => {
            return Ok(Err("it has neither a partition table nor a known file system".to_owned()));
        }
        Err(error) => return Err(error),
    }
    let compression = match inner.compression {
        Packing::None => image.compression,
        packing => packing,
    };
    Ok(Ok(ImageFile { compression, packed_size: image.packed_size, ..inner }))
}

/// Whether the files are a key's, a platform's or a boot server's: images among them are parts of it.
fn is_tree(files: &FileSystem) -> bool {
    let ours = |path: &str| matches!(path, paths::KEY_MANIFEST | paths::KEY_MARKER);
    let any = files.files().any(|entry| {
        let path = entry.path.as_str();
        ours(path) || KERNELS.iter().any(|kernel| path.ends_with(kernel))
    });
    any || pxe::is_pxe(files)
}

/// The disk images of an archive, by name and by what they begin with; raw ones when it has any.
fn disks<'a>(archive: &File, files: &'a FileSystem) -> io::Result<Vec<&'a Entry>> {
    let named = |entry: &Entry, endings: &[&str]| {
        let name = entry.path.to_ascii_lowercase();
        let raw = PACKED.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        endings.iter().any(|end| raw.ends_with(end))
    };
    for endings in [&RAW[..], &MACHINES] {
        let mut found = Vec::new();
        for entry in files.files().filter(|entry| named(entry, endings)) {
            if is_disk(archive, entry)? {
                found.push(entry);
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// Whether a file of the archive begins as disks do: with the mark of a boot sector, or as a disc, or
/// packed, or in the form of a virtual machine's disk.
fn is_disk(archive: &File, entry: &Entry) -> io::Result<bool> {
    // Of a sparse file, only the name tells.
    let Ok(extents) = &entry.extents else { return Ok(true) };
    let (start, size) = extents.first().copied().unwrap_or_default();
    let first = head(archive, start, 512.min(size))?;
    let disc = 16 * iso::BLOCK + 1;
    Ok(!matches!(Form::of_magic(&first), Form::Raw(Packing::None))
        || first.get(510..) == Some(&[0x55, 0xaa])
        || head(archive, start + disc, 5.min(size.saturating_sub(disc)))? == b"CD001")
}

/// The bytes at a place, up to `most`.
fn head(file: &File, at: u64, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(most).unwrap_or(0)];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

impl Contents {
    /// Looks into an image or an archive: see [`open`].
    ///
    /// # Errors
    /// When it cannot be read, or nothing in it is known.
    pub fn open(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Self, Error> {
        let opened = open(path, crate::image::reader::MAX_UNPACKED, progress)?;
        let mut contents = match opened.tree {
            Some(tree) => Self::of_tree(opened.image, tree),
            None => Self::of(opened.image)?,
        };
        contents.inside = opened.inside;
        contents.notes.extend(opened.left_out);
        contents.notes.extend(opened.notes);
        Ok(contents)
    }
}
