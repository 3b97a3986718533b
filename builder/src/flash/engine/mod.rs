//! The writer: one pass over an image, several disks at once, and nothing boots before everything was
//! read back.
//!
//! ```text
//! image ── producer ──┬── lane: write ── flush ── read back ── backup table ── first MiB
//!   (read, hash once) └── lane: …        (each disk for itself, at its own pace at the end)
//! ```
//!
//! The first MiB of a disk, with its partition table and boot code, is zeroed at the beginning and
//! written at the end. Meanwhile a journal lies in it (see [`journal`]), from which the same command
//! goes on after whatever ended it.

pub mod backup;
mod check;
pub mod journal;
mod lane;
mod produce;
mod queue;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::device::Unmapped;

/// Bytes at a disk's begin that are written last.
pub const HEAD: u64 = 1 << 20;
/// Bytes at a disk's end whose old content (backup tables, labels of pools and arrays) is removed.
pub const TAIL: u64 = 1 << 20;
/// Bytes that are read and written at once.
pub const CHUNK: usize = 2 << 20;
/// How often a part that reads back otherwise than it was written is written again.
pub const RETRIES: u32 = 2;
/// Bytes after which the disk is flushed and the journal brought up to date.
const JOURNAL_EVERY: u64 = 128 << 20;
/// How long a disk may take for one chunk while others wait for it, before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the writer needs of a disk. Offsets and lengths are in bytes, multiples of its sectors.
pub trait Disk: Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Bytes of a logical sector: 512 or 4096.
    fn sector(&self) -> u32;

    /// Reads all of `buffer`, past every cache.
    ///
    /// # Errors
    /// As the operating system has them.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// As the operating system has them.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Lets the disk forget a part without writing it.
    ///
    /// # Errors
    /// As the operating system has them.
    fn discard(&self, offset: u64, length: u64) -> io::Result<Unmapped>;

    /// Waits until everything is on the medium.
    ///
    /// # Errors
    /// As the operating system has them.
    fn flush(&self) -> io::Result<()>;

    /// Has the kernel read the partition table anew.
    ///
    /// # Errors
    /// As the operating system has them.
    fn reread_table(&self) -> io::Result<()>;

    /// Whether the disk is no longer there.
    fn is_gone(&self) -> bool {
        false
    }
}

/// An image that can be read from its begin, more than once.
pub trait Origin: Sync {
    /// Begins to read it.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn feed(&self) -> anyhow::Result<Box<dyn Feed + '_>>;
}

/// An image that is being read.
pub trait Feed: Send {
    /// Reads what is at `offset`, which only grows from call to call. Shorter than `buffer` at the
    /// image's end only.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> anyhow::Result<usize>;

    /// Checks whether it is still the image that was opened, as far as that is known at once.
    ///
    /// # Errors
    /// When it has changed.
    fn unchanged(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Checks what can be checked at the end only.
    ///
    /// # Errors
    /// When the image is not what it should be, or has changed.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// A part of an image that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins, in bytes; a multiple of 512.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// Its SHA-256, when it is known before it was read.
    pub sha256: Option<[u8; 32]>,
}

impl Piece {
    /// Where it ends, in bytes.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// What is to be written.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The image's size in bytes, when it is known.
    pub size: Option<u64>,
    /// The used parts, sorted, not overlapping; all of the image when absent: then what is zero is
    /// left out where the disk reads as zeroes anyway.
    pub pieces: Option<Vec<Piece>>,
    /// Stands for exactly this image.
    pub identity: [u8; 32],
}

impl Plan {
    /// Bytes that will be written, when that is known.
    pub fn mapped(&self) -> Option<u64> {
        match &self.pieces {
            Some(pieces) => Some(pieces.iter().map(|piece| piece.length).sum()),
            None => self.size,
        }
    }
}

/// What a disk is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Old tables are removed, unused parts discarded.
    Prepare,
    /// The image is written.
    Write,
    /// What was written is flushed.
    Flush,
    /// It is read back.
    Verify,
    /// Bad parts are written again.
    Repair,
    /// The first MiB is written.
    Finish,
}

/// What happens to a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A phase begins.
    Phase {
        /// Which one.
        phase: Phase,
        /// Bytes that it has to do, when that is known.
        total: Option<u64>,
    },
    /// So many bytes of the phase are done.
    Done {
        /// Bytes since the last such event.
        bytes: u64,
    },
    /// An interrupted run is continued.
    Resumed {
        /// Up to where the disk was written already, in bytes.
        offset: u64,
    },
    /// A part was read back otherwise than it was written.
    Mismatch {
        /// Where it begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        length: u64,
    },
}

/// Sees what happens; is called from several threads.
pub trait Watch: Sync {
    /// Something happened to the disk with this number.
    fn tell(&self, disk: usize, event: Event);
}

/// Why a disk was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed.
    #[error("{doing} at byte {offset}: {source}")]
    Io {
        /// What was being done, as "writing".
        doing: &'static str,
        /// Where, in bytes.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// The disk is gone.
    #[error(
        "the disk was pulled out or lost its connection; plug it in again and run the same command: it goes on where it was"
    )]
    Gone,
    /// It does not keep what is written to it.
    #[error(
        "this key is bad: bytes {offset} to {} read back otherwise than they were written, {} times; it does not boot, throw it away",
        offset + length, RETRIES + 1
    )]
    Bad {
        /// Where the first such part begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        length: u64,
    },
    /// The image turned out to be larger than the disk.
    #[error("the image is larger than the disk, which has {size} bytes: take a larger one")]
    TooSmall {
        /// The disk's size in bytes.
        size: u64,
    },
    /// The image's parts are no whole sectors.
    #[error(
        "the image is for other disks: its parts do not begin at multiples of this disk's sectors of {sector} bytes"
    )]
    Sector {
        /// Bytes of a sector.
        sector: u64,
    },
    /// It was so slow that the others would have waited forever.
    #[error("it took no data for {} s while the other keys waited: it was given up", PATIENCE.as_secs())]
    Stalled,
    /// The image cannot be read or is damaged.
    #[error("{0}; the key does not boot")]
    Image(String),
    /// The command was interrupted.
    #[error("interrupted; the key does not boot yet, the same command goes on where it was")]
    Stopped,
}

/// What was done with a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Bytes that were written.
    pub written: u64,
    /// Bytes of the image's used parts that were there from an interrupted run.
    pub resumed: u64,
    /// Bytes that were left out: unused, or zero on a disk that reads as zeroes.
    pub skipped: u64,
    /// Bytes that were discarded.
    pub discarded: u64,
    /// Bytes that were read back and compared.
    pub verified: u64,
    /// Parts that had to be written again.
    pub repaired: u64,
}

/// How the disk is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Whether what was written is read back.
    pub verify: bool,
    /// Set by whoever interrupts.
    pub stop: &'a AtomicBool,
}

impl Options<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Writes an image to all disks. Each has a result of its own, in their order; one that fails does
/// not hold up the others.
pub fn flash(
    plan: &Plan,
    origin: &dyn Origin,
    disks: &[&dyn Disk],
    options: Options<'_>,
    watch: &dyn Watch,
) -> Vec<Result<(Summary, Duration), Error>> {
    let begun = Instant::now();
    let lanes: Vec<_> = disks
        .iter()
        .enumerate()
        .map(|(number, disk)| lane::Lane::new(number, *disk, plan, origin, options, watch))
        .collect();
    std::thread::scope(|scope| {
        let run =
            |lane| scope.spawn(move || lane::Lane::run(lane).map(|sum| (sum, begun.elapsed())));
        let threads: Vec<_> = lanes.iter().map(run).collect();
        produce::produce(plan, origin, &lanes, options);
        let died = || Err(Error::Image("a thread ended before its time".to_owned()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
    })
}
