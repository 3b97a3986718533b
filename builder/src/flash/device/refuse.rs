//! Which disks are not written to, and what can be done about it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::{Disk, Use, Used};
use super::host::Host;
use super::{Error, label};
use crate::progress::bytes;

/// What is to be written, and what the operator has allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Disks that are not removable are allowed too.
    pub fixed: bool,
    /// Bytes that the disk must have.
    pub needed: u64,
    /// Bytes of a sector that the image's partition table counts in; 0 when it has none.
    pub image_sector: u32,
    /// Files that are read while the disk is written: the image.
    pub sources: Vec<Source>,
}

/// A file that must not lie on the disk that is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// Names of the disks that it lies on.
    pub disks: Vec<String>,
}

impl Source {
    /// A file of this machine.
    ///
    /// # Errors
    /// When sysfs or the list of mounts cannot be read.
    pub fn of(host: &Host, file: &Path) -> Result<Self, Error> {
        let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        let disks = host.disks_under(&file)?;
        Ok(Self { file, disks })
    }
}

/// Why a disk is not written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "refusal", rename_all = "snake_case")]
pub enum Refusal {
    /// The machine runs from it.
    #[error("{} holds the running system ({}): it is never written to", disk.display(), list(at))]
    System {
        /// The disk.
        disk: PathBuf,
        /// What of the system is on it.
        at: Vec<PathBuf>,
    },
    /// The image is on it.
    #[error("{} holds {}, which is to be written: copy it to another disk", disk.display(), file.display())]
    HoldsSource {
        /// The disk.
        disk: PathBuf,
        /// The image.
        file: PathBuf,
    },
    /// Somebody uses it.
    #[error("{}", in_use(.0))]
    InUse(Use),
    /// A device that lies on it is a volume manager's.
    #[error("{} has the label of {}: {}", .0.device.display(), member(&.0.used), advice(.0))]
    Member(Use),
    /// The image does not fit.
    #[error(
        "{} is too small: it has {has} bytes ({}), the image needs {needed}, {} bytes more",
        disk.display(), bytes(*has), needed.saturating_sub(*has)
    )]
    TooSmall {
        /// The disk.
        disk: PathBuf,
        /// Bytes that it has.
        has: u64,
        /// Bytes that it must have.
        needed: u64,
    },
    /// A drive without a medium.
    #[error("{} is a drive with nothing in it: put a card in", disk.display())]
    NoMedium {
        /// The drive.
        disk: PathBuf,
    },
    /// It cannot be written to.
    #[error("{} is read-only: {hint}", disk.display())]
    ReadOnly {
        /// The disk.
        disk: PathBuf,
        /// What may help.
        hint: String,
    },
    /// Partition tables count in sectors, and firmware looks for them behind the disk's first one.
    #[error(
        "{} has sectors of {has} bytes, the image's partition table is for {image}: no firmware would \
         find it there; use a disk with sectors of {image} bytes", disk.display()
    )]
    Sector {
        /// The disk.
        disk: PathBuf,
        /// Bytes of its sectors.
        has: u32,
        /// Bytes of those that the image is made for.
        image: u32,
    },
    /// It is not made to be carried away.
    #[error(
        "{} is not removable ({}, {what}): if it is the right one, say --fixed", disk.display(), bytes(*size)
    )]
    NotRemovable {
        /// The disk.
        disk: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// What it is.
        what: String,
    },
}

/// What can be done about a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing: this disk must not be written to.
    Never,
    /// Another disk is needed, or another image.
    Another,
    /// Something must be done by hand with the disk or what is on it: commands, when there are any.
    Free(Vec<String>),
    /// The operator may allow it with this flag.
    Flag(&'static str),
}

impl Refusal {
    /// What can be done about it. Only [`Remedy::Flag`] can be overridden.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::System { .. } => Remedy::Never,
            Self::HoldsSource { .. } | Self::TooSmall { .. } | Self::Sector { .. } => {
                Remedy::Another
            }
            Self::InUse(one) | Self::Member(one) => Remedy::Free(commands(one)),
            Self::NoMedium { .. } | Self::ReadOnly { .. } => Remedy::Free(Vec::new()),
            Self::NotRemovable { .. } => Remedy::Flag("--fixed"),
        }
    }
}

/// Everything that speaks against writing to a disk, in the order in which it has to be dealt with;
/// nothing when it may be written to.
pub fn refusals(disk: &Disk, policy: &Policy) -> Vec<Refusal> {
    let path = || disk.path.clone();
    let mut all: Vec<_> = disk.uses.iter().map(|one| of_use(disk, one)).collect();
    // A loop device may also be made of the image itself.
    let names = |source: &&Source| {
        source.disks.contains(&disk.name) || disk.backing.as_ref() == Some(&source.file)
    };
    all.extend(
        policy
            .sources
            .iter()
            .filter(names)
            .map(|source| Refusal::HoldsSource { disk: path(), file: source.file.clone() }),
    );
    if !disk.removable && !policy.fixed {
        let what = format!("{}, {}", disk.bus.name(), disk.told());
        all.push(Refusal::NotRemovable { disk: path(), size: disk.size, what });
    }
    if disk.size == 0 {
        // Nothing else that is known of it is true.
        all.push(Refusal::NoMedium { disk: path() });
        return all;
    }
    if disk.read_only {
        let hint = match (&disk.backing, disk.removable) {
            (Some(_), _) => {
                format!("`losetup -d {0}`, then `losetup {0} FILE` without -r", path().display())
            }
            (None, true) => {
                "move its write-protect switch; a key without one is worn out".to_owned()
            }
            (None, false) => format!("`blockdev --setrw {}`", path().display()),
        };
        all.push(Refusal::ReadOnly { disk: path(), hint });
    }
    if disk.size < policy.needed {
        all.push(Refusal::TooSmall { disk: path(), has: disk.size, needed: policy.needed });
    }
    if policy.image_sector != 0 && disk.sector != policy.image_sector {
        let (has, image) = (disk.sector, policy.image_sector);
        all.push(Refusal::Sector { disk: path(), has, image });
    }
    all
}

fn of_use(disk: &Disk, one: &Use) -> Refusal {
    match &one.used {
        Used::System { at } => Refusal::System { disk: disk.path.clone(), at: at.clone() },
        Used::Member { .. } => Refusal::Member(one.clone()),
        _ => Refusal::InUse(one.clone()),
    }
}

/// All refusals of a disk, one a line when there are several.
pub(super) fn all(refusals: &[Refusal]) -> String {
    match refusals {
        [only] => only.to_string(),
        several => {
            let lines = several.iter().map(|one| format!("\n  {one}"));
            format!("the disk cannot be written to:{}", lines.collect::<String>())
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A use in the words of a sentence that begins with the device.
pub(super) fn told(used: &Used) -> String {
    match used {
        Used::Mounted { at: Some(at) } => format!("is mounted on {}", at.display()),
        Used::Mounted { at: None } => "is mounted where this process cannot see it".to_owned(),
        Used::Swap => "is swapped to".to_owned(),
        Used::Volume { group, name } => format!("holds the active volume {name} of group {group}"),
        Used::Crypt { name } => format!("is open as the encrypted volume {name}"),
        Used::Multipath { name } => format!("is a path of the multipath device {name}"),
        Used::Mapped { name } => format!("is held by the device mapper's {name}"),
        Used::Raid { array } => format!("is in the running array {}", array.display()),
        Used::Held { holder } => format!("is held by {holder}"),
        Used::Loop { device, file } => {
            format!("holds {}, which is the loop device {}", file.display(), device.display())
        }
        Used::Pool { pool } => format!("is in the imported pool {pool}"),
        Used::Member { .. } => format!("belongs to {}", member(used)),
        Used::Opened { by } if by.is_empty() => {
            "is held by a process that this user may not see".to_owned()
        }
        Used::Opened { by } => format!("is held by {}", by.join(", ")),
        Used::System { at } => format!("holds the running system ({})", list(at)),
    }
}

fn member(used: &Used) -> String {
    let Used::Member { kind, name } = used else {
        return String::new();
    };
    let what = match kind.as_str() {
        label::LVM => "a volume group",
        label::ZFS => "a ZFS pool",
        label::RAID => "an md array",
        other => other,
    };
    match name {
        Some(name) => format!("{what} ({name}) that is not active here"),
        None => format!("{what} that is not active here"),
    }
}

fn in_use(one: &Use) -> String {
    format!("{} {}: {}", one.device.display(), told(&one.used), advice(one))
}

fn advice(one: &Use) -> String {
    let commands: Vec<_> = commands(one).iter().map(|line| format!("`{line}`")).collect();
    let commands = commands.join(", then ");
    match &one.used {
        Used::Mounted { at: None } => {
            "unmount it there (a container, or another user's session)".to_owned()
        }
        Used::Held { .. } => "end that use first".to_owned(),
        Used::Opened { .. } => "end that program first".to_owned(),
        Used::Member { .. } => format!("if nothing of it is needed any more, {commands}"),
        _ => format!("free it with {commands}"),
    }
}

/// Commands that end a use.
fn commands(one: &Use) -> Vec<String> {
    let device = quoted(&one.device);
    let command = match &one.used {
        // The folder, not the device: that may be mounted on several.
        Used::Mounted { at: Some(at) } => format!("umount {}", quoted(at)),
        Used::Swap => format!("swapoff {device}"),
        Used::Volume { group, .. } => format!("vgchange -an {}", quoted(Path::new(group))),
        Used::Crypt { name } => format!("cryptsetup close {}", quoted(Path::new(name))),
        Used::Multipath { name } => format!("multipath -f {}", quoted(Path::new(name))),
        Used::Mapped { name } => format!("dmsetup remove {}", quoted(Path::new(name))),
        Used::Raid { array } => format!("mdadm --stop {}", quoted(array)),
        Used::Loop { device, .. } => format!("losetup -d {}", quoted(device)),
        Used::Pool { pool } => format!("zpool export {}", quoted(Path::new(pool))),
        Used::Member { .. } => format!("wipefs -a {device}"),
        Used::Mounted { at: None }
        | Used::Held { .. }
        | Used::Opened { .. }
        | Used::System { .. } => {
            return Vec::new();
        }
    };
    // An exported pool's labels stay.
    match &one.used {
        Used::Pool { .. } => vec![command, format!("wipefs -a {device}")],
        _ => vec![command],
    }
}

/// A word for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_-.:+@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}
