//! What a disk remembers of a run that was interrupted: which image, and up to where it was written.
//!
//! It lies in the disk's first MiB, which is written last. So it goes with the key to another
//! machine, needs no file anywhere, and is gone when the key is whole. Two copies are written in
//! turn, each with a digest: one of them is whole whenever the power fails.

use std::io;

use sha2::{Digest, Sha256};

use super::{Disk, HEAD};
use crate::image::direct::Buffer;

/// Bytes before the copies: there boot code and tables are looked for.
pub const BOOT: u64 = HEAD / 2;
/// Where the copies lie, in bytes.
const PLACES: [u64; 2] = [BOOT, BOOT + SIZE as u64];
/// Bytes of a copy: a sector of any disk.
const SIZE: usize = 4096;
const MAGIC: &[u8; 16] = b"headnode-flash\0\x01";
const NOTE: &str = "This disk is being written by `headnode flash` and does not boot yet. Run the same \
                    command again to go on.";

/// A run that was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Journal {
    /// Stands for the image.
    pub identity: [u8; 32],
    /// The disk's size in bytes: of a copy of the disk nothing is believed.
    pub disk: u64,
    /// All used parts of the image up to here are on the disk, in bytes.
    pub written: u64,
    /// Whether the unused parts were discarded and read as zeroes.
    pub zeroed: bool,
    /// The larger one is newer.
    pub sequence: u64,
}

impl Journal {
    fn encode(&self) -> [u8; SIZE] {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.identity);
        for number in [self.disk, self.written, u64::from(self.zeroed), self.sequence] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(Sha256::digest(&bytes));
        bytes.extend(NOTE.bytes());
        let mut sector = [0; SIZE];
        for (to, from) in sector.iter_mut().zip(bytes) {
            *to = from;
        }
        sector
    }

    /// Reads a copy; nothing when it is none, or not whole.
    pub fn decode(sector: &[u8]) -> Option<Self> {
        let (body, later) = sector.split_at_checked(16 + 32 + 4 * 8)?;
        if later.get(..32)? != &*Sha256::digest(body) {
            return None;
        }
        let (identity, numbers) = body.strip_prefix(MAGIC)?.split_at_checked(32)?;
        let number =
            |at: usize| Some(u64::from_le_bytes(numbers.get(at * 8..at * 8 + 8)?.try_into().ok()?));
        Some(Self {
            identity: identity.try_into().ok()?,
            disk: number(0)?,
            written: number(1)?,
            zeroed: number(2)? == 1,
            sequence: number(3)?,
        })
    }

    /// The newest one on a disk.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(disk: &dyn Disk) -> io::Result<Option<Self>> {
        let mut newest: Option<Self> = None;
        let mut sector = Buffer::new(SIZE);
        for place in PLACES {
            disk.read_at(&mut sector, place)?;
            let found = Self::decode(&sector);
            newest = newest.into_iter().chain(found).max_by_key(|journal| journal.sequence);
        }
        Ok(newest)
    }

    /// Writes it as the next one; what it tells must be flushed before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.sequence += 1;
        let mut sector = Buffer::new(SIZE);
        sector.copy_from_slice(&self.encode());
        let [even, odd] = PLACES;
        disk.write_at(&sector, if self.sequence.is_multiple_of(2) { even } else { odd })?;
        disk.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn journal() -> Journal {
        Journal { identity: [7; 32], disk: 9 << 30, written: 5 << 20, zeroed: true, sequence: 3 }
    }

    #[test]
    fn what_is_written_is_read_and_a_changed_byte_is_seen() {
        let bytes = journal().encode();
        assert_eq!(Journal::decode(&bytes), Some(journal()));
        for at in 0..112 {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert_eq!(Journal::decode(&bad), None, "{at}");
        }
    }

    proptest! {
        #[test]
        fn anything_can_be_on_a_disk(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend(&bytes);
            prop_assert_eq!(Journal::decode(&bytes), None);
            prop_assert_eq!(Journal::decode(&with_magic), None);
        }
    }
}
