//! The disks of this machine: which there are, what is on them, who uses them, which of them may be
//! written to, and how they are opened for that.

pub mod disk;
pub mod helper;
pub mod host;
mod label;
pub mod open;
pub mod refuse;
pub mod show;
pub mod signature;
mod snapshot;
mod sysfs;
#[cfg(test)]
mod tests;
mod uses;

pub use disk::{Bus, Disk, Partition, Use, Used};
pub use host::Host;
pub use open::{Reread, Target, Unmapped, open};
pub use refuse::{Policy, Refusal, Remedy, refusals};

use std::io;
use std::path::PathBuf;

/// Why a disk is not found, not opened, or no longer there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's lists of devices cannot be read.
    #[error("reading {}: {source}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// No disk has this name.
    #[error("there is no disk \"{name}\"{}", there(disks))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The disks that there are, with their ids.
        disks: Vec<String>,
    },
    /// Several disks have this id.
    #[error("\"{name}\" may be any of {}: name one of them by its path", disks.join(", "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The disks that have it.
        disks: Vec<String>,
    },
    /// It is a part of a disk.
    #[error("{name} is a partition: an image needs a whole disk; this one is on {}", disk.display())]
    Partition {
        /// What was asked for.
        name: String,
        /// The disk that it is on.
        disk: PathBuf,
    },
    /// It is a block device of another kind.
    #[error("{name} is no disk that an image could be written to")]
    NoDisk {
        /// What was asked for.
        name: String,
    },
    /// It must not be written to.
    #[error("{}", refuse::all(.0))]
    Refused(Vec<Refusal>),
    /// The operating system does not open it.
    #[error("opening {}: {source}", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody has claimed it since it was looked at.
    #[error("{} is in use since it was looked at: see what holds it with `headnode flash --list`", .0.display())]
    Busy(PathBuf),
    /// No right to write to it, and no way to ask for it.
    #[error(
        "{} may not be written to by this user, and {why}: run the command as root, or get the right: \
         `usermod -aG {group} USER` and a new login, or a udev rule with TAG+=\"uaccess\" for the device",
        path.display()
    )]
    NoRight {
        /// The device.
        path: PathBuf,
        /// Why root could not be asked.
        why: String,
        /// The group that may write to it.
        group: String,
    },
    /// The part of the program that runs as root failed.
    #[error("opening {} as root: {what}", path.display())]
    Helper {
        /// The device.
        path: PathBuf,
        /// What it said.
        what: String,
    },
    /// Another disk lies under the name now.
    #[error("{} is another disk than before: {what} changed; nothing was written to the new one", path.display())]
    Changed {
        /// The device.
        path: PathBuf,
        /// Its size, number or sequence number.
        what: &'static str,
    },
    /// It is gone.
    #[error("{} was pulled out: plug it in and run the same command again", .0.display())]
    PulledOut(PathBuf),
    /// Reading or writing it failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The device.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

fn there(disks: &[String]) -> String {
    match disks {
        [] => ", nor any other".to_owned(),
        disks => format!("; there are:\n  {}", disks.join("\n  ")),
    }
}
