//! Who uses a disk: everything that lies on it, in the order in which it has to be ended.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::disk::{Disk, Use, Used};
use super::label;
use super::signature::Content;
use super::snapshot::{Node, Snapshot};

/// Folders of the running system. A disk under any of them is never written to.
const SYSTEM: [&str; 7] = ["/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/etc"];

/// The disks and pools that the system runs from, each with the folders that lie there.
#[derive(Debug, Default)]
pub(super) struct System {
    devices: BTreeMap<String, Vec<PathBuf>>,
    pools: BTreeMap<String, Vec<PathBuf>>,
}

impl System {
    pub fn find(snapshot: &Snapshot) -> Self {
        let mut system = Self::default();
        for folder in SYSTEM.map(PathBuf::from) {
            let below = snapshot.below(&folder);
            for device in below.devices {
                system.devices.entry(device).or_default().push(folder.clone());
            }
            for pool in below.pools {
                system.pools.entry(pool).or_default().push(folder.clone());
            }
        }
        system
    }
}

/// All uses of a disk of which content and partitions are known.
pub(super) fn uses(snapshot: &Snapshot, system: &System, disk: &Disk) -> Vec<Use> {
    let mut walk = Walk { snapshot, seen: BTreeSet::new(), uses: Vec::new() };
    walk.device(&disk.name);
    let mut uses = walk.uses;
    let own = (disk.name.as_str(), &disk.path, &disk.content);
    let parts = disk.partitions.iter().map(|part| (part.name.as_str(), &part.path, &part.content));
    let mut at: BTreeSet<PathBuf> = BTreeSet::new();
    for (name, path, content) in std::iter::once(own).chain(parts) {
        let held = snapshot.nodes.get(name).is_some_and(|node| !node.holders.is_empty());
        uses.extend(member(snapshot, path, content).filter(|_| !held));
        at.extend(system.devices.get(name).into_iter().flatten().cloned());
        let pool = content.label.as_ref().filter(|_| content.kind.as_deref() == Some(label::ZFS));
        at.extend(pool.and_then(|pool| system.pools.get(pool)).into_iter().flatten().cloned());
    }
    if !at.is_empty() {
        let used = Used::System { at: at.into_iter().collect() };
        uses.insert(0, Use { device: disk.path.clone(), used });
    }
    uses
}

/// The use that a volume manager's label tells of.
fn member(snapshot: &Snapshot, device: &Path, content: &Content) -> Option<Use> {
    let kind = content.kind.as_deref()?;
    let used = match (kind, &content.label) {
        (label::ZFS, Some(pool)) if snapshot.pools.contains(pool) => {
            Used::Pool { pool: pool.clone() }
        }
        (label::ZFS | label::LVM | label::RAID, name) => {
            Used::Member { kind: kind.to_owned(), name: name.clone() }
        }
        _ => return None,
    };
    Some(Use { device: device.to_owned(), used })
}

struct Walk<'a> {
    snapshot: &'a Snapshot,
    seen: BTreeSet<String>,
    uses: Vec<Use>,
}

impl Walk<'_> {
    fn device(&mut self, name: &str) {
        let snapshot = self.snapshot;
        let Some(node) = snapshot.nodes.get(name) else {
            return;
        };
        if !self.seen.insert(name.to_owned()) {
            return;
        }
        for part in &node.partitions {
            self.device(part);
        }
        for holder in &node.holders {
            self.device(holder);
            self.push(name, held(holder, snapshot.nodes.get(holder)));
        }
        for (other, file) in
            snapshot.nodes.iter().filter_map(|(n, d)| Some((n, d.backing.as_ref()?)))
        {
            if self.lies_on(file, name, node) {
                self.device(other);
                let device = Path::new("/dev").join(other);
                self.push(name, Used::Loop { device, file: file.clone() });
            }
        }
        let mounts = snapshot.mounts.iter().filter(|mount| snapshot.is_on(mount, name, node));
        // The last one lies on top.
        let mut mounts: Vec<_> = mounts.map(|mount| Some(mount.at.clone())).rev().collect();
        let btrfs = snapshot.btrfs.iter().flatten().any(|device| device == name);
        if mounts.is_empty() && btrfs {
            mounts.push(None);
        }
        for at in mounts {
            self.push(name, Used::Mounted { at });
        }
        if snapshot.swaps.contains(name) {
            self.push(name, Used::Swap);
        }
    }

    fn push(&mut self, name: &str, used: Used) {
        self.uses.push(Use { device: Path::new("/dev").join(name), used });
    }

    /// Whether a loop device's file is a device itself, or in a file system on it.
    fn lies_on(&self, file: &Path, name: &str, node: &Node) -> bool {
        match file.to_str().and_then(|path| self.snapshot.device(path)) {
            Some(device) => device == name,
            None => {
                let mount = self.snapshot.mount_of(file);
                mount.is_some_and(|mount| self.snapshot.is_on(mount, name, node))
            }
        }
    }
}

/// What a device on another one is. The device mapper's users begin their uuids with their names.
fn held(holder: &str, node: Option<&Node>) -> Used {
    if holder.starts_with("md") {
        return Used::Raid { array: Path::new("/dev").join(holder) };
    }
    let Some((name, uuid)) = node.and_then(|node| node.mapped.clone()) else {
        return Used::Held { holder: holder.to_owned() };
    };
    match uuid.split('-').next() {
        Some("LVM") => {
            let (group, name) = volume(&name);
            Used::Volume { group, name }
        }
        Some("CRYPT") => Used::Crypt { name },
        Some("mpath") => Used::Multipath { name },
        _ => Used::Mapped { name },
    }
}

/// Group and volume from the device mapper's name, in which a dash parts them and those of their own
/// are doubled.
fn volume(mapped: &str) -> (String, String) {
    let single = mapped.replace("--", "\0");
    let (group, name) = single.split_once('-').unwrap_or((single.as_str(), ""));
    (group.replace('\0', "-"), name.replace('\0', "-"))
}

#[cfg(test)]
mod tests {
    use super::volume;

    #[test]
    fn dashes_in_the_names_of_volumes_are_theirs() {
        assert_eq!(volume("vg--a-root--1"), ("vg-a".to_owned(), "root-1".to_owned()));
        assert_eq!(volume("vg"), ("vg".to_owned(), String::new()));
    }
}
