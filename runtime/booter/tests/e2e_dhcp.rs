//! Beside others on the network: a machine that holds an address of the range on its own, and a second
//! DHCP server. Needs root, iproute2, curl, dnsmasq-base and
//! util-linux.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod lab;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::{encode, pxe};
use dhcproto::v4::MessageType;
use lab::{Cable, Lab, SERVER, config, ip, within};
use socket2::{Domain, Protocol, Socket, Type};

/// The stranger's NIC.
const STRANGER: &str = "02:ff:00:00:00:99";

impl Lab {
    /// A further machine on the booter's network, with a fixed address.
    fn stranger(&mut self, address: &str) -> String {
        let (server, name) = (self.server.clone(), format!("{}s", self.server));
        self.namespace(&name);
        ip(&format!("-n {server} link add strange0 type veth peer name eth0 netns {name}"));
        ip(&format!("-n {server} link set strange0 master br0 up"));
        ip(&format!("-n {name} link set eth0 address {STRANGER} up"));
        ip(&format!("-n {name} addr add {address}/16 dev eth0"));
        name
    }

    fn metrics(&self) -> String {
        self.run(&self.peer, "curl", &["-sSf", &format!("http://{SERVER}/metrics")])
    }

    /// The operator's interface.
    fn operator(&self, path: &str) -> String {
        let socket = self.path("operator.sock");
        let socket = socket.to_str().unwrap();
        let url = format!("http://booter{path}");
        self.run(&self.server, "curl", &["-sSf", "--unix-socket", socket, &url])
    }
}

#[test]
fn e2e_an_address_that_somebody_holds_is_not_given_away() {
    let mut lab = Lab::new("da", Cable::Good);
    let config = config("10.99.128.8", 2_592_000);
    lab.booter(&config, &[]);
    let plan = lab.plan(1);
    let free = *lab.boots(&plan).addresses.iter().next().unwrap();
    assert!(lab.metrics().contains("address_probes_total{kind=\"sent\"} 1"), "{}", lab.metrics());
    // The same again without its lease: it would get the same address, which somebody has now.
    let mut booter = lab.booter.take().unwrap();
    booter.kill().unwrap();
    booter.wait().unwrap();
    fs::remove_dir_all(lab.path("state")).unwrap();
    lab.stranger(&free.to_string());
    lab.booter(&config, &[]);
    let report = lab.boots(&plan);
    let got = *report.addresses.iter().next().unwrap();
    assert_ne!(got, free);
    let metrics = lab.metrics();
    assert!(metrics.contains("address_probes_total{kind=\"conflict\"} 1"), "{metrics}");
    assert!(metrics.contains("address_probes_total{kind=\"sent\"} 2"), "{metrics}");
    let told = format!("{free} is in use by {STRANGER}");
    assert!(lab.log("booter.log").contains(&told), "{}", lab.log("booter.log"));
    let events = lab.operator("/events");
    assert!(events.contains(&told), "{events}");
    // Known now: it keeps its address, and nobody is asked.
    assert_eq!(lab.boots(&plan).addresses.iter().next(), Some(&got));
    assert!(lab.metrics().contains("address_probes_total{kind=\"sent\"} 2"), "{}", lab.metrics());
}

#[test]
fn e2e_a_storm_of_new_machines_is_probed_at_once() {
    let mut lab = Lab::new("ds", Cable::Good);
    lab.booter(&lab::large(), &[]);
    let begun = Instant::now();
    lab.boots(&lab.plan(300));
    let took = begun.elapsed();
    let metrics = lab.metrics();
    let sent = metrics.lines().find_map(|line| {
        line.strip_prefix("sdc_booter_address_probes_total{kind=\"sent\"} ")?.parse::<u32>().ok()
    });
    assert!(sent.unwrap() >= 300, "{metrics}");
    // One after the other, the probes alone would take 90 s.
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn e2e_without_the_right_to_ask_machines_are_answered_at_once() {
    let mut lab = Lab::new("dn", Cable::Good);
    fs::write(lab.path("config"), lab::large()).unwrap();
    let program = env!("CARGO_BIN_EXE_sdc-booter");
    // Root without CAP_NET_RAW.
    let args = [
        "--inh-caps=-net_raw",
        "--bounding-set=-net_raw",
        program,
        "--root",
        ".",
        "--state",
        "state",
    ];
    let more = ["--config", "config", "--socket", "operator.sock", "--interface", "br0"];
    let booter = lab.start(&lab.server, "booter.log", "setpriv", &[&args[..], &more].concat());
    lab.booter = Some(booter);
    lab.wait_for("booter.log", "sdc-booter is ready", 30);
    lab.boots(&lab.plan(1));
    let log = lab.log("booter.log");
    assert_eq!(
        log.matches("the network is not asked whether an address is in use").count(),
        1,
        "{log}"
    );
    assert!(!lab.metrics().contains("address_probes_total{"), "{}", lab.metrics());
}

#[test]
fn e2e_a_second_dhcp_server_is_told_of() {
    let lab = Lab::new("do", Cable::Good);
    a_second_server_is_told_of(lab);
}

#[test]
fn e2e_a_second_dhcp_server_is_told_of_beside_a_dhcp_client_of_the_headnode() {
    let lab = Lab::new("dc", Cable::Good);
    // As `dhclient` holds it: on all interfaces.
    let holds = within(&lab.server, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68)).unwrap());
    let held = holds.join().unwrap();
    a_second_server_is_told_of(lab);
    drop(held);
}

fn a_second_server_is_told_of(mut lab: Lab) {
    lab.booter(&lab::large(), &[]);
    assert!(lab.operator("/status").contains("\"more\":[]"), "{}", lab.operator("/status"));
    let stranger = lab.stranger("10.99.0.9");
    let (range, leases) = ("--dhcp-range=10.99.64.1,10.99.64.200,1h", lab.path("dnsmasq.leases"));
    let leases = format!("--dhcp-leasefile={}", leases.display());
    let args = [
        "-k",
        "--conf-file=/dev/null",
        "--log-facility=-",
        "--port=0",
        "--interface=eth0",
        "--user=root",
        "--pid-file=",
        "--no-ping",
        "--dhcp-broadcast",
        range,
        &leases,
    ];
    lab.spawn(&stranger, "dnsmasq.log", "dnsmasq", &args);
    lab.wait_for("dnsmasq.log", "started", 20);
    assert!(!lab.log("booter.log").contains("noticed by"), "{}", lab.log("booter.log"));
    let asks = within(&lab.peer, || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.bind_device(Some(b"eth0")).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into()).unwrap();
        let discover = encode(&pxe(MessageType::Discover, [2, 0, 0, 0, 0, 9], None));
        let everyone = SocketAddr::from((Ipv4Addr::BROADCAST, 67));
        socket.send_to(&discover, &everyone.into()).unwrap();
    });
    asks.join().unwrap();
    lab.wait_for("booter.log", "two DHCP servers: 10.99.0.9", 20);
    let metrics = lab.metrics();
    assert!(metrics.contains("sdc_booter_foreign_dhcp_servers_total 1"), "{metrics}");
    let status = lab.operator("/status");
    assert!(status.contains("other DHCP server 10.99.0.9"), "{status}");
    assert!(status.contains("1 messages, last: offer to 02:00:00:00:00:09 at 20"), "{status}");
}
