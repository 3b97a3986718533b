//! Any bytes on the DHCP ports, in all modes: the server answers or not, and never gives an address
//! that is not its own. The first byte chooses the settings; the rest is one message per 0xfe 0xed
//! separator, so that states are reached too.
#![no_main]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use headnode_model::net::MacAddr;
use sdc_booter::admission::Everybody;
use sdc_booter::arp;
use sdc_booter::dhcp::{self, Context, Engine, Mode, Origin};
use sdc_booter::leases::{Leases, parse_log};
use sdc_booter::live::Live;
use sdc_booter::metrics::Metrics;
use sdc_booter::networks::Network;
use sdc_booter::observe::Nobody;
use sdc_booter::settings::Settings;

const CONFIG: &str = "datacenter_name=coal\ndns_domain=example.com\nadmin_nic=00:50:56:34:60:4c\n\
    admin_ip=10.99.99.7\nadmin_netmask=255.255.255.0\ndhcp_range_start=10.99.99.5\n\
    dhcp_range_end=10.99.99.20\n";

fuzz_target!(|data: &[u8]| {
    let Some((choice, mut rest)) = data.split_first() else { return };
    let (booter, _) =
        Settings::from_config(CONFIG, Path::new("/r"), Path::new("/s")).expect("a good config");
    let own = Network::own(&booter);
    let rack = Network {
        name: "rack".into(),
        subnet: "10.5.0.0/24".parse().expect("a network"),
        circuits: vec!["r1".into()],
        ranges: Vec::new(),
        ..own.clone()
    };
    let settings = dhcp::Settings {
        mode: if choice & 1 == 0 { Mode::Server } else { Mode::Proxy },
        authoritative: choice & 2 == 0,
        allow_missing_class_id: choice & 4 != 0,
        allow_others: choice & 8 != 0,
        ..dhcp::Settings::default()
    };
    let leases = Arc::new(Mutex::new(Leases::new(vec![own, rack], booter.admin_ip)));
    let mut engine = Engine::new(Context {
        booter: Arc::new(booter),
        dhcp: Live::new(settings),
        leases: Arc::clone(&leases),
        metrics: Metrics::new(),
        gate: Arc::new(Everybody),
        observer: Arc::new(Nobody),
    });
    if choice & 32 != 0 {
        engine.probe_addresses();
    }
    let peer = SocketAddrV4::new(Ipv4Addr::new(10, 99, 99, 5), 68);
    let from = Origin { peer, proxy: choice & 16 != 0 };
    for now in 0.. {
        let cut = rest.windows(2).position(|w| w == [0xfe, 0xed]);
        if let Some(reply) = engine.hear(&rest[..cut.unwrap_or(rest.len())], from, now * 30) {
            assert!(reply.bytes.len() >= 300);
        }
        // Every other address that is asked about is in use.
        for ip in engine.take_probes() {
            let (sender, target) = (MacAddr([6, 0, 0, 0, 0, 1]), Ipv4Addr::UNSPECIFIED);
            if now % 2 == 0 {
                engine.arp(&arp::Message { reply: true, sender, ip, target }, now * 30);
            }
        }
        for reply in engine.end_probes(Instant::now() + Duration::from_secs(9), now * 30) {
            assert!(reply.bytes.len() >= 300);
        }
        assert_eq!(engine.next_end(), None);
        match cut {
            Some(cut) => rest = &rest[cut + 2..],
            None => break,
        }
    }
    let mut leases = leases.lock().expect("not poisoned");
    assert!(leases.iter().all(|lease| leases.ours(lease.mac, lease.ip)));
    assert!(choice & 1 == 0 || leases.is_empty());
    assert!(parse_log(&leases.take_journal()).1.is_empty());
});
