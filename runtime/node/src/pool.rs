//! The ZFS pool: found, imported, made. Common to all platforms.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::disk::Disks;
use crate::exec::{self, Call, Runner};

/// Property of the pool's root dataset that tells whose pool it is: the id of the setup that made
/// it. It is given to `zpool create` itself, so there is no moment at which the pool lacks it.
pub const OWNER_PROPERTY: &str = "org.headnode:setup";

/// End of the comment of a pool that carries a finished system.
const FINISHED: &str = " finished";

/// How long `zpool create` and `zpool import` may take: disks that spin up, many disks.
const SLOW: Duration = Duration::from_secs(600);

/// How long disks may take to settle.
const SETTLE: Duration = Duration::from_secs(30);
/// How often a pool is tried to be made when its disks are gone for a moment.
const TRIES: u32 = 5;

/// How the data disks are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One disk, no redundancy.
    Single,
    /// All disks hold the same.
    Mirror,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Layout::Single => "single",
            Layout::Mirror => "mirror",
        })
    }
}

/// The mark of a pool that this software made. It is the pool's comment, which can be read before
/// the pool is imported, and [`OWNER_PROPERTY`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// `headnode` or `computenode`.
    pub role: String,
    /// Id of the setup that made the pool.
    pub id: String,
}

impl Mark {
    /// The pool's comment: the role and the beginning of the id (32 bytes are allowed).
    pub fn comment(&self) -> String {
        let id: String = self.id.chars().filter(|c| *c != '-').take(12).collect();
        format!("{} {id}", self.role)
    }

    /// The comment of a pool that carries a finished system, which boots by itself.
    pub fn finished_comment(&self) -> String {
        format!("{}{FINISHED}", self.comment())
    }
}

/// A pool to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// Its name.
    pub name: String,
    /// How the disks are arranged.
    pub layout: Layout,
    /// The devices, see [`crate::disk::Disk::best_path`].
    pub devices: Vec<PathBuf>,
    /// Whose it is.
    pub mark: Mark,
}

/// A pool that could be imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Importable {
    /// Its name.
    pub name: String,
    /// Its number.
    pub guid: String,
    /// `ONLINE`, `DEGRADED`, `UNAVAIL`, …
    pub state: String,
    /// What `zpool` says of the state.
    pub status: Option<String>,
    /// Its comment, see [`Mark::comment`].
    pub comment: Option<String>,
    /// Names of its devices, as `zpool` prints them.
    pub devices: Vec<String>,
}

impl Importable {
    /// Whether the pool can be imported.
    pub fn usable(&self) -> bool {
        matches!(self.state.as_str(), "ONLINE" | "DEGRADED")
    }

    /// Whether the comment says that the pool carries a finished system.
    pub fn finished(&self) -> bool {
        self.role().is_some() && self.comment.as_ref().is_some_and(|c| c.ends_with(FINISHED))
    }

    /// Whether the pool carries this mark, finished or not.
    pub fn has(&self, mark: &Mark) -> bool {
        let comment = self.comment.as_deref().unwrap_or_default();
        comment.strip_suffix(FINISHED).unwrap_or(comment) == mark.comment()
    }

    /// The role in the comment, when this software made the pool.
    pub fn role(&self) -> Option<&str> {
        let (role, id) = self.comment.as_deref()?.split_once(' ')?;
        (matches!(role, "headnode" | "computenode") && !id.is_empty()).then_some(role)
    }
}

/// The pool commands.
pub struct Pools<R> {
    runner: R,
}

impl<R: Runner> Pools<R> {
    /// Pools seen through the programs that `runner` runs.
    pub fn new(runner: R) -> Self {
        Self { runner }
    }

    fn zpool<A: Into<String>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String, exec::Error> {
        Ok(self.runner.run(&Call::new("zpool", args).timeout(SLOW))?.stdout)
    }

    /// The pools that lie on these devices (see [`crate::disk::Disk::zfs_members`]) and are not
    /// imported. Nothing is written to them.
    ///
    /// # Errors
    /// When `zpool` fails for another reason than that there is none.
    pub fn importable(&self, devices: &[PathBuf]) -> Result<Vec<Importable>, exec::Error> {
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        match self.zpool(import_args(devices, &[])) {
            Ok(text) => Ok(parse_import(&text)),
            // Exit status 1 without output is its way to say that there is none.
            Err(error)
                if error.tail().iter().all(|line| line.contains("no pools available"))
                    && matches!(error, exec::Error::Failed { .. }) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Imports a pool without mounting anything; `pool` is its name or number. It is taken although
    /// another system used it last (`-f`): a machine whose root lives in memory has no stable host
    /// id, and power cuts export nothing.
    ///
    /// # Errors
    /// When `zpool` fails.
    pub fn import(&self, pool: &str, devices: &[PathBuf]) -> Result<(), exec::Error> {
        self.zpool(import_args(devices, &["-N", "-f", "-o", "cachefile=none", pool])).map(drop)
    }

    /// Names of the imported pools.
    ///
    /// # Errors
    /// When `zpool` fails.
    pub fn imported(&self) -> Result<Vec<String>, exec::Error> {
        Ok(self.zpool(["list", "-H", "-o", "name"])?.lines().map(str::to_owned).collect())
    }

    /// A property of an imported pool.
    ///
    /// # Errors
    /// When `zpool` fails.
    pub fn property(&self, pool: &str, name: &str) -> Result<String, exec::Error> {
        Ok(self.zpool(["list", "-H", "-p", "-o", name, pool])?.trim().to_owned())
    }

    /// Makes a pool and mounts its root dataset at `/<name>`.
    ///
    /// `ashift=12` because a pool cannot get 4 KiB sectors later; no cache file because `/etc`
    /// does not last; lz4 because it costs next to nothing.
    ///
    /// udev has the kernel read a disk's partitions again whenever somebody who wrote to the disk closes
    /// it: whoever has just prepared it, and `zpool` itself. For a moment the new partitions are gone
    /// then, and when `zpool` looks just at that moment it gives up. So `disks` settle before, and a disk
    /// that was gone is waited for and tried again.
    ///
    /// # Errors
    /// When `zpool` fails; it refuses devices that hold something.
    pub fn create(&self, spec: &PoolSpec, disks: &dyn Disks) -> Result<(), exec::Error> {
        let mut tries = 1;
        loop {
            disks.settle(SETTLE);
            match self.zpool(create_args(spec)) {
                Err(error) if tries < TRIES && was_gone(&error) => {
                    tracing::warn!(
                        pool = spec.name,
                        tries,
                        "a disk was gone for a moment: {error}"
                    );
                    tries += 1;
                }
                result => return result.map(drop),
            }
        }
    }

    /// Marks an imported pool as carrying a finished system, unless that was done before.
    ///
    /// # Errors
    /// When `zpool` fails.
    pub fn mark_finished(&self, pool: &str, mark: &Mark) -> Result<(), exec::Error> {
        let comment = mark.finished_comment();
        if self.property(pool, "comment")? == comment {
            return Ok(());
        }
        self.zpool(["set", &format!("comment={comment}"), pool]).map(drop)
    }

    /// Destroys an imported pool.
    ///
    /// # Errors
    /// When `zpool` fails.
    pub fn destroy(&self, pool: &str) -> Result<(), exec::Error> {
        self.zpool(["destroy", "-f", pool]).map(drop)
    }

    /// Exports an imported pool.
    ///
    /// # Errors
    /// When `zpool` fails.
    pub fn export(&self, pool: &str) -> Result<(), exec::Error> {
        self.zpool(["export", "-f", pool]).map(drop)
    }
}

/// Whether `zpool create` has failed because it could not open a disk that it had just divided.
fn was_gone(error: &exec::Error) -> bool {
    error.tail().iter().any(|line| line.contains("devices is currently unavailable"))
}

fn import_args(devices: &[PathBuf], rest: &[&str]) -> Vec<String> {
    let devices = devices.iter().flat_map(|d| ["-d".to_owned(), d.display().to_string()]);
    std::iter::once("import".to_owned())
        .chain(devices)
        .chain(rest.iter().map(|&a| a.to_owned()))
        .collect()
}

fn create_args(spec: &PoolSpec) -> Vec<String> {
    let comment = format!("comment={}", spec.mark.comment());
    let owner = format!("{OWNER_PROPERTY}={}", spec.mark.id);
    let mountpoint = format!("mountpoint={}", Path::new("/").join(&spec.name).display());
    // `-f`: two disks of one size class may differ by some sectors, which `zpool` refuses without.
    // That the disks are free is decided before, more strictly than `zpool` would.
    let mut args = vec!["create", "-f", "-o", "ashift=12", "-o", "cachefile=none", "-o", &comment];
    for property in
        ["atime=off", "compression=lz4", "xattr=sa", "acltype=posixacl", &mountpoint, &owner]
    {
        args.extend(["-O", property]);
    }
    args.push(&spec.name);
    if spec.layout == Layout::Mirror {
        args.push("mirror");
    }
    let devices = spec.devices.iter().map(|d| d.display().to_string());
    args.into_iter().map(str::to_owned).chain(devices).collect()
}

/// Reads the list that `zpool import` prints.
pub fn parse_import(text: &str) -> Vec<Importable> {
    let mut pools: Vec<Importable> = Vec::new();
    let mut in_config = false;
    for line in text.lines() {
        if let Some(name) = line.trim_start().strip_prefix("pool: ") {
            pools.push(Importable { name: name.trim().to_owned(), ..Importable::default() });
            in_config = false;
            continue;
        }
        let Some(pool) = pools.last_mut() else { continue };
        if in_config {
            let mut words = line.split_whitespace();
            let (Some(name), Some(_state)) = (words.next(), words.next()) else { continue };
            let group = ["mirror-", "raidz", "spare-", "replacing-", "draid"]
                .iter()
                .any(|p| name.starts_with(p));
            if name != pool.name && !group {
                pool.devices.push(name.to_owned());
            }
            continue;
        }
        match line.trim().split_once(':').map(|(key, value)| (key, value.trim())) {
            Some(("id", value)) => value.clone_into(&mut pool.guid),
            Some(("state", value)) => pool.state = value.split(' ').next().unwrap_or("").to_owned(),
            Some(("status", value)) => pool.status = Some(value.to_owned()),
            Some(("comment", value)) => pool.comment = Some(value.to_owned()),
            Some(("config", _)) => in_config = true,
            _ => {}
        }
    }
    pools
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::linux::LinuxDisks;
    use crate::fake::Recorder;
    use proptest::prelude::*;
    use std::sync::atomic::Ordering::Relaxed;

    const IMPORT: &str = "   pool: zones\n     id: 5556688\n  state: ONLINE\nstatus: The pool was last accessed by another system.\n action: The pool can be imported.\n\
   see: https://x/ZFS-8000-EY\ncomment: headnode 0123456789ab\n config:\n\n\tzones       ONLINE\n\t  mirror-0  ONLINE\n\t    virtio-A  ONLINE\n\t    vdb     ONLINE\n\n\
   pool: tank\n     id: 7\n  state: UNAVAIL (DESTROYED)\n config:\n\n\ttank  UNAVAIL  insufficient replicas\n\t  sdb  UNAVAIL\n";

    #[test]
    fn importable_pools_are_read() {
        let pools = parse_import(IMPORT);
        assert_eq!(pools.len(), 2);
        assert_eq!((pools[0].name.as_str(), pools[0].guid.as_str()), ("zones", "5556688"));
        assert_eq!(pools[0].role(), Some("headnode"));
        assert_eq!(pools[0].devices, ["virtio-A", "vdb"]);
        assert!(pools[0].usable() && !pools[1].usable());
        assert_eq!(pools[1].role(), None);
    }

    #[test]
    fn the_mark_is_part_of_the_creation() {
        let recorder = std::sync::Arc::new(Recorder::default());
        let mark =
            Mark { role: "headnode".into(), id: "01234567-89ab-cdef-0123-456789abcdef".into() };
        let spec = PoolSpec {
            name: "zones".into(),
            layout: Layout::Mirror,
            devices: vec!["/dev/vda".into(), "/dev/vdb".into()],
            mark,
        };
        let disks = LinuxDisks::new(recorder.clone());
        Pools::new(recorder.clone()).create(&spec, &disks).unwrap();
        let [settled, line] = &recorder.lines()[..] else { panic!("{:?}", recorder.lines()) };
        assert!(settled.starts_with("udevadm settle"), "{settled}");
        assert!(line.contains("-o comment=headnode 0123456789ab "), "{line}");
        assert!(
            line.contains("-O org.headnode:setup=01234567-89ab-cdef-0123-456789abcdef"),
            "{line}"
        );
        assert!(line.ends_with(" zones mirror /dev/vda /dev/vdb"), "{line}");
        assert!(spec.mark.finished_comment().len() <= 32);
        let finished = |text: String| Importable { comment: Some(text), ..Importable::default() };
        assert!(finished(spec.mark.finished_comment()).finished());
        assert!(finished(spec.mark.finished_comment()).has(&spec.mark));
        assert!(!finished(spec.mark.comment()).finished());
        assert!(finished(spec.mark.comment()).has(&spec.mark));
    }

    #[test]
    fn a_disk_that_is_gone_for_a_moment_is_waited_for_and_no_other_failure_is_repeated() {
        let mark = Mark { role: "computenode".into(), id: "0".into() };
        let (name, layout, devices) = ("zones".into(), Layout::Single, vec!["/dev/vda".into()]);
        let spec = PoolSpec { name, layout, devices, mark };
        let gone = "cannot create 'zones': one or more devices is currently unavailable";
        let run = |text: &'static str, failures: u32| {
            let left = std::sync::atomic::AtomicU32::new(failures);
            let recorder = std::sync::Arc::new(Recorder::new(move |call| {
                let fails = call.program == "zpool"
                    && left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
                if fails { Err(text.to_owned()) } else { Ok(String::new()) }
            }));
            let disks = LinuxDisks::new(recorder.clone());
            let created = Pools::new(recorder.clone()).create(&spec, &disks).is_ok();
            let programs: Vec<String> = recorder.lines();
            let count = |program: &str| programs.iter().filter(|l| l.starts_with(program)).count();
            (created, count("zpool create"), count("udevadm settle"))
        };
        assert_eq!(run(gone, 0), (true, 1, 1));
        assert_eq!(run(gone, 2), (true, 3, 3));
        assert_eq!(run(gone, 99), (false, 5, 5));
        assert_eq!(run("cannot create 'zones': no such device", 1), (false, 1, 1));
    }

    #[test]
    fn no_pool_is_no_failure_and_no_device_asks_nobody() {
        let none = Recorder::new(|_| Err("no pools available to import".into()));
        assert_eq!(Pools::new(&none).importable(&["/dev/vda1".into()]).unwrap(), []);
        assert_eq!(Pools::new(&none).importable(&[]).unwrap(), []);
        assert_eq!(none.lines(), ["zpool import -d /dev/vda1"]);
        let broken = Recorder::new(|_| Err("The ZFS modules are not loaded.".into()));
        assert!(Pools::new(&broken).importable(&["/dev/vda1".into()]).is_err());
    }

    proptest! {
        #[test]
        fn no_output_panics(text: String) {
            parse_import(&text);
        }
    }
}
