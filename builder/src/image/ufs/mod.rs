//! UFS file systems as illumos for x86 has them, read and added to: the boot archive of SmartOS is
//! one (C§1.14). Little-endian UFS1 in either of two dialects, see `geometry`. Facts are from illumos'
//! headers `sys/fs/ufs_fs.h`, `ufs_inode.h` and `ufs_fsdir.h`, and from what its `fsck` checks.
//!
//! What is added is planned and given its place first, in memory: an archive that is too full, or
//! damaged where it matters, is left as it was. Everything that is read is checked before it is
//! used, and memory is bounded: by the maps of the groups, the folders that are added to, and 8
//! bytes for every block added.

mod add;
mod bytes;
mod folder;
mod geometry;
mod group;
mod inode;
mod plan;
mod read;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub use add::Entry;
use geometry::Geometry;
use group::{Counts, Group};

/// The inode of the root.
const ROOT: u32 = 2;

/// Why a file system cannot be read or added to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error("working on a UFS file system: {0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("this is no UFS file system that can be added to: {0}")]
    NotUfs(String),
    /// It is one, but not in a state to be changed.
    #[error("the UFS file system cannot be added to: {0}")]
    State(&'static str),
    /// It keeps a log, as UFS that was mounted without `-o nologging` does.
    #[error("it has a log, whose entries would undo changes: mount it once with -o nologging")]
    HasLog,
    /// Its structures contradict themselves.
    #[error("the UFS file system is damaged: {place}: {what}")]
    Damaged {
        /// Where: a path, or a part of the file system.
        place: String,
        /// What is wrong.
        what: &'static str,
    },
    /// There is no room.
    #[error("the UFS file system is full: {}", lacks(*bytes, *inodes))]
    Full {
        /// Bytes that are missing. More than what is needed less what is free, when that is in pieces
        /// too small for whole blocks.
        bytes: u64,
        /// Inodes that are missing.
        inodes: u64,
    },
    /// A path cannot be had.
    #[error("{path:?} cannot be stored on this UFS file system: {why}")]
    Path {
        /// The path.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// A file to be added cannot be read.
    #[error("reading the content of {path:?}: {source}")]
    Content {
        /// Where it is to go.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}

fn lacks(bytes: u64, inodes: u64) -> String {
    match (bytes, inodes) {
        (bytes, 0) => format!("{bytes} bytes are missing"),
        (0, inodes) => format!("{inodes} inodes are missing"),
        (bytes, inodes) => format!("{bytes} bytes and {inodes} inodes are missing"),
    }
}

fn damaged(place: impl Into<String>, what: &'static str) -> Error {
    Error::Damaged { place: place.into(), what }
}

/// A file system that fills a file, or whatever else can be read and written at any place.
#[derive(Debug)]
pub struct Ufs<D = File> {
    disk: D,
    geometry: Geometry,
    /// The superblock as it is stored.
    superblock: Vec<u8>,
    /// The summaries of all groups as they are stored.
    summaries: Vec<u8>,
    groups: Vec<Group>,
}

impl<D: FileExt> Ufs<D> {
    /// Opens the file system that begins at the start of `disk`, which has `length` bytes, and checks
    /// the maps and counts of all groups.
    ///
    /// # Errors
    /// When it is none, is not in order, or cannot be read.
    pub fn open(disk: D, length: u64) -> Result<Self, Error> {
        let mut superblock = vec![0; geometry::SUPERBLOCK];
        let at = geometry::SUPERBLOCK_AT;
        if length < at + superblock.len() as u64 {
            return Err(Error::NotUfs(format!("its {length} bytes are too few for one")));
        }
        disk.read_exact_at(&mut superblock, at)?;
        let geometry = Geometry::parse(&superblock, length)?;
        let mut summaries = vec![0; geometry.summary_bytes as usize];
        disk.read_exact_at(&mut summaries, geometry.bytes(geometry.summary))?;
        let mut groups = Vec::new();
        let mut total = Counts::default();
        for index in 0..geometry.groups {
            let damaged = |what| damaged(format!("cylinder group {index}"), what);
            let mut bytes = vec![0; geometry.group_bytes as usize];
            disk.read_exact_at(&mut bytes, geometry.bytes(geometry.map(index)))?;
            let group = Group::parse(&geometry, index, bytes).map_err(damaged)?;
            if Counts::read(&summaries, index as usize * Counts::SIZE) != group.counts() {
                return Err(damaged("its summary is another one than its own count"));
            }
            total.add(&group.counts());
            groups.push(group);
        }
        if Counts::read(&superblock, geometry::TOTAL) != total {
            return Err(damaged("superblock", "its totals are not the sums of the groups' counts"));
        }
        Ok(Self { disk, geometry, superblock, summaries, groups })
    }

    /// Bytes that are free, and inodes.
    pub fn free(&self) -> (u64, u64) {
        let total = group::total(&self.groups);
        let blocks = u64::from(total.blocks) * u64::from(self.geometry.block);
        let pieces = u64::from(total.fragments) * u64::from(self.geometry.fragment);
        (blocks + pieces, u64::from(total.inodes))
    }
}
