//! The files for a boot server (`…-pxe.tgz`): they hold the key packed, for Linux as a cpio archive, for
//! SmartOS as the tree of a disc.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use cpio::newc;
use headnode_model::manifest::Manifest;
use headnode_model::paths;
use sha2::{Digest as _, Sha256};

use super::{Entry, Extents, FileSystem};
use crate::assemble::{PXE_DISC, PXE_KEY};
use crate::image::output::hex;
use crate::image::packing::{Counted, Packing, unpacker};
use crate::image::pxe::SUMS;
use crate::source::platform::tarball::{self, Limited};

/// The largest manifest that is read, in bytes.
const MAX_MANIFEST: u64 = 64 << 20;
/// No key has as many files as this.
const MAX_FILES: usize = 200_000;
/// Bytes that all of their names may take together.
const MAX_NAMES: usize = 64 << 20;
/// Bytes that one entry's header and its extensions may take in a tar.
const MAX_HEADER: u64 = 1 << 20;
/// The same in a cpio archive; Linux has no longer names.
const MAX_CPIO_HEADER: u64 = 8192;

/// Whether these are the files for a boot server.
pub fn is_pxe(files: &FileSystem) -> bool {
    files.entry(SUMS).is_some_and(|entry| !entry.folder) && script(files).is_some()
}

/// The script that a machine is told to run.
pub fn script(files: &FileSystem) -> Option<&Entry> {
    files.files().find(|entry| entry.path.ends_with(".ipxe") && !entry.path.contains('/'))
}

/// The packed key among the files.
pub fn key_of(files: &FileSystem) -> Option<&Entry> {
    [PXE_KEY, PXE_DISC].into_iter().find_map(|path| files.entry(path)).filter(|entry| !entry.folder)
}

/// A key that lies packed among the files.
pub struct Key {
    /// Its manifest.
    pub manifest: Manifest,
    /// SHA-256 of the manifest, in hex.
    pub sha256: String,
    /// Its files by path: size in bytes, and SHA-256 in hex when that was asked for.
    pub files: BTreeMap<String, (u64, Option<String>)>,
}

/// Reads the packed key `entry` of the archive `image`, of which `limit` bytes are unpacked at most;
/// with `digests`, all of its files are hashed. `progress` is called with the bytes of it that have been
/// read so far.
///
/// # Errors
/// When it is damaged, or holds no manifest.
pub fn key(
    image: &File,
    entry: &Entry,
    limit: u64,
    digests: bool,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Key> {
    let extents = entry.extents.as_ref().map_err(|why| io::Error::other(why.clone()))?;
    let (packed, count) = Counted::new(Extents::new(image, extents));
    let packed = BufReader::with_capacity(256 * 1024, packed);
    let mut files = BTreeMap::new();
    let mut names = 0;
    let mut manifest = None;
    let mut take = |path: &str, from: &mut dyn Read| -> io::Result<()> {
        names += path.len();
        if names > MAX_NAMES {
            return Err(io::Error::other("the names of its files are impossibly long"));
        }
        let mut kept = Vec::new();
        let keep = path == paths::KEY_MANIFEST;
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let part = match from.read(&mut buffer)? {
                0 => break,
                count => buffer.get(..count).unwrap_or_default(),
            };
            size += part.len() as u64;
            progress(count.load(Ordering::Relaxed));
            if keep && size > MAX_MANIFEST {
                return Err(io::Error::other(format!("its {path} is too large")));
            }
            if keep {
                kept.extend_from_slice(part);
            }
            if keep || digests {
                hash.update(part);
            }
        }
        let sha256 = (keep || digests).then(|| hex(hash));
        if keep {
            manifest = Some((kept, sha256.clone().unwrap_or_default()));
        }
        if files.insert(path.to_owned(), (size, sha256)).is_some() {
            return Err(io::Error::other(format!("it holds {path:?} twice")));
        }
        if files.len() > MAX_FILES {
            return Err(io::Error::other(format!("it holds more than {MAX_FILES} files")));
        }
        Ok(())
    };
    if entry.path == PXE_KEY {
        walk_cpio(unpacker(Packing::Zstd, packed)?.take(limit), &mut take)?;
    } else {
        walk_tar(unpacker(Packing::Gzip, packed)?.take(limit), &mut take)?;
    }
    let Some((text, sha256)) = manifest else {
        return Err(io::Error::other(format!("it holds no {}", paths::KEY_MANIFEST)));
    };
    let manifest = Manifest::parse(&text).map_err(io::Error::other)?;
    Ok(Key { manifest, sha256, files })
}

type Take<'a> = dyn FnMut(&str, &mut dyn Read) -> io::Result<()> + 'a;

/// The files of a cpio archive that unpacks to [`paths::KEY_IN_RAM`]. Whatever else Linux would make of
/// it is refused: no manifest tells of links and devices.
fn walk_cpio(from: impl Read, take: &mut Take<'_>) -> io::Result<()> {
    const S_IFMT: u32 = 0o170_000;
    const S_IFDIR: u32 = 0o040_000;
    const S_IFREG: u32 = 0o100_000;
    let top = paths::KEY_IN_RAM.trim_start_matches('/');
    let folder = format!("{top}/");
    let room = Rc::new(Cell::new(MAX_CPIO_HEADER));
    let mut archive = Limited { inner: from, room: Rc::clone(&room) };
    loop {
        room.set(MAX_CPIO_HEADER);
        let mut reader = newc::Reader::new(archive)?;
        room.set(u64::MAX);
        let entry = reader.entry();
        if entry.is_trailer() {
            archive = reader.finish()?;
            break;
        }
        let name = super::plain(entry.name());
        let path = name.strip_prefix(&folder);
        if path.is_none() && name != top {
            let what = format!("it holds {name:?}, which is not below {folder}");
            return Err(io::Error::other(what));
        }
        match (entry.mode() & S_IFMT, path) {
            (S_IFDIR, _) => {}
            // The content of a hard link may come with another name.
            (S_IFREG, Some(path)) if entry.nlink() < 2 => take(path, &mut reader)?,
            _ => return Err(neither(&name)),
        }
        archive = reader.finish()?;
    }
    // The checksum is at the end; Linux goes on with what lies behind the trailer.
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let part = match archive.read(&mut buffer)? {
            0 => return Ok(()),
            count => buffer.get(..count).unwrap_or_default(),
        };
        if part.iter().any(|byte| *byte != 0) {
            return Err(io::Error::other("more data follows the end of its archive"));
        }
    }
}

/// The files of a tar, which holds nothing but files and folders.
fn walk_tar(from: impl Read, take: &mut Take<'_>) -> io::Result<()> {
    let room = Rc::new(Cell::new(u64::MAX));
    let mut archive = tar::Archive::new(Limited { inner: from, room: Rc::clone(&room) });
    let mut entries = archive.entries()?;
    loop {
        room.set(MAX_HEADER);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        room.set(u64::MAX);
        let path = tarball::plain(&entry.path_bytes()).map_err(io::Error::other)?;
        let path = super::plain(&path);
        match entry.header().entry_type() {
            tar::EntryType::Directory => {}
            tar::EntryType::Regular => take(&path, &mut entry)?,
            _ => return Err(neither(&path)),
        }
        // So that the next header is all that the tar crate reads by itself.
        io::copy(&mut entry, &mut io::sink())?;
    }
    room.set(u64::MAX);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(|_| ())
}

fn neither(name: &str) -> io::Error {
    io::Error::other(format!("it holds {name:?}, which is neither a plain file nor a folder"))
}

#[cfg(test)]
mod tests;
