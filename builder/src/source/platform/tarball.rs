//! Unpacks a tarball that may come from anywhere: as a stream, in memory that does not grow with
//! it, hashing while it unpacks.
//!
//! Files are stored under numbers, so that no name in the tarball can choose a place on this
//! machine; names are checked all the same, because they become names on the key.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::image::output::hex;

/// No tarball of a platform has as many entries as this.
const MAX_ENTRIES: usize = 200_000;
/// Bytes that one entry's header and its extensions (long names) may take.
const MAX_HEADER: u64 = 1 << 20;
/// Links that may lead to a file one through the other.
const MAX_LINKS: usize = 16;
const BUFFER: usize = 256 * 1024;

/// Why a tarball cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading it failed, or it is damaged.
    #[error("reading it: {0}")]
    Read(#[source] io::Error),
    /// It ends too early.
    #[error("it ends too early: a part of it is missing, get it again")]
    Truncated,
    /// A file cannot be written.
    #[error("storing its file {path:?}: {source}")]
    Store {
        /// Path in the tarball.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A path is not plainly below the tarball's top.
    #[error("it holds the path {0:?}, which leads out of it")]
    Escapes(String),
    /// A name is not UTF-8.
    #[error("it holds the name {0:?}, which is not UTF-8")]
    Name(String),
    /// A link cannot be followed.
    #[error("its link {path:?} points to {target:?}, {why}")]
    Link {
        /// Path of the link.
        path: String,
        /// Where it points.
        target: String,
        /// What is wrong with that.
        why: &'static str,
    },
    /// Two names are one on the key.
    #[error("it holds both {0:?} and {1:?}, which are one name on the key")]
    Duplicate(String, String),
    /// A name is used for a file and for a folder.
    #[error("it holds {0:?} both as a file and as a folder")]
    FileAndFolder(String),
    /// Something that a key cannot hold.
    #[error("it holds {0:?}, which is neither file, folder nor link: a key cannot hold it")]
    Kind(String),
    /// A header sets more than a comment for all entries behind it.
    #[error(
        "it holds a pax header that sets {0:?} for all files behind it, which programs read \
         differently: unpack it, and pack it again"
    )]
    Global(String),
    /// There is no end of entries.
    #[error("it holds more than {MAX_ENTRIES} entries: this is no tarball of a platform")]
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

/// An unpacked file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it is on this machine.
    pub place: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// Its SHA-1 in hex, for those that it was asked for.
    pub sha1: Option<String>,
}

/// Unpacks a gzipped tarball of this machine into the folder `into`, which exists; `progress` is
/// called with the bytes read so far. Links become the files that they lead to.
///
/// # Errors
/// See [`Error`].
pub fn unpack_gzip(
    tarball: &Path,
    into: &Path,
    sha1: &dyn Fn(&str) -> bool,
    progress: &mut dyn FnMut(u64),
) -> Result<BTreeMap<String, Item>, Error> {
    let file = File::open(tarball).map_err(Error::Read)?;
    let file = BufReader::with_capacity(BUFFER, Counted { inner: file, count: 0, progress });
    unpack(flate2::bufread::MultiGzDecoder::new(file), into, sha1)
}

/// Unpacks those files of a gzipped tarball of this machine whose paths `wanted` accepts; it is asked
/// once for every entry.
///
/// # Errors
/// See [`Error`].
pub fn unpack_gzip_some(
    tarball: &Path,
    into: &Path,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, Item>, Error> {
    let file = BufReader::with_capacity(BUFFER, File::open(tarball).map_err(Error::Read)?);
    unpack_some(flate2::bufread::MultiGzDecoder::new(file), into, &|_| false, wanted)
}

/// Unpacks a tar stream into the folder `into`, which exists: its files by path. Those whose path
/// `sha1` accepts get their SHA-1 too.
///
/// # Errors
/// See [`Error`].
pub fn unpack(
    input: impl Read,
    into: &Path,
    sha1: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, Item>, Error> {
    unpack_some(input, into, sha1, &|_| true)
}

fn unpack_some(
    input: impl Read,
    into: &Path,
    sha1: &dyn Fn(&str) -> bool,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, Item>, Error> {
    let room = Rc::new(Cell::new(u64::MAX));
    let mut archive = tar::Archive::new(Limited { inner: input, room: Rc::clone(&room) });
    let mut names = Names::default();
    let mut files = BTreeMap::new();
    let mut links = BTreeMap::new();
    let mut buffer = vec![0; BUFFER];
    let mut entries = archive.entries()?;
    loop {
        // The tar crate gathers a long name in memory, whatever its length is said to be.
        room.set(MAX_HEADER);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        room.set(u64::MAX);
        if names.count >= MAX_ENTRIES {
            return Err(Error::TooMany);
        }
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            room.set(MAX_HEADER);
            match global::other_than_comment(&mut entry)? {
                Some(key) => return Err(Error::Global(key)),
                None => continue,
            }
        }
        let path = plain(&entry.path_bytes())?;
        if path.is_empty() && kind.is_dir() {
            continue;
        }
        if path.is_empty() {
            return Err(Error::Escapes(path));
        }
        if !wanted(&path) {
            names.count += 1;
            while entry.read(&mut buffer)? > 0 {}
            continue;
        }
        names.take(&path, kind.is_dir())?;
        if kind.is_dir() {
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            let Ok(target) = String::from_utf8(target.into_owned()) else {
                return Err(Error::Name(path));
            };
            links.insert(path, (target, kind.is_symlink()));
        } else if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            let place = into.join(format!("{:06}", files.len()));
            let item = store(&mut entry, &path, place, sha1(&path), &mut buffer)?;
            files.insert(path, item);
            continue;
        } else {
            return Err(Error::Kind(path));
        }
        // So that the next header is all that the tar crate reads by itself.
        while entry.read(&mut buffer)? > 0 {}
    }
    // What follows is read too: gzip's checksum is at its end.
    room.set(u64::MAX);
    let mut rest = archive.into_inner();
    while rest.read(&mut buffer)? > 0 {}
    let mut followed = Vec::new();
    for path in links.keys() {
        followed.push((path.clone(), follow(path, &links, &files)?));
    }
    files.extend(followed);
    Ok(files)
}

/// Calls `look` with the paths of a gzipped tarball of this machine, as they come, until it returns
/// something; reads no further than that.
///
/// # Errors
/// When the tarball cannot be read, or a path is not plain.
pub fn find_gzip<T>(tarball: &Path, look: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Error> {
    let file = File::open(tarball).map_err(Error::Read)?;
    let input = flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER, file));
    let room = Rc::new(Cell::new(u64::MAX));
    let mut archive = tar::Archive::new(Limited { inner: input, room: Rc::clone(&room) });
    let mut buffer = vec![0; BUFFER];
    let mut entries = archive.entries()?;
    loop {
        room.set(MAX_HEADER);
        let Some(entry) = entries.next() else { return Ok(None) };
        let mut entry = entry?;
        room.set(u64::MAX);
        if let Some(found) = look(&plain(&entry.path_bytes())?) {
            return Ok(Some(found));
        }
        while entry.read(&mut buffer)? > 0 {}
    }
}

/// Writes a file, for this user only: some hold secrets.
fn store(
    entry: &mut impl Read,
    path: &str,
    place: PathBuf,
    sha1: bool,
    buffer: &mut [u8],
) -> Result<Item, Error> {
    let failed = |source| Error::Store { path: path.to_owned(), source };
    let options = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place);
    let mut file = options.map_err(failed)?;
    let mut sha256 = Sha256::new();
    let mut sha1 = sha1.then(Sha1::new);
    let mut size = 0;
    loop {
        let count = entry.read(buffer)?;
        let part = buffer.get(..count).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        file.write_all(part).map_err(failed)?;
        sha256.update(part);
        if let Some(sha1) = &mut sha1 {
            sha1.update(part);
        }
        size += count as u64;
    }
    let sha1 = sha1
        .map(|hash| hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    Ok(Item { place, size, sha256: hex(sha256), sha1 })
}

/// A path of the tarball without `./` before it and `/` behind it; it must be plain.
pub(crate) fn plain(bytes: &[u8]) -> Result<String, Error> {
    let Ok(path) = std::str::from_utf8(bytes) else {
        return Err(Error::Name(String::from_utf8_lossy(bytes).into_owned()));
    };
    let escapes = || Error::Escapes(path.to_owned());
    if path.starts_with('/') || path.contains('\0') {
        return Err(escapes());
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") { Err(escapes()) } else { Ok(parts.join("/")) }
}

/// The names so far, in the form in which FAT compares them.
#[derive(Default)]
struct Names {
    /// By folded path: the path, and whether it is a folder.
    known: BTreeMap<String, (String, bool)>,
    count: usize,
}

impl Names {
    /// Takes a path and the folders above it.
    fn take(&mut self, path: &str, folder: bool) -> Result<(), Error> {
        self.count += 1;
        for (end, _) in path.match_indices('/') {
            self.add(path.get(..end).unwrap_or_default(), true, true)?;
        }
        self.add(path, folder, folder)
    }

    fn add(&mut self, path: &str, folder: bool, again: bool) -> Result<(), Error> {
        let known = self.known.entry(path.to_lowercase());
        let (name, was_folder) = match known {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert((path.to_owned(), folder));
                return Ok(());
            }
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
        };
        if *was_folder != folder {
            Err(Error::FileAndFolder(path.to_owned()))
        } else if name != path || !again {
            Err(Error::Duplicate(name.clone(), path.to_owned()))
        } else {
            Ok(())
        }
    }
}

/// The file that a link leads to.
fn follow(
    from: &str,
    links: &BTreeMap<String, (String, bool)>,
    files: &BTreeMap<String, Item>,
) -> Result<Item, Error> {
    let mut path = from.to_owned();
    for _ in 0..MAX_LINKS {
        if let Some(item) = files.get(&path) {
            return Ok(item.clone());
        }
        let Some((target, symbolic)) = links.get(&path) else { break };
        let error = |why| Error::Link { path: from.to_owned(), target: target.clone(), why };
        let out = "which leads out of the tarball";
        if target.starts_with('/') {
            return Err(error(out));
        }
        // A symbolic link starts at its folder, a hard link at the tarball's top.
        let start =
            if *symbolic { path.rsplit_once('/').map_or("", |(folder, _)| folder) } else { "" };
        let mut parts: Vec<&str> = start.split('/').filter(|part| !part.is_empty()).collect();
        for part in target.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(|| error(out))?;
                }
                part => parts.push(part),
            }
        }
        path = parts.join("/");
    }
    let target = links.get(from).map(|(target, _)| target.clone()).unwrap_or_default();
    let why = "which is no file that is taken of the tarball: links to folders, and to what is not \
               taken, are not followed";
    Err(Error::Link { path: from.to_owned(), target, why })
}

/// Stops reading when the room is used up: readers of archives gather names in memory, whatever their
/// length is said to be.
pub(crate) struct Limited<R> {
    /// What is read.
    pub inner: R,
    /// Bytes that may still be read, which the owner of the other end sets.
    pub room: Rc<Cell<u64>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.room.get()).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the header of an entry is impossibly long",
            ));
        }
        let count = self.inner.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.room.set(self.room.get().saturating_sub(count as u64));
        Ok(count)
    }
}

/// Tells how much was read.
struct Counted<'a, R> {
    inner: R,
    count: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        (self.progress)(self.count);
        Ok(count)
    }
}

pub(crate) mod global;
#[cfg(test)]
mod tests;
