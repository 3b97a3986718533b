//! Reads FAT32 volumes of any origin: every number is checked before it is used, chains and folders
//! that run in circles end in an error, and memory stays bounded.

use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom};

use super::names::{LONG_NAME_PLACES, Short, short_text};
use super::{
    ATTR_DIR, ATTR_LONG_NAME, ATTR_VOLUME, DIR_ENTRY, MAX_CLUSTERS, MAX_DIR_ENTRIES, MIN_CLUSTERS,
    short_checksum,
};
use crate::image::SECTOR;

/// Folders nested deeper than this are refused.
const MAX_DEPTH: usize = 64;
/// Volumes with more files and folders than this are refused.
const MAX_NODES: usize = 1_000_000;
/// The FAT is read in pieces of this many bytes.
const FAT_WINDOW: u64 = 64 * 1024;

/// Why a volume cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("reading a FAT file system: {0}")]
    Io(#[from] io::Error),
    /// It is no FAT32 volume.
    #[error("this is no FAT32 file system: {0}")]
    NotFat(&'static str),
    /// Its structures contradict themselves.
    #[error("the FAT32 file system is damaged: {path:?}: {what}")]
    Damaged {
        /// Where.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// A file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Path with `/`, without a leading one.
    pub path: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Size in bytes; 0 for a folder.
    pub size: u64,
    first: u32,
}

/// A volume within a disk.
pub struct Volume<D> {
    disk: D,
    /// Offset of the volume in the disk, in bytes.
    start: u64,
    cluster: u64,
    fat: u64,
    data: u64,
    clusters: u32,
    root: u32,
    id: u32,
    label: String,
    window_at: u64,
    window: Vec<u8>,
}

impl<D: Read + Seek> Volume<D> {
    /// Opens the volume that fills `length` bytes of the disk from `start`.
    ///
    /// # Errors
    /// When there is no usable FAT32 volume.
    pub fn open(mut disk: D, start: u64, length: u64) -> Result<Self, Error> {
        let mut boot = [0; SECTOR as usize];
        disk.seek(SeekFrom::Start(start))?;
        disk.read_exact(&mut boot)?;
        if boot[510..] != [0x55, 0xaa] {
            return Err(Error::NotFat("its first sector is not signed"));
        }
        let word = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let long =
            |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        let cluster = u64::from(boot[13]);
        if word(11) != SECTOR || !cluster.is_power_of_two() {
            return Err(Error::NotFat("its sectors or clusters have an impossible size"));
        }
        let (reserved, fats, fat) = (word(14), u64::from(boot[16]), u64::from(long(36)));
        let sectors = u64::from(long(32));
        if word(17) != 0 || word(22) != 0 || reserved == 0 || fats == 0 {
            return Err(Error::NotFat("its header is that of FAT12 or FAT16, or damaged"));
        }
        if sectors > length / SECTOR {
            return Err(Error::NotFat("it is larger than its partition"));
        }
        let data = reserved + fats * fat;
        let clusters = sectors.checked_sub(data).ok_or(Error::NotFat("its FAT is too large"))?;
        let clusters = u32::try_from(clusters / cluster).unwrap_or(u32::MAX);
        if !(MIN_CLUSTERS..MAX_CLUSTERS).contains(&clusters)
            || fat * SECTOR / 4 < u64::from(clusters) + 2
        {
            return Err(Error::NotFat("its number of clusters is impossible"));
        }
        let label = String::from_utf8_lossy(&boot[71..82]).trim_end().to_owned();
        let (id, root) = (long(67), long(44));
        Ok(Self {
            disk,
            start,
            cluster: cluster * SECTOR,
            fat: start + reserved * SECTOR,
            data: start + data * SECTOR,
            clusters,
            root,
            id,
            label,
            window_at: u64::MAX,
            window: Vec::new(),
        })
    }

    /// The volume's name, from its boot sector.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The volume's serial number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Bytes of a cluster.
    pub fn cluster_bytes(&self) -> u64 {
        self.cluster
    }

    /// Offset of the volume in the disk, in bytes.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// All files and folders, every folder before what is in it, sorted by name within each.
    ///
    /// # Errors
    /// When the volume is damaged or absurdly large.
    pub fn walk(&mut self) -> Result<Vec<Node>, Error> {
        let mut seen = HashSet::from([self.root]);
        let mut nodes: Vec<Node> = Vec::new();
        // Folders still to be read, the next one last.
        let mut todo = vec![Node { path: String::new(), folder: true, size: 0, first: self.root }];
        while let Some(folder) = todo.pop() {
            if !folder.path.is_empty() {
                nodes.push(folder.clone());
            }
            let damaged = |what| Error::Damaged { path: folder.path.clone(), what };
            if folder.path.split('/').count() > MAX_DEPTH {
                return Err(damaged("folders are nested too deeply"));
            }
            let mut children = self.read_folder(&folder)?;
            children.sort_by(|a, b| a.path.cmp(&b.path));
            if nodes.len() + todo.len() + children.len() > MAX_NODES {
                return Err(damaged("it holds more than a million files"));
            }
            let (folders, files): (Vec<_>, Vec<_>) = children.into_iter().partition(|n| n.folder);
            nodes.extend(files);
            for child in folders.into_iter().rev() {
                if !seen.insert(child.first) {
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
        let most = (MAX_DIR_ENTRIES * DIR_ENTRY) as u64;
        let runs = self.chain(folder, most.div_ceil(self.cluster))?;
        let mut bytes = Vec::new();
        for (offset, length) in runs {
            let from = bytes.len();
            bytes.resize(from + usize::try_from(length).map_err(io::Error::other)?, 0);
            self.disk.seek(SeekFrom::Start(offset))?;
            self.disk.read_exact(bytes.get_mut(from..).unwrap_or_default())?;
        }
        let mut nodes = Vec::new();
        let mut long = LongName::default();
        for entry in bytes.chunks_exact(DIR_ENTRY) {
            match entry {
                [0, ..] => break,
                [0xe5, ..] => long = LongName::default(),
                _ if entry[11] & 0x3f == ATTR_LONG_NAME => long.add(entry),
                _ if entry[11] & ATTR_VOLUME != 0 => long = LongName::default(),
                _ => {
                    let mut short: Short = [0; 11];
                    short.copy_from_slice(&entry[..11]);
                    let name = std::mem::take(&mut long)
                        .finish(&short)
                        .unwrap_or_else(|| short_with_case(&short, entry[12]));
                    if name == "." || name == ".." {
                        continue;
                    }
                    if name.is_empty() || name.contains(['/', '\0']) {
                        return Err(damaged("an entry has an impossible name"));
                    }
                    let path = if folder.path.is_empty() {
                        name
                    } else {
                        format!("{}/{name}", folder.path)
                    };
                    let first = u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]]);
                    let size = u32::from_le_bytes([entry[28], entry[29], entry[30], entry[31]]);
                    let is_folder = entry[11] & ATTR_DIR != 0;
                    let size = if is_folder { 0 } else { u64::from(size) };
                    nodes.push(Node { path, folder: is_folder, size, first });
                }
            }
        }
        Ok(nodes)
    }

    /// Where a file or folder lies: offset in the disk and length of every run, in bytes, in whole
    /// clusters; `most` clusters at the most.
    fn chain(&mut self, node: &Node, most: u64) -> Result<Vec<(u64, u64)>, Error> {
        let damaged = |what| Error::Damaged { path: node.path.clone(), what };
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut cluster = node.first;
        let mut count = 0;
        while (2..self.clusters + 2).contains(&cluster) {
            count += 1;
            if count > most.min(u64::from(self.clusters)) {
                return Err(damaged("its chain of clusters is too long or runs in a circle"));
            }
            let offset = self.data + u64::from(cluster - 2) * self.cluster;
            match runs.last_mut() {
                Some((from, length)) if *from + *length == offset => *length += self.cluster,
                _ => runs.push((offset, self.cluster)),
            }
            cluster = self.fat_entry(cluster)?;
        }
        if cluster < 0x0fff_fff8 && !(node.first == 0 && count == 0) {
            return Err(damaged("its chain of clusters leads nowhere"));
        }
        Ok(runs)
    }

    fn fat_entry(&mut self, cluster: u32) -> io::Result<u32> {
        let at = u64::from(cluster) * 4;
        let window_at = at / FAT_WINDOW * FAT_WINDOW;
        if self.window_at != window_at {
            let end = (u64::from(self.clusters) + 2) * 4;
            let length = (end - window_at).min(FAT_WINDOW);
            self.window.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
            self.disk.seek(SeekFrom::Start(self.fat + window_at))?;
            self.disk.read_exact(&mut self.window)?;
            self.window_at = window_at;
        }
        let at = usize::try_from(at - window_at).map_err(io::Error::other)?;
        let bytes = self.window.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        Ok(u32::from_le_bytes(bytes.unwrap_or_default()) & 0x0fff_ffff)
    }

    /// The parts of a file: offset in the disk and length, in bytes.
    ///
    /// # Errors
    /// When its chain of clusters does not fit its size.
    pub fn extents(&mut self, file: &Node) -> Result<Vec<(u64, u64)>, Error> {
        let damaged = |what| Error::Damaged { path: file.path.clone(), what };
        let clusters = file.size.div_ceil(self.cluster);
        let mut runs = self.chain(file, clusters)?;
        let held: u64 = runs.iter().map(|(_, length)| length).sum();
        if held != clusters * self.cluster {
            return Err(damaged("its chain of clusters is too short"));
        }
        if let Some((_, length)) = runs.last_mut() {
            *length -= held - file.size;
        }
        Ok(runs)
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
}

/// A short name in the case that its entry asks for (byte 12: 08 lower stem, 10 lower suffix).
fn short_with_case(short: &Short, case: u8) -> String {
    let mut short = *short;
    if case & 0x08 != 0 {
        short[..8].make_ascii_lowercase();
    }
    if case & 0x10 != 0 {
        short[8..].make_ascii_lowercase();
    }
    short_text(&short)
}

/// The parts of a long name, as they come: last part first.
#[derive(Default)]
struct LongName {
    units: Vec<[u16; 13]>,
    /// Number of the part that must come next; 0 when the name is whole.
    next: u8,
    checksum: u8,
}

impl LongName {
    fn add(&mut self, entry: &[u8]) {
        let order = entry[0];
        if order & 0x40 != 0 {
            *self = Self { units: Vec::new(), next: order & 0x1f, checksum: entry[13] };
        } else if order != self.next || entry[13] != self.checksum {
            *self = Self::default();
            return;
        }
        if self.next == 0 {
            return;
        }
        self.next -= 1;
        self.units.push(LONG_NAME_PLACES.map(|at| u16::from_le_bytes([entry[at], entry[at + 1]])));
    }

    fn finish(self, short: &Short) -> Option<String> {
        if self.units.is_empty() || self.next != 0 || self.checksum != short_checksum(short) {
            return None;
        }
        let units = self.units.into_iter().rev().flatten().take_while(|unit| *unit != 0);
        String::from_utf16(&units.collect::<Vec<_>>()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Content;
    use crate::image::fat::{Format, Plan};
    use proptest::prelude::*;
    use std::io::Cursor;

    fn volume(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let format = Format {
            label: "TEST".to_owned(),
            id: 7,
            sectors: 68_000,
            hidden: 0,
            time: 1_767_225_600,
        };
        let files = files.iter().map(|(p, c)| ((*p).to_owned(), Content::from(c.clone())));
        let mut bytes = Vec::new();
        Plan::new(format, files).unwrap().write(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 68_000 * 512);
        bytes
    }

    fn content(volume: &mut Volume<Cursor<Vec<u8>>>, node: &Node) -> Vec<u8> {
        let mut bytes = Vec::new();
        volume
            .read(node, &mut |part| {
                bytes.extend_from_slice(part);
                Ok(())
            })
            .unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_back() {
        let files = [
            ("a long folder name/ütf.8", vec![1; 1]),
            ("boot/grub/grub.cfg", vec![2; 512]),
            ("boot/grub/x/y/z.tar.gz", vec![3; 5000]),
            ("EMPTY", vec![]),
        ];
        let bytes = volume(&files);
        let length = bytes.len() as u64;
        let mut volume = Volume::open(Cursor::new(bytes), 0, length).unwrap();
        assert_eq!((volume.label(), volume.id()), ("TEST", 7));
        let nodes = volume.walk().unwrap();
        let found: Vec<_> = nodes.iter().filter(|n| !n.folder).cloned().collect();
        for (path, expected) in &files {
            let node = found.iter().find(|node| node.path == *path).unwrap();
            assert_eq!(&content(&mut volume, node), expected, "{path}");
        }
        assert_eq!(found.len(), files.len());
        assert_eq!(nodes.iter().filter(|n| n.folder).count(), 5);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn damage_never_panics(changes in proptest::collection::vec((0usize..600, any::<u8>()), 1..12)) {
            let mut bytes = volume(&[("a/b/c", vec![9; 3000]), ("long name.text", vec![8; 10])]);
            // The boot sector, the FAT's head and the first folders are where it matters.
            let fat = u16::from_le_bytes([bytes[14], bytes[15]]) as usize * 512;
            let data = fat + 2 * u32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]) as usize * 512;
            for (at, value) in changes {
                let at = match at { 0..100 => at, 100..150 => fat + at - 100, _ => data + (at - 150) * 4 };
                bytes[at] = value;
            }
            let length = bytes.len() as u64;
            if let Ok(mut volume) = Volume::open(Cursor::new(bytes), 0, length)
                && let Ok(nodes) = volume.walk()
            {
                for node in nodes.iter().filter(|node| !node.folder) {
                    let _ = volume.read(node, &mut |_| Ok(()));
                }
            }
        }
    }
}
