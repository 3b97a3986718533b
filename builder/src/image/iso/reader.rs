//! Reads ISO 9660 images of any origin: every number is checked before it is used, folders that run
//! in circles end in an error, and memory stays bounded. Names are those of Rock Ridge, else of
//! Joliet, else the bare ones.

use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom};

use super::names::refuse;
use super::records::{FLAG_FOLDER, FLAG_MORE};
use super::{BLOCK, SYSTEM_BLOCKS};

mod boot;
mod susp;

pub use boot::BootEntry;
use susp::{Extra, Found};

/// Folders nested deeper than this are refused.
const MAX_DEPTH: usize = 64;
/// Images with more files and folders than this are refused.
const MAX_NODES: usize = 1_000_000;
/// Larger folders are refused, in bytes.
const MAX_FOLDER: u64 = 64 << 20;
/// Files in more pieces than this are refused.
const MAX_EXTENTS: usize = 4096;
/// More volume descriptors than this are refused.
const MAX_DESCRIPTORS: u64 = 64;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("reading an ISO image: {0}")]
    Io(#[from] io::Error),
    /// It is no ISO 9660 image.
    #[error("this is no ISO 9660 image: {0}")]
    NotIso(&'static str),
    /// Its structures contradict themselves.
    #[error("the ISO image is damaged: {path:?}: {what}")]
    Damaged {
        /// Where.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// A file, folder or symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Path with `/`, without a leading one.
    pub path: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Size in bytes; 0 for a folder.
    pub size: u64,
    /// Permissions, where the image tells them.
    pub mode: Option<u32>,
    /// What it points to, when it is a symbolic link.
    pub link: Option<String>,
    /// Offset from the start of the image and length of every piece, in bytes.
    pieces: Vec<(u64, u64)>,
}

/// An image within a file or disk.
pub struct Volume<D> {
    disk: D,
    start: u64,
    length: u64,
    label: String,
    root: (u64, u64),
    names: Names,
    catalogue: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Bare,
    Joliet,
    /// With so many bytes to skip in each record before Rock Ridge begins.
    RockRidge(usize),
}

/// A directory record.
struct Record<'a> {
    block: u32,
    size: u32,
    flags: u8,
    name: &'a [u8],
    extra: &'a [u8],
}

impl<D: Read + Seek> Volume<D> {
    /// Opens the image that fills `length` bytes of the disk from `start`.
    ///
    /// # Errors
    /// When there is no usable ISO 9660 image.
    pub fn open(disk: D, start: u64, length: u64) -> Result<Self, Error> {
        let names = Names::Bare;
        let root = (0, 0);
        let mut volume =
            Self { disk, start, length, label: String::new(), root, names, catalogue: None };
        let mut joliet = None;
        let mut primary = None;
        for number in SYSTEM_BLOCKS..SYSTEM_BLOCKS + MAX_DESCRIPTORS {
            let descriptor = match volume.at(number * BLOCK, BLOCK) {
                Err(Error::Io(_)) if number == SYSTEM_BLOCKS => {
                    return Err(Error::NotIso("it is too short"));
                }
                other => other?,
            };
            if descriptor.get(1..6) != Some(b"CD001") {
                break;
            }
            match descriptor[0] {
                0 if descriptor[7..].starts_with(b"EL TORITO SPECIFICATION") => {
                    volume.catalogue = Some(u64::from(le32(&descriptor, 0x47)) * BLOCK);
                }
                1 if primary.is_none() => primary = Some(descriptor),
                2 if matches!(&descriptor[88..91], b"%/@" | b"%/C" | b"%/E") => {
                    joliet = Some(descriptor);
                }
                255 => break,
                _ => {}
            }
        }
        let primary = primary.ok_or(Error::NotIso("it has no primary volume descriptor"))?;
        if u64::from(u16::from_le_bytes([primary[128], primary[129]])) != BLOCK {
            return Err(Error::NotIso("its blocks do not have 2048 bytes"));
        }
        volume.label = String::from_utf8_lossy(&primary[40..72]).trim_end().to_owned();
        volume.root = root_of(&primary)?;
        // Its first record is the root's own, and tells whether there is Rock Ridge.
        let first = volume.at(volume.root.0, BLOCK)?;
        let extra = record(&first).map(|(record, _)| record.extra.to_vec()).unwrap_or_default();
        if let Some(skip) = susp::begins(&extra) {
            volume.names = Names::RockRidge(skip);
        } else if let Some(joliet) = joliet {
            volume.names = Names::Joliet;
            volume.root = root_of(&joliet)?;
        }
        Ok(volume)
    }

    /// The volume's name.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether names are those of Rock Ridge.
    pub fn has_rock_ridge(&self) -> bool {
        matches!(self.names, Names::RockRidge(_))
    }

    /// Offset of the image in the disk, in bytes.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// All files and folders, every folder before what is in it, sorted by name within each.
    ///
    /// # Errors
    /// When the image is damaged or absurdly large.
    pub fn walk(&mut self) -> Result<Vec<Node>, Error> {
        let mut seen = HashSet::from([self.root.0]);
        let mut nodes: Vec<Node> = Vec::new();
        let root = Node {
            path: String::new(),
            folder: true,
            size: 0,
            mode: None,
            link: None,
            pieces: vec![self.root],
        };
        // Folders still to be read, the next one last.
        let mut todo = vec![root];
        while let Some(folder) = todo.pop() {
            let damaged = |what| Error::Damaged { path: folder.path.clone(), what };
            if folder.path.split('/').count() > MAX_DEPTH {
                return Err(damaged("folders are nested too deeply"));
            }
            let mut children = self.read_folder(&folder)?;
            children.sort_by(|a, b| a.path.cmp(&b.path));
            if children.windows(2).any(|pair| pair[0].path == pair[1].path) {
                return Err(damaged("it holds one name twice"));
            }
            if nodes.len() + todo.len() + children.len() > MAX_NODES {
                return Err(damaged("it holds more than a million files"));
            }
            if !folder.path.is_empty() {
                nodes.push(folder);
            }
            let (folders, files): (Vec<_>, Vec<_>) = children.into_iter().partition(|n| n.folder);
            nodes.extend(files);
            for child in folders.into_iter().rev() {
                let place = child.pieces.first().map_or(0, |piece| piece.0);
                if !seen.insert(place) {
                    let what = "two folders are the same one";
                    return Err(Error::Damaged { path: child.path, what });
                }
                todo.push(child);
            }
        }
        Ok(nodes)
    }

    fn read_folder(&mut self, folder: &Node) -> Result<Vec<Node>, Error> {
        let damaged = |what| Error::Damaged { path: folder.path.clone(), what };
        let (at, mut size) = folder.pieces.first().copied().unwrap_or_default();
        if size == 0 {
            // A folder that was moved elsewhere, because it would lie too deep: its own first
            // record tells its size.
            let head = self.at(at, BLOCK)?;
            size = record(&head).map_or(0, |(record, _)| u64::from(record.size));
        }
        if size > MAX_FOLDER {
            return Err(damaged("it is too large for a folder"));
        }
        let bytes = self.at(at, size)?;
        let mut nodes: Vec<Node> = Vec::new();
        // Whether the record before said that its file goes on.
        let mut more = false;
        for block in bytes.chunks(BLOCK as usize) {
            let mut rest = block;
            while let Some((found, length)) = record(rest) {
                rest = rest.get(length..).unwrap_or_default();
                if matches!(found.name, [0] | [1]) {
                    continue;
                }
                let extra = match self.names {
                    Names::RockRidge(skip) => {
                        self.extra(found.extra.get(skip..).unwrap_or_default(), &folder.path)?
                    }
                    _ => Extra::default(),
                };
                if extra.moved_here {
                    continue;
                }
                let piece = (u64::from(found.block) * BLOCK, u64::from(found.size));
                let continued = more;
                more = found.flags & FLAG_MORE != 0;
                if continued {
                    let last =
                        nodes.last_mut().ok_or_else(|| damaged("a file has no beginning"))?;
                    if last.pieces.len() >= MAX_EXTENTS {
                        return Err(damaged("a file has too many pieces"));
                    }
                    last.size += piece.1;
                    last.pieces.push(piece);
                    continue;
                }
                nodes.push(self.node(folder, &found, extra, piece)?);
            }
        }
        Ok(nodes)
    }

    fn node(
        &self,
        folder: &Node,
        found: &Record<'_>,
        extra: Extra,
        piece: (u64, u64),
    ) -> Result<Node, Error> {
        let name = match extra.name {
            Some(name) => String::from_utf8_lossy(&name).into_owned(),
            None => self.plain_name(found.name),
        };
        if refuse(&name).is_some() || name.contains('/') {
            let what = "an entry has an impossible name";
            return Err(Error::Damaged { path: folder.path.clone(), what });
        }
        let path = if folder.path.is_empty() { name } else { format!("{}/{name}", folder.path) };
        let moved = extra.moved_to.map(|block| (u64::from(block) * BLOCK, 0));
        let is_folder = found.flags & FLAG_FOLDER != 0 || moved.is_some();
        let link = extra.link.filter(|_| !is_folder);
        let file = !is_folder && link.is_none();
        Ok(Node {
            path,
            folder: is_folder,
            size: if file { piece.1 } else { 0 },
            mode: extra.mode.map(|mode| mode & 0o7777),
            pieces: if link.is_some() { Vec::new() } else { vec![moved.unwrap_or(piece)] },
            link,
        })
    }

    fn plain_name(&self, name: &[u8]) -> String {
        let text = if self.names == Names::Joliet {
            let units: Vec<u16> =
                name.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16_lossy(&units)
        } else {
            String::from_utf8_lossy(name).into_owned()
        };
        let text = text.rsplit_once(';').map_or(text.as_str(), |(name, _)| name);
        text.strip_suffix('.').unwrap_or(text).to_owned()
    }

    /// What Rock Ridge says in a record and its continuations.
    fn extra(&mut self, bytes: &[u8], path: &str) -> Result<Extra, Error> {
        let damaged = |what| Error::Damaged { path: path.to_owned(), what };
        let mut extra = Extra::default();
        let mut next = extra.read(bytes);
        for _ in 0..susp::MAX_CONTINUATIONS {
            match next {
                Found::End => return Ok(extra),
                Found::Continues { block, offset, length } => {
                    if u64::from(offset) + u64::from(length) > BLOCK {
                        return Err(damaged("an entry continues across a block"));
                    }
                    let at = u64::from(block) * BLOCK + u64::from(offset);
                    next = extra.read(&self.at(at, u64::from(length))?);
                }
            }
        }
        Err(damaged("an entry continues without end"))
    }

    /// The pieces of a file: offset in the disk and length, in bytes.
    ///
    /// # Errors
    /// When one lies outside of the image.
    pub fn extents(&mut self, file: &Node) -> Result<Vec<(u64, u64)>, Error> {
        let mut extents = Vec::new();
        for (offset, length) in file.pieces.iter().filter(|piece| piece.1 > 0) {
            if offset.checked_add(*length).is_none_or(|end| end > self.length) {
                let what = "it lies behind the end of the image";
                return Err(Error::Damaged { path: file.path.clone(), what });
            }
            extents.push((self.start + offset, *length));
        }
        Ok(extents)
    }

    /// Hands the content of a file to `take`, piece by piece.
    ///
    /// # Errors
    /// When it cannot be read, and what `take` returns.
    pub fn read(
        &mut self,
        file: &Node,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Error> {
        let mut buffer = vec![0; 256 * 1024];
        for (offset, mut left) in self.extents(file)? {
            self.disk.seek(SeekFrom::Start(offset))?;
            while left > 0 {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let part = buffer.get_mut(..count).unwrap_or_default();
                self.disk.read_exact(part)?;
                take(part)?;
                left -= count as u64;
            }
        }
        Ok(())
    }

    /// Reads so many bytes at an offset of the image.
    fn at(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.length);
        let length = usize::try_from(length).ok().filter(|_| inside);
        let length = length.ok_or_else(|| {
            io::Error::new(io::ErrorKind::UnexpectedEof, "a part lies behind the end of the image")
        })?;
        let mut bytes = vec![0; length];
        self.disk.seek(SeekFrom::Start(self.start + offset))?;
        self.disk.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    u32::from_le_bytes(bytes.unwrap_or_default())
}

/// Offset and length in bytes of a descriptor's root folder.
fn root_of(descriptor: &[u8]) -> Result<(u64, u64), Error> {
    let bare = descriptor.get(156..190).unwrap_or_default();
    match record(bare) {
        Some((root, _)) if root.flags & FLAG_FOLDER != 0 && root.size > 0 => {
            Ok((u64::from(root.block) * BLOCK, u64::from(root.size)))
        }
        _ => Err(Error::NotIso("its root folder is not described")),
    }
}

/// The record at the head of these bytes and its length; none when there is no usable one.
fn record(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let length = usize::from(*bytes.first()?);
    let bytes = bytes.get(..length)?;
    let name_end = 33 + usize::from(*bytes.get(32)?);
    let found = Record {
        // An attribute record, of so many blocks, lies before the file.
        block: le32(bytes, 2).checked_add(u32::from(bytes[1]))?,
        size: le32(bytes, 10),
        flags: bytes[25],
        name: bytes.get(33..name_end)?,
        extra: bytes.get(name_end.next_multiple_of(2)..).unwrap_or_default(),
    };
    Some((found, length))
}

#[cfg(test)]
mod tests;
