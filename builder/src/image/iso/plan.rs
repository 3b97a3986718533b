//! Plans an image: checks the names, gives every folder and file its place.

use std::collections::BTreeMap;

use headnode_model::personal;
use time::OffsetDateTime;
use uuid::Uuid;

use super::boot::{Boot, Efi};
use super::names::{IsoName, iso_names, refuse};
use super::records::{Name, Record, short_time};
use super::{BLOCK, Error, MAX_EXTENT, SYSTEM_BLOCKS};
use crate::image::disk::{guid, serial};
use crate::image::gpt::{self, Partition, Table};
use crate::image::{Content, SECTOR, fat, output};

/// Number of the EFI system partition in the image's partition table.
pub const ESP_NUMBER: u32 = 1;
/// Blocks per block of the output; the partition and the image begin and end at multiples of it.
const ALIGNMENT: u64 = output::BLOCK as u64 / BLOCK;

/// What an image is to be like.
#[derive(Debug, Clone)]
pub struct Format {
    /// The volume's name: 1 to 32 upper-case letters, digits and `_`.
    pub volume: String,
    /// The time of everything, seconds since 1970.
    pub time: i64,
    /// SHA-256 over all content; identifiers are derived from it.
    pub digest: [u8; 32],
    /// How it boots.
    pub boot: Boot,
}

/// An image, planned.
pub struct Iso {
    pub(super) volume: String,
    pub(super) time: OffsetDateTime,
    pub(super) boot: Boot,
    /// In the order of the path table.
    pub(super) folders: Vec<Folder>,
    /// In the order in which they lie on the image.
    pub(super) files: Vec<File>,
    pub(super) path_table: u32,
    /// First block of what has no room in the records.
    pub(super) continuations: u32,
    pub(super) catalogue: Option<u32>,
    pub(super) esp: Option<Esp>,
    pub(super) table: Option<Table>,
    /// Blocks of all.
    pub(super) blocks: u32,
}

/// A folder in its place.
pub(super) struct Folder {
    pub name: IsoName,
    pub parent: usize,
    pub block: u32,
    /// Its size in bytes, in whole blocks.
    pub size: u32,
    pub records: Vec<(Record, Target, u64)>,
}

/// What a record describes.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Folder(usize),
    File(usize),
    Esp,
}

/// A file in its place.
pub(super) struct File {
    pub path: String,
    pub content: Content,
    pub block: u32,
    /// Whether it is the BIOS loader, which is told its place.
    pub loader: bool,
}

/// The EFI system partition.
pub(super) struct Esp {
    pub plan: fat::Plan,
    pub block: u32,
    pub size: u64,
}

/// A folder while the tree is built.
struct Branch {
    parent: usize,
    path: String,
    children: BTreeMap<String, Leaf>,
}

#[derive(Clone, Copy)]
enum Leaf {
    Folder(usize),
    File(usize),
    Esp,
}

impl Iso {
    /// Plans an image that holds these files, by path with `/`; their folders come by themselves,
    /// and so do the loaders.
    ///
    /// # Errors
    /// See [`Error`]: names, sizes, loaders that do not fit.
    pub fn plan(
        format: Format,
        files: impl IntoIterator<Item = (String, Content)>,
    ) -> Result<Self, Error> {
        let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        if !(1..=32).contains(&format.volume.len()) || !format.volume.chars().all(allowed) {
            return Err(Error::Label(format.volume));
        }
        let time = OffsetDateTime::from_unix_timestamp(format.time).ok();
        let time = time.filter(|time| (1970..=2155).contains(&time.year()));
        let time = time.ok_or(Error::Time(format.time))?;
        let boot = format.boot;

        let mut all: Vec<File> = Vec::new();
        if let Some(bios) = &boot.bios {
            let content = Content::from(bios.loader.bytes.clone());
            all.push(File { path: bios.path.clone(), content, block: 0, loader: true });
        }
        let mut plain: Vec<_> = files.into_iter().collect();
        plain.sort_by(|(a, content), (b, other)| {
            let first = other.is_personal().cmp(&content.is_personal());
            first.then_with(|| a.split('/').cmp(b.split('/')))
        });
        all.extend(plain.into_iter().map(|(path, content)| File {
            path,
            content,
            block: 0,
            loader: false,
        }));
        let branches = tree(&all, boot.efi.as_ref())?;
        let mut folders = records(&branches, &all, short_time(time))?;

        let booting = boot.bios.is_some() || boot.efi.is_some();
        // Behind the system's area: the descriptors of the volume, of booting, of their end.
        let mut next = SYSTEM_BLOCKS + if booting { 3 } else { 2 };
        let table_bytes: u64 = folders.iter().map(|folder| path_entry_length(&folder.name)).sum();
        let path_table = take(&mut next, 2 * table_bytes.div_ceil(BLOCK))?;
        for folder in &mut folders {
            folder.block = take(&mut next, u64::from(folder.size) / BLOCK)?;
        }
        let continued = continuations(&mut folders);
        let continuations = take(&mut next, continued.div_ceil(BLOCK))?;
        let catalogue = if booting { Some(take(&mut next, 1)?) } else { None };
        for file in &mut all {
            if file.content.is_personal() {
                next = next.next_multiple_of(personal::SIZE as u64 / BLOCK);
            }
            file.block = take(&mut next, file.content.size().div_ceil(BLOCK))?;
        }
        let esp = match &boot.efi {
            None => None,
            Some(efi) => {
                next = next.next_multiple_of(ALIGNMENT);
                let sectors = efi.sectors.next_multiple_of(output::BLOCK as u64 / SECTOR);
                let block = take(&mut next, sectors / (BLOCK / SECTOR))?;
                let volume = fat::Format {
                    label: efi.label.clone(),
                    id: serial(&format.digest, &efi.label),
                    sectors,
                    hidden: u32::try_from(u64::from(block) * BLOCK / SECTOR).unwrap_or(0),
                    time: format.time,
                };
                let plan = fat::Plan::new(volume, efi.files.clone())?;
                Some(Esp { plan, block, size: sectors * SECTOR })
            }
        };
        // Room for the copy of the partition table; much more keeps readers of real CDs, which read
        // ahead, from running into the end.
        take(&mut next, 150)?;
        next = next.next_multiple_of(ALIGNMENT);
        let blocks = take(&mut next, 0)?;
        let sectors = u64::from(blocks) * BLOCK / SECTOR;
        let partitions = esp.iter().map(|esp| {
            let partition = Partition {
                name: "loader".to_owned(),
                kind: gpt::TYPE_ESP,
                guid: guid(&format.digest, "loader"),
                start: u64::from(esp.block) * BLOCK / SECTOR,
                sectors: esp.size / SECTOR,
            };
            (ESP_NUMBER, partition)
        });
        let table = (esp.is_some() || boot.mbr.is_some()).then(|| Table {
            guid: guid(&format.digest, "disk"),
            sectors,
            partitions: partitions.collect(),
        });
        Ok(Self {
            volume: format.volume,
            time,
            boot,
            folders,
            files: all,
            path_table,
            continuations,
            catalogue,
            esp,
            table,
            blocks,
        })
    }

    /// Size of the image in bytes.
    pub fn size(&self) -> u64 {
        u64::from(self.blocks) * BLOCK
    }

    /// The disk's identifier, for an image that is a disk, too.
    pub fn guid(&self) -> Option<Uuid> {
        self.table.as_ref().map(|table| table.guid)
    }
}

/// Takes so many blocks and returns the first one.
fn take(next: &mut u64, blocks: u64) -> Result<u32, Error> {
    let first = *next;
    *next += blocks;
    let fits = u32::try_from(*next).is_ok();
    let first = u32::try_from(first).ok().filter(|_| fits);
    first.ok_or(Error::TooLarge { what: "more than 8 TiB" })
}

/// The extents of a file: first block and length of each.
pub(super) fn extents(block: u32, size: u64) -> Vec<(u32, u32)> {
    let mut extents = Vec::new();
    let (mut block, mut left) = (block, size);
    loop {
        let now = left.min(MAX_EXTENT);
        extents.push((if size == 0 { 0 } else { block }, u32::try_from(now).unwrap_or(u32::MAX)));
        left -= now;
        if left == 0 {
            return extents;
        }
        block += u32::try_from(now / BLOCK).unwrap_or(0);
    }
}

fn tree(files: &[File], efi: Option<&Efi>) -> Result<Vec<Branch>, Error> {
    let mut branches = vec![Branch { parent: 0, path: String::new(), children: BTreeMap::new() }];
    let leaves = files.iter().enumerate().map(|(at, file)| (&file.path, Leaf::File(at)));
    for (path, leaf) in leaves.chain(efi.map(|efi| (&efi.path, Leaf::Esp))) {
        let mut parts: Vec<&str> = path.split('/').collect();
        for part in &parts {
            if let Some(why) = refuse(part) {
                return Err(Error::Name { path: path.clone(), why });
            }
        }
        let name = parts.pop().unwrap_or_default();
        let mut at = 0;
        for part in parts {
            let count = branches.len();
            let branch = &mut branches[at];
            let below = if at == 0 { part.to_owned() } else { format!("{}/{part}", branch.path) };
            let child = branch.children.entry(part.to_owned()).or_insert(Leaf::Folder(count));
            let Leaf::Folder(folder) = *child else { return Err(Error::FileAndFolder(below)) };
            if folder == count {
                branches.push(Branch { parent: at, path: below, children: BTreeMap::new() });
            }
            at = folder;
        }
        match branches[at].children.insert(name.to_owned(), leaf) {
            None => {}
            Some(Leaf::Folder(_)) => return Err(Error::FileAndFolder(path.clone())),
            Some(_) => return Err(Error::Twice(path.clone())),
        }
    }
    Ok(branches)
}

/// The folders with their records, level by level, as the path table wants them.
fn records(branches: &[Branch], files: &[File], time: [u8; 7]) -> Result<Vec<Folder>, Error> {
    let is_folder = |leaf: &Leaf| matches!(leaf, Leaf::Folder(_));
    let below = |at: usize| -> u32 {
        let count = branches[at].children.values().filter(|leaf| is_folder(leaf)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    // Each with its number among the branches and that of its parent among the folders.
    let mut order = vec![(0, 0, IsoName::default())];
    let mut folders = Vec::new();
    let mut at = 0;
    while let Some((branch, parent, name)) = order.get(at).cloned() {
        let above = branches[branch].parent;
        let mut list = Vec::new();
        let root = branch == 0;
        list.push((
            Record::new(&Name::This { root }, Some(below(branch)), time),
            Target::Folder(at),
            0,
        ));
        list.push((
            Record::new(&Name::Parent, Some(below(above)), time),
            Target::Folder(parent),
            0,
        ));
        let children = &branches[branch].children;
        let names = iso_names(children.iter().map(|(name, leaf)| (name.as_str(), is_folder(leaf))));
        let mut sorted: Vec<_> = names.into_iter().zip(children).collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        for (iso, (real, leaf)) in sorted {
            let (target, inside) = match *leaf {
                Leaf::Folder(inner) => {
                    order.push((inner, at, iso.clone()));
                    (Target::Folder(order.len() - 1), Some(below(inner)))
                }
                Leaf::File(file) => (Target::File(file), None),
                Leaf::Esp => (Target::Esp, None),
            };
            list.push((Record::new(&Name::Child(iso, real.clone()), inside, time), target, 0));
        }
        let size = folder_size(&list, files);
        let size =
            u32::try_from(size).map_err(|_| Error::TooLarge { what: "a folder of 4 GiB" })?;
        folders.push(Folder { name, parent, block: 0, size, records: list });
        at += 1;
    }
    if folders.len() > usize::from(u16::MAX) {
        return Err(Error::TooLarge { what: "more than 65,535 folders" });
    }
    Ok(folders)
}

/// Bytes of a folder: no record runs across the border of a block.
fn folder_size(records: &[(Record, Target, u64)], files: &[File]) -> u64 {
    let mut size = 0_u64;
    for (record, target, _) in records {
        let count = match target {
            Target::File(at) => extents(0, files[*at].content.size()).len(),
            _ => 1,
        };
        for _ in 0..count {
            size = room(size, record.length() as u64) + record.length() as u64;
        }
    }
    size.next_multiple_of(BLOCK)
}

/// Where something of this length goes that comes behind `at` and must lie within a block.
pub(super) fn room(at: u64, length: u64) -> u64 {
    if at % BLOCK + length > BLOCK { at.next_multiple_of(BLOCK) } else { at }
}

/// Gives what has no room in the records its places, and returns their bytes in all.
fn continuations(folders: &mut [Folder]) -> u64 {
    let mut end = 0;
    for (record, _, place) in folders.iter_mut().flat_map(|folder| &mut folder.records) {
        let length = record.continuation.len() as u64;
        if length > 0 {
            *place = room(end, length);
            end = *place + length;
        }
    }
    end
}

/// The length of a folder's entry in the path table.
fn path_entry_length(name: &IsoName) -> u64 {
    (8 + name.bytes().len().max(1) as u64).next_multiple_of(2)
}
