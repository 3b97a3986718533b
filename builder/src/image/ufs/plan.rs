//! Where things that are added go: fragments and inodes taken and given back in a copy of the
//! groups' maps, before anything is written.

use super::geometry::Geometry;
use super::group::Group;
use super::inode::DIRECT;

/// Stands for an inode or a fragment that could not be had. Counting goes on with it, so that all that
/// is missing can be told; it is never stored.
pub(super) const NONE: u32 = u32::MAX;

/// Fragments and inodes that can be had, and how many could not.
pub(super) struct Room<'a> {
    geometry: &'a Geometry,
    pub groups: Vec<Group>,
    /// Fragments that were wanted in vain.
    pub lacks_fragments: u64,
    /// Inodes that were wanted in vain.
    pub lacks_inodes: u64,
}

/// Where a file's content goes.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The first fragments of its blocks.
    pub blocks: Vec<u32>,
    /// Blocks of addresses, and what is in them.
    pub tables: Vec<(u32, Vec<u32>)>,
    /// The inode's addresses.
    pub addresses: Vec<u32>,
    /// Sectors of 512 bytes that all of it takes.
    pub sectors: u32,
}

impl<'a> Room<'a> {
    pub(super) fn new(geometry: &'a Geometry, groups: &[Group]) -> Self {
        Self { geometry, groups: groups.to_vec(), lacks_fragments: 0, lacks_inodes: 0 }
    }

    /// All groups, beginning with the one that is preferred.
    fn order(&self, near: u32) -> impl Iterator<Item = u32> + use<> {
        let groups = self.geometry.groups;
        (0..groups).map(move |n| (near + n) % groups)
    }

    /// The first that a group has to give; what a group counts from its own start is counted from
    /// that of the file system, where `per_group` of it are in a group.
    fn first(
        &mut self,
        near: u32,
        per_group: u32,
        mut take: impl FnMut(&mut Group) -> Option<u32>,
    ) -> Option<u32> {
        self.order(near).find_map(|index| {
            let found = take(self.groups.get_mut(index as usize)?)?;
            Some(index * per_group + found)
        })
    }

    /// Takes an inode, or [`NONE`].
    pub(super) fn inode(&mut self, near: u32) -> u32 {
        let taken = self.first(near, self.geometry.group_inodes, Group::take_inode);
        self.lacks_inodes += u64::from(taken.is_none());
        taken.unwrap_or(NONE)
    }

    /// Takes fragments that lie within one block, or [`NONE`]. Pieces of blocks come before whole
    /// ones, short ones before long ones.
    fn fragments(&mut self, count: u32, near: u32) -> u32 {
        let (size, whole) = (self.geometry.group_size, self.geometry.per_block);
        let piece = (count..whole)
            .find_map(|length| self.first(near, size, |group| group.take_piece(count, length)));
        let taken = piece.or_else(|| {
            let first = self.first(near, size, Group::take_block)?;
            if count < whole {
                self.free(first + count, whole - count);
            }
            Some(first)
        });
        if taken.is_none() {
            self.lacks_fragments += u64::from(count);
        }
        taken.unwrap_or(NONE)
    }

    /// Gives fragments of one block back. Returns whether all of them were in use.
    pub(super) fn free(&mut self, first: u32, count: u32) -> bool {
        let index = first / self.geometry.group_size;
        let within = first % self.geometry.group_size;
        self.groups.get_mut(index as usize).is_some_and(|group| group.free(within, count))
    }

    /// The group of an inode, and its number there.
    pub(super) fn group_of(&mut self, inode: u32) -> Option<(&mut Group, u32)> {
        let inodes = self.geometry.group_inodes;
        Some((self.groups.get_mut((inode / inodes) as usize)?, inode % inodes))
    }

    /// Finds a place for a file of `size` bytes, or none when the file is larger than two levels of
    /// addresses reach.
    pub(super) fn place(&mut self, size: u64, near: u32) -> Option<Place> {
        let (block, whole) = (u64::from(self.geometry.block), self.geometry.per_block);
        let indirect = self.geometry.indirect();
        let blocks = u32::try_from(size.div_ceil(block)).ok()?;
        if blocks > DIRECT + indirect + indirect * indirect {
            return None;
        }
        let mut place = Place::default();
        let mut fragments = 0;
        let rest = ((size % block) as u32).div_ceil(self.geometry.fragment);
        for number in 0..blocks {
            let ends_within = number + 1 == blocks && number < DIRECT && rest > 0;
            let count = if ends_within { rest } else { whole };
            place.blocks.push(self.fragments(count, near));
            fragments += count;
        }
        let (direct, others) = place.blocks.split_at(place.blocks.len().min(DIRECT as usize));
        place.addresses = direct.to_vec();
        let mut chunks = others.chunks(indirect as usize);
        let mut table = |entries: &[u32]| {
            let at = self.fragments(whole, near);
            fragments += whole;
            place.tables.push((at, entries.to_vec()));
            at
        };
        if let Some(first) = chunks.next() {
            place.addresses.push(table(first));
        }
        let seconds: Vec<u32> = chunks.map(&mut table).collect();
        if !seconds.is_empty() {
            place.addresses.push(table(&seconds));
        }
        place.sectors = fragments * (self.geometry.fragment / 512);
        Some(place)
    }
}
