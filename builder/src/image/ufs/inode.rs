//! Inodes, as illumos' `struct icommon` lays them out. BSD's has the same parts where they are used
//! here; owner and group of what is made are root's, which is 0 in both.

use super::bytes::{long, quad, set, word};
use super::geometry::INODE;

/// Addresses of data in an inode itself.
pub(super) const DIRECT: u32 = 12;
/// Links that an inode may have.
pub(super) const MAX_LINKS: u16 = 32_767;

const LINKS: usize = 2;
const SIZE: usize = 8;
const TIMES: [usize; 3] = [16, 24, 32];
const ADDRESSES: usize = 40;
const SECTORS: usize = 104;
const GENERATION: usize = 108;
const SHADOW: usize = 112;
const ATTRIBUTES: usize = 124;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    /// A link, a device, or anything else.
    Other,
}

impl Kind {
    fn bits(self) -> u16 {
        match self {
            Self::Folder => 0o040_000,
            Self::File => 0o100_000,
            Self::Other => 0,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Inode(pub [u8; INODE as usize]);

impl Inode {
    /// A new one in the place of a free one, whose generation it follows.
    pub(super) fn new(old: &Self, kind: Kind, mode: u16, time: u32) -> Self {
        let mut inode = Self([0; INODE as usize]);
        inode.put(0, kind.bits() | (mode & 0o7777));
        inode.put(LINKS, 1);
        inode.touch(&TIMES, time);
        let generation = long(&old.0, GENERATION).wrapping_add(1);
        set(&mut inode.0, GENERATION, &generation.to_le_bytes());
        inode
    }

    /// What is left of one that is no more.
    pub(super) fn cleared(&self) -> Self {
        let mut inode = Self([0; INODE as usize]);
        set(&mut inode.0, GENERATION, &long(&self.0, GENERATION).to_le_bytes());
        inode
    }

    fn put(&mut self, at: usize, number: u16) {
        set(&mut self.0, at, &number.to_le_bytes());
    }

    fn touch(&mut self, times: &[usize], time: u32) {
        for at in times {
            set(&mut self.0, *at, &u64::from(time).to_le_bytes());
        }
    }

    pub(super) fn mode(&self) -> u16 {
        word(&self.0, 0)
    }

    pub(super) fn kind(&self) -> Kind {
        match self.mode() & 0o170_000 {
            0o040_000 => Kind::Folder,
            0o100_000 => Kind::File,
            _ => Kind::Other,
        }
    }

    pub(super) fn links(&self) -> u16 {
        word(&self.0, LINKS)
    }

    pub(super) fn set_links(&mut self, links: u16, time: u32) {
        self.put(LINKS, links);
        self.touch(&[TIMES[2]], time);
    }

    /// Size in bytes.
    pub(super) fn size(&self) -> u64 {
        quad(&self.0, SIZE)
    }

    /// Sectors of 512 bytes that it takes, with its indirect blocks.
    pub(super) fn sectors(&self) -> u32 {
        long(&self.0, SECTORS)
    }

    /// The address at a place: 12 of data, one of a block of such, one of a block of those.
    pub(super) fn address(&self, place: u32) -> u32 {
        long(&self.0, ADDRESSES + 4 * place as usize)
    }

    /// Whether it has access lists or attributes, which are inodes of their own.
    pub(super) fn has_more(&self) -> bool {
        long(&self.0, SHADOW) != 0 || long(&self.0, ATTRIBUTES) != 0
    }

    /// Gives it content: size in bytes, sectors of 512 bytes, and the 14 addresses.
    pub(super) fn set_content(&mut self, size: u64, sectors: u32, addresses: &[u32], time: u32) {
        set(&mut self.0, SIZE, &size.to_le_bytes());
        set(&mut self.0, SECTORS, &sectors.to_le_bytes());
        for place in 0..14 {
            let address = addresses.get(place).copied().unwrap_or_default();
            set(&mut self.0, ADDRESSES + 4 * place, &address.to_le_bytes());
        }
        self.touch(&TIMES[1..], time);
    }
}
