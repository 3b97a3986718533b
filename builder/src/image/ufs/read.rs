//! What is in the file system: inodes, their blocks, folders, files.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use super::bytes::long;
use super::folder::Folder;
use super::geometry::INODE;
use super::inode::{DIRECT, Inode, Kind};
use super::{Error, ROOT, Ufs, damaged};

/// Folders larger than this are not read: they would hold a million entries.
const MAX_FOLDER: u64 = 16 << 20;

/// Fragments within one block that an inode has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// The number of the block in the file; none for one that holds addresses.
    pub number: Option<u32>,
    /// The first fragment.
    pub at: u32,
    /// How many there are.
    pub count: u32,
}

/// What is done with each block of a file.
type Visit<'a> = &'a mut dyn FnMut(Block) -> Result<(), Error>;

impl<D: FileExt> Ufs<D> {
    /// Reads an inode that is said to be in use.
    pub(super) fn inode(&self, number: u32, place: &str) -> Result<Inode, Error> {
        if !(ROOT..self.geometry.inodes()).contains(&number) {
            return Err(damaged(place, "its inode is outside of the file system"));
        }
        let mut inode = Inode([0; INODE as usize]);
        self.disk.read_exact_at(&mut inode.0, self.geometry.inode(number))?;
        Ok(inode)
    }

    /// Visits the blocks of a file in the order in which they are read; holes are left out.
    pub(super) fn blocks(&self, inode: &Inode, place: &str, visit: Visit) -> Result<(), Error> {
        let geometry = &self.geometry;
        let indirect = geometry.indirect();
        let most = DIRECT + indirect + indirect * indirect;
        let size = inode.size();
        let blocks = size.div_ceil(u64::from(geometry.block));
        let Some(blocks) = u32::try_from(blocks).ok().filter(|blocks| *blocks <= most) else {
            return Err(damaged(place, "its size is impossible"));
        };
        let mut room = geometry.size;
        let mut visit = |block: Block| {
            room = room
                .checked_sub(block.count)
                .ok_or_else(|| damaged(place, "its blocks are more than the file system has"))?;
            self.check_block(block).map_err(|what| damaged(place, what))?;
            visit(block)
        };
        for number in 0..blocks.min(DIRECT) {
            let at = inode.address(number);
            // A file that needs no further addresses may end within a block.
            let last = number + 1 == blocks && !size.is_multiple_of(u64::from(geometry.block));
            let rest = (size % u64::from(geometry.block)) as u32;
            let count = if last { rest.div_ceil(geometry.fragment) } else { geometry.per_block };
            if at != 0 {
                visit(Block { number: Some(number), at, count })?;
            }
        }
        if blocks > DIRECT {
            let end = blocks.min(DIRECT + indirect);
            self.addresses(inode.address(DIRECT), DIRECT..end, &mut visit)?;
        }
        let first = DIRECT + indirect;
        if blocks > first {
            let at = inode.address(DIRECT + 1);
            let table = self.table(at, &mut visit)?;
            for place in 0..(blocks - first).div_ceil(indirect) {
                let from = first + place * indirect;
                let at = long(&table, 4 * place as usize);
                self.addresses(at, from..blocks.min(from + indirect), &mut visit)?;
            }
        }
        Ok(())
    }

    /// Visits a block of addresses and the blocks of these numbers, which it leads to.
    fn addresses(&self, at: u32, numbers: std::ops::Range<u32>, visit: Visit) -> Result<(), Error> {
        let table = self.table(at, visit)?;
        for (place, number) in numbers.enumerate() {
            let at = long(&table, 4 * place);
            if at != 0 {
                visit(Block { number: Some(number), at, count: self.geometry.per_block })?;
            }
        }
        Ok(())
    }

    /// Visits a block of addresses and reads it; a hole is read as nothing.
    fn table(&self, at: u32, visit: Visit) -> Result<Vec<u8>, Error> {
        if at == 0 {
            return Ok(Vec::new());
        }
        visit(Block { number: None, at, count: self.geometry.per_block })?;
        let mut table = vec![0; self.geometry.block as usize];
        self.disk.read_exact_at(&mut table, self.geometry.bytes(at))?;
        Ok(table)
    }

    fn check_block(&self, block: Block) -> Result<(), &'static str> {
        let geometry = &self.geometry;
        if block.at >= geometry.size || block.count > geometry.size - block.at {
            return Err("a block of it is outside of the file system");
        }
        if block.at % geometry.per_block + block.count > geometry.per_block {
            return Err("a block of it is at an impossible place");
        }
        let group = block.at / geometry.group_size;
        let first = block.at - geometry.base(group);
        let reserved = geometry.reserved(group);
        let within = |at: u32| reserved.iter().any(|range| range.contains(&at));
        if (first..first + block.count).any(within) {
            return Err("a block of it is where no files are");
        }
        Ok(())
    }

    /// Reads a folder.
    pub(super) fn folder(&self, inode: &Inode, place: &str) -> Result<Folder, Error> {
        let size = inode.size();
        if size > MAX_FOLDER {
            return Err(damaged(place, "it is a folder of an impossible size"));
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        let block = self.geometry.block as usize;
        let mut next = 0;
        self.blocks(inode, place, &mut |found| {
            let Some(number) = found.number else { return Ok(()) };
            if number != next {
                return Err(damaged(place, "it is a folder with a hole"));
            }
            next += 1;
            let from = number as usize * block;
            let to = size.min((from + block) as u64) as usize;
            let part = bytes.get_mut(from..to).unwrap_or_default();
            Ok(self.disk.read_exact_at(part, self.geometry.bytes(found.at))?)
        })?;
        if u64::from(next) != size.div_ceil(block as u64) {
            return Err(damaged(place, "it is a folder with a hole"));
        }
        Folder::parse(self.geometry.dialect, bytes, self.geometry.inodes())
            .map_err(|what| damaged(place, what))
    }

    /// Writes the content of the file at this path to `to`; the path begins at the root. Gives the
    /// file's mode as `stat` does, with the bits of its type; none when there is no such file. Links
    /// are not followed.
    ///
    /// # Errors
    /// When the file system is damaged, or reading or writing fails.
    pub fn read(&self, path: &str, to: &mut dyn Write) -> Result<Option<u16>, Error> {
        let mut inode = self.inode(ROOT, "/")?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if inode.kind() != Kind::Folder {
                return Ok(None);
            }
            match self.folder(&inode, path)?.find(name.as_bytes()) {
                Some(number) => inode = self.inode(number, path)?,
                None => return Ok(None),
            }
        }
        if inode.kind() != Kind::File {
            return Ok(None);
        }
        let size = inode.size();
        let block = u64::from(self.geometry.block);
        let mut buffer = vec![0; self.geometry.block as usize];
        let mut done = 0;
        self.blocks(&inode, path, &mut |found| {
            let Some(number) = found.number else { return Ok(()) };
            let at = u64::from(number) * block;
            zeroes(to, at - done)?;
            let end = size.min(at + block);
            let part = buffer.get_mut(..(end - at) as usize).unwrap_or_default();
            self.disk.read_exact_at(part, self.geometry.bytes(found.at))?;
            to.write_all(part)?;
            done = end;
            Ok(())
        })?;
        zeroes(to, size - done)?;
        Ok(Some(inode.mode()))
    }
}

fn zeroes(to: &mut dyn Write, count: u64) -> io::Result<()> {
    io::copy(&mut io::repeat(0).take(count), to).map(|_| ())
}
