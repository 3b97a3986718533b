//! A cylinder group: which of its inodes and fragments are free. Offsets are those of illumos'
//! `struct cg`. The tables of rotational positions are left alone, as illumos' kernel leaves them.

use super::bytes::{bit, long, set, set_bit};
use super::geometry::{Dialect, Geometry};

const MAGIC: u32 = 0x0009_0255;
const TIME: usize = 8;
const COUNTS: usize = 24;
const PIECES: usize = 52;
/// The first byte that maps may be at.
const SPACE: usize = 168;

/// What a group or all of them have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Folders.
    pub folders: u32,
    /// Free blocks.
    pub blocks: u32,
    /// Free inodes.
    pub inodes: u32,
    /// Free fragments of blocks that are not wholly free.
    pub fragments: u32,
}

impl Counts {
    /// Bytes of it as it is stored.
    pub(super) const SIZE: usize = 16;

    pub(super) fn read(bytes: &[u8], at: usize) -> Self {
        let [folders, blocks, inodes, fragments] = [0, 4, 8, 12].map(|n| long(bytes, at + n));
        Self { folders, blocks, inodes, fragments }
    }

    pub(super) fn write(&self, bytes: &mut [u8], at: usize) {
        let all = [self.folders, self.blocks, self.inodes, self.fragments];
        for (place, count) in all.into_iter().enumerate() {
            set(bytes, at + 4 * place, &count.to_le_bytes());
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.folders = self.folders.wrapping_add(other.folders);
        self.blocks = self.blocks.wrapping_add(other.blocks);
        self.inodes = self.inodes.wrapping_add(other.inodes);
        self.fragments = self.fragments.wrapping_add(other.fragments);
    }
}

/// Where BSD counts clusters of free blocks.
#[derive(Debug, Clone, Copy)]
struct Clusters {
    sums: usize,
    map: usize,
    blocks: u32,
    longest: u32,
}

/// A group in memory. Numbers of inodes and fragments count from its own first ones.
#[derive(Debug, Clone)]
pub(super) struct Group {
    bytes: Vec<u8>,
    fragments: u32,
    per_block: u32,
    inodes: u32,
    inode_map: usize,
    free_map: usize,
    clusters: Option<Clusters>,
    counts: Counts,
    /// How many runs of free fragments there are of each length, in blocks not wholly free.
    pieces: [u32; 8],
    /// Blocks and inodes before these are taken.
    next_block: u32,
    next_inode: u32,
    changed: bool,
}

impl Group {
    /// Takes a group's maps and counts and checks that they agree.
    pub(super) fn parse(
        geometry: &Geometry,
        index: u32,
        bytes: Vec<u8>,
    ) -> Result<Self, &'static str> {
        let fragments = geometry.size_of(index);
        if long(&bytes, 4) != MAGIC || long(&bytes, 12) != index {
            return Err("it is not where it should be");
        }
        if long(&bytes, 20) != fragments {
            return Err("it has another size than the superblock says");
        }
        let place = |at: usize| long(&bytes, at) as usize;
        let (inode_map, free_map) = (place(92), place(96));
        let inode_end = inode_map + (geometry.group_inodes as usize).div_ceil(8);
        let free_end = free_map + (fragments as usize).div_ceil(8);
        if inode_map < SPACE || inode_end > free_map || free_end > bytes.len() {
            return Err("its maps overlap or reach over its end");
        }
        let clusters = match geometry.dialect {
            Dialect::Bsd { clusters: longest } if longest > 0 => {
                let (sums, map) = (place(104), place(108));
                let blocks = long(&bytes, 112);
                let sums_end = sums + 4 * (longest as usize + 1);
                let map_end = map + (blocks as usize).div_ceil(8);
                if longest > 1024
                    || sums + 4 < free_end
                    || sums_end > map
                    || map_end > bytes.len()
                    || blocks < fragments / geometry.per_block
                {
                    return Err("its map of clusters overlaps or reaches over its end");
                }
                Some(Clusters { sums, map, blocks, longest })
            }
            _ => None,
        };
        let mut group = Self {
            fragments,
            per_block: geometry.per_block,
            inodes: geometry.group_inodes,
            inode_map,
            free_map,
            clusters,
            counts: Counts { folders: long(&bytes, COUNTS), ..Counts::default() },
            pieces: [0; 8],
            next_block: 0,
            next_inode: 0,
            changed: false,
            bytes,
        };
        if geometry.reserved(index).into_iter().flatten().any(|fragment| group.is_free(fragment)) {
            return Err("parts of it that hold no files are free for files");
        }
        for block in 0..group.blocks() {
            group.count(block, true);
        }
        group.counts.inodes =
            (0..group.inodes).filter(|number| !group.inode_used(*number)).count() as u32;
        let stored = (0..8).map(|n| long(&group.bytes, PIECES + 4 * n));
        if Counts::read(&group.bytes, COUNTS) != group.counts
            || !stored.skip(1).eq(group.pieces.iter().skip(1).copied())
        {
            return Err("its counts are not those of its maps");
        }
        if group.counts.folders > group.inodes - group.counts.inodes {
            return Err("it has more folders than inodes in use");
        }
        Ok(group)
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    fn blocks(&self) -> u32 {
        self.fragments.div_ceil(self.per_block)
    }

    pub(super) fn is_free(&self, fragment: u32) -> bool {
        fragment < self.fragments && bit(&self.bytes, self.free_map, fragment)
    }

    pub(super) fn inode_used(&self, number: u32) -> bool {
        bit(&self.bytes, self.inode_map, number)
    }

    /// The free runs of a block: first fragment of the block, and length.
    fn runs(&self, block: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let first = block * self.per_block;
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < self.per_block && !self.is_free(first + at) {
                at += 1;
            }
            let start = at;
            while at < self.per_block && self.is_free(first + at) {
                at += 1;
            }
            (at > start).then_some((first + start, at - start))
        })
    }

    fn is_free_block(&self, block: u32) -> bool {
        self.runs(block).any(|(_, length)| length == self.per_block)
    }

    /// Counts a block's free fragments in or out.
    fn count(&mut self, block: u32, into: bool) {
        let by = |count: &mut u32, more: u32| {
            *count = if into { count.wrapping_add(more) } else { count.wrapping_sub(more) };
        };
        let mut runs = [0; 8];
        for (place, (_, length)) in self.runs(block).enumerate() {
            if let Some(run) = runs.get_mut(place) {
                *run = length;
            }
        }
        for length in runs.into_iter().filter(|length| *length > 0) {
            if length == self.per_block {
                by(&mut self.counts.blocks, 1);
                continue;
            }
            by(&mut self.counts.fragments, length);
            if let Some(pieces) = self.pieces.get_mut(length as usize) {
                by(pieces, 1);
            }
        }
    }

    /// Marks fragments of one block.
    fn mark(&mut self, first: u32, count: u32, free: bool) {
        let block = first / self.per_block;
        self.count(block, false);
        for fragment in first..first + count {
            set_bit(&mut self.bytes, self.free_map, fragment, free);
        }
        self.count(block, true);
        if free {
            self.next_block = self.next_block.min(block);
        }
        self.changed = true;
    }

    /// Takes a whole block: its first fragment.
    pub(super) fn take_block(&mut self) -> Option<u32> {
        if self.counts.blocks == 0 {
            return None;
        }
        let block = (self.next_block..self.blocks()).find(|block| self.is_free_block(*block))?;
        self.next_block = block + 1;
        let first = block * self.per_block;
        self.mark(first, self.per_block, false);
        Some(first)
    }

    /// Takes some fragments out of a free run of exactly `length`, in a block not wholly free.
    pub(super) fn take_piece(&mut self, count: u32, length: u32) -> Option<u32> {
        if self.pieces.get(length as usize).copied().unwrap_or_default() == 0 {
            return None;
        }
        let run = |block| self.runs(block).find(|run| run.1 == length && length < self.per_block);
        let (first, _) = (0..self.blocks()).find_map(run)?;
        self.mark(first, count, false);
        Some(first)
    }

    /// Frees fragments of one block. Returns whether all of them were in use.
    pub(super) fn free(&mut self, first: u32, count: u32) -> bool {
        let used = (first..first + count).all(|fragment| !self.is_free(fragment));
        if used {
            self.mark(first, count, true);
        }
        used
    }

    pub(super) fn take_inode(&mut self) -> Option<u32> {
        let number = (self.next_inode..self.inodes).find(|number| !self.inode_used(*number));
        self.next_inode = number.map_or(self.inodes, |number| number + 1);
        let number = number?;
        set_bit(&mut self.bytes, self.inode_map, number, true);
        self.counts.inodes -= 1;
        self.changed = true;
        Some(number)
    }

    /// Frees an inode that is in use.
    pub(super) fn free_inode(&mut self, number: u32) {
        set_bit(&mut self.bytes, self.inode_map, number, false);
        self.counts.inodes += 1;
        self.next_inode = self.next_inode.min(number);
        self.changed = true;
    }

    pub(super) fn add_folder(&mut self) {
        self.counts.folders += 1;
        self.changed = true;
    }

    /// What to store, when there are changes.
    pub(super) fn finish(&mut self, time: u32) -> Option<&[u8]> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        set(&mut self.bytes, TIME, &time.to_le_bytes());
        self.counts.write(&mut self.bytes, COUNTS);
        for (length, count) in self.pieces.into_iter().enumerate() {
            set(&mut self.bytes, PIECES + 4 * length, &count.to_le_bytes());
        }
        if let Some(clusters) = self.clusters {
            self.count_clusters(clusters);
        }
        Some(&self.bytes)
    }

    fn count_clusters(&mut self, clusters: Clusters) {
        let mut sums = vec![0_u32; clusters.longest as usize + 1];
        let mut length = 0;
        // One more than there are, which ends the last cluster.
        for block in 0..=clusters.blocks {
            let free = block < clusters.blocks && self.is_free_block(block);
            if block < clusters.blocks {
                set_bit(&mut self.bytes, clusters.map, block, free);
            }
            if free {
                length += 1;
                continue;
            }
            if let Some(sum) = sums.get_mut(length.min(clusters.longest) as usize) {
                *sum += 1;
            }
            length = 0;
        }
        for (length, sum) in sums.into_iter().enumerate().skip(1) {
            set(&mut self.bytes, clusters.sums + 4 * length, &sum.to_le_bytes());
        }
    }
}

/// The counts of all groups together.
pub(super) fn total(groups: &[Group]) -> Counts {
    groups.iter().fold(Counts::default(), |mut total, group| {
        total.add(&group.counts);
        total
    })
}
