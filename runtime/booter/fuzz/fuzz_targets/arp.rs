//! Any bytes as an ARP frame, and as an IPv4 packet of another DHCP server: read without a panic. An
//! ARP message's sender is always a NIC, a DHCP message always a part of the packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sdc_booter::{arp, overhear};

fuzz_target!(|data: &[u8]| {
    if let Some(message) = arp::parse(data) {
        assert!(data.len() >= 42 && message.sender.0 != [0; 6] && message.sender.0[0] & 1 == 0);
        let probe = arp::probe(message.sender, message.target);
        let read = arp::parse(&probe).expect("our own frame");
        assert!(!read.reply && read.ip.is_unspecified());
        assert_eq!((read.sender, read.target), (message.sender, message.target));
    }
    if let Some((from, message)) = overhear::message(data) {
        assert!(from.port() == 67 && message.len() + 28 <= data.len());
    }
});
