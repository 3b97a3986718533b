//! Disks on Linux: `lsblk` and `udevadm`, and the devices themselves.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{Disk, DiskError, Disks, Partition};
use crate::exec::{Call, Runner};

/// How much of a disk's beginning and end must be zero for it to be blank. All file systems,
/// RAID and LVM formats and ZFS (four labels of 256 KiB at both ends) have their marks there.
const EDGE: u64 = 1 << 20;

/// What `lsblk` calls a disk.
const DISK: &str = "disk";
/// What `lsblk` calls an optical drive.
const OPTICAL: &str = "rom";

/// Device names that are no disks although `lsblk` calls them so.
const NOT_DISKS: [&str; 6] = ["zd", "zram", "nbd", "ram", "fd", "loop"];

/// The disks of a Linux machine.
pub struct LinuxDisks<R> {
    runner: R,
}

impl<R: Runner> LinuxDisks<R> {
    /// Disks seen through the programs that `runner` runs.
    pub fn new(runner: R) -> Self {
        Self { runner }
    }

    fn devices(&self, kind: &str) -> Result<Vec<Disk>, DiskError> {
        const COLUMNS: &str =
            "NAME,PATH,TYPE,SIZE,SERIAL,MODEL,TRAN,RM,RO,ROTA,PTTYPE,FSTYPE,LABEL,MOUNTPOINTS";
        let call = Call::new("lsblk", ["--json", "--bytes", "--tree", "--output", COLUMNS]);
        parse_lsblk(&self.runner.run(&call)?.stdout, kind, &id_links(Path::new("/dev/disk/by-id")))
    }
}

impl<R: Runner> Disks for LinuxDisks<R> {
    fn list(&self) -> Result<Vec<Disk>, DiskError> {
        let mut disks = self.devices(DISK)?;
        for disk in &mut disks {
            disk.zeroed = true;
            if !disk.blank() {
                disk.zeroed = false;
                continue;
            }
            // A disk that cannot be read is not blank: it is left alone.
            disk.zeroed = match edges_zeroed(&disk.path) {
                Ok(zeroed) => zeroed,
                Err(error) => {
                    tracing::warn!(disk = %disk.path.display(), %error, "reading the disk's edges");
                    false
                }
            };
        }
        Ok(disks)
    }

    fn optical(&self) -> Result<Vec<Disk>, DiskError> {
        self.devices(OPTICAL)
    }

    fn settle(&self, limit: Duration) {
        let seconds = format!("--timeout={}", limit.as_secs().max(1));
        let call =
            Call::new("udevadm", ["settle", &seconds]).timeout(limit + Duration::from_secs(5));
        if let Err(error) = self.runner.run(&call) {
            tracing::warn!(%error, "waiting for devices");
        }
    }

    fn wipe(&self, disk: &Disk) -> Result<(), DiskError> {
        if disk.in_use() {
            let by = disk.content().unwrap_or_default();
            return Err(DiskError::InUse { disk: disk.describe(), by });
        }
        // Partitions first: their edges are where file systems and pools have their marks, and a
        // later partition at the same place would show them again.
        for path in disk.partitions.iter().map(|p| &p.path).chain([&disk.path]) {
            zero_edges(path).map_err(|source| DiskError::Io {
                action: "wiping",
                path: path.clone(),
                source,
            })?;
        }
        let device = disk.path.to_string_lossy().into_owned();
        self.runner.run(&Call::new("blockdev", ["--rereadpt", &device]))?;
        self.settle(Duration::from_secs(30));
        Ok(())
    }
}

/// The links of `/dev/disk/by-id` by the device that they lead to. Of several, a name that people
/// can read (`ata-`, `nvme-MODEL`, `virtio-`) wins over a number (`wwn-`, `nvme-eui.`).
fn id_links(dir: &Path) -> BTreeMap<PathBuf, PathBuf> {
    let rank = |path: &Path| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let number =
            ["wwn-", "nvme-eui.", "scsi-3", "dm-", "md-"].iter().any(|p| name.starts_with(p));
        (number, name)
    };
    let mut links: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let link = entry.path();
        let Ok(device) = fs::canonicalize(&link) else { continue };
        let better = links.get(&device).is_none_or(|old| rank(&link) < rank(old));
        if better {
            links.insert(device, link);
        }
    }
    links
}

/// Reads the devices of a type, `disk` or `rom`, from `lsblk`'s JSON.
///
/// # Errors
/// When it is not of the form that util-linux 2.34 and later write.
pub fn parse_lsblk(
    json: &str,
    kind: &str,
    links: &BTreeMap<PathBuf, PathBuf>,
) -> Result<Vec<Disk>, DiskError> {
    let odd = |reason: String| DiskError::Output { command: "lsblk".to_owned(), reason };
    let value: Value = serde_json::from_str(json).map_err(|e| odd(e.to_string()))?;
    let devices = value["blockdevices"]
        .as_array()
        .ok_or_else(|| odd("no list of block devices".to_owned()))?;
    let mut disks: Vec<Disk> =
        devices.iter().filter_map(|device| disk(device, kind, links)).collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(disks)
}

fn text(device: &Value, key: &str) -> Option<String> {
    device[key].as_str().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned)
}

/// Flags are booleans, in older versions the texts `"0"` and `"1"`.
fn flag(device: &Value, key: &str) -> bool {
    device[key].as_bool().unwrap_or_else(|| device[key].as_str() == Some("1"))
}

fn size(device: &Value) -> u64 {
    let value = &device["size"];
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

/// Mount points, and what is built on the device (RAID, LVM, encryption).
fn users(device: &Value) -> Vec<String> {
    let mounts = device["mountpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned);
    let built = device["children"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|c| c["type"].as_str() != Some("part"));
    mounts.chain(built.filter_map(|c| text(c, "name"))).collect()
}

fn disk(device: &Value, kind: &str, links: &BTreeMap<PathBuf, PathBuf>) -> Option<Disk> {
    let name = text(device, "name")?;
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    if device["type"].as_str() != Some(kind)
        || NOT_DISKS.iter().any(|p| numbered(p))
        || size(device) == 0
    {
        return None;
    }
    let path = PathBuf::from(text(device, "path")?);
    let parts = device["children"].as_array().into_iter().flatten();
    let parts = parts.filter(|child| child["type"].as_str() == Some("part"));
    Some(Disk {
        id_path: links.get(&path).cloned(),
        serial: text(device, "serial"),
        model: text(device, "model"),
        size: size(device),
        transport: text(device, "tran"),
        removable: flag(device, "rm"),
        read_only: flag(device, "ro"),
        ssd: !flag(device, "rota"),
        table: text(device, "pttype"),
        fs: text(device, "fstype"),
        label: text(device, "label"),
        mounted: users(device),
        zeroed: false,
        partitions: parts.filter_map(|part| partition(part, links)).collect(),
        name,
        path,
    })
}

fn partition(device: &Value, links: &BTreeMap<PathBuf, PathBuf>) -> Option<Partition> {
    let path = PathBuf::from(text(device, "path")?);
    Some(Partition {
        name: text(device, "name")?,
        id_path: links.get(&path).cloned(),
        size: size(device),
        fs: text(device, "fstype"),
        label: text(device, "label"),
        mounted: users(device),
        path,
    })
}

/// Start and length of the first and last part of a device of this size.
/// The end comes first: whoever wipes them and is interrupted leaves the marks at the beginning, by
/// which the disk is known.
fn edges(size: u64) -> [(u64, u64); 2] {
    let length = EDGE.min(size);
    [(size - length, length), (0, length)]
}

fn edges_zeroed(path: &Path) -> std::io::Result<bool> {
    let mut device = File::open(path)?;
    let size = device.seek(SeekFrom::End(0))?;
    let mut buffer = vec![0; 64 << 10];
    for (start, length) in edges(size) {
        device.seek(SeekFrom::Start(start))?;
        let mut left = length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            device.read_exact(&mut buffer[..want])?;
            if buffer[..want].iter().any(|&b| b != 0) {
                return Ok(false);
            }
            left -= want as u64;
        }
    }
    Ok(true)
}

fn zero_edges(path: &Path) -> std::io::Result<()> {
    // O_EXCL on a block device fails when it is mounted or held: the last guard.
    let mut device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(path)?;
    let size = device.seek(SeekFrom::End(0))?;
    let zeroes = vec![0; 64 << 10];
    for (start, length) in edges(size) {
        device.seek(SeekFrom::Start(start))?;
        let mut left = length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(zeroes.len());
            device.write_all(&zeroes[..want])?;
            left -= want as u64;
        }
    }
    device.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LSBLK: &str = r#"{"blockdevices": [
      {"name":"zram0","path":"/dev/zram0","type":"disk","size":1073741824,"serial":null},
      {"name":"sr0","path":"/dev/sr0","type":"rom","size":1073741824,"serial":null},
      {"name":"vdb","path":"/dev/vdb","type":"disk","size":8589934592,"serial":"S2","model":null,"tran":"virtio",
       "rm":false,"ro":false,"rota":true,"pttype":null,"fstype":null,"label":null,"mountpoints":[null]},
      {"name":"sda","path":"/dev/sda","type":"disk","size":4000000000,"serial":"KEY1","model":"QEMU HARDDISK ",
       "tran":"usb","rm":true,"ro":false,"rota":false,"pttype":"gpt","fstype":null,"label":null,"mountpoints":[null],
       "children":[
         {"name":"sda1","path":"/dev/sda1","type":"part","size":268435456,"fstype":"vfat","label":"system","mountpoints":[null]},
         {"name":"sda3","path":"/dev/sda3","type":"part","size":3000000000,"fstype":"vfat","label":"HEADNODE","mountpoints":["/mnt/usbkey"]}]},
      {"name":"nvme0n1","path":"/dev/nvme0n1","type":"disk","size":"8589934592","serial":"N1","rm":"0","ro":"0","rota":"0",
       "fstype":"linux_raid_member","label":"host:0","mountpoints":[null],
       "children":[{"name":"md0","path":"/dev/md0","type":"raid1","size":8589934592}]}
    ]}"#;

    #[test]
    fn real_disks_are_told_with_what_is_on_them() {
        let links = BTreeMap::from([("/dev/vdb".into(), "/dev/disk/by-id/virtio-S2".into())]);
        let disks = parse_lsblk(LSBLK, DISK, &links).unwrap();
        let names: Vec<_> = disks.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["nvme0n1", "sda", "vdb"]);
        assert_eq!(disks[0].mounted, ["md0"]);
        assert_eq!(disks[0].content().as_deref(), Some("RAID member \"host:0\""));
        assert!(disks[0].ssd && disks[0].in_use());
        assert_eq!(disks[1].partitions[1].mounted, ["/mnt/usbkey"]);
        assert!(disks[1].removable && disks[1].in_use());
        assert_eq!(disks[2].best_path(), Path::new("/dev/disk/by-id/virtio-S2"));
        assert_eq!(disks[2].size, 8_589_934_592);
        let discs = parse_lsblk(LSBLK, OPTICAL, &links).unwrap();
        assert_eq!(discs.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["sr0"]);
    }

    #[test]
    fn odd_output_is_told() {
        assert!(parse_lsblk("", DISK, &BTreeMap::new()).unwrap_err().to_string().contains("lsblk"));
        assert!(parse_lsblk("{}", DISK, &BTreeMap::new()).is_err());
    }

    #[test]
    fn the_edges_decide_about_blankness_and_wiping_clears_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(5 << 20).unwrap();
        assert!(edges_zeroed(file.path()).unwrap());
        for place in [0, (1 << 20) - 1, 4 << 20, (5 << 20) - 1] {
            let mut device = OpenOptions::new().write(true).open(file.path()).unwrap();
            device.seek(SeekFrom::Start(place)).unwrap();
            device.write_all(b"x").unwrap();
            assert!(!edges_zeroed(file.path()).unwrap(), "{place}");
            zero_edges(file.path()).unwrap();
            assert!(edges_zeroed(file.path()).unwrap(), "{place}");
        }
        file.as_file().set_len(100).unwrap();
        assert!(edges_zeroed(file.path()).unwrap());
    }

    proptest! {
        #[test]
        fn no_output_panics(text: String) {
            drop(parse_lsblk(&text, DISK, &BTreeMap::new()));
        }
    }
}
