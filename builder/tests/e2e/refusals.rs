//! A headnode that must not be set up: it says why in words that help, and touches nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::datacenter::{Datacenter, options};
use headnode::image::SECTOR;
use headnode::image::disk::ROOT_START;
use headnode::image::fat::Volume;
use headnode::lab::Options;

const BOOT: Duration = Duration::from_secs(240);

/// One byte of the platform's archive differs from what the build wrote.
#[test]
fn e2e_a_damaged_key_does_not_start_and_names_the_file() {
    let key = Key::copy("refuse-flipped", |key| key.flip_within("platform/x86_64/initrd"));
    let dc = Datacenter::up(&key.options);
    dc.wait("headnode", r"platform/x86_64/initrd is damaged", BOOT);
}

/// GRUB does not look at the manifest; first boot does, before it touches anything.
#[test]
fn e2e_a_damaged_manifest_is_refused() {
    let key = Key::copy("refuse-manifest", |key| key.flip_within("manifest.json"));
    let dc = Datacenter::up(&key.options);
    dc.wait("headnode", r"manifest\.json on the key is damaged", BOOT);
    assert_blank(&dc);
}

/// The file system that the loader read is not a key any more when first boot looks for it.
#[test]
fn e2e_a_machine_without_its_key_says_where_it_looked() {
    let key = Key::copy("refuse-no-key", Key::hide_marker);
    let dc = Datacenter::up(&key.options);
    dc.wait("headnode", r"waiting for the key since \d+ s", BOOT);
    dc.wait("headnode", r"no key found: none of the FAT and ISO 9660 file systems", BOOT);
    assert_blank(&dc);
}

/// A disk image of its own that differs from the good one, and the options of a lab with it.
struct Key {
    options: Options,
    disk: File,
    /// Where `options.image` lies.
    _folder: tempfile::TempDir,
}

impl Key {
    fn copy(lab: &str, change: impl FnOnce(&Self)) -> Self {
        let mut options = options("good.img", lab);
        options.disks = vec![8 << 30];
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("changed.img");
        std::fs::copy(&options.image, &copy).unwrap();
        let disk = File::options().read(true).write(true).open(&copy).unwrap();
        options.image = copy;
        let this = Self { options, disk, _folder: folder };
        change(&this);
        this
    }

    /// Flips one bit amid a file.
    fn flip_within(&self, file: &str) {
        let start = ROOT_START * SECTOR;
        let length = self.disk.metadata().unwrap().len() - start;
        let mut volume = Volume::open(&self.disk, start, length).unwrap();
        let nodes = volume.walk().unwrap();
        let node = nodes.iter().find(|node| node.path.ends_with(file)).unwrap();
        let (offset, length) = volume.extents(node).unwrap()[0];
        let middle = offset + length / 2;
        let mut byte = [0];
        self.disk.read_exact_at(&mut byte, middle).unwrap();
        self.disk.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    }

    /// Renames the marker in the root folder, which lies before all files.
    fn hide_marker(&self) {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let start = ROOT_START * SECTOR;
        let mut head = vec![0; 8 << 20];
        self.disk.read_exact_at(&mut head, start).unwrap();
        // The first five letters of a long name stand together in its entry.
        let name = utf16(".joyl");
        let at: Vec<_> =
            (0..head.len() - name.len()).filter(|i| head[*i..].starts_with(&name)).collect();
        assert_eq!(at.len(), 1, "places of the marker's name");
        self.disk.write_all_at(&utf16(".lost"), start + at[0] as u64).unwrap();
    }
}

/// The headnode's first disk holds nothing but zeroes.
fn assert_blank(dc: &Datacenter) {
    use std::os::unix::fs::MetadataExt;
    dc.lab.machine("headnode").power_kill().unwrap();
    let disk = dc.lab.dir().join("headnode").join(headnode::lab::disks::disk_file(0));
    assert_eq!(std::fs::metadata(disk).unwrap().blocks(), 0, "the disk was written to");
}

/// A machine that has nothing to put a pool on.
#[test]
fn e2e_a_machine_without_a_disk_says_so() {
    let mut options = options("good.img", "refuse-no-disk");
    options.disks = vec![];
    let dc = Datacenter::up(&options);
    dc.wait("headnode", r"there is no disk for the pool: attach one of at least", BOOT);
}

/// The answers file has three errors, one of them an admin NIC that the machine does not have.
#[test]
fn e2e_all_errors_of_the_answers_are_named() {
    let mut options = options("answers.img", "refuse-answers");
    options.disks = vec![8 << 30];
    let dc = Datacenter::up(&options);
    for key in ["admin_nic", "admin_ip", "datacenter_name"] {
        dc.wait("headnode", &format!(r"^\s*{key}: "), BOOT);
    }
}

/// The only disk holds somebody's partition table.
#[test]
fn e2e_a_disk_in_use_is_named_and_not_touched() {
    let mut options = options("good.img", "refuse-disk");
    options.disks = vec![8 << 30];
    let dc = Datacenter::up(&options);
    let headnode = dc.lab.machine("headnode");
    headnode.power_kill().unwrap();
    let disk = dc.lab.dir().join("headnode").join(headnode::lab::disks::disk_file(0));
    let mut theirs = vec![0xa5_u8; 1 << 20];
    // An MBR with one Linux partition of 1 GiB, from sector 2048.
    theirs[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 2, 0, 0, 8, 0, 0, 0, 0, 0x20, 0]);
    theirs[462..510].fill(0);
    theirs[510..512].copy_from_slice(&[0x55, 0xaa]);
    let file = File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&theirs, 0).unwrap();
    headnode.power_on().unwrap();

    dc.wait("headnode", r"headnode-disk0.*dos partition table", BOOT);
    headnode.power_kill().unwrap();
    let mut now = vec![0; theirs.len()];
    File::open(&disk).unwrap().read_exact_at(&mut now, 0).unwrap();
    assert!(now == theirs, "the disk was changed");
}
