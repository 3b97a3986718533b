//! Plans a FAT32 volume: checks the names, gives every folder and file its place.
//!
//! Folders come first, then the files, each in one piece, sorted by path: a loader that reads a
//! file reads it in one go, and the volume can be written from front to back. Personal parts are the
//! first files, at multiples of their size on the disk.

use std::collections::BTreeMap;

use headnode_model::personal;
use time::OffsetDateTime;

use super::names::{aliases, folded, long_entries, refuse};
use super::{
    ATTR_ARCHIVE, ATTR_DIR, ATTR_VOLUME, DIR_ENTRY, Error, MAX_CLUSTERS, MAX_DIR_ENTRIES, MAX_FILE,
    MIN_CLUSTERS, largest,
};
use crate::image::{Content, SECTOR};

/// What a volume is to be like.
#[derive(Debug, Clone)]
pub struct Format {
    /// Its name: at most 11 characters, upper-case letters, digits, `-`, `_` (lower case is taken
    /// as given, for the `system` label of Triton's ESP).
    pub label: String,
    /// Its serial number.
    pub id: u32,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// Sectors before it on the disk.
    pub hidden: u32,
    /// The time that all files get, seconds since 1970; times before 1980 become 1980.
    pub time: i64,
}

/// Where the parts of a volume are, in sectors from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Sectors per cluster.
    pub cluster: u64,
    /// Sectors before the first FAT.
    pub reserved: u64,
    /// Sectors of one FAT; there are two.
    pub fat: u64,
    /// First sector of cluster 2.
    pub data: u64,
    /// Number of clusters.
    pub clusters: u32,
    /// Number of sectors.
    pub sectors: u64,
}

impl Geometry {
    /// The geometry of a volume of this many sectors: the largest clusters, up to 16 KiB, with
    /// which it still is FAT32. Large clusters spare loaders most of the work of following chains.
    ///
    /// # Errors
    /// When a FAT32 volume cannot have this size.
    pub fn new(sectors: u64) -> Result<Self, Error> {
        let error = Error::Size { sectors };
        if u32::try_from(sectors).is_err() {
            return Err(error);
        }
        let fitting = [32, 16, 8, 4, 2, 1].into_iter().find_map(|cluster| {
            // More FAT than needed by the few clusters that the FATs themselves take away.
            let most = sectors / cluster + 2;
            let fat = (most * 4).div_ceil(SECTOR);
            // Data begins at a multiple of 64 KiB, so that flash pages and clusters agree.
            let data = (32 + 2 * fat).next_multiple_of(128);
            let clusters = u32::try_from(sectors.checked_sub(data)? / cluster).ok()?;
            (MIN_CLUSTERS + 16..MAX_CLUSTERS).contains(&clusters).then_some(Self {
                cluster,
                reserved: data - 2 * fat,
                fat,
                data,
                clusters,
                sectors,
            })
        });
        fitting.ok_or(error)
    }

    /// Bytes of a cluster.
    pub fn cluster_bytes(&self) -> u64 {
        self.cluster * SECTOR
    }
}

/// Folders and files in their places.
pub struct Plan {
    pub(super) format: Format,
    pub(super) geometry: Geometry,
    /// Sorted by first cluster, which is the order in which they lie on the volume.
    pub(super) dirs: Vec<Extent>,
    pub(super) files: Vec<(String, Content, Extent)>,
    /// The entries of every folder, in the order of `dirs`.
    pub(super) tables: Vec<Vec<u8>>,
    /// Clusters in use.
    pub(super) used: u32,
    /// The first cluster behind all that are in use.
    pub(super) next: u32,
}

/// A run of clusters; none when the file is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub first: u32,
    pub count: u32,
}

/// A folder while its tree is built: children by name.
#[derive(Default)]
struct Folder {
    children: BTreeMap<String, Child>,
    folds: BTreeMap<String, String>,
}

enum Child {
    Folder(usize),
    File(usize),
}

impl Plan {
    /// Plans a volume that holds these files, by path with `/`; their folders come by themselves.
    ///
    /// # Errors
    /// See [`Error`]: names, sizes, or not enough room.
    pub fn new(
        format: Format,
        files: impl IntoIterator<Item = (String, Content)>,
    ) -> Result<Self, Error> {
        let label_char = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if format.label.is_empty()
            || format.label.len() > 11
            || !format.label.chars().all(label_char)
        {
            return Err(Error::Label(format.label));
        }
        let geometry = Geometry::new(format.sectors)?;
        let mut files: Vec<_> = files.into_iter().collect();
        files.sort_by(|(a, content), (b, other)| {
            let first = other.is_personal().cmp(&content.is_personal());
            first.then_with(|| a.split('/').cmp(b.split('/')))
        });
        let folders = folders(&files)?;
        let paths = folder_paths(&folders, &files);

        // Entries that every folder will have, and so its size.
        let mut next = 2;
        let mut dirs = Vec::with_capacity(folders.len());
        for (index, folder) in folders.iter().enumerate() {
            let own = if index == 0 { 1 } else { 2 };
            let names: Vec<&str> = folder.children.keys().map(String::as_str).collect();
            let long: usize = aliases(&names)
                .iter()
                .zip(&names)
                .filter(|((_, long), _)| *long)
                .map(|(_, name)| name.encode_utf16().count().div_ceil(13))
                .sum();
            let entries = own + names.len() + long;
            if entries > MAX_DIR_ENTRIES {
                return Err(Error::FolderTooLarge(paths.get(index).cloned().unwrap_or_default()));
            }
            let bytes = (entries * DIR_ENTRY) as u64;
            // A folder without a final free entry is allowed only when its clusters are full.
            dirs.push(allot(&mut next, bytes.max(1), &geometry));
        }
        let mut placed = Vec::with_capacity(files.len());
        // Clusters that stay free between others.
        let mut free = 0;
        for (path, content) in files {
            let size = content.size();
            if size > MAX_FILE {
                return Err(Error::FileTooLarge { path, size });
            }
            if content.is_personal() {
                let first = aligned(next, &format, &geometry);
                let first = first.ok_or_else(|| Error::Personal { path: path.clone() })?;
                free += first - next;
                next = first;
            }
            let extent = allot(&mut next, size, &geometry);
            placed.push((path, content, extent));
        }
        let used = next - 2;
        if used > u64::from(geometry.clusters) {
            return Err(Error::Full {
                needed: used * geometry.cluster_bytes(),
                room: u64::from(geometry.clusters) * geometry.cluster_bytes(),
                largest: largest(placed.iter().map(|(p, c, _)| (p.as_str(), c.size()))),
                label: format.label,
            });
        }
        let dirs: Vec<Extent> = dirs.into_iter().map(narrow).collect();
        let files: Vec<_> = placed.into_iter().map(|(p, c, e)| (p, c, narrow(e))).collect();
        let tables = tables(&format, &folders, &dirs, &files);
        // They are no more than there are clusters.
        let [used, next] = [used - free, next].map(|c| u32::try_from(c).unwrap_or(u32::MAX));
        Ok(Self { format, geometry, dirs, files, tables, used, next })
    }

    /// The volume's geometry.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Bytes that files may still take.
    pub fn free(&self) -> u64 {
        u64::from(self.geometry.clusters - self.used) * self.geometry.cluster_bytes()
    }

    /// Where each file lies: path, offset in bytes from the start of the volume, length in bytes.
    pub fn places(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.files.iter().map(|(path, content, extent)| {
            let cluster = u64::from(extent.first.saturating_sub(2));
            let sector = self.geometry.data + cluster * self.geometry.cluster;
            (path.as_str(), sector * SECTOR, content.size())
        })
    }
}

/// An extent before it is known to fit.
type Wide = (u64, u64);

/// The first cluster from `next` on that begins at a multiple of [`personal::SIZE`] on the disk; none
/// when there is no such cluster.
fn aligned(next: u64, format: &Format, geometry: &Geometry) -> Option<u64> {
    let unit = personal::SIZE as u64 / SECTOR;
    // Clusters are powers of two of sectors, and no larger than the unit.
    let sector =
        |cluster: u64| u64::from(format.hidden) + geometry.data + (cluster - 2) * geometry.cluster;
    (next..next + unit).find(|cluster| sector(*cluster).is_multiple_of(unit))
}

fn allot(next: &mut u64, bytes: u64, geometry: &Geometry) -> Wide {
    let count = bytes.div_ceil(geometry.cluster_bytes());
    let first = if count == 0 { 0 } else { *next };
    *next += count;
    (first, count)
}

fn narrow((first, count): Wide) -> Extent {
    // What did not fit was refused before; clusters are counted in 28 bits.
    Extent {
        first: u32::try_from(first).unwrap_or(u32::MAX),
        count: u32::try_from(count).unwrap_or(u32::MAX),
    }
}

/// The tree of folders; the root is the first.
fn folders(files: &[(String, Content)]) -> Result<Vec<Folder>, Error> {
    let mut folders = vec![Folder::default()];
    for (index, (path, _)) in files.iter().enumerate() {
        let mut at = 0;
        let mut parts = path.split('/').peekable();
        while let Some(name) = parts.next() {
            let last = parts.peek().is_none();
            if let Some(why) = refuse(name) {
                return Err(Error::Name { path: path.clone(), why });
            }
            let new = folders.len();
            let Some(folder) = folders.get_mut(at) else { break };
            let known = folder.folds.entry(folded(name)).or_insert_with(|| name.to_owned());
            if known != name {
                return Err(Error::Duplicate(known.clone(), path.clone()));
            }
            match folder.children.get(name) {
                Some(Child::Folder(next)) if !last => at = *next,
                Some(Child::File(_)) if last => {
                    return Err(Error::Duplicate(path.clone(), path.clone()));
                }
                Some(_) => return Err(Error::FileAndFolder(path.clone())),
                None if last => {
                    folder.children.insert(name.to_owned(), Child::File(index));
                }
                None => {
                    folder.children.insert(name.to_owned(), Child::Folder(new));
                    folders.push(Folder::default());
                    at = new;
                }
            }
        }
    }
    Ok(folders)
}

/// The path of every folder, for errors.
fn folder_paths(folders: &[Folder], files: &[(String, Content)]) -> Vec<String> {
    let mut paths = vec![String::new(); folders.len()];
    for (index, folder) in folders.iter().enumerate() {
        for (name, child) in &folder.children {
            if let Child::Folder(child) = child {
                let parent = paths.get(index).map_or("", String::as_str);
                let path =
                    if parent.is_empty() { name.clone() } else { format!("{parent}/{name}") };
                if let Some(slot) = paths.get_mut(*child) {
                    *slot = path;
                }
            }
        }
    }
    if files.is_empty() { vec![String::new()] } else { paths }
}

/// The bytes of every folder.
fn tables(
    format: &Format,
    folders: &[Folder],
    dirs: &[Extent],
    files: &[(String, Content, Extent)],
) -> Vec<Vec<u8>> {
    let (date, clock) = dos_time(format.time);
    let entry = |short: &[u8; 11], attr: u8, first: u32, size: u64| {
        let mut entry = [0; DIR_ENTRY];
        entry[..11].copy_from_slice(short);
        entry[11] = attr;
        let [date_low, date_high] = date.to_le_bytes();
        let [clock_low, clock_high] = clock.to_le_bytes();
        entry[14..20]
            .copy_from_slice(&[clock_low, clock_high, date_low, date_high, date_low, date_high]);
        let first = first.to_le_bytes();
        entry[20..22].copy_from_slice(&first[2..]);
        entry[22..26].copy_from_slice(&[clock_low, clock_high, date_low, date_high]);
        entry[26..28].copy_from_slice(&first[..2]);
        entry[28..].copy_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
        entry
    };
    let first = |folder: usize| dirs.get(folder).map_or(0, |extent| extent.first);
    let mut parents = vec![0; folders.len()];
    let mut tables = Vec::with_capacity(folders.len());
    for (index, folder) in folders.iter().enumerate() {
        let mut table = Vec::new();
        if index == 0 {
            let mut label = [b' '; 11];
            label.iter_mut().zip(format.label.bytes()).for_each(|(to, from)| *to = from);
            table.extend(entry(&label, ATTR_VOLUME, 0, 0));
        } else {
            let parent = parents.get(index).copied().unwrap_or(0);
            // The root counts as cluster 0 in "..".
            let up = if parent == 0 { 0 } else { first(parent) };
            table.extend(entry(b".          ", ATTR_DIR, first(index), 0));
            table.extend(entry(b"..         ", ATTR_DIR, up, 0));
        }
        let names: Vec<&str> = folder.children.keys().map(String::as_str).collect();
        for ((short, long), (name, child)) in aliases(&names).iter().zip(&folder.children) {
            if *long {
                table.extend(long_entries(name, short).concat());
            }
            match child {
                Child::Folder(child) => {
                    if let Some(parent) = parents.get_mut(*child) {
                        *parent = index;
                    }
                    table.extend(entry(short, ATTR_DIR, first(*child), 0));
                }
                Child::File(file) => {
                    if let Some((_, content, extent)) = files.get(*file) {
                        table.extend(entry(short, ATTR_ARCHIVE, extent.first, content.size()));
                    }
                }
            }
        }
        tables.push(table);
    }
    tables
}

/// Date and time of day as FAT stores them, in UTC.
fn dos_time(seconds: i64) -> (u16, u16) {
    const FIRST: (u16, u16) = (1 << 5 | 1, 0);
    let Ok(at) = OffsetDateTime::from_unix_timestamp(seconds) else { return FIRST };
    let Ok(year) = u16::try_from(at.year() - 1980) else { return FIRST };
    if year > 127 {
        return FIRST;
    }
    let date = year << 9 | u16::from(u8::from(at.month())) << 5 | u16::from(at.day());
    let time =
        u16::from(at.hour()) << 11 | u16::from(at.minute()) << 5 | u16::from(at.second() / 2);
    (date, time)
}
