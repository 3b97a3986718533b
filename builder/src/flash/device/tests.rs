//! Machines that are only folders: one for each kind of disk and each use of one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::label::make;
use super::show::{lost, table};
use super::*;

/// A machine in a folder.
struct Machine {
    dir: tempfile::TempDir,
    mounts: String,
    swaps: String,
}

const GIB: u64 = 1 << 30;

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["sys/block", "dev/disk/by-id", "proc/self", "run/udev/data"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        Self { dir, mounts: String::new(), swaps: "Filename Type Size\n".to_owned() }
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A device with its attributes in sysfs, at a place below `devices`, and its file in `dev`.
    fn device(&self, place: &str, number: &str, size: u64, content: &[u8]) {
        let name = place.rsplit('/').next().unwrap();
        let folder = format!("sys/devices/{place}");
        self.write(&format!("{folder}/dev"), format!("{number}\n"));
        self.write(&format!("{folder}/size"), format!("{}\n", size / 512));
        self.write(&format!("dev/{name}"), content);
    }

    fn disk(&self, place: &str, number: &str, size: u64, content: &[u8]) {
        self.device(place, number, size, content);
        let name = place.rsplit('/').next().unwrap();
        for (file, value) in [
            ("removable", "0"),
            ("ro", "0"),
            ("diskseq", "7"),
            ("queue/logical_block_size", "512"),
            ("queue/physical_block_size", "4096"),
        ] {
            self.write(&format!("sys/devices/{place}/{file}"), value);
        }
        symlink(format!("../devices/{place}"), self.dir.path().join("sys/block").join(name))
            .unwrap();
    }

    fn partition(&self, disk: &str, name: &str, number: &str, content: &[u8]) {
        self.device(&format!("{disk}/{name}"), number, GIB, content);
        let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        self.write(&format!("sys/devices/{disk}/{name}/partition"), &digits[digits.len() - 1..]);
        self.write(&format!("sys/devices/{disk}/{name}/start"), "2048");
    }

    fn holder(&self, of: &str, holder: &str) {
        self.write(&format!("sys/devices/{of}/holders/{holder}"), "");
        let under = of.rsplit('/').next().unwrap();
        self.write(&format!("sys/block/{holder}/slaves/{under}"), "");
    }

    /// A device of the device mapper.
    fn mapped(&self, node: &str, number: &str, name: &str, uuid: &str) {
        self.disk(&format!("virtual/block/{node}"), number, GIB, &[]);
        self.write(&format!("sys/devices/virtual/block/{node}/dm/name"), name);
        self.write(&format!("sys/devices/virtual/block/{node}/dm/uuid"), uuid);
    }

    fn mount(&mut self, number: &str, at: &str, rest: &str) {
        self.mounts += &format!("1 1 {number} / {at} rw - {rest}\n");
    }

    fn stick(&self, name: &str, number: &str, serial: &str, content: &[u8]) -> String {
        let usb = format!("pci0/usb2/{name}-port");
        self.write(&format!("sys/devices/{usb}/idVendor"), "0781");
        self.write(&format!("sys/devices/{usb}/serial"), serial);
        let place = format!("{usb}/host0/target0/block/{name}");
        self.disk(&place, number, 31 * GIB, content);
        self.write(&format!("sys/devices/{place}/device/vendor"), "SanDisk ");
        self.write(&format!("sys/devices/{place}/device/model"), "Ultra           ");
        place
    }

    fn host(&self) -> Host {
        self.write("proc/self/mountinfo", &self.mounts);
        self.write("proc/swaps", &self.swaps);
        let path = |name: &str| self.dir.path().join(name);
        Host { sys: path("sys"), dev: path("dev"), proc: path("proc"), run: path("run") }
    }

    fn find(&self, name: &str) -> Disk {
        self.host().find(name).unwrap()
    }
}

fn texts(disk: &Disk) -> Vec<String> {
    let policy = Policy { needed: GIB, image_sector: 512, ..Policy::default() };
    let all = refusals(disk, &policy);
    let json = serde_json::to_string(&all).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Refusal>>(&json).unwrap(), all, "{json}");
    all.iter().map(ToString::to_string).collect()
}

fn fat(label: &[u8; 11]) -> Vec<u8> {
    let mut sector = vec![0; 4096];
    sector[71..82].copy_from_slice(label);
    sector[82..90].copy_from_slice(b"FAT32   ");
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn pool(name: &str) -> Vec<u8> {
    let mut disk = vec![0; 2 << 20];
    let list = make::zfs_list(name);
    disk[16 << 10..][..list.len()].copy_from_slice(&list);
    for block in 0..4 {
        disk[(128 << 10) + block * 1024..][..8].copy_from_slice(&0x00ba_b10c_u64.to_le_bytes());
    }
    disk
}

#[test]
fn a_usb_stick_is_described_found_under_each_of_its_names_and_may_be_written() {
    let machine = Machine::new();
    let place = machine.stick("sdb", "8:16", "4C53", &[]);
    machine.partition(&place, "sdb1", "8:17", &fat(b"BOOT       "));
    let id = "usb-SanDisk_Ultra_4C53-0:0";
    symlink("../../sdb", machine.dir.path().join("dev/disk/by-id").join(id)).unwrap();
    let by_id = machine.dir.path().join("dev/disk/by-id").join(id);
    for name in ["sdb", "/dev/sdb", id, &format!("/dev/disk/by-id/{id}"), by_id.to_str().unwrap()] {
        let disk = machine.find(name);
        assert_eq!(disk.name, "sdb");
        assert_eq!(
            disk.is_stable_name(name),
            name.starts_with("usb") || name.starts_with("/dev/disk")
        );
    }
    let disk = machine.find("sdb");
    assert_eq!((disk.bus, disk.removable, disk.size), (Bus::Usb, true, 31 * GIB));
    assert_eq!(disk.model.as_deref(), Some("SanDisk Ultra"));
    assert_eq!((disk.serial.as_deref(), disk.id.as_deref()), (Some("4C53"), Some(id)));
    assert_eq!((disk.sector, disk.physical_sector, disk.diskseq), (512, 4096, Some(7)));
    assert_eq!(disk.partitions[0].start, 1 << 20);
    assert_eq!(texts(&disk), [""; 0]);
    let table = table(std::slice::from_ref(&disk), &Policy::default());
    let row =
        "sdb   usb  33 GB  SanDisk Ultra  vfat \"BOOT\"  yes       usb-SanDisk_Ultra_4C53-0:0";
    assert_eq!(table.lines().nth(1), Some(row));
    assert!(lost(&disk).contains("partition 1: vfat \"BOOT\""), "{}", lost(&disk));
    let json = serde_json::to_string(&disk).unwrap();
    assert_eq!(serde_json::from_str::<Disk>(&json).unwrap(), disk);

    let error = machine.host().find("/dev/sdb1").unwrap_err().to_string();
    assert!(error.contains("partition") && error.contains("/dev/sdb"), "{error}");
    let error = machine.host().find("sdz").unwrap_err().to_string();
    assert!(error.contains("/dev/sdb (usb-SanDisk"), "{error}");
}

#[test]
fn sticks_with_the_same_serial_have_no_id() {
    let machine = Machine::new();
    machine.stick("sdb", "8:16", "0123456789AB", &[]);
    machine.stick("sdc", "8:32", "0123456789AB", &[]);
    let link = "usb-SanDisk_Ultra_0123456789AB-0:0";
    symlink("../../sdc", machine.dir.path().join("dev/disk/by-id").join(link)).unwrap();
    let disks = machine.host().disks().unwrap();
    assert_eq!(disks.iter().filter_map(|disk| disk.id.as_ref()).count(), 0, "{disks:?}");
    let error = machine.host().find("usb-SanDisk_Ultra_0123456789AB").unwrap_err().to_string();
    assert!(error.contains("/dev/sdb, /dev/sdc"), "{error}");
    assert!(!machine.find(&format!("/dev/disk/by-id/{link}")).is_stable_name(link));
}

#[test]
fn the_disk_of_the_system_is_refused_whatever_lies_between() {
    let mut machine = Machine::new();
    let place = "pci0/nvme/nvme0/nvme0n1";
    machine.disk(place, "259:0", 500 * GIB, &[]);
    machine.write(&format!("sys/devices/{place}/device/serial"), "S1\x1b[2J\n");
    machine.partition(place, "nvme0n1p1", "259:1", &[]);
    machine.partition(place, "nvme0n1p2", "259:2", &[]);
    machine.mapped("dm-0", "254:0", "luks", "CRYPT-LUKS2-1-luks");
    machine.mapped("dm-1", "254:1", "vg--a-root", "LVM-1");
    machine.holder(&format!("{place}/nvme0n1p2"), "dm-0");
    machine.holder("virtual/block/dm-0", "dm-1");
    machine.mount("254:1", "/", "ext4 /dev/mapper/vg--a-root rw");
    machine.mount("259:1", "/boot/efi", "vfat /dev/nvme0n1p1 rw");
    let disk = machine.find("nvme0n1");
    assert_eq!((disk.bus, disk.removable), (Bus::Nvme, false));
    assert_eq!(disk.serial.as_deref(), Some("S1\u{fffd}[2J"));
    let texts = texts(&disk);
    for (index, word) in [
        "running system (/, /boot, /boot/efi, /efi, /etc, /usr, /var)",
        "umount /boot/efi",
        "`umount /`",
        "`vgchange -an vg-a`",
        "`cryptsetup close luks`",
        "--fixed",
    ]
    .iter()
    .enumerate()
    {
        assert!(texts[index].contains(word), "{word}: {texts:#?}");
    }
    assert_eq!(machine.host().disks().unwrap().len(), 1, "what lies on disks is none");
    assert!(matches!(machine.host().find("dm-0"), Err(Error::NoDisk { .. })));
}

#[test]
fn the_layers_of_an_overlay_and_the_pool_of_a_root_are_the_system() {
    let mut machine = Machine::new();
    machine.stick("sdb", "8:16", "1", &[]);
    machine.stick("sdc", "8:32", "2", &pool("rpool"));
    machine.mount(
        "0:30",
        "/",
        "overlay overlay rw,lowerdir=/ro:/other,upperdir=/cow/up,workdir=/cow/w",
    );
    machine.mount("8:16", "/ro", "squashfs /dev/sdb ro");
    machine.mount("0:40", "/usr", "zfs rpool/usr rw");
    for name in ["sdb", "sdc"] {
        let disk = machine.find(name);
        let all = refusals(&disk, &Policy { fixed: true, ..Policy::default() });
        assert_eq!(all[0].remedy(), Remedy::Never, "{all:?}");
    }
    let texts = texts(&machine.find("sdc"));
    assert!(texts[1].contains("`zpool export rpool`"), "{texts:?}");
}

#[test]
fn arrays_multipath_swap_and_old_labels_are_refused_with_a_way_out() {
    let mut machine = Machine::new();
    let place = machine.stick("sdb", "8:16", "1", &[]);
    machine.partition(&place, "sdb1", "8:17", &[]);
    machine.disk("virtual/block/md0", "9:0", GIB, &[]);
    machine.holder(&format!("{place}/sdb1"), "md0");
    machine.swaps += "/dev/md0 partition 100\n";
    let found = texts(&machine.find("sdb"));
    assert!(found[0].contains("/dev/md0 is swapped to") && found[0].contains("`swapoff /dev/md0`"));
    assert!(found[1].contains("`mdadm --stop /dev/md0`"), "{found:?}");

    let place = machine.stick("sdc", "8:32", "2", &[]);
    machine.mapped("dm-3", "254:3", "mpatha", "mpath-36001");
    machine.holder(&place, "dm-3");
    let found = texts(&machine.find("sdc"));
    assert!(found[0].contains("`multipath -f mpatha`") && found.len() == 1, "{found:?}");

    machine.stick("sdd", "8:48", "3", &pool("tank"));
    let disk = machine.find("sdd");
    assert!(texts(&disk)[0].contains("`wipefs -a /dev/sdd`"), "{:?}", texts(&disk));
    machine.write("proc/spl/kstat/zfs/tank/state", "ONLINE");
    let found = texts(&machine.find("sdd"));
    assert!(found[0].contains("`zpool export tank`, then `wipefs -a /dev/sdd`"), "{found:?}");
}

#[test]
fn every_disk_of_a_btrfs_is_mounted_where_one_is() {
    let mut machine = Machine::new();
    machine.stick("sdb", "8:16", "1", &[]);
    machine.stick("sdc", "8:32", "2", &[]);
    for name in ["sdb", "sdc"] {
        machine.write(&format!("sys/fs/btrfs/some-uuid/devices/{name}"), "");
    }
    machine.mount("0:50", "/media/it\\047s\\040mine", "btrfs /dev/sdb rw");
    for name in ["sdb", "sdc"] {
        let found = texts(&machine.find(name));
        assert!(
            found.len() == 1 && found[0].contains(r"`umount '/media/it'\''s mine'`"),
            "{found:?}"
        );
    }
    machine.mounts.clear();
    assert!(texts(&machine.find("sdc"))[0].contains("cannot see"));
}

#[test]
fn a_disk_that_may_not_be_read_is_told_by_udev_and_one_without_medium_is_refused() {
    let machine = Machine::new();
    let place = machine.stick("sdb", "8:16", "1", &[]);
    fs::remove_file(machine.dir.path().join("dev/sdb")).unwrap();
    machine.write("run/udev/data/b8:16", "E:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=tank\n");
    let disk = machine.find("sdb");
    assert!(disk.content.unreadable.is_some());
    assert!(texts(&disk)[0].contains("ZFS pool (tank)"), "{:?}", texts(&disk));
    machine.write(&format!("sys/devices/{place}/size"), "0");
    let found = texts(&machine.find("sdb"));
    assert!(found[0].contains("nothing in it") && found.len() == 1, "{found:?}");
}

#[test]
fn cards_are_removable_and_soldered_memory_is_not_and_the_image_stays() {
    let machine = Machine::new();
    for (name, number, kind) in [("mmcblk0", "179:0", "MMC"), ("mmcblk1", "179:8", "SD")] {
        let place = format!("platform/{name}-host/block/{name}");
        machine.disk(&place, number, GIB, &[]);
        machine.write(&format!("sys/devices/{place}/device/type"), kind);
    }
    machine.disk("platform/x/block/mmcblk0boot0", "179:16", GIB, &[]);
    let disks = machine.host().disks().unwrap();
    let removable: Vec<_> = disks.iter().map(|disk| (&*disk.name, disk.removable)).collect();
    assert_eq!(removable, [("mmcblk0", false), ("mmcblk1", true)]);
    let source = refuse::Source { file: "/a.img".into(), disks: vec!["mmcblk1".to_owned()] };
    let policy = Policy { sources: vec![source], ..Policy::default() };
    assert_eq!(refusals(&disks[1], &policy)[0].remedy(), Remedy::Another);
    let backed = Disk { backing: Some("/a.img".into()), ..disks[0].clone() };
    assert_eq!(refusals(&backed, &policy)[0].remedy(), Remedy::Another, "made of the image");
    let host = machine.host();
    assert!(host.disks_under(Path::new("/a.img")).unwrap().is_empty());
}
