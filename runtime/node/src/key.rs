//! The key: the FAT file system that the machine booted from (C§1.4).

use std::path::{Path, PathBuf};

use headnode_model::paths;

use crate::disk::{Disk, DiskError, Disks};
use crate::exec::{self, Call, Runner};
use crate::file;

/// A file system that may be the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the disk that it lies on.
    pub disk: String,
    /// The device.
    pub device: PathBuf,
}

/// A key that was found and is mounted, read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where it lies.
    pub at: Candidate,
    /// SHA-256 of its manifest in hex; `None` without a manifest.
    pub manifest: Option<String>,
}

/// The FAT file systems of these disks, a disk's last partitions first (C§1.13: the key's root is
/// the last one).
pub fn candidates(disks: &[Disk]) -> Vec<Candidate> {
    let mut found = Vec::new();
    for disk in disks {
        let fat = |fs: &Option<String>| matches!(fs.as_deref(), Some("vfat" | "pcfs"));
        let parts = disk.partitions.iter().rev().filter(|p| fat(&p.fs)).map(|p| &p.path);
        for device in parts.chain(fat(&disk.fs).then_some(&disk.path)) {
            found.push(Candidate { disk: disk.name.clone(), device: device.clone() });
        }
    }
    found
}

/// The commands for the key.
pub struct Keys<R> {
    runner: R,
    mount: PathBuf,
}

impl<R: Runner> Keys<R> {
    /// The key at its place, [`paths::KEY_MOUNT`].
    pub fn new(runner: R) -> Self {
        Self { runner, mount: paths::KEY_MOUNT.into() }
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<(), exec::Error> {
        self.runner.run(&Call::new(program, args.iter().copied())).map(drop)
    }

    /// Looks at every candidate and leaves the key mounted: the one whose manifest has the digest
    /// `wanted` when several have the marker, else the first one. `None` when there is no key.
    ///
    /// # Errors
    /// When the disks cannot be listed, the mount point not made or a key not unmounted. A candidate
    /// that cannot be mounted is passed over.
    pub fn find(&self, disks: &dyn Disks, wanted: Option<&str>) -> Result<Option<Key>, KeyError> {
        std::fs::create_dir_all(&self.mount)
            .map_err(|source| KeyError::Io { path: self.mount.clone(), source })?;
        let mut second: Option<Key> = None;
        for at in candidates(&disks.list()?) {
            if let Err(error) = self.mount(&at.device) {
                tracing::warn!(device = %at.device.display(), %error, "mounting a candidate for the key");
                continue;
            }
            if self.mount.join(paths::KEY_MARKER).exists() {
                let manifest =
                    file::sha256(&self.mount.join(paths::KEY_MANIFEST), &mut |_| {}).ok();
                let key = Key { at, manifest };
                if wanted.is_none() || key.manifest.as_deref() == wanted {
                    return Ok(Some(key));
                }
                second.get_or_insert(key);
            }
            self.unmount()?;
        }
        if let Some(key) = &second {
            self.mount(&key.at.device)?;
        }
        Ok(second)
    }

    fn mount(&self, device: &Path) -> Result<(), exec::Error> {
        // The time stamps of FAT are of no use, and each write to a stick costs.
        let at = self.mount.display().to_string();
        self.run(
            "mount",
            &[
                "-t",
                "vfat",
                "-o",
                "ro,noatime,umask=0077,shortname=lower",
                &device.display().to_string(),
                &at,
            ],
        )
    }

    /// Unmounts the key.
    ///
    /// # Errors
    /// When `umount` fails.
    pub fn unmount(&self) -> Result<(), exec::Error> {
        self.run("umount", &[&self.mount.display().to_string()])
    }

    /// Makes the key writable, or read-only again. It is writable only for single writes, so that
    /// a power cut hardly ever finds the file system marked as in use.
    ///
    /// # Errors
    /// When `mount` fails, as for a write-protected stick.
    pub fn writable(&self, writable: bool) -> Result<(), exec::Error> {
        let option = if writable { "remount,rw" } else { "remount,ro" };
        self.run("mount", &["-o", option, &self.mount.display().to_string()])
    }
}

/// Why the key could not be looked for.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The disks cannot be listed.
    #[error(transparent)]
    Disks(#[from] DiskError),
    /// A program failed.
    #[error(transparent)]
    Command(#[from] exec::Error),
    /// The mount point cannot be made.
    #[error("preparing the mount point {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Partition;

    #[test]
    fn candidates_are_fat_and_the_last_partition_comes_first() {
        let part = |name: &str, fs: &str| Partition {
            name: name.into(),
            path: Path::new("/dev").join(name),
            fs: Some(fs.into()),
            ..Partition::default()
        };
        let key = Disk {
            name: "sda".into(),
            partitions: vec![part("sda1", "vfat"), part("sda2", "ext4"), part("sda3", "vfat")],
            ..Disk::default()
        };
        let bare = Disk {
            name: "vdc".into(),
            path: "/dev/vdc".into(),
            fs: Some("vfat".into()),
            ..Disk::default()
        };
        let found: Vec<_> = candidates(&[key, bare]).into_iter().map(|c| c.device).collect();
        assert_eq!(found, ["/dev/sda3", "/dev/sda1", "/dev/vdc"].map(PathBuf::from));
    }
}
