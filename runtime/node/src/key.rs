//! The key: the file system that the machine booted from (C§1.4). Usually FAT on a stick or disk;
//! an ISO 9660 medium is one too, and so is a folder that came with a network boot: what is written
//! to these is kept in memory and lost with the power.

use std::path::PathBuf;

use headnode_model::paths;

use crate::disk::{Disk, DiskError, Disks};
use crate::exec::{self, Call, Runner};
use crate::file;

/// What a key is stored on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// A FAT file system, which can be written to.
    Fat,
    /// An ISO 9660 file system, which cannot.
    Iso,
    /// A folder of the system in RAM, [`paths::KEY_IN_RAM`].
    Ram,
}

/// A file system that may be the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the disk or optical drive that it lies on.
    pub disk: String,
    /// The device.
    pub device: PathBuf,
    /// What it is.
    pub medium: Medium,
}

/// A key that was found and is mounted, read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where it lies.
    pub at: Candidate,
    /// SHA-256 of its manifest in hex; `None` without a manifest.
    pub manifest: Option<String>,
}

impl Key {
    /// Whether what is written to the key is gone after the next boot.
    pub fn forgets(&self) -> bool {
        self.at.medium != Medium::Fat
    }
}

/// The file systems of these disks that may be the key: FAT first, and a disk's last partitions
/// first (C§1.13: the key's root is the last one), then ISO 9660.
pub fn candidates(disks: &[Disk]) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (medium, names) in [(Medium::Fat, ["vfat", "pcfs"]), (Medium::Iso, ["iso9660", "hsfs"])] {
        for disk in disks {
            let fits = |fs: &Option<String>| fs.as_deref().is_some_and(|fs| names.contains(&fs));
            let parts = disk.partitions.iter().rev().filter(|p| fits(&p.fs)).map(|p| &p.path);
            for device in parts.chain(fits(&disk.fs).then_some(&disk.path)) {
                let (disk, device) = (disk.name.clone(), device.clone());
                found.push(Candidate { disk, device, medium });
            }
        }
    }
    found
}

/// The commands for the key.
pub struct Keys<R> {
    runner: R,
    mount: PathBuf,
    /// Where an ISO 9660 medium is mounted, and what is written to it is kept.
    below: PathBuf,
}

impl<R: Runner> Keys<R> {
    /// The key at its place, [`paths::KEY_MOUNT`].
    pub fn new(runner: R) -> Self {
        Self { runner, mount: paths::KEY_MOUNT.into(), below: paths::KEY_BELOW.into() }
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
        let [medium, upper, work] = self.layers();
        for path in [&self.mount, &medium, &upper, &work] {
            std::fs::create_dir_all(path)
                .map_err(|source| KeyError::Io { path: path.clone(), source })?;
        }
        let mut second: Option<Key> = None;
        let mut all = disks.list()?;
        all.extend(disks.optical()?);
        let loaded = Candidate {
            disk: "the network".to_owned(),
            device: paths::KEY_IN_RAM.into(),
            medium: Medium::Ram,
        };
        let loaded = loaded.device.is_dir().then_some(loaded);
        for at in candidates(&all).into_iter().chain(loaded) {
            if let Err(error) = self.mount(&at) {
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
            self.mount(&key.at)?;
        }
        Ok(second)
    }

    /// Mount point of the medium, changes to it, and overlayfs' work folder.
    fn layers(&self) -> [PathBuf; 3] {
        ["medium", "upper", "work"].map(|name| self.below.join(name))
    }

    fn mount(&self, at: &Candidate) -> Result<(), exec::Error> {
        let (device, mount) = (at.device.display().to_string(), self.mount.display().to_string());
        match at.medium {
            // The time stamps of FAT are of no use, and each write to a stick costs.
            Medium::Fat => {
                let options = "ro,noatime,umask=0077,shortname=lower";
                self.run("mount", &["-t", "vfat", "-o", options, &device, &mount])
            }
            Medium::Iso | Medium::Ram => {
                let [medium, upper, work] = self.layers().map(|path| path.display().to_string());
                let medium = if at.medium == Medium::Iso {
                    self.run("mount", &["-t", "iso9660", "-o", "ro", &device, &medium])?;
                    medium
                } else {
                    device
                };
                let layers = format!("lowerdir={medium},upperdir={upper},workdir={work}");
                self.run("mount", &["-t", "overlay", "-o", &layers, "overlay", &mount])
            }
        }
    }

    /// Unmounts the key.
    ///
    /// # Errors
    /// When `umount` fails.
    pub fn unmount(&self) -> Result<(), exec::Error> {
        self.run("umount", &[&self.mount.display().to_string()])?;
        let [medium, ..] = self.layers();
        match crate::dataset::mounted_at(&medium) {
            Ok(Some(_)) => self.run("umount", &[&medium.display().to_string()]),
            _ => Ok(()),
        }
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
    use std::path::Path;

    use super::*;
    use crate::disk::Partition;

    #[test]
    fn fat_comes_first_and_a_disks_last_partition_before_its_others() {
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
        let disc = Disk {
            name: "sr0".into(),
            path: "/dev/sr0".into(),
            fs: Some("iso9660".into()),
            ..Disk::default()
        };
        let found: Vec<_> =
            candidates(&[disc, key, bare]).into_iter().map(|c| (c.device, c.medium)).collect();
        let fat = ["/dev/sda3", "/dev/sda1", "/dev/vdc"].map(|p| (PathBuf::from(p), Medium::Fat));
        assert_eq!(found[..3], fat);
        assert_eq!(found[3..], [("/dev/sr0".into(), Medium::Iso)]);
    }
}
