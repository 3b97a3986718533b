//! FAT32 file systems (Microsoft, "FAT32 File System Specification" 1.03): a writer that plans all
//! files and then streams the volume in one pass, and a reader that trusts nothing.
//!
//! An own writer because an image is made in one pass, with fixed times and identifiers, files in
//! one piece, and the number of hidden sectors that loaders rely on; no crate does that.

pub mod names;
pub mod plan;
pub mod reader;
pub mod write;

pub use plan::{Format, Plan};
pub use reader::{Node, Volume};

/// The largest file that FAT32 can hold, in bytes.
pub const MAX_FILE: u64 = 0xffff_ffff;
/// Fewer clusters than this make a FAT16 volume (specification, "FAT Type Determination").
pub const MIN_CLUSTERS: u32 = 65_525;
/// The highest number of clusters.
pub const MAX_CLUSTERS: u32 = 0x0fff_fff5;
/// Bytes of a directory entry.
pub const DIR_ENTRY: usize = 32;
/// A folder holds at most this many entries of 32 bytes.
pub const MAX_DIR_ENTRIES: usize = 65_536;

pub(crate) const ATTR_VOLUME: u8 = 0x08;
pub(crate) const ATTR_DIR: u8 = 0x10;
pub(crate) const ATTR_ARCHIVE: u8 = 0x20;
pub(crate) const ATTR_LONG_NAME: u8 = 0x0f;
pub(crate) const END_OF_CHAIN: u32 = 0x0fff_ffff;

/// A volume cannot be made as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name cannot be held by FAT.
    #[error("{path:?} cannot be stored on FAT: {why}")]
    Name {
        /// The file.
        path: String,
        /// What is wrong with its name.
        why: &'static str,
    },
    /// Two names differ in case only.
    #[error("{0:?} and {1:?} are one name on FAT, which does not tell upper from lower case")]
    Duplicate(String, String),
    /// A path is a file and a folder at once.
    #[error("{0:?} is both a file and a folder")]
    FileAndFolder(String),
    /// A file is too large.
    #[error("{path:?} has {size} bytes; FAT32 holds files of up to {MAX_FILE} bytes")]
    FileTooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A folder has too many entries.
    #[error(
        "the folder {0:?} has more entries than FAT can hold in one folder (65536, long names count several times)"
    )]
    FolderTooLarge(String),
    /// The volume is too small for its files.
    #[error("the files need {needed} bytes, the file system {label:?} has room for {room}: {} too many; the largest are {}",
        needed.saturating_sub(*room), largest.join(", "))]
    Full {
        /// Name of the volume.
        label: String,
        /// Bytes needed, in whole clusters.
        needed: u64,
        /// Bytes of all clusters.
        room: u64,
        /// The largest files with their sizes.
        largest: Vec<String>,
    },
    /// The volume has a size that FAT32 cannot have.
    #[error(
        "a FAT32 file system cannot have {sectors} sectors (from about 33 MiB to 2 TiB are possible)"
    )]
    Size {
        /// Its sectors of 512 bytes.
        sectors: u64,
    },
    /// A personal part cannot have the place on the disk that it must have.
    #[error(
        "{path:?} must begin at a multiple of 64 KiB, and no cluster does: let the partition begin at one"
    )]
    Personal {
        /// The file.
        path: String,
    },
    /// The volume's name does not fit.
    #[error("{0:?} is no FAT volume label: at most 11 upper-case letters, digits, '-' and '_'")]
    Label(String),
    /// Reading a file's content failed, or it changed meanwhile.
    #[error("reading the content of {path:?}: {source}")]
    Content {
        /// The file.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Writing the volume failed.
    #[error("writing the file system: {0}")]
    Write(#[source] std::io::Error),
}

/// The three largest of some files, by path and size, for errors.
pub(crate) fn largest<'a>(files: impl Iterator<Item = (&'a str, u64)>) -> Vec<String> {
    let mut by_size: Vec<_> = files.map(|(path, size)| (size, path)).collect();
    by_size.sort_by(|a, b| b.cmp(a));
    by_size.iter().take(3).map(|(size, path)| format!("{path} ({size} bytes)")).collect()
}

/// The checksum that ties long-name entries to their short name.
pub(crate) fn short_checksum(short: &[u8; 11]) -> u8 {
    short.iter().fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
}
