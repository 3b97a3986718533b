//! What is in an image, whoever made it: partitions, file systems and their files. Nothing is
//! trusted, and nothing of ours has to be in it.
//!
//! A file system is told as a list of files with the places of their content in the image, so that
//! all who read files (`inspect`, `diff`, `extract`) need not know which kind it is. A tar is one, too.

pub mod archive;
mod kinds;
pub mod mbr;
pub mod open;
pub mod pxe;
pub mod survey;
mod systems;

pub use systems::{FileSystemError, disc, fat};

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use headnode_model::paths;
use serde::Serialize;

use crate::image::gpt::Table;
use crate::image::reader::ImageFile;
use crate::image::{SECTOR, fat, iso};

/// Why an image cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read or unpacked.
    #[error("reading the image: {0}")]
    Io(#[from] io::Error),
    /// It is an archive that cannot be looked into.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// Nothing in it is known.
    #[error(
        "this is no disk image: it has neither a partition table nor a file system that is known \
         (GPT: {gpt})"
    )]
    Unknown {
        /// Why it has no GUID partition table.
        gpt: String,
    },
}

/// How a disk is divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// A GUID partition table.
    Gpt,
    /// The four partitions of an MBR, and those within them.
    Mbr,
    /// Not at all: one file system fills it.
    None,
    /// Not a disk, but an archive.
    Tar,
}

/// A partition.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Its number, from 1; 0 for the whole disk.
    pub number: u32,
    /// Its name; empty in an MBR.
    pub name: String,
    /// What it is for, for people.
    pub kind: &'static str,
    /// The identifier of its type.
    pub type_id: String,
    /// Its own identifier, in a GUID partition table.
    pub guid: Option<String>,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// What it holds, when that is a file system that can be read.
    #[serde(skip)]
    pub files: Option<FileSystem>,
    /// Why its file system cannot be read.
    pub problem: Option<String>,
}

/// A file system.
#[derive(Debug)]
pub struct FileSystem {
    /// `FAT32`.
    pub kind: &'static str,
    /// The volume's name.
    pub label: String,
    /// Bytes of its smallest piece.
    pub block: u64,
    /// All files and folders; a folder comes before what is in it.
    pub entries: Vec<Entry>,
}

/// A file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path with `/`, without a leading one. No part is empty, `.` or `..`.
    pub path: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Size in bytes; 0 for a folder.
    pub size: u64,
    /// Where its content lies in the image: offsets and lengths in bytes; or why that is not known.
    pub extents: Result<Vec<(u64, u64)>, String>,
}

impl FileSystem {
    /// A file or folder by its path.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path == path)
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.folder)
    }
}

/// An image and what is in it.
pub struct Contents {
    /// The image itself.
    pub image: ImageFile,
    /// How it is divided.
    pub scheme: Scheme,
    /// The disk's identifier.
    pub disk_id: Option<String>,
    /// Its partitions.
    pub parts: Vec<Part>,
    /// The path of the disk image in the archive that it lay in, when that is so.
    pub inside: Option<String>,
    /// What is odd about it.
    pub notes: Vec<String>,
}

impl Contents {
    /// Looks into an opened image.
    ///
    /// # Errors
    /// When it cannot be read, or nothing in it is known.
    pub fn of(mut image: ImageFile) -> Result<Self, Error> {
        let mut notes = Vec::new();
        let (scheme, disk_id, parts) = look(&mut image, &mut notes)?;
        Ok(Self { image, scheme, disk_id, parts, inside: None, notes })
    }

    /// What was found in an archive.
    pub fn of_tree(image: ImageFile, tree: FileSystem) -> Self {
        let part = Part { kind: "archive", files: Some(tree), ..whole_disk(image.size) };
        let (scheme, disk_id, notes) = (Scheme::Tar, None, Vec::new());
        Self { image, scheme, disk_id, parts: vec![part], inside: None, notes }
    }

    /// The partition that holds the key: by its marker, else by what only a key has, else the
    /// largest file system.
    pub fn key(&self) -> Option<&Part> {
        if let [only] = &self.parts[..] {
            // Asked for every file of archives, which may have many.
            return Some(only).filter(|part| part.files.is_some());
        }
        let with = |paths: &[&str]| {
            self.parts.iter().find(|part| {
                part.files
                    .as_ref()
                    .is_some_and(|files| paths.iter().any(|path| files.entry(path).is_some()))
            })
        };
        with(&[paths::KEY_MARKER])
            .or_else(|| with(&[paths::KEY_MANIFEST, paths::PLATFORMS, "platform"]))
            .or_else(|| {
                let readable = self.parts.iter().filter(|part| part.files.is_some());
                readable.max_by_key(|part| part.length)
            })
    }

    /// Hands the content of a file to `take`, piece by piece.
    ///
    /// # Errors
    /// When it cannot be read, and what `take` returns.
    pub fn read(
        &self,
        entry: &Entry,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut reader = self.reader(entry)?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(()),
                count => take(buffer.get(..count).unwrap_or_default())?,
            }
        }
    }

    /// A reader of a file's content.
    ///
    /// # Errors
    /// When it is not known where the content lies.
    pub fn reader<'a>(&'a self, entry: &'a Entry) -> io::Result<Extents<'a>> {
        let extents = entry.extents.as_ref().map_err(|why| io::Error::other(why.clone()))?;
        Ok(Extents::new(&self.image.file, extents))
    }

    /// The content of a small file.
    ///
    /// # Errors
    /// When it cannot be read, or is larger than `most` bytes.
    pub fn small(&self, entry: &Entry, most: u64) -> io::Result<Vec<u8>> {
        if entry.size > most {
            return Err(io::Error::other(format!("{:?} is too large", entry.path)));
        }
        let mut bytes = Vec::new();
        self.reader(entry)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Reads the pieces of a file one after the other.
pub struct Extents<'a> {
    file: &'a File,
    extents: &'a [(u64, u64)],
    /// Bytes of the first extent that were read.
    at: u64,
}

impl<'a> Extents<'a> {
    /// A reader of these offsets and lengths, in bytes.
    pub fn new(file: &'a File, extents: &'a [(u64, u64)]) -> Self {
        Self { file, extents, at: 0 }
    }
}

impl Read for Extents<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt as _;
        while let Some(((offset, length), rest)) = self.extents.split_first() {
            let left = length.saturating_sub(self.at);
            if left == 0 {
                (self.extents, self.at) = (rest, 0);
                continue;
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..count).unwrap_or_default();
            // Not through the file's own position, so that several readers can share it.
            let read = self.file.read_at(part, offset + self.at)?;
            if read == 0 && count > 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the image is cut off"));
            }
            self.at += read as u64;
            return Ok(read);
        }
        Ok(0)
    }
}

fn whole_disk(size: u64) -> Part {
    Part {
        number: 0,
        name: String::new(),
        kind: "whole disk",
        type_id: String::new(),
        guid: None,
        offset: 0,
        length: size,
        files: None,
        problem: None,
    }
}

type Divided = (Scheme, Option<String>, Vec<Part>);

/// What is in a disk or disc.
///
/// # Errors
/// When it cannot be read, or nothing in it is known.
fn look(image: &mut ImageFile, notes: &mut Vec<String>) -> Result<Divided, Error> {
    use FileSystemError::{Fat, Iso};
    let (scheme, disk_id, mut parts) = divide(image, notes)?;
    for part in &mut parts {
        match fat(&image.file, part.offset, part.length) {
            Ok(files) => part.files = Some(files),
            Err(Fat(fat::reader::Error::NotFat(_))) if !part.kind.contains("FAT") => {}
            Err(error) => part.problem = Some(error.to_string()),
        }
    }
    let disc = match disc(&image.file, image.size) {
        Ok(files) => Some((Some(files), None)),
        Err(Iso(iso::reader::Error::NotIso(_))) => None,
        Err(error) => Some((None, Some(error.to_string()))),
    };
    if let Some((files, problem)) = disc {
        parts.retain(|part| part.number != 0);
        parts.insert(0, Part { kind: "disc", files, problem, ..whole_disk(image.size) });
    }
    if scheme == Scheme::None && parts.iter().all(|part| part.files.is_none()) {
        return Err(Error::Unknown { gpt: notes.join("; ") });
    }
    if scheme == Scheme::None {
        notes.clear();
    }
    Ok((scheme, disk_id, parts))
}

/// The partitions of a disk.
fn divide(image: &mut ImageFile, notes: &mut Vec<String>) -> Result<Divided, Error> {
    let (file, size) = (&mut image.file, image.size);
    let table = match Table::read(file, size) {
        Ok(table) => Ok(table),
        // An image that was cut off or made larger has its backup at another place.
        Err(error) => Table::read_primary(file, size).inspect(|_| notes.push(error.to_string())),
    };
    let gpt = match table {
        Ok(table) => {
            let part = |(number, part): (u32, crate::image::gpt::Partition)| Part {
                number,
                name: plain(&part.name),
                kind: kinds::of_guid(part.kind),
                type_id: part.kind.to_string(),
                guid: Some(part.guid.to_string()),
                offset: part.start * SECTOR,
                length: part.sectors * SECTOR,
                files: None,
                problem: None,
            };
            let parts = table.partitions.into_iter().map(part).collect();
            return Ok((Scheme::Gpt, Some(table.guid.to_string()), parts));
        }
        Err(error) => error.to_string(),
    };
    let whole = whole_disk(size);
    // A file system's boot sector is signed as an MBR is: it is asked first.
    if fat(&image.file, 0, size).is_ok() {
        return Ok((Scheme::None, None, vec![whole]));
    }
    match mbr::read(&mut image.file, size)? {
        Some(found) if !found.partitions.is_empty() => {
            let part = |part: mbr::Partition| Part {
                number: part.number,
                name: String::new(),
                kind: kinds::of_byte(part.kind),
                type_id: format!("{:02x}", part.kind),
                guid: None,
                offset: part.start * SECTOR,
                length: part.sectors * SECTOR,
                files: None,
                problem: None,
            };
            notes.extend(found.notes);
            let parts = found.partitions.into_iter().map(part).collect();
            Ok((Scheme::Mbr, Some(format!("{:08x}", found.disk_id)), parts))
        }
        _ => {
            notes.push(gpt);
            Ok((Scheme::None, None, vec![whole]))
        }
    }
}

/// A name without anything that a terminal would obey.
fn plain(name: &str) -> String {
    name.replace(char::is_control, "\u{fffd}")
}

/// Reads at a place; what lies behind the end is missing.
fn head(disk: &mut (impl Read + Seek), at: u64, most: u64) -> io::Result<Vec<u8>> {
    disk.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    disk.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}
