//! The whole chain in QEMU: an image boots a blank headnode, blank nodes PXE-boot from it, register
//! and are set up; then everything is rebooted and must be there again.

use std::time::Duration;

use crate::datacenter::{Datacenter, figure, options};
use headnode::lab::{Firmware, machine_uuid};

/// On an idle machine a third of this; the figures that are aimed at are printed, not asserted:
/// the machine that runs the tests may be a slow one.
const BOOT: Duration = Duration::from_secs(300);

/// Lines of the console at which the headnode's plug is pulled during first boot, one after the
/// other: when the pool is about to be made, when it has just been, and amid the copying of the key.
const CUTS: [&str; 3] = ["admin_nic_up: done", "pool_created: done", r"key_copied: +5\d %"];

#[test]
fn e2e_spine_bios_with_power_cuts() {
    spine(Firmware::Bios, &CUTS);
}

#[test]
fn e2e_spine_uefi() {
    spine(Firmware::Uefi, &[]);
}

fn spine(firmware: Firmware, cuts: &[&str]) {
    let mut options = options("good.img", &format!("spine-{firmware:?}").to_lowercase());
    options.firmware = firmware;
    options.nodes = 2;
    options.nodes_off = true;
    // A board with the UUID of another one; its firmware makes no difference.
    let twin = (firmware == Firmware::Bios).then_some("node3");
    if let Some(twin) = twin {
        options.nodes = 3;
        options.uuids = vec![(twin.to_owned(), machine_uuid(&options.name, "node1"))];
    }
    let pcap = options.dir.with_extension("pcap");
    options.record = Some(pcap);
    let dc = Datacenter::up(&options);
    let word = format!("{firmware:?}");

    for cut in cuts {
        let seconds = dc.wait("headnode", cut, BOOT);
        dc.lab.machine("headnode").power_kill().unwrap();
        println!("{word}: plug pulled {seconds:.1} s after power-on, at {cut:?}");
        dc.lab.machine("headnode").power_on().unwrap();
    }
    let seconds = dc.wait("headnode", "headnode setup complete", BOOT);
    let what = if cuts.is_empty() { "power-on to set up" } else { "power-on after cuts to set up" };
    figure(&format!("{word}: headnode, {what}"), seconds, 90.0);

    for node in ["node1", "node2"] {
        dc.lab.machine(node).power_on().unwrap();
    }
    for node in ["node1", "node2"] {
        let seconds = dc.wait(node, r"registered: done", BOOT);
        figure(&format!("{word}: {node}, power-on to registered"), seconds, 75.0);
    }
    let servers = dc.wait_servers(BOOT, |servers| {
        servers.len() == 3
            && servers.iter().all(|s| s["status"] == "running" && s["setup"] == s["headnode"])
    });

    if let Some(twin) = twin {
        dc.lab.machine(twin).power_on().unwrap();
    }
    dc.headnode("sdc server setup --all --wait");
    let check = |dc: &Datacenter| {
        let servers = dc.wait_servers(BOOT, |servers| {
            servers.len() == 3
                && servers.iter().all(|s| s["status"] == "running" && s["setup"] == true)
        });
        let headnodes = servers.iter().filter(|s| s["headnode"] == true).count();
        assert_eq!(headnodes, 1, "{servers:#?}");
        for (name, machine) in ["headnode", "node1", "node2"].map(|n| (n, dc.lab.machine(n))) {
            let pool = machine.ssh("zpool status zones").unwrap().stdout;
            assert!(pool.contains("state: ONLINE"), "{name}: {pool}");
            assert!(pool.contains("mirror-0"), "{name}: {pool}");
            let datasets = machine.ssh("zfs list -H -o name").unwrap().stdout;
            for dataset in ["zones/config", "zones/opt", "zones/var"] {
                assert!(datasets.lines().any(|l| l == dataset), "{name}: {datasets}");
            }
            let mounts = machine.ssh("cat /proc/mounts").unwrap().stdout;
            assert!(mounts.contains("zones/var /var zfs"), "{name}: {mounts}");
        }
        let key = dc.headnode("ls /usbkey /usbkey/os");
        assert!(key.contains("config") && !key.contains("private"), "{key}");
    };
    check(&dc);
    dc.memory_of_services();
    if let Some(twin) = twin {
        dc.wait_said(twin, "CNAPI REFUSES this server: ", BOOT);
        dc.wait_said(twin, "override_uuid=", BOOT);
        dc.lab.machine(twin).power_kill().unwrap();
        check(&dc);
    }

    // Something that must survive, on each machine.
    for machine in ["headnode", "node1", "node2"] {
        dc.lab.machine(machine).ssh("echo kept > /var/lib/kept && sync").unwrap();
    }
    let nodes = servers.iter().filter(|s| s["headnode"] == false);
    let reboots: String = nodes
        .map(|s| format!("sdc server reboot {} --wait & ", s["uuid"].as_str().unwrap()))
        .collect();
    dc.lab.machine("headnode").ssh_within(&format!("{reboots} wait"), BOOT).unwrap();
    let before = dc.boots("headnode");
    dc.reboot_headnode();
    let seconds = dc.wait_next_boot("headnode", before, "headnode setup complete", BOOT);
    figure(&format!("{word}: headnode, second boot to up"), seconds, 90.0);
    check(&dc);
    for machine in ["headnode", "node1", "node2"] {
        let kept = dc.lab.machine(machine).ssh("cat /var/lib/kept").unwrap().stdout;
        assert_eq!(kept.trim(), "kept", "{machine} lost what was on its pool");
    }
}
