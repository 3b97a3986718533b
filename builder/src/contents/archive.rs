//! A tar as a file system: what it holds, and where in it. It may come from anywhere; nothing of it is
//! held in memory but names.
//!
//! Hard links, and symbolic links to files, are those files; a link that leads out of the archive
//! makes all of it untrustworthy. Other symbolic links are left out.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;

use super::{Entry, FileSystem, plain};
use crate::source::platform::tarball::global::other_than_comment;

/// No archive that is looked into has as many entries as this.
const MAX_ENTRIES: usize = 200_000;
/// Bytes that one entry's header and its extensions (long names, maps of sparse files) may take.
const MAX_HEADER: u64 = 1 << 20;
/// Bytes that all names and links may take together.
const MAX_NAMES: usize = 64 << 20;
/// Links that may lead to a file one through the other.
const MAX_LINKS: usize = 16;
/// The sizes of all files that links lead to may come to this, in bytes: 1 TiB. Who takes them out writes
/// a file for each link.
const MAX_LINKED: u64 = 1 << 40;
/// Bytes of a header, and what everything is padded to.
pub const BLOCK: u64 = 512;
/// Why a sparse file's content is not found.
const SPARSE: &str =
    "the archive holds it as a sparse file: unpack the archive with `tar xf` first";

/// Why an archive cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading it failed, or it is damaged.
    #[error("the tar archive cannot be read: {0}")]
    Read(#[source] io::Error),
    /// It ends too early.
    #[error("the tar archive ends too early: a part of it is missing, get it again")]
    Truncated,
    /// A path is not plainly below its top.
    #[error("the tar archive holds the path {0:?}, which leads out of it")]
    Escapes(String),
    /// A name is not UTF-8.
    #[error("the tar archive holds the name {0:?}, which is not UTF-8")]
    Name(String),
    /// A link leads out of it.
    #[error("the tar archive holds the link {path:?} to {target:?}, which leads out of it")]
    Link {
        /// Path of the link.
        path: String,
        /// Where it points.
        target: String,
    },
    /// A name is there twice.
    #[error("the tar archive holds {0:?} twice")]
    Twice(String),
    /// A name is used for a file and for a folder.
    #[error("the tar archive holds {0:?} both as a file and as a folder")]
    FileAndFolder(String),
    /// A header sets more than a comment for all entries behind it.
    #[error(
        "the tar archive holds a pax header that sets {0:?} for all files behind it, which programs \
         read differently: unpack it, and pack it again"
    )]
    Global(String),
    /// Its links make far more of it than it holds.
    #[error(
        "the links of the tar archive lead to more than {MAX_LINKED} bytes of files: that cannot be"
    )]
    Links,
    /// There is no end of entries.
    #[error("the tar archive holds more than {MAX_ENTRIES} entries, or too long names")]
    TooMany,
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Read(error),
        }
    }
}

/// Whether a file that begins with this block is a tar: the checksum of its first header is right.
pub fn is_tar(head: &[u8]) -> bool {
    let Some(header) = head.first_chunk::<512>() else { return false };
    let header = tar::Header::from_byte_slice(header);
    let bytes = header.as_bytes();
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    let field: u32 = bytes.iter().skip(148).take(8).map(|byte| u32::from(*byte)).sum();
    bytes.first() != Some(&0) && header.cksum().is_ok_and(|told| told == sum - field + 8 * 32)
}

/// What an archive holds.
#[derive(Debug)]
pub struct Archive {
    /// Its files and folders, each with its place in the archive.
    pub files: FileSystem,
    /// What was left out.
    pub notes: Vec<String>,
}

/// Looks into a tar of `size` bytes.
///
/// # Errors
/// See [`Error`].
pub fn read(file: &File, size: u64) -> Result<Archive, Error> {
    let (room, ended) = (Cell::new(MAX_HEADER), Cell::new(false));
    let mut archive = tar::Archive::new(Window { file, at: 0, room: &room, ended: &ended });
    let mut tree = Tree::default();
    let mut entries = archive.entries_with_seek()?;
    loop {
        // The tar crate gathers a long name in memory, whatever its length is said to be.
        room.set(MAX_HEADER);
        let Some(entry) = entries.next() else { break };
        let mut entry =
            entry.map_err(|error| if ended.get() { Error::Truncated } else { error.into() })?;
        let kind = entry.header().entry_type();
        let stored = if kind.is_gnu_sparse() { 0 } else { entry.size() };
        let at = entry.raw_file_position();
        let padded =
            stored.checked_next_multiple_of(BLOCK).and_then(|stored| at.checked_add(stored));
        if padded.is_none_or(|end| end > size) {
            return Err(Error::Truncated);
        }
        if kind.is_pax_global_extensions() {
            match other_than_comment(&mut entry)? {
                Some(key) => return Err(Error::Global(key)),
                None => continue,
            }
        }
        let path = normal(&entry.path_bytes())?;
        let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
        tree.count(target.len())?;
        if path.is_empty() && kind.is_dir() {
            continue;
        }
        if path.is_empty() {
            return Err(Error::Escapes(path));
        }
        let node = if kind.is_dir() {
            Node::Folder
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = String::from_utf8(target)
                .map_err(|error| Error::Name(String::from_utf8_lossy(error.as_bytes()).into()))?;
            Node::Link { target, symbolic: kind.is_symlink() }
        } else if kind.is_gnu_sparse() || is_pax_sparse(&mut entry)? {
            Node::File { size: entry.size(), place: Err(SPARSE) }
        } else if kind.is_file() || kind.is_contiguous() {
            Node::File { size: stored, place: Ok(at) }
        } else {
            Node::Other
        };
        tree.add(path, node)?;
    }
    // Who writes a tar ends it with zeroes: without them, entries are missing.
    if ended.get() {
        return Err(Error::Truncated);
    }
    tree.finish()
}

/// Hands a reader of the sparse file at `path` to `take`; GNU's format is read, PAX' is not.
///
/// # Errors
/// When there is no such file, it cannot be read, and what `take` returns.
pub fn sparse<T>(
    file: &File,
    path: &str,
    take: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> io::Result<T> {
    let (room, ended) = (Cell::new(MAX_HEADER), Cell::new(false));
    let mut archive = tar::Archive::new(Window { file, at: 0, room: &room, ended: &ended });
    for entry in archive.entries_with_seek()? {
        let mut entry = entry?;
        let found = entry.header().entry_type().is_gnu_sparse()
            && normal(&entry.path_bytes()).is_ok_and(|found| found == path);
        if found {
            room.set(u64::MAX);
            return take(&mut entry);
        }
        room.set(MAX_HEADER);
    }
    Err(io::Error::other(SPARSE))
}

/// Whether an entry is a sparse file as PAX has it: data that begins with a map.
fn is_pax_sparse<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<bool, Error> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(false) };
    Ok(extensions.flatten().any(|extension| {
        extension.key_bytes().starts_with(b"GNU.sparse.")
            || extension.key_bytes() == b"SCHILY.realsize"
    }))
}

/// A path without `./` before it and `/` behind it; it must be plain.
fn normal(bytes: &[u8]) -> Result<String, Error> {
    let Ok(path) = std::str::from_utf8(bytes) else {
        return Err(Error::Name(String::from_utf8_lossy(bytes).into_owned()));
    };
    let escapes = || Error::Escapes(path.to_owned());
    if path.starts_with('/') || path.contains('\0') {
        return Err(escapes());
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") { Err(escapes()) } else { Ok(plain(&parts.join("/"))) }
}

/// What a name stands for.
#[derive(Debug, Clone)]
enum Node {
    /// A folder that has an entry.
    Folder,
    /// A folder that only what is in it tells of.
    Above,
    File {
        size: u64,
        place: Result<u64, &'static str>,
    },
    Link {
        target: String,
        symbolic: bool,
    },
    /// Devices and the like.
    Other,
}

#[derive(Default)]
struct Tree {
    nodes: BTreeMap<String, Node>,
    entries: usize,
    /// Bytes of all names, those of folders that have no entry among them.
    names: usize,
}

impl Tree {
    /// Counts an entry, or a folder that has none.
    fn count(&mut self, name: usize) -> Result<(), Error> {
        self.entries += 1;
        self.names += name;
        if self.entries > MAX_ENTRIES || self.names > MAX_NAMES {
            return Err(Error::TooMany);
        }
        Ok(())
    }

    fn add(&mut self, path: String, node: Node) -> Result<(), Error> {
        self.names += path.len();
        // From below, so that folders that are known are not gone through again.
        for (end, _) in path.rmatch_indices('/') {
            let above = path.get(..end).unwrap_or_default();
            match self.nodes.get(above) {
                Some(Node::Folder | Node::Above) => break,
                Some(_) => return Err(Error::FileAndFolder(above.to_owned())),
                None => self.nodes.insert(above.to_owned(), Node::Above),
            };
            self.count(end)?;
        }
        match self.nodes.entry(path) {
            Slot::Vacant(slot) => {
                slot.insert(node);
            }
            Slot::Occupied(mut slot) => match (slot.get(), &node) {
                (Node::Above, Node::Folder) => {
                    slot.insert(node);
                }
                // As `tar -r` leaves them.
                (Node::Folder, Node::Folder) => {}
                (Node::Folder | Node::Above, _) | (_, Node::Folder) => {
                    return Err(Error::FileAndFolder(slot.key().clone()));
                }
                _ => return Err(Error::Twice(slot.key().clone())),
            },
        }
        Ok(())
    }

    fn finish(self) -> Result<Archive, Error> {
        let mut entries = Vec::with_capacity(self.nodes.len());
        let (mut links, mut others) = (0, 0);
        let mut linked: u64 = 0;
        for (path, node) in &self.nodes {
            let found = match node {
                Node::Link { .. } => self.follow(path)?,
                node => Some(node),
            };
            if let (Node::Link { .. }, Some(Node::File { size, .. })) = (node, found) {
                linked = linked.saturating_add(*size);
                if linked > MAX_LINKED {
                    return Err(Error::Links);
                }
            }
            let (folder, size, extents) = match found {
                Some(Node::Folder | Node::Above) if !matches!(node, Node::Link { .. }) => {
                    (true, 0, Ok(Vec::new()))
                }
                Some(Node::File { size, place: Ok(at) }) => (false, *size, Ok(vec![(*at, *size)])),
                Some(Node::File { size, place: Err(why) }) => {
                    (false, *size, Err((*why).to_owned()))
                }
                Some(Node::Other) => {
                    others += 1;
                    continue;
                }
                _ => {
                    links += 1;
                    continue;
                }
            };
            entries.push(Entry { path: path.clone(), folder, size, extents });
        }
        // As walking through it gives them: a folder before what is in it.
        entries.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
        let mut notes = Vec::new();
        if links > 0 {
            notes.push(format!("{links} links that lead to no file of the archive are left out"));
        }
        if others > 0 {
            notes.push(format!("{others} entries that are neither files nor folders are left out"));
        }
        let label = String::new();
        let files = FileSystem { kind: "tar", label, block: BLOCK, entries };
        Ok(Archive { files, notes })
    }

    /// What a link leads to; `None` when that is nothing.
    fn follow(&self, from: &str) -> Result<Option<&Node>, Error> {
        let mut path = from.to_owned();
        for _ in 0..MAX_LINKS {
            let (target, symbolic) = match self.nodes.get(&path) {
                Some(Node::Link { target, symbolic }) => (target, *symbolic),
                found => return Ok(found),
            };
            let out = || Error::Link { path: from.to_owned(), target: target.clone() };
            if target.starts_with('/') {
                return Err(out());
            }
            // A symbolic link starts at its folder, a hard link at the archive's top.
            let start =
                if symbolic { path.rsplit_once('/').map_or("", |(folder, _)| folder) } else { "" };
            let mut parts: Vec<&str> = start.split('/').filter(|part| !part.is_empty()).collect();
            for part in target.split('/') {
                match part {
                    "" | "." => {}
                    ".." => {
                        parts.pop().ok_or_else(out)?;
                    }
                    part => parts.push(part),
                }
            }
            path = parts.join("/");
        }
        Ok(None)
    }
}

/// Reads a file at a place of its own, and stops when the room is used up.
struct Window<'a> {
    file: &'a File,
    at: u64,
    room: &'a Cell<u64>,
    /// Whether something was to be read behind the end.
    ended: &'a Cell<bool>,
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.room.get()).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            let what = "the header of an entry is impossibly long";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let count = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += count as u64;
        self.room.set(self.room.get() - count as u64);
        self.ended.set(count == 0 && !buffer.is_empty());
        Ok(count)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        }
        .filter(|at| i64::try_from(*at).is_ok())
        .ok_or_else(|| io::Error::other("it names a place that no file has"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests;
