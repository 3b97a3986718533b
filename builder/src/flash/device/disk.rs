//! A disk in words that hold for every bus.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::signature::Content;

/// How a disk is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bus {
    /// USB, with a disk, a stick or a card reader at its end.
    Usb,
    /// SATA or its parallel ancestor.
    Sata,
    /// Another SCSI transport: SAS, Fibre Channel, iSCSI.
    Scsi,
    /// NVMe.
    Nvme,
    /// SD cards and soldered eMMC.
    Mmc,
    /// A virtual machine's disk.
    Virtio,
    /// A file that is made a disk.
    Loop,
    /// Anything else.
    Other,
}

impl Bus {
    /// Its name: `usb`, `sata` …
    pub fn name(self) -> &'static str {
        match self {
            Self::Usb => "usb",
            Self::Sata => "sata",
            Self::Scsi => "scsi",
            Self::Nvme => "nvme",
            Self::Mmc => "mmc",
            Self::Virtio => "virtio",
            Self::Loop => "loop",
            Self::Other => "other",
        }
    }
}

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The kernel's name: `sdb`. It may be another disk's after the next start.
    pub name: String,
    /// Its device file.
    pub path: PathBuf,
    /// A name that is always this disk's: that of udev's link in `/dev/disk/by-id`, else one of the
    /// same kind made of bus, vendor, model and serial. A disk without a serial has none, and so have
    /// disks with the same serial. A loop device has `loop:` and its file: the file is what is written.
    pub id: Option<String>,
    /// All names that are always this disk's.
    pub ids: Vec<String>,
    /// Vendor and model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Bytes; 0 for a drive without a medium.
    pub size: u64,
    /// How it is connected.
    pub bus: Bus,
    /// Whether it is made to be carried away: the kernel says that its medium is removable, or it is
    /// on USB (hard disks there say that theirs is not), or it is an SD card. eMMC, which is soldered,
    /// and loop devices are not.
    pub removable: bool,
    /// Whether the kernel refuses to write to it.
    pub read_only: bool,
    /// Bytes of a logical sector: the unit of partition tables and of direct reads and writes.
    pub sector: u32,
    /// Bytes of a physical sector.
    pub physical_sector: u32,
    /// Bytes that the disk likes to get at once, 0 when it has no wish.
    pub optimal_io: u64,
    /// Unit of discards in bytes, 0 when it has none.
    pub discard_granularity: u64,
    /// Most bytes of one discard, 0 when it has none.
    pub discard_max: u64,
    /// The kernel's count of disks, which no two disks share until the next start (Linux 5.15).
    pub diskseq: Option<u64>,
    /// Major and minor number.
    pub number: (u32, u32),
    /// The file behind a loop device.
    pub backing: Option<PathBuf>,
    /// What is on it.
    pub content: Content,
    /// Its partitions that the kernel knows, by number.
    pub partitions: Vec<Partition>,
    /// Who uses it, in the order in which they have to be ended.
    pub uses: Vec<Use>,
}

/// A partition of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// The kernel's name: `sdb1`.
    pub name: String,
    /// Its device file.
    pub path: PathBuf,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What is on it.
    pub content: Content,
}

/// A use of a disk, a partition, or something that lies on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The device that is used: `/dev/sdb1`, `/dev/dm-0`.
    pub device: PathBuf,
    /// How.
    #[serde(flatten)]
    pub used: Used,
}

/// How a device is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "use", rename_all = "snake_case")]
pub enum Used {
    /// A file system is mounted there.
    Mounted {
        /// The folder; none when it is mounted where this process cannot see it.
        at: Option<PathBuf>,
    },
    /// The machine swaps to it.
    Swap,
    /// Logical volumes are active on it.
    Volume {
        /// The volume group.
        group: String,
        /// The logical volume.
        name: String,
    },
    /// An encrypted volume on it is open.
    Crypt {
        /// Its name in `/dev/mapper`.
        name: String,
    },
    /// It is a path of a multipath device.
    Multipath {
        /// Its name in `/dev/mapper`.
        name: String,
    },
    /// Another device of the device mapper lies on it.
    Mapped {
        /// Its name in `/dev/mapper`.
        name: String,
    },
    /// It is in an array that runs.
    Raid {
        /// The array: `/dev/md0`.
        array: PathBuf,
    },
    /// Another device, of a kind that is not known here, lies on it.
    Held {
        /// The kernel's name of that device.
        holder: String,
    },
    /// A file on it is a loop device's.
    Loop {
        /// `/dev/loop3`.
        device: PathBuf,
        /// The file.
        file: PathBuf,
    },
    /// A pool that is imported is on it.
    Pool {
        /// Its name.
        pool: String,
    },
    /// It has the label of a volume group, array or pool that is not active.
    Member {
        /// What `blkid` calls it.
        kind: String,
        /// Name of the group, array or pool.
        name: Option<String>,
    },
    /// Processes hold it for themselves alone.
    Opened {
        /// Their numbers and names, of those that can be seen.
        by: Vec<String>,
    },
    /// The running system lies on it.
    System {
        /// What of it: `/`, `/boot` …
        at: Vec<PathBuf>,
    },
}

impl Disk {
    /// Whether the device is this disk or one of its partitions.
    pub fn has(&self, device: &std::path::Path) -> bool {
        self.path == device || self.partitions.iter().any(|partition| partition.path == device)
    }

    /// Model and serial, as far as they are known, in one line.
    pub fn told(&self) -> String {
        let model = self.model.as_deref().unwrap_or("unknown model");
        match (&self.serial, &self.backing) {
            (_, Some(file)) => format!("the file {}", file.display()),
            (Some(serial), _) => format!("{model}, serial {serial}"),
            (None, None) => model.to_owned(),
        }
    }
}

impl Disk {
    /// Whether a name that the disk was asked for by is this disk's for ever: one of its ids, by itself
    /// or as a path in `/dev/disk/by-id`, and no other disk has the same.
    pub fn is_stable_name(&self, what: &str) -> bool {
        let id = what.strip_prefix("/dev/disk/by-id/").unwrap_or(what);
        self.id.is_some() && self.ids.iter().any(|own| own == id)
    }
}
