//! A headnode from each of the formats of a build.

use std::time::Duration;

use crate::datacenter::{Datacenter, image, options};
use headnode::lab::{Firmware, KeyBus, Options};

const BOOT: Duration = Duration::from_secs(300);

/// A headnode without nodes, with one disk.
fn alone(image: &str, lab: &str, key: KeyBus) -> Options {
    Options { disks: vec![8 << 30], key, ..options(image, lab) }
}

/// What is written to a disc is lost; the pool tells all that the second boot needs.
#[test]
fn e2e_formats_a_disc_sets_up_a_headnode_that_then_lives_on_its_pool() {
    let dc = Datacenter::up(&alone("good.iso", "disc", KeyBus::Cdrom));
    let seconds = dc.wait("headnode", "headnode setup complete", BOOT);
    println!("FIGURE disc: headnode, power-on to set up: {seconds:.1} s");
    dc.lab.machine("headnode").wait_ssh(BOOT).unwrap();
    dc.headnode("echo kept > /var/lib/kept && sync");
    let before = dc.boots("headnode");
    dc.reboot_headnode();
    dc.wait_next_boot("headnode", before, r"pool_imported: done", BOOT);
    dc.wait_next_boot("headnode", before, "headnode setup complete", BOOT);
    dc.lab.machine("headnode").wait_ssh(BOOT).unwrap();
    assert_eq!(dc.headnode("cat /var/lib/kept").trim(), "kept");
    let list = dc.headnode("sdc server list");
    assert!(list.contains("running"), "{list}");
}

/// The same image is good for a stick, too.
#[test]
fn e2e_formats_a_disc_boots_as_a_stick_by_uefi() {
    let options = alone("good.iso", "disc-stick", KeyBus::Usb);
    let dc = Datacenter::up(&Options { firmware: Firmware::Uefi, ..options });
    dc.wait("headnode", r"manifest_verified: done", BOOT);
}

#[test]
fn e2e_formats_a_headnode_is_set_up_over_the_network() {
    let dc = Datacenter::up(&alone("good-pxe.tgz", "pxe", KeyBus::Pxe));
    let seconds = dc.wait("headnode", "headnode setup complete", BOOT);
    println!("FIGURE network: headnode, power-on to set up: {seconds:.1} s");
    dc.lab.machine("headnode").wait_ssh(BOOT).unwrap();
    let key = dc.headnode("ls /usbkey /usbkey/os");
    assert!(key.contains("config") && key.contains("20"), "{key}");
}

/// The disks of virtual machines hold what the raw image holds. That of QEMU only has to be read; the
/// machine for VMware is set up, on the disk that comes with it for the pool and no other.
#[test]
fn e2e_formats_disks_of_virtual_machines_boot() {
    let dc = Datacenter::up(&alone("good.qcow2", "good-qcow2", KeyBus::Virtio));
    dc.wait("headnode", r"manifest_verified: done", BOOT);
    drop(dc);
    let options = Options {
        disks: Vec::new(),
        disk_images: vec![image("good-zpool.vmdk")],
        ..alone("good.vmdk", "good-vmdk", KeyBus::Virtio)
    };
    let dc = Datacenter::up(&options);
    let seconds = dc.wait("headnode", "headnode setup complete", BOOT);
    println!("FIGURE machine for VMware: headnode, power-on to set up: {seconds:.1} s");
}
