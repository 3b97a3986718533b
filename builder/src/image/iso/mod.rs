//! ISO 9660 file systems (ECMA-119) with Rock Ridge names (IEEE P1282, SUSP 1.10) and El Torito
//! boot entries ("El Torito" 1.0, UEFI specification 2.10 section 13.3.2): a writer that plans all
//! files and then streams the image in one pass, and a reader that trusts nothing.
//!
//! The image is a disk, too: a GUID partition table lies in the area that ISO 9660 leaves to the
//! system, with the EFI system partition that the El Torito entry names; so it can be written to a
//! USB stick as it is. An own writer because an image is made in one pass with fixed times and
//! because no crate tells GRUB's two loaders where they lie (it hangs without).

pub mod boot;
pub mod names;
pub mod plan;
pub mod reader;
pub mod records;
pub mod write;

pub use boot::{Bios, Boot, Efi, Loader, Place};
pub use plan::{Format, Iso};
pub use reader::{Node, Volume};

use super::fat;

/// Bytes of a block.
pub const BLOCK: u64 = 2048;
/// First block that is not left to the system.
pub const SYSTEM_BLOCKS: u64 = 16;
/// The longest name that Rock Ridge is used for here, in bytes.
pub const MAX_NAME: usize = 255;
/// The most bytes of one extent: whole blocks below 4 GiB. Larger files get several.
pub const MAX_EXTENT: u64 = 0xffff_f800;

/// An image cannot be made as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name cannot be stored.
    #[error("{path:?} cannot be stored on ISO 9660: {why}")]
    Name {
        /// The file.
        path: String,
        /// What is wrong with its name.
        why: &'static str,
    },
    /// A path comes twice.
    #[error("{0:?} is to be on the ISO image twice")]
    Twice(String),
    /// A path is a file and a folder at once.
    #[error("{0:?} is both a file and a folder")]
    FileAndFolder(String),
    /// The volume's name does not fit.
    #[error("{0:?} is no ISO volume name: 1 to 32 upper-case letters, digits and '_'")]
    Label(String),
    /// The time cannot be stored.
    #[error("ISO 9660 cannot store the time {0} (seconds since 1970): years 1970 to 2155")]
    Time(i64),
    /// There is too much of it.
    #[error("the ISO image would have {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
    },
    /// A loader has no room for what must be written into it.
    #[error("the boot loader {name}: {why}")]
    Loader {
        /// Which one.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The EFI system partition cannot be made.
    #[error(transparent)]
    Fat(#[from] fat::Error),
    /// Reading a file's content failed, or it changed meanwhile.
    #[error("reading the content of {path:?}: {source}")]
    Content {
        /// The file.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Writing the image failed.
    #[error("writing the ISO image: {0}")]
    Write(#[source] std::io::Error),
}

/// A number of 32 bits in both byte orders.
pub(crate) fn both32(value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_be_bytes());
    bytes
}

/// A number of 16 bits in both byte orders.
pub(crate) fn both16(value: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (value.to_le_bytes(), value.to_be_bytes());
    [a, b, c, d]
}
