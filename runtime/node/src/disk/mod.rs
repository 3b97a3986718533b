//! The machine's disks: what they are, and whether something is on them.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::exec;

pub mod illumos;
pub mod linux;

/// The disks of the platform that this is built for.
#[cfg(target_os = "linux")]
pub type Native<R> = linux::LinuxDisks<R>;
/// The disks of the platform that this is built for.
#[cfg(not(target_os = "linux"))]
pub type Native<R> = illumos::IllumosDisks<R>;

/// A partition of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Name of the device without its folder.
    pub name: String,
    /// The device.
    pub path: PathBuf,
    /// A name that stays the same over reboots, below `/dev/disk/by-id`, when there is one.
    pub id_path: Option<PathBuf>,
    /// Size in bytes.
    pub size: u64,
    /// What is on it: `vfat`, `zfs_member`, … (names of libblkid).
    pub fs: Option<String>,
    /// Label of the file system, or name of the pool.
    pub label: Option<String>,
    /// Where it is mounted.
    pub mounted: Vec<String>,
}

/// A whole disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Name of the device without its folder: `sda`, `c0t0d0`.
    pub name: String,
    /// The device.
    pub path: PathBuf,
    /// A name that stays the same over reboots, below `/dev/disk/by-id`, when there is one.
    pub id_path: Option<PathBuf>,
    /// Serial number, when the disk tells one.
    pub serial: Option<String>,
    /// Maker's name of the model.
    pub model: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// How it is attached: `usb`, `sata`, `nvme`, `virtio`, …
    pub transport: Option<String>,
    /// Whether it can be taken out while the machine runs.
    pub removable: bool,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// Whether it is a solid state disk.
    pub ssd: bool,
    /// Kind of the partition table, when there is one: `gpt`, `dos`.
    pub table: Option<String>,
    /// What is on the disk as a whole, without a table: `zfs_member`, `LVM2_member`, …
    pub fs: Option<String>,
    /// Label of what is on the disk as a whole, or name of the pool.
    pub label: Option<String>,
    /// Where it is mounted as a whole, or what is built on it.
    pub mounted: Vec<String>,
    /// Whether its first and last MiB hold only zeroes; then nothing that we know can be on it.
    pub zeroed: bool,
    /// Its partitions.
    pub partitions: Vec<Partition>,
}

impl Disk {
    /// The name by which people, the answers file and the state file mean this disk: the serial
    /// number, else the stable link, else the device's name.
    pub fn identity(&self) -> String {
        let link = || Some(self.id_path.as_ref()?.file_name()?.to_str()?.to_owned());
        self.serial.clone().or_else(link).unwrap_or_else(|| self.name.clone())
    }

    /// Whether `word` means this disk: its serial number, a device path or a device name.
    pub fn is_meant_by(&self, word: &str) -> bool {
        let bare = word.rsplit('/').next().unwrap_or(word);
        let link = self.id_path.as_ref().and_then(|p| p.file_name()).and_then(|n| n.to_str());
        self.serial.as_deref() == Some(word) || self.name == bare || link == Some(bare)
    }

    /// The device to give to `zpool`: the stable link when there is one.
    pub fn best_path(&self) -> &PathBuf {
        self.id_path.as_ref().unwrap_or(&self.path)
    }

    /// Whether nothing is on it.
    pub fn blank(&self) -> bool {
        self.content().is_none()
    }

    /// What is on it, for people; `None` when it is blank.
    pub fn content(&self) -> Option<String> {
        let name = |fs: &str, label: Option<&String>| {
            let label = label.map(|l| format!(" {l:?}")).unwrap_or_default();
            match fs {
                "zfs_member" => format!("member of the ZFS pool{label}"),
                "LVM2_member" => format!("LVM member{label}"),
                "linux_raid_member" => format!("RAID member{label}"),
                fs => format!("{fs}{label}"),
            }
        };
        if let Some(fs) = &self.fs {
            return Some(name(fs, self.label.as_ref()));
        }
        if self.table.is_some() || !self.partitions.is_empty() {
            let table = self.table.as_deref().unwrap_or("unknown");
            let parts: Vec<_> = self
                .partitions
                .iter()
                .filter_map(|p| {
                    Some(format!("{}: {}", p.name, name(p.fs.as_deref()?, p.label.as_ref())))
                })
                .collect();
            let parts =
                if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
            return Some(format!("{table} partition table{parts}"));
        }
        if !self.mounted.is_empty() {
            return Some(format!("in use by {}", self.mounted.join(", ")));
        }
        (!self.zeroed).then(|| "data of an unknown kind".to_owned())
    }

    /// Whether something on it is mounted or otherwise held.
    pub fn in_use(&self) -> bool {
        !self.mounted.is_empty() || self.partitions.iter().any(|p| !p.mounted.is_empty())
    }

    /// The devices on this disk that carry ZFS labels, by their stable names.
    pub fn zfs_members(&self) -> Vec<PathBuf> {
        let whole = (self.fs.as_deref() == Some("zfs_member")).then(|| self.best_path().clone());
        let parts = self.partitions.iter().filter(|p| p.fs.as_deref() == Some("zfs_member"));
        whole
            .into_iter()
            .chain(parts.map(|p| p.id_path.clone().unwrap_or_else(|| p.path.clone())))
            .collect()
    }

    /// One line for people: `sda (SERIAL, MODEL, 8.6 GB)`.
    pub fn describe(&self) -> String {
        let about = [self.serial.clone(), self.model.clone(), Some(gigabytes(self.size))];
        format!("{} ({})", self.name, about.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// A size in units of 10⁹ bytes, for people.
pub fn gigabytes(bytes: u64) -> String {
    format!("{}.{} GB", bytes / 1_000_000_000, bytes % 1_000_000_000 / 100_000_000)
}

/// Why the disks cannot be listed or changed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A program failed.
    #[error(transparent)]
    Command(#[from] exec::Error),
    /// A program's output is not of the form expected.
    #[error("the output of `{command}` is not understood: {reason}")]
    Output {
        /// The program.
        command: String,
        /// What is odd.
        reason: String,
    },
    /// Reading or writing a device failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// "reading", "wiping".
        action: &'static str,
        /// The device.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The disk is in use.
    #[error("{disk} is in use: {by}")]
    InUse {
        /// The disk.
        disk: String,
        /// Its users.
        by: String,
    },
}

/// The disks of a machine; one implementation per platform.
pub trait Disks: Send + Sync {
    /// Lists the disks, sorted by name: real ones only, no RAM disks, loops or ZFS volumes.
    ///
    /// # Errors
    /// When the system's list cannot be had.
    fn list(&self) -> Result<Vec<Disk>, DiskError>;

    /// Lists the optical drives with a medium in them; they are no disks to put anything on.
    ///
    /// # Errors
    /// When the system's list cannot be had.
    fn optical(&self) -> Result<Vec<Disk>, DiskError>;

    /// Waits until the system has noticed the devices that are there, at most `limit`.
    fn settle(&self, limit: Duration);

    /// Destroys every label, table and signature on a disk.
    ///
    /// # Errors
    /// When it is in use or cannot be written to.
    fn wipe(&self, disk: &Disk) -> Result<(), DiskError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_zeroed_disk_without_signatures_is_blank() {
        let blank = Disk { name: "vda".into(), zeroed: true, ..Disk::default() };
        assert!(blank.blank());
        assert_eq!(
            Disk { zeroed: false, ..blank.clone() }.content().as_deref(),
            Some("data of an unknown kind")
        );
        let pool = Disk {
            table: Some("gpt".into()),
            partitions: vec![Partition {
                name: "vda1".into(),
                path: "/dev/vda1".into(),
                fs: Some("zfs_member".into()),
                label: Some("tank".into()),
                ..Partition::default()
            }],
            ..blank.clone()
        };
        assert_eq!(
            pool.content().as_deref(),
            Some("gpt partition table (vda1: member of the ZFS pool \"tank\")")
        );
        assert_eq!(pool.zfs_members(), [PathBuf::from("/dev/vda1")]);
        assert!(!Disk { fs: Some("LVM2_member".into()), ..blank }.blank());
    }

    #[test]
    fn a_disk_is_meant_by_serial_link_path_or_name() {
        let disk = Disk {
            name: "vda".into(),
            path: "/dev/vda".into(),
            id_path: Some("/dev/disk/by-id/virtio-S1".into()),
            serial: Some("S1".into()),
            ..Disk::default()
        };
        for word in ["S1", "vda", "/dev/vda", "virtio-S1", "/dev/disk/by-id/virtio-S1"] {
            assert!(disk.is_meant_by(word), "{word}");
        }
        assert!(!disk.is_meant_by("vdb"));
        assert_eq!(disk.identity(), "S1");
    }
}
