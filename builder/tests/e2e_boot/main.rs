//! Everything that a node can be booted by, in one datacenter in QEMU: `ci/e2e` builds its image.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../e2e/datacenter.rs"]
#[allow(dead_code)]
mod datacenter;
mod nodes;
mod package;
mod traffic;

use std::time::{Duration, Instant};

use datacenter::{Datacenter, figure, options};
use headnode::lab::control::LinkChange;
use nodes::{BIOS, BOOT, HTTP, RACK, SLOW, UEFI};

/// How long the nodes of a bad link may take: TCP is slow there, whoever sends.
const SLOW_BOOT: Duration = Duration::from_secs(900);

/// The rack's network, as an operator tells it to the booter.
const BOOTER: &str = r#"
[[network]]
name = "rack1"
subnet = "10.98.0.0/24"
ranges = [{ first = "10.98.0.10", last = "10.98.0.200" }]
gateway = "10.98.0.1"
nic_tag = "admin_rack_1"
circuits = ["rack1"]
"#;

#[test]
fn e2e_boot_by_any_firmware_over_any_network_and_without_the_control_plane() {
    let begin = Instant::now();
    let mut options = options("good.img", "boot");
    options.nodes = 5;
    options.nodes_off = true;
    options.rack_nodes = 1;
    options.node_firmware = nodes::FIRMWARE.to_vec();
    options.record = Some(options.dir.with_extension("pcap"));
    let dc = Datacenter::up(&options);
    let recordings = dc.lab.spec().unwrap().recordings();
    dc.wait("headnode", "headnode setup complete", BOOT);
    dc.lab.machine("headnode").wait_ssh(BOOT).unwrap();

    // Both networks' router has this address, as a site's would.
    dc.headnode("ip route add 10.98.0.0/24 via 10.99.99.1");
    dc.headnode(&format!("cat > /usbkey/config.inc/booter.toml <<'END'{BOOTER}END"));
    dc.headnode("systemctl restart sdc-booter");

    let slow = LinkChange { loss_percent: Some(5.0), delay_ms: Some(50), ..LinkChange::default() };
    dc.lab.machine(SLOW).link(slow).unwrap();
    let slow_begin = Instant::now();
    dc.lab.machine(SLOW).power_on().unwrap();

    nodes::boot(&dc, &[BIOS, UEFI]);
    nodes::boot(&dc, &[HTTP, RACK]);
    nodes::has_booted_by_http_only(&dc, HTTP);
    nodes::is_behind_the_relay(&dc, RACK, "10.98.0.");
    // Not by its console: what is written there while the login prompt takes it over may be lost.
    nodes::are_servers_within(&dc, &[SLOW], SLOW_BOOT);
    let seconds = slow_begin.elapsed().as_secs_f64();
    figure("node with 5 % loss and 50 ms delay, power-on to registered, at most", seconds, 300.0);
    nodes::are_servers(&dc, &[BIOS, UEFI, HTTP, RACK, SLOW]);
    for node in [BIOS, UEFI, HTTP, RACK, SLOW] {
        nodes::has_its_boot_files(&dc, node);
    }
    package::is_a_service(&dc, UEFI);
    for node in [HTTP, RACK, SLOW] {
        dc.lab.machine(node).power_kill().unwrap();
    }

    dc.headnode("systemctl stop sdc-control");
    nodes::reboot_unregistered(&dc, BIOS, "with the control plane stopped");
    dc.headnode("systemctl start sdc-control");
    dc.wait_said(BIOS, "registered: done", BOOT);

    dc.headnode("systemctl kill --signal STOP sdc-control");
    nodes::reboot_unregistered(&dc, UEFI, "with the control plane hanging");
    dc.headnode("systemctl kill --signal CONT sdc-control");
    dc.wait_said(UEFI, "registered: done", BOOT);

    // Ends the recordings.
    drop(dc);
    traffic::is_well_formed(&recordings);
    let questions: Vec<_> = recordings.iter().map(|r| traffic::questions(r)).collect();
    traffic::has_booted_by_http(&questions[0], &nodes::mac(HTTP));
    traffic::has_relayed(&questions, &nodes::mac(RACK));
    for recording in recordings.into_iter().chain(questions) {
        std::fs::remove_file(recording).unwrap();
    }
    figure("all boots", begin.elapsed().as_secs_f64(), 360.0);
}
