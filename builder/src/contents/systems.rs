//! The file systems of disks and discs, as lists of files.

use std::fs::File;

use super::{Entry, FileSystem, plain};
use crate::image::{fat, iso};

/// Files with more pieces than this in all are refused: they would fill the memory.
const MAX_EXTENTS: usize = 4_000_000;

/// Why a file system cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileSystemError {
    /// It is FAT, or nothing that is known.
    #[error(transparent)]
    Fat(#[from] fat::reader::Error),
    /// It is ISO 9660.
    #[error(transparent)]
    Iso(#[from] iso::reader::Error),
}

/// The FAT file system that fills a part of the disk.
///
/// # Errors
/// When there is none, or it is damaged.
pub fn fat(disk: &File, start: u64, length: u64) -> Result<FileSystem, FileSystemError> {
    let mut volume = fat::Volume::open(disk, start, length)?;
    let nodes = volume.walk()?;
    let mut pieces = Pieces::default();
    let mut entries = Vec::with_capacity(nodes.len());
    for node in nodes {
        let extents = if node.folder { Ok(Vec::new()) } else { volume.extents(&node) };
        let Some(entry) = pieces.entry(&node.path, node.folder, node.size, extents) else {
            let error = fat::reader::Error::Damaged { path: node.path, what: Pieces::WHAT };
            return Err(error.into());
        };
        entries.push(entry);
    }
    let (label, block) = (plain(volume.label()), volume.cluster_bytes());
    Ok(FileSystem { kind: "FAT32", label, block, entries })
}

/// The ISO 9660 file system of a disc; it fills the whole of it, whatever partitions it has besides.
/// Symbolic links are left out.
///
/// # Errors
/// When it is no disc, or it is damaged.
pub fn disc(disk: &File, length: u64) -> Result<FileSystem, FileSystemError> {
    let mut volume = iso::reader::Volume::open(disk, 0, length)?;
    let nodes = volume.walk()?;
    let mut pieces = Pieces::default();
    let mut entries = Vec::with_capacity(nodes.len());
    for node in nodes.into_iter().filter(|node| node.link.is_none()) {
        let extents = if node.folder { Ok(Vec::new()) } else { volume.extents(&node) };
        let Some(entry) = pieces.entry(&node.path, node.folder, node.size, extents) else {
            let error = iso::reader::Error::Damaged { path: node.path, what: Pieces::WHAT };
            return Err(error.into());
        };
        entries.push(entry);
    }
    let (label, block) = (plain(volume.label()), iso::BLOCK);
    Ok(FileSystem { kind: "ISO 9660", label, block, entries })
}

/// Counts the pieces of files, so that a hostile image does not fill the memory.
#[derive(Default)]
struct Pieces(usize);

impl Pieces {
    const WHAT: &'static str = "its files are in too many pieces";

    /// A file or folder; `None` when that is too many pieces.
    fn entry<E: ToString>(
        &mut self,
        path: &str,
        folder: bool,
        size: u64,
        extents: Result<Vec<(u64, u64)>, E>,
    ) -> Option<Entry> {
        self.0 += extents.as_ref().map_or(0, Vec::len);
        let extents = extents.map_err(|error| error.to_string());
        (self.0 <= MAX_EXTENTS).then(|| Entry { path: plain(path), folder, size, extents })
    }
}
