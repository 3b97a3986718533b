//! The content of a folder: pieces of 512 bytes, filled by entries one behind the other. An entry is
//! its inode's number, its own length, the length of its name, the name and zeroes. Free space is
//! the rest of an entry that is longer than it needs to be, or an entry of inode 0.

use super::bytes::{long, set, word};
use super::geometry::Dialect;
use super::inode::Kind;

/// Bytes of a piece; no entry crosses its end.
pub(super) const PIECE: usize = 512;
/// Longest name in bytes.
pub(super) const MAX_NAME: usize = 255;
const HEAD: usize = 8;

/// A folder's content.
#[derive(Debug)]
pub(super) struct Folder {
    pub bytes: Vec<u8>,
    dialect: Dialect,
}

/// An entry's place.
#[derive(Debug, Clone, Copy)]
struct Slot {
    at: usize,
    length: usize,
    inode: u32,
    /// Bytes of its name.
    name: usize,
}

impl Slot {
    /// Bytes that it needs.
    fn needed(&self) -> usize {
        if self.inode == 0 { 0 } else { needed(self.name) }
    }
}

fn needed(name: usize) -> usize {
    HEAD + (name + 1).next_multiple_of(4)
}

impl Folder {
    /// A new folder.
    pub(super) fn new(dialect: Dialect, own: u32, parent: u32) -> Self {
        let mut folder = Self { bytes: vec![0; PIECE], dialect };
        let first = needed(1);
        folder.write(Slot { at: 0, length: first, inode: own, name: 1 }, b".", Kind::Folder);
        let rest = Slot { at: first, length: PIECE - first, inode: parent, name: 2 };
        folder.write(rest, b"..", Kind::Folder);
        folder
    }

    /// Takes a folder's content and checks all of it; `inodes` is how many the file system has.
    pub(super) fn parse(
        dialect: Dialect,
        bytes: Vec<u8>,
        inodes: u32,
    ) -> Result<Self, &'static str> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(PIECE) {
            return Err("its size as a folder is impossible");
        }
        let folder = Self { bytes, dialect };
        let mut at = 0;
        while at < folder.bytes.len() {
            let slot = folder.slot(at);
            let room = PIECE - at % PIECE;
            if slot.length < HEAD || !slot.length.is_multiple_of(4) || slot.length > room {
                return Err("an entry of the folder has an impossible length");
            }
            if slot.name > MAX_NAME || slot.needed() > slot.length || slot.inode >= inodes {
                return Err("an entry of the folder has an impossible name or number");
            }
            let name = folder.name(&slot);
            if slot.inode != 0 && (name.is_empty() || name.contains(&0) || name.contains(&b'/')) {
                return Err("an entry of the folder has an impossible name or number");
            }
            at += slot.length;
        }
        Ok(folder)
    }

    fn slot(&self, at: usize) -> Slot {
        let name = match self.dialect {
            Dialect::Solaris => usize::from(word(&self.bytes, at + 6)),
            Dialect::Bsd { .. } => usize::from(self.bytes.get(at + 7).copied().unwrap_or_default()),
        };
        let length = usize::from(word(&self.bytes, at + 4));
        Slot { at, length, inode: long(&self.bytes, at), name }
    }

    fn name(&self, slot: &Slot) -> &[u8] {
        self.bytes.get(slot.at + HEAD..slot.at + HEAD + slot.name).unwrap_or_default()
    }

    /// All entries; their lengths were checked.
    fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= self.bytes.len() {
                return None;
            }
            let slot = self.slot(at);
            at += slot.length.max(HEAD);
            Some(slot)
        })
    }

    fn search(&self, name: &[u8]) -> Option<Slot> {
        self.slots().find(|slot| slot.inode != 0 && self.name(slot) == name)
    }

    /// The inode of a name.
    pub(super) fn find(&self, name: &[u8]) -> Option<u32> {
        self.search(name).map(|slot| slot.inode)
    }

    /// Gives a name to an inode, whether it is there already or not.
    pub(super) fn put(&mut self, name: &[u8], inode: u32, kind: Kind) {
        if let Some(slot) = self.search(name) {
            self.write(Slot { inode, ..slot }, name, kind);
            return;
        }
        let wanted = needed(name.len());
        let free = self.slots().find(|slot| slot.length - slot.needed() >= wanted);
        let place = match free {
            Some(slot) => {
                let keeps = slot.needed();
                if keeps > 0 {
                    let length = u16::try_from(keeps).unwrap_or_default();
                    set(&mut self.bytes, slot.at + 4, &length.to_le_bytes());
                }
                Slot { at: slot.at + keeps, length: slot.length - keeps, inode, name: name.len() }
            }
            None => {
                let at = self.bytes.len();
                self.bytes.resize(at + PIECE, 0);
                Slot { at, length: PIECE, inode, name: name.len() }
            }
        };
        self.write(place, name, kind);
    }

    fn write(&mut self, slot: Slot, name: &[u8], kind: Kind) {
        if let Some(bytes) = self.bytes.get_mut(slot.at..slot.at + slot.length) {
            bytes.fill(0);
        }
        // Both fit: a piece has 512 bytes, a name up to 255.
        let length = u16::try_from(slot.length).unwrap_or_default().to_le_bytes();
        let count = u8::try_from(name.len()).unwrap_or_default();
        let lengths = match (self.dialect, kind) {
            (Dialect::Solaris, _) => [count, 0],
            (Dialect::Bsd { .. }, Kind::Folder) => [4, count],
            (Dialect::Bsd { .. }, Kind::File) => [8, count],
            (Dialect::Bsd { .. }, Kind::Other) => [0, count],
        };
        set(&mut self.bytes, slot.at, &slot.inode.to_le_bytes());
        set(&mut self.bytes, slot.at + 4, &length);
        set(&mut self.bytes, slot.at + 6, &lengths);
        set(&mut self.bytes, slot.at + HEAD, name);
    }
}
