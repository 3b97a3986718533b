//! A headnode that must not be set up: it says why in words that help, and touches nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::datacenter::{Datacenter, options};
use headnode::image::SECTOR;
use headnode::image::disk::ROOT_START;
use headnode::image::fat::Volume;

const BOOT: Duration = Duration::from_secs(240);

/// One byte of the platform's archive differs from what the build wrote.
#[test]
fn e2e_a_damaged_key_does_not_start_and_names_the_file() {
    let mut options = options("good", "refuse-flipped");
    options.disks = vec![8 << 30];
    let folder = tempfile::tempdir().unwrap();
    options.image = flipped(&options.image, "platform/x86_64/initrd", folder.path());
    let dc = Datacenter::up(&options);
    dc.wait("headnode", r"platform/x86_64/initrd is damaged", BOOT);
}

/// A copy of an image in which one bit of a file on the key differs.
fn flipped(image: &Path, file: &str, folder: &Path) -> PathBuf {
    let copy = folder.join("flipped.img");
    std::fs::copy(image, &copy).unwrap();
    let disk = File::options().read(true).write(true).open(&copy).unwrap();
    let start = ROOT_START * SECTOR;
    let length = disk.metadata().unwrap().len() - start;
    let mut volume = Volume::open(disk.try_clone().unwrap(), start, length).unwrap();
    let nodes = volume.walk().unwrap();
    let node = nodes.iter().find(|node| node.path.ends_with(file)).unwrap();
    let (offset, length) = volume.extents(node).unwrap()[0];
    let middle = offset + length / 2;
    let mut byte = [0];
    disk.read_exact_at(&mut byte, middle).unwrap();
    disk.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    copy
}

/// The answers file has three errors, one of them an admin NIC that the machine does not have.
#[test]
fn e2e_all_errors_of_the_answers_are_named() {
    let mut options = options("answers", "refuse-answers");
    options.disks = vec![8 << 30];
    let dc = Datacenter::up(&options);
    for key in ["admin_nic", "admin_ip", "datacenter_name"] {
        dc.wait("headnode", &format!(r"^\s*{key}: "), BOOT);
    }
}

/// The only disk holds somebody's partition table.
#[test]
fn e2e_a_disk_in_use_is_named_and_not_touched() {
    let mut options = options("good", "refuse-disk");
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
