//! Many machines at once, and machines on bad networks and beside services that are down. Needs root,
//! iproute2, python3 and isc-dhcp-relay.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod lab;

use std::time::{Duration, Instant};

use lab::standin::{CNAPI, Standin};
use lab::{Cable, Lab, ip, large, storm_in};
use sdc_storm::{Report, Stage, tftp};

/// A network behind a relay whose own address on it is 10.98.0.1.
const RELAYED: &str = "datacenter_name=t\ndns_domain=t\nadmin_nic=02:00:00:00:00:07\n\
    admin_ip=10.99.0.7\nadmin_netmask=255.255.0.0\ndhcp_range_start=10.99.128.1\n\
    dhcp_range_end=10.99.255.254\n";
/// The network behind the relay, beside that configuration.
const RACK: &str = "[[network]]\nname = \"rack1\"\nsubnet = \"10.98.0.0/24\"\n\
    ranges = [{ first = \"10.98.0.128\", last = \"10.98.0.254\" }]\ngateway = \"10.98.0.1\"\n\
    nic_tag = \"admin_rack_1\"\n";

fn longest(report: &Report, stage: Stage) -> f64 {
    report.stages.iter().find(|found| found.stage == stage).unwrap().max
}

#[test]
fn e2e_a_thousand_machines_boot_at_once() {
    let mut lab = Lab::new("k", Cable::Good);
    let cnapi = Standin::start(&lab, common::STAMP);
    lab.booter(&large(), &[]);
    let mut plan = lab.plan(1000);
    plan.register = Some(format!("http://{CNAPI}"));
    let report = lab.boots(&plan);
    assert_eq!(report.gave_up, 0);
    assert_eq!(report.addresses.len(), 1000);
    assert_eq!(cnapi.registered.count(), 1000);
    let peak = lab.memory("VmHWM");
    println!("the booter's memory at most: {:.1} MB", peak as f64 / 1e6);
    assert!(peak < 256_000_000, "{peak}");
    // The same machines again get the same addresses.
    assert_eq!(lab.boots(&plan).addresses, report.addresses);
    cnapi.stop();
}

#[test]
fn e2e_machines_boot_over_a_bad_cable() {
    // With 5 % one machine in some thousand gives up, as firmware does after four tries; a boot over
    // such a cable is in the builder's `e2e_boot`.
    let mut lab = Lab::new("l", Cable::Lossy(0.03, 0.025));
    lab.booter(&large(), &[]);
    let plan = lab.plan(10);
    let report = lab.boots(&plan);
    let retries: u64 = report.stages.iter().map(|stage| stage.retries).sum();
    println!("{retries} messages sent again by the machines");
    let lost = lab.log("cable.log").matches("lost").count();
    assert!(lost > 20, "the cable lost {lost} packets only");
    let windows = tftp::Options { window: 16, ..plan.tftp.clone() };
    let mut plan = plan;
    plan.tftp = windows;
    lab.boots(&plan);
}

#[test]
fn e2e_machines_behind_a_relay_boot() {
    let mut lab = Lab::new("r", Cable::Good);
    let (rack, peer) = (format!("{}r", lab.server), lab.peer.clone());
    lab.namespace(&rack);
    ip(&format!("-n {peer} link add eth1 type veth peer name eth0 netns {rack}"));
    ip(&format!("-n {peer} addr add 10.98.0.1/24 dev eth1"));
    ip(&format!("-n {peer} link set eth1 up"));
    ip(&format!("-n {rack} link set eth0 up"));
    ip(&format!("-n {rack} addr add 10.98.0.2/24 dev eth0"));
    ip(&format!("-n {rack} route add local 10.98.0.128/25 dev eth0"));
    ip(&format!("-n {rack} route add default via 10.98.0.1"));
    ip(&format!("-n {} route add 10.98.0.0/24 via {}", lab.server, lab::PEER));
    ip(&format!("-n {peer} route add 10.98.0.128/25 via 10.98.0.2"));
    lab.run(&peer, "sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
    lab.run(&rack, "sysctl", &["-qw", "net.ipv4.conf.eth0.arp_ignore=1"]);
    lab.settings(RACK);
    lab.booter(RELAYED, &[]);
    let relay = ["-d", "-4", "-a", "-id", "eth1", "-iu", "eth0", lab::SERVER];
    lab.spawn(&peer, "relay.log", "dhcrelay", &relay);
    lab.wait_for("relay.log", "Sending on   Socket/fallback", 20);
    let report = storm_in(&rack, &lab.plan(50));
    println!("{report}");
    assert!(report.is_good(), "{report}\n{}", lab.log("relay.log"));
    let net: ipnet::Ipv4Net = "10.98.0.0/24".parse().unwrap();
    assert!(report.addresses.iter().all(|ip| net.contains(ip)), "{:?}", report.addresses);
}

#[test]
fn e2e_known_and_new_machines_boot_while_cnapi_is_stopped() {
    let mut lab = Lab::new("s", Cable::Good);
    let cnapi = Standin::start(&lab, common::STAMP);
    lab.booter(&large(), &[]);
    let known = lab.plan(20);
    let before = lab.boots(&known);
    cnapi.stop();
    let report = lab.boots(&known);
    assert_eq!(report.addresses, before.addresses);
    assert!(longest(&report, Stage::Script) < 10.0, "{report}");
    let mut fresh = lab.plan(20);
    fresh.first = 1000;
    let report = lab.boots(&fresh);
    assert!(longest(&report, Stage::Script) < 30.0, "{report}");
}

#[test]
fn e2e_known_machines_boot_in_time_while_cnapi_hangs() {
    let mut lab = Lab::new("h", Cable::Good);
    let cnapi = Standin::start(&lab, common::STAMP);
    lab.booter(&large(), &[]);
    let known = lab.plan(50);
    lab.boots(&known);
    cnapi.stop();
    let hanging = Standin::hanging(&lab);
    let begun = Instant::now();
    let report = lab.boots(&known);
    assert!(longest(&report, Stage::Script) < 10.0, "{report}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    // New ones wait for the budget of 28 s (C§4.1), and boot with the defaults.
    let mut fresh = lab.plan(50);
    fresh.first = 1000;
    let report = lab.boots(&fresh);
    assert!(longest(&report, Stage::Script) < 35.0, "{report}");
    hanging.stop();
}
