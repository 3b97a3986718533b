//! Any text as the lease file and its log: no panic, and whatever is read fits the networks.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sdc_booter::leases::{Leases, parse_log, parse_snapshot};
use sdc_booter::networks::Network;
use sdc_booter::settings::Settings;

const CONFIG: &str = "datacenter_name=coal\ndns_domain=example.com\nadmin_nic=00:50:56:34:60:4c\n\
    admin_ip=10.99.99.7\nadmin_netmask=255.255.255.0\ndhcp_range_start=10.99.99.5\n\
    dhcp_range_end=10.99.99.20\n";

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (settings, _) =
        Settings::from_config(CONFIG, Path::new("/r"), Path::new("/s")).expect("a good config");
    let mut leases = Leases::new(vec![Network::own(&settings)], settings.admin_ip);
    for lease in parse_snapshot(&text).0 {
        let _ = leases.restore(lease);
    }
    for entry in parse_log(&text).0 {
        let _ = leases.replay(entry);
    }
    assert!(leases.iter().all(|lease| leases.ours(lease.mac, lease.ip)));
});
