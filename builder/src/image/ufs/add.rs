//! Adding files and folders.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::mem;
use std::os::unix::fs::FileExt;

use super::folder::{Folder, MAX_NAME};
use super::geometry::{Dialect, INODE, SUPERBLOCK_AT};
use super::group::{self, Counts};
use super::inode::{Inode, Kind, MAX_LINKS};
use super::plan::{NONE, Place, Room};
use super::read::Block;
use super::{Error, ROOT, Ufs, damaged};
use crate::image::Content;

/// Mode of folders that are made.
const FOLDER_MODE: u16 = 0o755;
/// Longest path in bytes: illumos' `PATH_MAX` less the slash before it and the end's NUL.
const MAX_PATH: usize = 1022;
/// Larger files need a mark in the superblock, and have no place in an archive that lies in memory.
const MAX_FILE: u64 = (1 << 31) - 1;

/// What is added. Everything belongs to root.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A folder, of mode 0755 when there is none yet.
    Folder,
    /// A file. One that is there already is replaced.
    File {
        /// What is in it.
        content: Content,
        /// Its mode, without the bits of its type.
        mode: u16,
    },
}

/// A folder that is, or may be, added to.
struct Open {
    number: u32,
    folder: Folder,
    /// Bytes that it has place for, in the blocks listed, if it was there before.
    stored: Option<(u64, Vec<Block>)>,
    changed: bool,
}

/// Something to be written.
enum Body {
    Bytes(Vec<u8>),
    Content(String, Content),
}

/// All changes, before they are made.
struct Changes<'a, D> {
    ufs: &'a Ufs<D>,
    room: Room<'a>,
    time: u32,
    inodes: BTreeMap<u32, Inode>,
    folders: BTreeMap<String, Open>,
    opened: HashSet<u32>,
    writes: Vec<(Body, Place)>,
}

impl<D: FileExt> Ufs<D> {
    /// Adds files and folders by path, without a slash at its beginning; folders that are missing on
    /// the way are made. `time` (seconds since 1970) is that of everything that changes. The same
    /// entries and time make the same bytes of the same file system.
    ///
    /// # Errors
    /// When they do not fit, a path is taken by something else, or the file system is damaged: it is
    /// as it was then. When reading a content or writing fails, it may be left damaged.
    pub fn add(&mut self, entries: &BTreeMap<String, Entry>, time: u32) -> Result<(), Error> {
        let mut changes = Changes {
            ufs: &*self,
            room: Room::new(&self.geometry, &self.groups),
            time,
            inodes: BTreeMap::new(),
            folders: BTreeMap::new(),
            opened: HashSet::new(),
            writes: Vec::new(),
        };
        changes.plan(entries)?;
        let Changes { room, inodes, writes, .. } = changes;
        let Room { groups, lacks_fragments, lacks_inodes, .. } = room;
        if lacks_fragments > 0 || lacks_inodes > 0 {
            let bytes = lacks_fragments * u64::from(self.geometry.fragment);
            return Err(Error::Full { bytes, inodes: lacks_inodes });
        }
        for (body, place) in writes {
            self.write(body, &place)?;
        }
        for (number, inode) in inodes {
            self.disk.write_all_at(&inode.0, self.geometry.inode(number))?;
        }
        self.groups = groups;
        Ok(self.finish(time)?)
    }

    fn write(&self, body: Body, place: &Place) -> Result<(), Error> {
        let block = self.geometry.block as usize;
        let (path, size, mut data): (_, _, Box<dyn Read>) = match &body {
            Body::Bytes(bytes) => ("", bytes.len() as u64, Box::new(&bytes[..])),
            Body::Content(path, content) => {
                let failed = |source| Error::Content { path: path.clone(), source };
                (path, content.size(), content.open().map_err(failed)?)
            }
        };
        let mut left = size;
        let mut buffer = vec![0; block];
        for at in &place.blocks {
            let count = left.min(block as u64) as usize;
            let (filled, rest) = buffer.split_at_mut(count);
            data.read_exact(filled)
                .map_err(|source| Error::Content { path: path.to_owned(), source })?;
            rest.fill(0);
            // What is behind the last block's end is another file's.
            let whole = count.next_multiple_of(self.geometry.fragment as usize);
            let last = left <= block as u64 && place.tables.is_empty();
            let part = buffer.get(..if last { whole } else { block }).unwrap_or_default();
            self.disk.write_all_at(part, self.geometry.bytes(*at))?;
            left -= count as u64;
        }
        for (at, entries) in &place.tables {
            let mut table: Vec<u8> = entries.iter().flat_map(|at| at.to_le_bytes()).collect();
            table.resize(block, 0);
            self.disk.write_all_at(&table, self.geometry.bytes(*at))?;
        }
        Ok(())
    }

    /// Stores the groups' maps and all counts.
    fn finish(&mut self, time: u32) -> io::Result<()> {
        for (index, group) in self.groups.iter_mut().enumerate() {
            group.counts().write(&mut self.summaries, index * Counts::SIZE);
            if let Some(bytes) = group.finish(time) {
                let at = self.geometry.map(u32::try_from(index).unwrap_or_default());
                self.disk.write_all_at(bytes, self.geometry.bytes(at))?;
            }
        }
        self.disk.write_all_at(&self.summaries, self.geometry.bytes(self.geometry.summary))?;
        self.geometry.update(&mut self.superblock, &group::total(&self.groups), time);
        self.disk.write_all_at(&self.superblock, SUPERBLOCK_AT)
    }
}

impl<D: FileExt> Changes<'_, D> {
    fn plan(&mut self, entries: &BTreeMap<String, Entry>) -> Result<(), Error> {
        // What is replaced makes room, so it goes first.
        for (path, entry) in entries {
            check(path).map_err(|why| Error::Path { path: path.clone(), why })?;
            if matches!(entry, Entry::Folder) {
                self.ensure(path)?;
                continue;
            }
            let (parent, name) = split(path);
            self.ensure(parent)?;
            if let Some(number) = self.find(parent, name) {
                self.unlink(number, path)?;
            }
        }
        for (path, entry) in entries {
            if let Entry::File { content, mode } = entry {
                self.file(path, content, *mode)?;
            }
        }
        for (path, open) in mem::take(&mut self.folders) {
            if open.changed {
                self.close(&path, open)?;
            }
        }
        Ok(())
    }

    fn near(&self, number: u32) -> u32 {
        number / self.ufs.geometry.group_inodes
    }

    /// An inode as it will be.
    fn inode(&mut self, number: u32, place: &str) -> Result<Inode, Error> {
        if let Some(inode) = self.inodes.get(&number) {
            return Ok(inode.clone());
        }
        let inode = self.ufs.inode(number, place)?;
        let used = self.room.group_of(number).is_some_and(|(group, n)| group.inode_used(n));
        if !used || inode.links() == 0 {
            return Err(damaged(place, "its inode is said to be free"));
        }
        Ok(inode)
    }

    fn find(&self, folder: &str, name: &str) -> Option<u32> {
        self.folders.get(folder)?.folder.find(name.as_bytes())
    }

    /// Opens or makes a folder and those above it.
    fn ensure(&mut self, path: &str) -> Result<(), Error> {
        if !self.folders.contains_key("") {
            self.open("", ROOT)?;
        }
        let mut above = "";
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            let here = path.get(..end).unwrap_or_default();
            if !self.folders.contains_key(here) {
                match self.find(above, split(here).1) {
                    Some(number) => self.open(here, number)?,
                    None => self.make(above, here)?,
                }
            }
            above = here;
        }
        Ok(())
    }

    fn open(&mut self, path: &str, number: u32) -> Result<(), Error> {
        let place = format!("/{path}");
        let inode = self.inode(number, &place)?;
        if inode.kind() != Kind::Folder {
            let why = "a file or a link is where its folder should be";
            return Err(Error::Path { path: path.to_owned(), why });
        }
        if !self.opened.insert(number) {
            return Err(damaged(place, "the folder is in two places"));
        }
        let folder = self.ufs.folder(&inode, &place)?;
        let mut blocks = Vec::new();
        self.ufs.blocks(&inode, &place, &mut |block| {
            blocks.push(block);
            Ok(())
        })?;
        let stored = Some((inode.size(), blocks));
        self.folders.insert(path.to_owned(), Open { number, folder, stored, changed: false });
        Ok(())
    }

    /// Makes a folder in one that is open.
    fn make(&mut self, above: &str, path: &str) -> Result<(), Error> {
        let Some(parent) = self.folders.get(above).map(|open| open.number) else { return Ok(()) };
        let mut parent_inode = self.inode(parent, above)?;
        if parent_inode.links() >= MAX_LINKS {
            let why = "the folder above it has too many folders";
            return Err(Error::Path { path: path.to_owned(), why });
        }
        parent_inode.set_links(parent_inode.links() + 1, self.time);
        self.inodes.insert(parent, parent_inode);
        let (number, mut inode) = self.take(parent, Kind::Folder, FOLDER_MODE)?;
        inode.set_links(2, self.time);
        if let Some((group, _)) = self.room.group_of(number) {
            group.add_folder();
        }
        self.put(above, path, number, inode, Kind::Folder);
        self.opened.insert(number);
        let folder = Folder::new(self.ufs.geometry.dialect, number, parent);
        self.folders.insert(path.to_owned(), Open { number, folder, stored: None, changed: true });
        Ok(())
    }

    /// Takes an inode, or [`NONE`].
    fn take(&mut self, near: u32, kind: Kind, mode: u16) -> Result<(u32, Inode), Error> {
        let number = self.room.inode(self.near(near));
        let place = || format!("inode {number}");
        let old = match self.inodes.get(&number) {
            _ if number == NONE => Inode([0; INODE as usize]),
            Some(freed) => freed.clone(),
            None => self.ufs.inode(number, &place())?,
        };
        if old.mode() != 0 {
            return Err(damaged(place(), "it is in use, but said to be free"));
        }
        Ok((number, Inode::new(&old, kind, mode, self.time)))
    }

    /// Enters an inode into an open folder.
    fn put(&mut self, above: &str, path: &str, number: u32, inode: Inode, kind: Kind) {
        if let Some(open) = self.folders.get_mut(above) {
            open.folder.put(split(path).1.as_bytes(), number, kind);
            open.changed = true;
        }
        self.inodes.insert(number, inode);
    }

    /// Takes a name from a file, and what the file has when it was the last one.
    fn unlink(&mut self, number: u32, path: &str) -> Result<(), Error> {
        let place = format!("/{path}");
        let mut inode = self.inode(number, &place)?;
        let refused = |why| Error::Path { path: path.to_owned(), why };
        match inode.kind() {
            Kind::File => {}
            Kind::Folder => return Err(refused("there is a folder of this name")),
            Kind::Other => return Err(refused("there is a link or a device of this name")),
        }
        if inode.links() > 1 {
            inode.set_links(inode.links() - 1, self.time);
            self.inodes.insert(number, inode);
            return Ok(());
        }
        if self.ufs.geometry.dialect == Dialect::Solaris && inode.has_more() {
            return Err(refused("the file of this name has an access list or attributes"));
        }
        let mut blocks = Vec::new();
        self.ufs.blocks(&inode, &place, &mut |block| {
            blocks.push(block);
            Ok(())
        })?;
        let count: u32 = blocks.iter().map(|block| block.count).sum();
        if u64::from(count) * u64::from(self.ufs.geometry.fragment)
            != u64::from(inode.sectors()) * 512
        {
            return Err(damaged(place, "it has another number of blocks than it says"));
        }
        self.give_back(&blocks, &place)?;
        if let Some((group, within)) = self.room.group_of(number) {
            group.free_inode(within);
        }
        self.inodes.insert(number, inode.cleared());
        Ok(())
    }

    fn give_back(&mut self, blocks: &[Block], place: &str) -> Result<(), Error> {
        if blocks.iter().all(|block| self.room.free(block.at, block.count)) {
            return Ok(());
        }
        Err(damaged(place, "a block of it is said to be free, or is in it twice"))
    }

    fn file(&mut self, path: &str, content: &Content, mode: u16) -> Result<(), Error> {
        let too_large =
            || Error::Path { path: path.to_owned(), why: "files of up to 2147483647 bytes can be" };
        let size = content.size();
        if size > MAX_FILE {
            return Err(too_large());
        }
        if self.folders.contains_key(path) {
            let why = "it is to be both a file and a folder";
            return Err(Error::Path { path: path.to_owned(), why });
        }
        let (above, _) = split(path);
        let Some(parent) = self.folders.get(above).map(|open| open.number) else { return Ok(()) };
        let (number, mut inode) = self.take(parent, Kind::File, mode)?;
        let place = self.room.place(size, self.near(number)).ok_or_else(too_large)?;
        inode.set_content(size, place.sectors, &place.addresses, self.time);
        self.put(above, path, number, inode, Kind::File);
        self.writes.push((Body::Content(path.to_owned(), content.clone()), place));
        Ok(())
    }

    /// Finds a place for a folder that has changed.
    fn close(&mut self, path: &str, open: Open) -> Result<(), Error> {
        let Open { number, folder, stored, .. } = open;
        let place = format!("/{path}");
        let mut inode = self.inode(number, &place)?;
        let size = folder.bytes.len() as u64;
        if let Some((_, blocks)) = &stored {
            self.give_back(blocks, &place)?;
        }
        let found = self.room.place(size, self.near(number));
        let found = found.ok_or_else(|| damaged(place, "it is a folder of an impossible size"))?;
        inode.set_content(size, found.sectors, &found.addresses, self.time);
        self.inodes.insert(number, inode);
        self.writes.push((Body::Bytes(folder.bytes), found));
        Ok(())
    }
}

/// A path's folder and its name there.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn check(path: &str) -> Result<(), &'static str> {
    if path.len() > MAX_PATH {
        return Err("it is longer than 1022 bytes");
    }
    for name in path.split('/') {
        match name {
            "" | "." | ".." => return Err("it is no plain path"),
            _ if name.len() > MAX_NAME => return Err("a name in it is longer than 255 bytes"),
            _ if name.contains('\0') => return Err("it holds a NUL"),
            _ => {}
        }
    }
    Ok(())
}
