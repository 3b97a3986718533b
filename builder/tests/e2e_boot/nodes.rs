//! The nodes of the test, and what is asked of them.

use std::time::{Duration, Instant};

use headnode::lab::{Firmware, admin_mac, machine_uuid};

use crate::datacenter::{Datacenter, figure};

pub const BOOT: Duration = Duration::from_secs(300);

pub const BIOS: &str = "node1";
pub const UEFI: &str = "node2";
pub const HTTP: &str = "node3";
/// A bad link.
pub const SLOW: &str = "node4";
/// Behind the relay: the last node is.
pub const RACK: &str = "node5";

/// Their firmware.
pub const FIRMWARE: [Firmware; 5] =
    [Firmware::Bios, Firmware::Uefi, Firmware::UefiHttp, Firmware::Bios, Firmware::Bios];

/// The node's Ethernet address.
pub fn mac(node: &str) -> String {
    admin_mac(node.strip_prefix("node").unwrap().parse().unwrap()).to_string()
}

/// Boots blank nodes side by side, until CNAPI has them.
pub fn boot(dc: &Datacenter, nodes: &[&str]) {
    let begin = Instant::now();
    for node in nodes {
        dc.lab.machine(node).power_on().unwrap();
    }
    // Not by their consoles: what is written there while the login prompt takes them over may be lost.
    for node in nodes {
        are_servers(dc, &[node]);
        let seconds = begin.elapsed().as_secs_f64();
        figure(&format!("{node}, power-on to registered, at most"), seconds, 75.0);
    }
}

/// CNAPI has these nodes, and they run.
pub fn are_servers(dc: &Datacenter, nodes: &[&str]) {
    are_servers_within(dc, nodes, BOOT);
}

/// The same, within so much time.
pub fn are_servers_within(dc: &Datacenter, nodes: &[&str], limit: Duration) {
    let name = dc.lab.spec().unwrap().name;
    dc.wait_servers(limit, |servers| {
        nodes.iter().all(|node| {
            let uuid = machine_uuid(&name, node).to_string();
            servers.iter().any(|s| s["uuid"] == uuid.as_str() && s["status"] == "running")
        })
    });
}

/// Pulls the node's plug and lets it boot again, until one can log in: it has its platform, its
/// address and its configuration, though nobody registers it.
pub fn reboot_unregistered(dc: &Datacenter, node: &str, how: &str) {
    let machine = dc.lab.machine(node);
    machine.power_kill().unwrap();
    machine.power_on().unwrap();
    let begin = Instant::now();
    dc.wait_said(node, "system_configured: done", BOOT);
    let seconds = begin.elapsed().as_secs_f64();
    figure(&format!("{node} {how}, power-on to configured, at most"), seconds, 75.0);
    let said = dc.on(node, "journalctl -b -u sdc-agent -o cat");
    assert!(!said.contains("registered: done"), "{node} registered {how}: {said}");
}

/// The node's firmware has told of HTTP boot, and has never tried PXE.
pub fn has_booted_by_http_only(dc: &Datacenter, node: &str) {
    let console = console(dc, node);
    assert!(console.contains(">>Start HTTP Boot over IPv4"), "{console}");
    assert!(!console.contains(">>Start PXE"), "{console}");
}

/// What the booter makes for a node lies in its root, for root alone (C§4.5).
pub fn has_its_boot_files(dc: &Datacenter, node: &str) {
    let file = "/etc/triton-networking.json";
    assert_eq!(dc.on(node, &format!("stat -c %a:%U {file}")).trim(), "600:root");
    let networking = dc.on(node, &format!("cat {file}"));
    assert!(networking.contains(&mac(node)), "{networking}");
}

/// The node has an address of the rack and speaks to the headnode by the rack's router.
pub fn is_behind_the_relay(dc: &Datacenter, node: &str, network: &str) {
    let route = dc.on(node, "ip -4 route get 10.99.99.7");
    assert!(route.contains("via 10.98.0.1 "), "{route}");
    assert!(route.contains(&format!("src {network}")), "{route}");
}

/// What the console has shown since the last power-on.
fn console(dc: &Datacenter, node: &str) -> String {
    let boot = dc.lab.machine(node).boot().unwrap();
    let log = std::fs::read(dc.lab.dir().join(node).join("console.log")).unwrap();
    String::from_utf8_lossy(&log[usize::try_from(boot.console_offset).unwrap()..]).into_owned()
}
