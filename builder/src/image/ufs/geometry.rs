//! The superblock: where everything is. Offsets are those of illumos' `struct fs`, which BSD's shares
//! but for what [`Dialect`] tells.

use std::ops::Range;

use super::Error;
use super::bytes::{long, set};

/// Where the superblock begins, in bytes.
pub(super) const SUPERBLOCK_AT: u64 = 8192;
/// Bytes of it.
pub(super) const SUPERBLOCK: usize = 8192;
/// Bytes of an inode.
pub(super) const INODE: u32 = 128;
/// Where the totals of all groups are in it.
pub(super) const TOTAL: usize = 192;

const TIME: usize = 32;
const STATE: usize = 132;
const MODIFIED: usize = 208;
const CLEAN: usize = 209;
const FLAGS: usize = 211;
const BSD_TOTAL: usize = 1008;
const BSD_TIME: usize = 1072;
/// Solaris: the block of the log. BSD: the format of inodes and folders.
const LOG: usize = 1324;
const MAGIC: usize = 1372;

const UFS1: u32 = 0x0001_1954;
const UFS2: u32 = 0x1954_0119;
const MULTI_TERABYTE: u32 = 0x00de_cade;
/// `fs_state` of a file system in order is this less `fs_time`.
const OKAY: u32 = 0x7c26_9d38;
/// Values of `fs_clean`: unmounted, mounted but in order, has a log.
const IS_CLEAN: u8 = 1;
const IS_STABLE: u8 = 2;
const HAS_LOG: u8 = 0xfd;
/// BSD's second format of inodes: folders tell what their entries are.
const FORMAT_44: u32 = 2;
/// BSD: the totals are kept in 64 bits too.
const FLAGS_UPDATED: u8 = 0x80;

/// Blocks larger than these are read by no illumos (`MAXBSIZE`), smaller ones neither (`MINBSIZE`).
const BLOCKS: Range<u32> = 4096..8193;
/// Maps of groups that take more bytes than this are not read: 100 GB of file system have less.
const MAX_MAPS: u64 = 64 << 20;
/// No file system has as many bytes of summaries as this.
const MAX_SUMMARIES: u32 = 4 << 20;

/// Where Solaris and BSD went separate ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// illumos and Solaris: entries of folders have names of 16-bit length and no type; `fs_state`
    /// vouches for `fs_clean`.
    Solaris,
    /// BSD since 4.4: entries have a type and names of 8-bit length; groups may count clusters of
    /// free blocks, up to so many blocks long.
    Bsd {
        /// The longest cluster that is counted; 0 for none.
        clusters: u32,
    },
}

/// Sizes and places. Addresses count fragments from the start of the file system.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub dialect: Dialect,
    /// Bytes of a block.
    pub block: u32,
    /// Bytes of a fragment.
    pub fragment: u32,
    /// Fragments of a block: 1, 2, 4 or 8.
    pub per_block: u32,
    /// Fragments of the file system.
    pub size: u32,
    /// Cylinder groups.
    pub groups: u32,
    /// Fragments of a group; the last one may have fewer.
    pub group_size: u32,
    /// Inodes of a group.
    pub group_inodes: u32,
    /// Bytes of a group's maps and counts.
    pub group_bytes: u32,
    /// Where the summaries of the groups are.
    pub summary: u32,
    /// Their bytes.
    pub summary_bytes: u32,
    /// Where the copy of the superblock, the maps, the inodes and the data begin, from the start of
    /// a group.
    places: [u32; 4],
    /// How far that start moves from group to group, and which bits of a group's number take no part.
    offset: u32,
    mask: u32,
}

impl Geometry {
    /// Reads and checks a superblock; the file system's file has `length` bytes.
    pub(super) fn parse(bytes: &[u8], length: u64) -> Result<Self, Error> {
        let get = |at| long(bytes, at);
        match get(MAGIC) {
            UFS1 => {}
            UFS2 => return Err(Error::NotUfs("it is UFS2, which illumos cannot read".to_owned())),
            MULTI_TERABYTE => return Err(Error::NotUfs("it is a multi-terabyte UFS".to_owned())),
            other if other.swap_bytes() == UFS1 => {
                return Err(Error::NotUfs("its numbers are big-endian, as on SPARC".to_owned()));
            }
            _ => return Err(Error::NotUfs("its superblock has no magic number".to_owned())),
        }
        let dialect = match get(LOG) {
            FORMAT_44 => Dialect::Bsd { clusters: get(1316) },
            _ => Dialect::Solaris,
        };
        let geometry = Self {
            dialect,
            block: get(48),
            fragment: get(52),
            per_block: get(56),
            size: get(36),
            groups: get(44),
            group_size: get(188),
            group_inodes: get(184),
            group_bytes: get(160),
            summary: get(152),
            summary_bytes: get(156),
            places: [get(8), get(12), get(16), get(20)],
            offset: get(24),
            mask: get(28),
        };
        let damaged = |what| super::damaged("superblock", what);
        geometry.check(length).map_err(damaged)?;
        if get(116) != geometry.indirect() || get(120) != geometry.block / INODE {
            return Err(damaged("its numbers of inodes or addresses of a block are wrong"));
        }
        geometry.check_state(bytes)?;
        Ok(geometry)
    }

    fn check(&self, length: u64) -> Result<(), &'static str> {
        let two = |number: u32| number.is_power_of_two();
        if !BLOCKS.contains(&self.block) || !two(self.block) {
            return Err("its blocks have an impossible size");
        }
        let fits = (512..=self.block).contains(&self.fragment) && two(self.fragment);
        if !fits || self.per_block != self.block / self.fragment || self.per_block > 8 {
            return Err("its fragments have an impossible size");
        }
        if self.size > i32::MAX as u32 || self.bytes(self.size) > length {
            return Err("it is larger than its file, a part of which may be missing");
        }
        if self.group_size == 0
            || !self.group_size.is_multiple_of(self.per_block)
            || self.groups != self.size.div_ceil(self.group_size)
            || self.groups == 0
        {
            return Err("its number of groups is wrong");
        }
        if self.group_bytes > self.block || self.group_bytes < 512 {
            return Err("its groups' maps have an impossible size");
        }
        if u64::from(self.groups) * u64::from(self.group_bytes) > MAX_MAPS {
            return Err("its groups are too many");
        }
        let [superblock, maps, inodes, data] = self.places;
        let per_block = self.block / INODE;
        let inodes_end = u64::from(inodes)
            + u64::from(self.group_inodes) / u64::from(per_block) * u64::from(self.per_block);
        if self.group_inodes == 0
            || !self.group_inodes.is_multiple_of(per_block)
            || u64::from(self.group_inodes) * u64::from(self.groups) > i32::MAX as u64
        {
            return Err("its number of inodes is impossible");
        }
        if superblock > maps
            || u64::from(maps) + u64::from(self.group_bytes.div_ceil(self.fragment))
                > u64::from(inodes)
            || inodes_end > u64::from(data)
            || data > self.group_size
        {
            return Err("the parts of its groups overlap");
        }
        for group in 0..self.groups {
            let shift = u64::from(self.offset) * u64::from(group & !self.mask);
            let end = u64::from(self.base(group)) + shift + u64::from(data);
            if shift + u64::from(data) > u64::from(self.group_size) || end > u64::from(self.size) {
                return Err("the parts of its groups reach over their ends");
            }
        }
        let summaries = u64::from(self.groups) * super::Counts::SIZE as u64;
        let end = u64::from(self.summary) + u64::from(self.summary_bytes.div_ceil(self.fragment));
        if self.summary_bytes > MAX_SUMMARIES
            || u64::from(self.summary_bytes) < summaries
            || self.summary < data
            || end > u64::from(self.size)
        {
            return Err("the summaries of its groups have an impossible place or size");
        }
        Ok(())
    }

    fn check_state(&self, bytes: &[u8]) -> Result<(), Error> {
        let clean = bytes.get(CLEAN).copied().unwrap_or_default();
        let good = match self.dialect {
            Dialect::Bsd { .. } => clean == IS_CLEAN,
            Dialect::Solaris if clean == HAS_LOG || long(bytes, LOG) != 0 => {
                return Err(Error::HasLog);
            }
            Dialect::Solaris => {
                let vouched = OKAY.wrapping_sub(long(bytes, TIME)) == long(bytes, STATE);
                vouched && matches!(clean, IS_CLEAN | IS_STABLE)
            }
        };
        if good {
            return Ok(());
        }
        Err(Error::State("it was not unmounted in order: check it with fsck"))
    }

    /// Puts totals and time into a superblock.
    pub(super) fn update(&self, bytes: &mut [u8], total: &super::Counts, time: u32) {
        // Before it changes: BSD's second copy is kept only where it is used.
        let wide = matches!(self.dialect, Dialect::Bsd { .. })
            && bytes.get(FLAGS).is_some_and(|flags| flags & FLAGS_UPDATED != 0);
        total.write(bytes, TOTAL);
        set(bytes, TIME, &time.to_le_bytes());
        set(bytes, MODIFIED, &[0]);
        if self.dialect == Dialect::Solaris {
            set(bytes, STATE, &OKAY.wrapping_sub(time).to_le_bytes());
        }
        if wide {
            let all = [total.folders, total.blocks, total.inodes, total.fragments];
            for (place, count) in all.into_iter().enumerate() {
                set(bytes, BSD_TOTAL + 8 * place, &u64::from(count).to_le_bytes());
            }
            set(bytes, BSD_TIME, &u64::from(time).to_le_bytes());
        }
    }

    /// Addresses that an indirect block holds.
    pub(super) fn indirect(&self) -> u32 {
        self.block / 4
    }

    /// The place of a fragment in bytes.
    pub(super) fn bytes(&self, fragment: u32) -> u64 {
        u64::from(fragment) * u64::from(self.fragment)
    }

    /// The first fragment of a group.
    pub(super) fn base(&self, group: u32) -> u32 {
        self.group_size * group
    }

    /// Fragments of a group.
    pub(super) fn size_of(&self, group: u32) -> u32 {
        self.group_size.min(self.size - self.base(group))
    }

    fn start(&self, group: u32) -> u32 {
        self.base(group) + self.offset * (group & !self.mask)
    }

    /// Where a group's maps are.
    pub(super) fn map(&self, group: u32) -> u32 {
        self.start(group) + self.places[1]
    }

    /// Inodes of the file system.
    pub(super) fn inodes(&self) -> u32 {
        self.groups * self.group_inodes
    }

    /// The place of an inode in bytes.
    pub(super) fn inode(&self, number: u32) -> u64 {
        let group = number / self.group_inodes;
        let within = u64::from(number % self.group_inodes) * u64::from(INODE);
        self.bytes(self.start(group) + self.places[2]) + within
    }

    /// The fragments of a group that can hold no files, counted from its first one.
    pub(super) fn reserved(&self, group: u32) -> [Range<u32>; 2] {
        let [superblock, .., data] = self.places;
        let start = self.start(group) - self.base(group);
        let first = if group == 0 { 0 } else { start + superblock };
        let summary = self.summary..self.summary + self.summary_bytes.div_ceil(self.fragment);
        let base = self.base(group);
        let end = base + self.size_of(group);
        let within = |at: u32| at.clamp(base, end) - base;
        [first..start + data, within(summary.start)..within(summary.end)]
    }
}
