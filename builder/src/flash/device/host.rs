//! The machine whose disks are asked for.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Error;
use super::disk::{Disk, Partition, Use, Used};
use super::signature::{self, Content};
use super::snapshot::Snapshot;
use super::sysfs::{Udev, identity, made_id, names, natural, number, value};
use super::uses::{System, uses};

/// Sectors in sysfs have this size, whatever the disk's is.
const SYSFS_SECTOR: u64 = 512;
/// Block devices that are no disks: memory, optical and floppy drives, what lies on other disks.
const NO_DISKS: [&str; 9] = ["ram", "zram", "sr", "fd", "dm-", "md", "mtdblock", "zd", "drbd"];

/// Where a machine tells about its disks.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its sysfs: `/sys`.
    pub sys: PathBuf,
    /// Its device files: `/dev`.
    pub dev: PathBuf,
    /// Its procfs: `/proc`.
    pub proc: PathBuf,
    /// Its volatile files, in which udev keeps its data base: `/run`.
    pub run: PathBuf,
}

impl Host {
    /// This machine.
    pub fn here() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), proc: "/proc".into(), run: "/run".into() }
    }

    /// All disks, by name, and who uses them. Every disk that this user may read is looked into.
    ///
    /// # Errors
    /// When sysfs or the list of mounts cannot be read.
    pub fn disks(&self) -> Result<Vec<Disk>, Error> {
        let snapshot = Snapshot::read(self)?;
        let system = System::find(&snapshot);
        let links = self.links();
        let block = self.sys.join("block");
        let mut disks = Vec::new();
        for name in names(&block) {
            let Ok(folder) = fs::canonicalize(block.join(&name)) else {
                // Pulled out since the folder was read.
                continue;
            };
            if !is_disk(&name, &folder) {
                continue;
            }
            let mut disk = self.disk(&name, &folder, links.get(&name));
            disk.uses = uses(&snapshot, &system, &disk);
            disks.push(disk);
        }
        keep_unique_ids(&mut disks);
        disks.sort_by_key(|disk| natural(&disk.name));
        Ok(disks)
    }

    /// The disk that is meant: by its path or a link to it, by an id, or by its short name. It is also
    /// asked for processes that hold it for themselves, which [`Host::disks`] does not, because that
    /// is in the way of others for a moment.
    ///
    /// # Errors
    /// When there is none, when it is a partition or no disk, or when sysfs cannot be read.
    pub fn find(&self, what: &str) -> Result<Disk, Error> {
        let disks = self.disks()?;
        let mut disk = self.choose(&disks, what)?;
        self.probe(&mut disk);
        Ok(disk)
    }

    fn choose(&self, disks: &[Disk], what: &str) -> Result<Disk, Error> {
        let by_id: Vec<_> =
            disks.iter().filter(|disk| disk.ids.iter().any(|id| id == what)).collect();
        match by_id.as_slice() {
            [] => {}
            [disk] => return Ok((*disk).clone()),
            several => {
                let disks = several.iter().map(|disk| disk.path.display().to_string()).collect();
                return Err(Error::Ambiguous { name: what.to_owned(), disks });
            }
        }
        let given = match (what.strip_prefix("/dev/"), what.contains('/')) {
            (Some(inside), _) => self.dev.join(inside),
            (None, true) => PathBuf::from(what),
            (None, false) => self.dev.join(what),
        };
        let real = fs::canonicalize(&given).unwrap_or(given);
        let name = real.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.filter(|_| real.parent() == fs::canonicalize(&self.dev).ok().as_deref());
        let Some(name) = name else {
            return Err(unknown(what, disks));
        };
        if let Some(disk) = disks.iter().find(|disk| disk.name == name) {
            return Ok(disk.clone());
        }
        for disk in disks {
            if disk.partitions.iter().any(|partition| partition.name == name) {
                let (name, disk) = (what.to_owned(), disk.path.clone());
                return Err(Error::Partition { name, disk });
            }
        }
        match self.sys.join("block").join(&name).exists() {
            true => Err(Error::NoDisk { name: what.to_owned() }),
            false => Err(unknown(what, disks)),
        }
    }

    /// Adds to the uses that somebody holds the disk for himself, when nothing else tells of it.
    pub fn probe(&self, disk: &mut Disk) {
        if !disk.uses.is_empty() || disk.size == 0 {
            return;
        }
        let flags = OFlags::EXCL | OFlags::NONBLOCK;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(self.file(&disk.name));
        let busy = opened.is_err_and(|error| error.raw_os_error() == Some(BUSY));
        if busy {
            let used = Used::Opened { by: self.openers(disk) };
            disk.uses.push(Use { device: disk.path.clone(), used });
        }
    }

    /// Names of the disks that a file lies on, for instance the image that is to be written.
    ///
    /// # Errors
    /// When sysfs or the list of mounts cannot be read.
    pub fn disks_under(&self, path: &Path) -> Result<Vec<String>, Error> {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let snapshot = Snapshot::read(self)?;
        Ok(snapshot.below(&real).devices.into_iter().collect())
    }

    /// The device file of a name of the kernel, which has `!` where the file's has `/`.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dev.join(name.replace('!', "/"))
    }

    /// udev's links for each name.
    fn links(&self) -> BTreeMap<String, Vec<String>> {
        let folder = self.dev.join("disk/by-id");
        let mut links: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in names(&folder) {
            let target = fs::canonicalize(folder.join(&id)).ok();
            if let Some(name) = target.as_deref().and_then(Path::file_name) {
                links.entry(name.to_string_lossy().into_owned()).or_default().push(id);
            }
        }
        for ids in links.values_mut() {
            // Bare numbers come last: the others say what they are of.
            ids.sort_by_key(|id| (id.starts_with("wwn-") || id.starts_with("nvme-eui"), id.len()));
        }
        links
    }

    fn disk(&self, name: &str, folder: &Path, links: Option<&Vec<String>>) -> Disk {
        let queue = folder.join("queue");
        let bytes = |name: &str| number(&queue, name).unwrap_or(0);
        let sector = |name: &str| u32::try_from(bytes(name)).unwrap_or(0).max(512);
        let own = value(folder, "dev").and_then(|text| super::sysfs::device_number(&text));
        let own = own.unwrap_or_default();
        let udev = Udev::read(&self.run, own);
        let identity = identity(name, folder, &udev);
        let backing = value(folder, "loop/backing_file").map(PathBuf::from);
        let mut ids = links.cloned().unwrap_or_default();
        ids.extend(made_id(&identity).filter(|id| !ids.contains(id)));
        ids.extend(identity.wwid.clone().filter(|id| !ids.contains(id)));
        // A deleted file comes under no name again.
        let file = backing.as_ref().filter(|file| file.exists());
        ids.extend(file.map(|file| format!("loop:{}", file.display())));
        let logical = sector("logical_block_size");
        let size = number(folder, "size").unwrap_or(0).saturating_mul(SYSFS_SECTOR);
        let names = names(folder).into_iter().filter(|part| part.starts_with(name));
        let partitions = names.filter_map(|part| self.partition(&part, folder, logical));
        let model: Vec<_> = [identity.vendor, identity.model].into_iter().flatten().collect();
        Disk {
            name: name.to_owned(),
            path: Path::new("/dev").join(name.replace('!', "/")),
            id: ids.first().cloned(),
            ids,
            model: (!model.is_empty()).then(|| model.join(" ")),
            serial: identity.serial,
            size,
            bus: identity.bus,
            removable: identity.removable,
            read_only: number(folder, "ro") == Some(1),
            sector: logical,
            physical_sector: sector("physical_block_size"),
            optimal_io: bytes("optimal_io_size"),
            discard_granularity: bytes("discard_granularity"),
            discard_max: bytes("discard_max_bytes"),
            diskseq: number(folder, "diskseq"),
            number: own,
            backing,
            content: self.content(name, size, logical, &udev),
            partitions: partitions.collect(),
            uses: Vec::new(),
        }
    }

    fn partition(&self, name: &str, disk: &Path, sector: u32) -> Option<Partition> {
        let folder = disk.join(name);
        let partition = number(&folder, "partition")?;
        let bytes = |name: &str| number(&folder, name).unwrap_or(0).saturating_mul(SYSFS_SECTOR);
        let own = value(&folder, "dev").and_then(|text| super::sysfs::device_number(&text));
        let udev = Udev::read(&self.run, own.unwrap_or_default());
        let size = bytes("size");
        Some(Partition {
            number: u32::try_from(partition).ok()?,
            name: name.to_owned(),
            path: Path::new("/dev").join(name.replace('!', "/")),
            start: bytes("start"),
            size,
            content: self.content(name, size, sector, &udev),
        })
    }

    /// Looks into a device; what may not be read is asked of udev.
    fn content(&self, name: &str, size: u64, sector: u32, udev: &Udev) -> Content {
        if size == 0 {
            return Content::default();
        }
        // Without waiting for a drive that has no medium.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.file(name));
        let looked = file.and_then(|mut file| {
            let end = file.seek(SeekFrom::End(0))?;
            signature::look(&mut file, end.min(size), sector)
        });
        match looked {
            Ok(content) => content,
            Err(error) => Content {
                table: match udev.get("ID_PART_TABLE_TYPE").as_deref() {
                    Some("gpt") => Some(signature::Table::Gpt),
                    Some("dos") => Some(signature::Table::Mbr),
                    _ => None,
                },
                kind: udev.get("ID_FS_TYPE"),
                label: udev.get("ID_FS_LABEL"),
                unreadable: Some(error.to_string()),
            },
        }
    }

    /// Processes that have the disk or a partition of it open, or mounted in a namespace of theirs.
    fn openers(&self, disk: &Disk) -> Vec<String> {
        let process = |pid: String| {
            pid.parse::<u32>().ok()?;
            let folder = self.proc.join(&pid);
            let open = names(&folder.join("fd")).iter().any(|fd| {
                fs::read_link(folder.join("fd").join(fd)).is_ok_and(|path| disk.has(&path))
            });
            let mounts = fs::read_to_string(folder.join("mountinfo")).unwrap_or_default();
            let mounted = mounts.lines().any(|line| {
                let mut source = line.split(" - ").nth(1).unwrap_or("").split(' ').skip(1);
                source.next().is_some_and(|source| disk.has(Path::new(source)))
            });
            let name = value(&folder, "comm").unwrap_or_default();
            (open || mounted).then(|| format!("{pid} ({name})"))
        };
        names(&self.proc).into_iter().filter_map(process).collect()
    }
}

const BUSY: i32 = Errno::BUSY.raw_os_error();

fn is_disk(name: &str, folder: &Path) -> bool {
    let other = NO_DISKS.iter().any(|prefix| name.starts_with(prefix));
    // eMMC's boot areas and its protected one are on the card but are not the card.
    let area = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    let unused_loop = name.starts_with("loop") && value(folder, "loop/backing_file").is_none();
    let unused_nbd = name.starts_with("nbd") && number(folder, "size").unwrap_or(0) == 0;
    let hidden = number(folder, "hidden") == Some(1);
    !other && !area && !unused_loop && !unused_nbd && !hidden
}

/// Takes ids away that several disks have: cheap sticks share their serial, and a link of udev's then
/// leads to whichever came last.
fn keep_unique_ids(disks: &mut [Disk]) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let twin = |disk: &Disk| Some((disk.bus.name(), disk.model.clone(), disk.serial.clone()?));
    let all: Vec<_> = disks.iter().map(twin).collect();
    for id in disks.iter().flat_map(|disk| &disk.ids) {
        *counts.entry(id.clone()).or_default() += 1;
    }
    for (index, disk) in disks.iter_mut().enumerate() {
        let own = all.get(index).cloned().flatten();
        let twins = own.is_some() && all.iter().filter(|other| **other == own).count() > 1;
        let unique = |id: &&String| counts.get(*id) == Some(&1) && !twins;
        disk.id = disk.ids.iter().find(unique).cloned();
    }
}

fn unknown(what: &str, disks: &[Disk]) -> Error {
    let disks = disks.iter().map(|disk| match &disk.id {
        Some(id) => format!("{} ({id}), {}", disk.path.display(), disk.told()),
        None => format!("{}, {}", disk.path.display(), disk.told()),
    });
    Error::Unknown { name: what.to_owned(), disks: disks.collect() }
}
