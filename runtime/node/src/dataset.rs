//! The datasets of the system pool (C§3.3). Common to all platforms.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::exec::{self, Call, Runner};

/// A dataset that the system needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dataset {
    /// Its name below the pool.
    pub name: &'static str,
    /// Properties that it is made with.
    pub properties: &'static [&'static str],
    /// Where it is mounted by us; `None` when ZFS mounts it or nobody does.
    pub mount: Option<&'static str>,
    /// Whether only a headnode has it.
    pub headnode_only: bool,
}

/// The datasets of a set-up machine, parents first. There is no `dump`: Linux writes no crash
/// dumps to a volume.
pub const DATASETS: [Dataset; 6] = [
    Dataset {
        name: "config",
        properties: &["mountpoint=legacy"],
        mount: Some("/etc/zones"),
        headnode_only: false,
    },
    Dataset {
        name: "cores",
        properties: &["compression=lz4", "mountpoint=none"],
        mount: None,
        headnode_only: false,
    },
    Dataset {
        name: "cores/global",
        properties: &["quota=10g", "mountpoint=/zones/global/cores"],
        mount: None,
        headnode_only: false,
    },
    Dataset {
        name: "opt",
        properties: &["mountpoint=legacy"],
        mount: Some("/opt"),
        headnode_only: false,
    },
    Dataset {
        name: "var",
        properties: &["mountpoint=legacy", "atime=on"],
        mount: Some("/var"),
        headnode_only: false,
    },
    Dataset {
        name: "usbkey",
        properties: &["mountpoint=legacy"],
        mount: Some("/usbkey"),
        headnode_only: true,
    },
];

/// Where a dataset is mounted while it is filled.
const FILL_MOUNT: &str = "/mnt/fill";

/// In a dataset that was filled with the content of the folder that it covers.
const FILLED: &str = ".filled";

/// The dataset commands.
pub struct Datasets<R> {
    runner: R,
}

impl<R: Runner> Datasets<R> {
    /// Datasets seen through the programs that `runner` runs.
    pub fn new(runner: R) -> Self {
        Self { runner }
    }

    fn zfs<A: Into<String>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String, exec::Error> {
        Ok(self.runner.run(&Call::new("zfs", args))?.stdout)
    }

    /// Full names of all datasets below a pool, without the root dataset.
    ///
    /// # Errors
    /// When `zfs` fails.
    pub fn list(&self, pool: &str) -> Result<BTreeSet<String>, exec::Error> {
        let text = self.zfs(["list", "-H", "-o", "name", "-t", "filesystem,volume", "-r", pool])?;
        Ok(text.lines().filter(|name| *name != pool).map(str::to_owned).collect())
    }

    /// Makes a dataset.
    ///
    /// # Errors
    /// When `zfs` fails.
    pub fn create(&self, pool: &str, dataset: &Dataset) -> Result<(), exec::Error> {
        let properties = dataset.properties.iter().flat_map(|p| ["-o", p]).map(str::to_owned);
        let name = format!("{pool}/{}", dataset.name);
        self.zfs(["create".to_owned()].into_iter().chain(properties).chain([name])).map(drop)
    }

    /// Makes those of [`DATASETS`] that are missing; tells their names.
    ///
    /// # Errors
    /// When `zfs` fails.
    pub fn ensure(&self, pool: &str, headnode: bool) -> Result<Vec<String>, exec::Error> {
        let there = self.list(pool)?;
        let mut made = Vec::new();
        for dataset in DATASETS.iter().filter(|d| headnode || !d.headnode_only) {
            if !there.contains(&format!("{pool}/{}", dataset.name)) {
                self.create(pool, dataset)?;
                made.push(dataset.name.to_owned());
            }
        }
        Ok(made)
    }

    /// Makes a sparse volume of `size` bytes for swapping.
    ///
    /// # Errors
    /// When `zfs` fails.
    pub fn create_swap(&self, pool: &str, size: u64) -> Result<(), exec::Error> {
        let size = size.to_string();
        let name = format!("{pool}/swap");
        let options = ["-o", "compression=zle", "-o", "sync=always", "-o", "primarycache=metadata"];
        self.zfs(
            ["create", "-V", &size, "-b", "4096"].into_iter().chain(options).chain([name.as_str()]),
        )
        .map(drop)
    }

    /// Mounts a dataset whose mount point is `legacy`, unless it is mounted there already.
    ///
    /// # Errors
    /// When the folder cannot be made or `mount` fails.
    pub fn mount_legacy(&self, name: &str, at: &Path) -> Result<(), MountError> {
        if mounted_at(at)?.as_deref() == Some(name) {
            return Ok(());
        }
        std::fs::create_dir_all(at)
            .map_err(|source| MountError::Io { path: at.to_owned(), source })?;
        self.runner.run(&Call::new("mount", ["-t", "zfs", name, &at.display().to_string()]))?;
        Ok(())
    }

    /// Mounts what ZFS mounts by itself: the root dataset and those with a path as mount point.
    ///
    /// # Errors
    /// When `zfs` fails.
    pub fn mount_own(&self, pool: &str) -> Result<(), exec::Error> {
        for name in [pool.to_owned(), format!("{pool}/cores/global")] {
            if self.property(&name, "mounted")? == "no" {
                self.zfs(["mount", &name])?;
            }
        }
        Ok(())
    }

    /// Mounts everything that a set-up machine has: the root dataset, then [`DATASETS`] over the
    /// folders of the running system. What `/var` held before is copied into its dataset once.
    /// All datasets must exist, see [`Datasets::ensure`]. May be repeated.
    ///
    /// # Errors
    /// When a program fails or a folder cannot be made.
    pub fn mount_all(&self, pool: &str, headnode: bool) -> Result<(), MountError> {
        self.mount_own(pool)?;
        for dataset in DATASETS.iter().filter(|d| headnode || !d.headnode_only) {
            let name = format!("{pool}/{}", dataset.name);
            let Some(at) = dataset.mount.map(Path::new) else { continue };
            if at == Path::new("/var") && mounted_at(at)?.as_deref() != Some(name.as_str()) {
                self.fill(&name, at)?;
            }
            self.mount_legacy(&name, at)?;
        }
        Ok(())
    }

    /// Copies the content of `from` into a dataset that shall be mounted over it, unless that was
    /// done before. A copy that was cut off is made again: [`FILLED`] is written last.
    fn fill(&self, dataset: &str, from: &Path) -> Result<(), MountError> {
        let aside = Path::new(FILL_MOUNT);
        self.mount_legacy(dataset, aside)?;
        let marker = aside.join(FILLED);
        if !marker.exists() {
            let copy = ["-a", "-x", &format!("{}/.", from.display()), &aside.display().to_string()];
            self.runner.run(&Call::new("cp", copy))?;
            crate::file::write_atomic(&marker, b"", 0o444)
                .map_err(|source| MountError::Io { path: marker, source })?;
        }
        self.runner.run(&Call::new("umount", [FILL_MOUNT]))?;
        Ok(())
    }

    /// A property of a dataset; `-` when it is not set.
    ///
    /// # Errors
    /// When `zfs` fails, as for a dataset that does not exist.
    pub fn property(&self, dataset: &str, name: &str) -> Result<String, exec::Error> {
        Ok(self.zfs(["get", "-H", "-p", "-o", "value", name, dataset])?.trim().to_owned())
    }

    /// Sets a property.
    ///
    /// # Errors
    /// When `zfs` fails.
    pub fn set(&self, dataset: &str, name: &str, value: &str) -> Result<(), exec::Error> {
        self.zfs(["set", &format!("{name}={value}"), dataset]).map(drop)
    }
}

/// Why a dataset could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A program failed.
    #[error(transparent)]
    Command(#[from] exec::Error),
    /// The mount point or the list of mounts is not accessible.
    #[error("preparing the mount point {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// What is mounted at a path: the topmost source, as in `/proc/self/mounts`.
///
/// # Errors
/// When the list of mounts cannot be read.
pub fn mounted_at(path: &Path) -> Result<Option<String>, MountError> {
    let list = if cfg!(target_os = "linux") { "/proc/self/mounts" } else { "/etc/mnttab" };
    let text = std::fs::read_to_string(list)
        .map_err(|source| MountError::Io { path: list.into(), source })?;
    Ok(mount_source(&text, path))
}

fn mount_source(mounts: &str, path: &Path) -> Option<String> {
    // Blanks in names are written as \040; none of ours have any.
    let mut found = None;
    for line in mounts.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some(source), Some(at)) = (words.next(), words.next())
            && Path::new(at) == path
        {
            found = Some(source.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Recorder;

    #[test]
    fn only_missing_datasets_are_made_and_parents_come_first() {
        let recorder = Recorder::new(|call| {
            Ok(if call.args[0] == "list" { "zones\nzones/opt\nzones/cores\n" } else { "" }
                .to_owned())
        });
        let made = Datasets::new(&recorder).ensure("zones", true).unwrap();
        assert_eq!(made, ["config", "cores/global", "var", "usbkey"]);
        let made = Datasets::new(&recorder).ensure("zones", false).unwrap();
        assert_eq!(made, ["config", "cores/global", "var"]);
        assert!(
            recorder
                .lines()
                .contains(&"zfs create -o mountpoint=legacy -o atime=on zones/var".to_owned())
        );
    }

    #[test]
    fn the_topmost_mount_counts() {
        let mounts = "rootfs / rootfs rw 0 0\ntmpfs /var tmpfs rw 0 0\nzones/var /var zfs rw 0 0\n";
        assert_eq!(mount_source(mounts, Path::new("/var")).as_deref(), Some("zones/var"));
        assert_eq!(mount_source(mounts, Path::new("/opt")), None);
    }
}
