//! Any bytes on the DHCP port: the server answers or not, and never gives an address that is not
//! its own. The input is one message per 0xfe 0xed separator, so that states are reached too.
#![no_main]

use std::path::Path;
use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use sdc_booter::dhcp::Engine;
use sdc_booter::leases::Leases;
use sdc_booter::metrics::Metrics;
use sdc_booter::settings::Settings;

const CONFIG: &str = "datacenter_name=coal\ndns_domain=example.com\nadmin_nic=00:50:56:34:60:4c\n\
    admin_ip=10.99.99.7\nadmin_netmask=255.255.255.0\ndhcp_range_start=10.99.99.5\n\
    dhcp_range_end=10.99.99.20\n";

fuzz_target!(|data: &[u8]| {
    let (settings, _) =
        Settings::from_config(CONFIG, Path::new("/r"), Path::new("/s")).expect("a good config");
    let leases = Arc::new(Mutex::new(Leases::new(settings.range, settings.reserved())));
    let mut engine = Engine::new(Arc::new(settings), Arc::clone(&leases), Metrics::new());
    let mut rest = data;
    for now in 0.. {
        let cut = rest.windows(2).position(|w| w == [0xfe, 0xed]);
        if let Some(reply) = engine.hear(&rest[..cut.unwrap_or(rest.len())], now * 30) {
            assert!(reply.bytes.len() >= 300);
        }
        match cut {
            Some(cut) => rest = &rest[cut + 2..],
            None => break,
        }
    }
    let leases = leases.lock().expect("not poisoned");
    assert!(leases.iter().all(|lease| leases.ours(lease.ip)));
});
