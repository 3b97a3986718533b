//! Why an image cannot be used.

use std::io;

use crate::manifest::{bmap, signature};
use crate::source::http;

/// Why an image cannot be opened or read. The place is a path or an address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system cannot read it.
    #[error("reading {place} at byte {offset}: {source}")]
    Read {
        /// The file.
        place: String,
        /// Where, in bytes.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is nothing that could be an image.
    #[error("{place} is {what}")]
    NoImage {
        /// The file.
        place: String,
        /// What it is instead, and what to do.
        what: String,
    },
    /// The arguments contradict each other.
    #[error("{0}")]
    Usage(String),
    /// A server does not give it.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// No server gives it.
    #[error("{place}: given up at byte {offset} after {failed} failures in a row: {why}")]
    GivenUp {
        /// The address that was tried last.
        place: String,
        /// Where the transfer stands, in bytes.
        offset: u64,
        /// How many attempts brought nothing.
        failed: u32,
        /// What the last one ended with.
        why: String,
    },
    /// It is another file now.
    #[error(
        "{place} changed while it was read, noticed at byte {offset} ({what}): what was written is \
         of no use; flash again once it no longer changes"
    )]
    Changed {
        /// The file.
        place: String,
        /// How far it was read, in bytes.
        offset: u64,
        /// What differs.
        what: String,
    },
    /// A packed file ends before its content does.
    #[error(
        "{place} is cut off: it ends in the middle of its {packing} data, after {offset} unpacked \
         bytes; get it once more"
    )]
    CutOff {
        /// The file.
        place: String,
        /// How it is packed.
        packing: &'static str,
        /// How much could be unpacked, in bytes.
        offset: u64,
    },
    /// A packed file is damaged.
    #[error(
        "{place} is damaged: its {packing} data cannot be unpacked behind byte {offset} of the \
         image ({why}); get it once more"
    )]
    Damaged {
        /// The file.
        place: String,
        /// How it is packed.
        packing: &'static str,
        /// How much could be unpacked, in bytes.
        offset: u64,
        /// What the unpacker said.
        why: String,
    },
    /// It unpacks to more than it should.
    #[error(
        "{place} holds more than the {size} bytes that {says} says: it is another image, or made \
         to fill disks"
    )]
    TooLong {
        /// The file.
        place: String,
        /// How many there should be.
        size: u64,
        /// What says so.
        says: String,
    },
    /// It has another size than it should.
    #[error("{place} holds {found} bytes, {says} says {size}: it is another image, or cut off")]
    Size {
        /// The file.
        place: String,
        /// How many there are.
        found: u64,
        /// How many there should be.
        size: u64,
        /// What says so.
        says: String,
    },
    /// It is not what the list says.
    #[error(
        "{place} has the SHA-256 {found}, {list} says {expected}: it is damaged or another file"
    )]
    Digest {
        /// The file.
        place: String,
        /// What it has, in hex.
        found: String,
        /// What it should have, in hex.
        expected: String,
        /// What says so.
        list: String,
    },
    /// Nothing tells whether it is whole.
    #[error(
        "nothing tells whether {place} is whole: there is none of {} beside it; name its manifest \
         (--manifest), block map (--bmap) or list of digests (--sums), or flash it --unverified",
        looked.join(", ")
    )]
    Unverified {
        /// The file.
        place: String,
        /// What was looked for.
        looked: Vec<String>,
    },
    /// A file that describes it is missing.
    #[error("{0} does not exist")]
    Missing(String),
    /// A file that describes it makes no sense.
    #[error("{place} is of no use: {why}")]
    Description {
        /// The file.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A block map makes no sense.
    #[error("{place}: {source}")]
    Bmap {
        /// The file.
        place: String,
        /// What is wrong.
        source: bmap::Error,
    },
    /// Two files that describe it contradict each other.
    #[error("{one} and {other} contradict each other: {what}; remove the one that is wrong")]
    Contradiction {
        /// The one.
        one: String,
        /// The other.
        other: String,
        /// In what.
        what: String,
    },
    /// It was signed, but not rightly, or not by the key that was asked for.
    #[error("the signature {place} does not hold: {source}")]
    Signature {
        /// The signature.
        place: String,
        /// Why.
        source: signature::Error,
    },
    /// A key was asked for, and nothing is signed.
    #[error("key {key} was asked for, but nothing signed tells what {place} is: there is none of {}", looked.join(", "))]
    NotSigned {
        /// The image.
        place: String,
        /// The key.
        key: signature::KeyId,
        /// The signatures that were looked for.
        looked: Vec<String>,
    },
    /// The caller went back.
    #[error("byte {offset} was asked for after byte {at}: images are read forwards only")]
    Backwards {
        /// What was asked for.
        offset: u64,
        /// Where the reader is.
        at: u64,
    },
    /// A thread could not be started, or ended without a word.
    #[error("a thread that reads {place} ended: {why}")]
    Thread {
        /// The image.
        place: String,
        /// What is known.
        why: String,
    },
}

impl Error {
    /// For adapters that speak `std::io`; [`Error::from_io`] takes it out again.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// The error that an adapter passed on, or else what `other` makes of it.
    pub(super) fn from_io(error: io::Error, other: impl FnOnce(io::Error) -> Self) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) => other(error),
        }
    }
}
