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
/// Bytes that one entry's header and its extensions may take.
const MAX_HEADER: u64 = 1 << 20;

/// Whether these are the files for a boot server.
pub fn is_pxe(files: &FileSystem) -> bool {
    files.entry(SUMS).is_some() && script(files).is_some()
}

/// The script that a machine is told to run.
pub fn script(files: &FileSystem) -> Option<&Entry> {
    files.files().find(|entry| entry.path.ends_with(".ipxe") && !entry.path.contains('/'))
}

/// The packed key among the files.
pub fn key_of(files: &FileSystem) -> Option<&Entry> {
    [PXE_KEY, PXE_DISC].into_iter().find_map(|path| files.entry(path))
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
    let mut manifest = None;
    let mut take = |path: &str, from: &mut dyn Read| -> io::Result<()> {
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

/// The files of a cpio archive that unpacks to [`paths::KEY_IN_RAM`].
fn walk_cpio(from: impl Read, take: &mut Take<'_>) -> io::Result<()> {
    const S_IFMT: u32 = 0o170_000;
    const S_IFDIR: u32 = 0o040_000;
    let folder = format!("{}/", paths::KEY_IN_RAM.trim_start_matches('/'));
    let room = Rc::new(Cell::new(MAX_HEADER));
    let mut archive = Limited { inner: from, room: Rc::clone(&room) };
    loop {
        room.set(MAX_HEADER);
        let mut reader = newc::Reader::new(archive)?;
        room.set(u64::MAX);
        if reader.entry().is_trailer() {
            archive = reader.finish()?;
            break;
        }
        if reader.entry().mode() & S_IFMT != S_IFDIR {
            let name = super::plain(reader.entry().name());
            let Some(path) = name.strip_prefix(&folder) else {
                return Err(io::Error::other(format!(
                    "it holds {name:?}, which is not below {folder}"
                )));
            };
            take(path, &mut reader)?;
        }
        archive = reader.finish()?;
    }
    // The checksum is at the end.
    io::copy(&mut archive, &mut io::sink()).map(|_| ())
}

/// The files of a tar.
fn walk_tar(from: impl Read, take: &mut Take<'_>) -> io::Result<()> {
    let room = Rc::new(Cell::new(u64::MAX));
    let mut archive = tar::Archive::new(Limited { inner: from, room: Rc::clone(&room) });
    let mut entries = archive.entries()?;
    loop {
        room.set(MAX_HEADER);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        room.set(u64::MAX);
        if entry.header().entry_type().is_file() {
            let path = tarball::plain(&entry.path_bytes()).map_err(io::Error::other)?;
            take(&super::plain(&path), &mut entry)?;
        }
        // So that the next header is all that the tar crate reads by itself.
        io::copy(&mut entry, &mut io::sink())?;
    }
    room.set(u64::MAX);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(|_| ())
}
