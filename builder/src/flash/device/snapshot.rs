//! The block devices of the machine and how they lie on each other, with what is mounted and swapped
//! to: read once, then asked for every disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Error;
use super::host::Host;
use super::sysfs::{device_number, names, value};

/// How deep devices may lie on each other: no machine has more.
const MAX_DEPTH: usize = 16;

/// A block device, whole or a partition.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub number: (u32, u32),
    /// The whole device that it is a partition of.
    pub whole: Option<String>,
    pub partitions: Vec<String>,
    pub holders: Vec<String>,
    pub slaves: Vec<String>,
    /// Name and uuid in the device mapper.
    pub mapped: Option<(String, String)>,
    /// The file behind a loop device.
    pub backing: Option<PathBuf>,
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug)]
pub(super) struct Mount {
    pub number: (u32, u32),
    pub at: PathBuf,
    pub kind: String,
    pub source: String,
    pub options: String,
}

/// Devices and pools under something.
#[derive(Debug, Default)]
pub(super) struct Below {
    /// Names of whole devices and partitions.
    pub devices: BTreeSet<String>,
    /// Names of ZFS pools.
    pub pools: BTreeSet<String>,
    /// Mounts that were looked at: an overlay's layers may lie in itself.
    seen: BTreeSet<PathBuf>,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Snapshot {
    dev: PathBuf,
    pub nodes: BTreeMap<String, Node>,
    pub mounts: Vec<Mount>,
    /// Names of devices.
    pub swaps: BTreeSet<String>,
    /// Names of the devices of each btrfs that is mounted somewhere.
    pub btrfs: Vec<Vec<String>>,
    /// Names of imported pools.
    pub pools: BTreeSet<String>,
}

impl Snapshot {
    /// Reads sysfs and procfs.
    pub fn read(host: &Host) -> Result<Self, Error> {
        let block = host.sys.join("block");
        fs::read_dir(&block).map_err(|source| Error::List { path: block.clone(), source })?;
        let mut nodes = BTreeMap::new();
        for name in names(&block) {
            let folder = block.join(&name);
            let mut whole = node(&folder);
            for part in names(&folder).into_iter().filter(|part| part.starts_with(&name)) {
                if folder.join(&part).join("partition").exists() {
                    let node = Node { whole: Some(name.clone()), ..node(&folder.join(&part)) };
                    whole.partitions.push(part.clone());
                    nodes.insert(part, node);
                }
            }
            nodes.insert(name, whole);
        }
        let path = host.proc.join("self/mountinfo");
        let mounts = fs::read(&path).map_err(|source| Error::List { path, source })?;
        let mounts = String::from_utf8_lossy(&mounts).lines().filter_map(mount).collect();
        let btrfs = host.sys.join("fs/btrfs");
        let mut snapshot = Self {
            dev: host.dev.clone(),
            nodes,
            mounts,
            swaps: BTreeSet::new(),
            btrfs: names(&btrfs).iter().map(|id| names(&btrfs.join(id).join("devices"))).collect(),
            pools: names(&host.proc.join("spl/kstat/zfs")).into_iter().collect(),
        };
        let mounted = snapshot.mounts.iter().filter_map(Mount::pool).map(ToOwned::to_owned);
        snapshot.pools.extend(mounted.collect::<Vec<_>>());
        let path = host.proc.join("swaps");
        let swaps = match fs::read(&path) {
            // A kernel that cannot swap.
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|source| Error::List { path, source })?,
        };
        let swaps = String::from_utf8_lossy(&swaps);
        let swaps = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        snapshot.swaps = swaps.filter_map(|path| snapshot.device(&unescaped(path))).collect();
        Ok(snapshot)
    }

    /// The kernel's name of a device that is named by a path in `/dev`.
    pub fn device(&self, path: &str) -> Option<String> {
        let inside = Path::new(path).strip_prefix("/dev").ok()?;
        let real = self.dev.join(inside);
        let real = fs::canonicalize(&real).unwrap_or(real);
        let name = real.file_name()?.to_str()?;
        if self.nodes.contains_key(name) {
            return Some(name.to_owned());
        }
        // Without udev the names in /dev/mapper are devices themselves.
        let mapped = |node: &Node| node.mapped.as_ref().is_some_and(|(mapped, _)| mapped == name);
        self.nodes.iter().find(|(_, node)| mapped(node)).map(|(name, _)| name.clone())
    }

    /// Whether the file system of a mount is on a device.
    pub fn is_on(&self, mount: &Mount, name: &str, node: &Node) -> bool {
        if mount.number == node.number || mount.number.0 != 0 {
            return mount.number == node.number;
        }
        // Anonymous numbers: btrfs names one of its devices.
        let Some(source) = self.device(&mount.source) else {
            return false;
        };
        source == name || self.siblings(&source).any(|device| device == name)
    }

    /// The devices of the btrfs that a device belongs to.
    fn siblings(&self, name: &str) -> impl Iterator<Item = &String> {
        self.btrfs.iter().filter(move |devices| devices.iter().any(|d| d == name)).flatten()
    }

    /// The mount that a path, which has no links in it, is in.
    pub fn mount_of(&self, path: &Path) -> Option<&Mount> {
        let covering = self.mounts.iter().filter(|mount| path.starts_with(&mount.at));
        // A later one hides an earlier one at the same place.
        covering.max_by_key(|mount| mount.at.components().count())
    }

    /// All devices that a path lies on.
    pub fn below(&self, path: &Path) -> Below {
        let mut below = Below::default();
        self.add_path(path, MAX_DEPTH, &mut below);
        below
    }

    fn add_path(&self, path: &Path, depth: usize, below: &mut Below) {
        let (Some(mount), Some(depth)) = (self.mount_of(path), depth.checked_sub(1)) else {
            return;
        };
        if !below.seen.insert(mount.at.clone()) {
            return;
        }
        let same = |(_, node): &(&String, &Node)| node.number == mount.number;
        if let Some((name, _)) = self.nodes.iter().find(same) {
            return self.add_device(name, depth, below);
        }
        if let Some(pool) = mount.pool() {
            below.pools.insert(pool.to_owned());
        } else if mount.kind == "overlay" {
            for layer in mount.layers() {
                self.add_path(Path::new(layer), depth, below);
            }
        } else if let Some(name) = self.device(&mount.source) {
            self.add_device(&name, depth, below);
            for name in self.siblings(&name) {
                self.add_device(name, depth, below);
            }
        }
    }

    fn add_device(&self, name: &str, depth: usize, below: &mut Below) {
        let (Some(node), Some(depth)) = (self.nodes.get(name), depth.checked_sub(1)) else {
            return;
        };
        if !below.devices.insert(name.to_owned()) {
            return;
        }
        for under in node.slaves.iter().chain(&node.whole) {
            self.add_device(under, depth, below);
        }
        if let Some(file) = &node.backing {
            match file.to_str().and_then(|path| self.device(path)) {
                Some(device) => self.add_device(&device, depth, below),
                None => self.add_path(file, depth, below),
            }
        }
    }
}

impl Mount {
    fn pool(&self) -> Option<&str> {
        (self.kind == "zfs").then(|| self.source.split('/').next()).flatten()
    }

    fn layers(&self) -> impl Iterator<Item = &str> {
        self.options.split(',').flat_map(|option| {
            let (key, folders) = option.split_once('=').unwrap_or_default();
            let wanted = matches!(key, "lowerdir" | "lowerdir+" | "datadir+" | "upperdir");
            wanted.then(|| folders.split(':')).into_iter().flatten()
        })
    }
}

fn node(folder: &Path) -> Node {
    let name = value(folder, "dm/name");
    Node {
        number: value(folder, "dev").and_then(|text| device_number(&text)).unwrap_or_default(),
        whole: None,
        partitions: Vec::new(),
        holders: names(&folder.join("holders")),
        slaves: names(&folder.join("slaves")),
        mapped: name.map(|name| (name, value(folder, "dm/uuid").unwrap_or_default())),
        backing: value(folder, "loop/backing_file").map(PathBuf::from),
    }
}

fn mount(line: &str) -> Option<Mount> {
    let (own, shared) = line.split_once(" - ")?;
    let mut own = own.split(' ').skip(2);
    let (number, at) = (device_number(own.next()?)?, own.nth(1)?);
    let mut shared = shared.split(' ');
    let (kind, source, options) = (shared.next()?, shared.next()?, shared.next().unwrap_or(""));
    Some(Mount {
        number,
        at: PathBuf::from(unescaped(at)),
        kind: kind.to_owned(),
        source: unescaped(source),
        options: unescaped(options),
    })
}

/// Takes back the kernel's escapes of blanks and backslashes: `\040`.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                bytes.push(code);
                rest = more.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_of_mountinfo_is_understood() {
        let line =
            "36 35 98:0 /mnt1 /mnt/my\\040key rw,noatime master:1 - ext3 /dev/sdb\\0401 rw,a=b";
        let mount = mount(line).unwrap();
        assert_eq!((mount.number, mount.at.to_str()), ((98, 0), Some("/mnt/my key")));
        assert_eq!((&*mount.kind, &*mount.source), ("ext3", "/dev/sdb 1"));
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "[0-9 :/\\\\a-]{0,60}|.{0,40} - .{0,20}") {
            let _ = mount(&line);
        }
    }
}
