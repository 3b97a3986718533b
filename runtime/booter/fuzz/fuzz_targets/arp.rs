//! Any bytes as an ARP frame, and as an IPv4 packet of another DHCP server: read without a panic. An
//! ARP message's sender is always a NIC, a DHCP message always a part of the packet.
#![no_main]

use std::net::Ipv4Addr;

use headnode_model::net::MacAddr;
use libfuzzer_sys::fuzz_target;
use sdc_booter::{arp, overhear};

/// What comes after the head that all good messages have.
const BEHIND_HEAD: usize = 20;

fuzz_target!(|data: &[u8]| {
    read(data);
    let mut frame = arp::probe(MacAddr([2; 6]), Ipv4Addr::UNSPECIFIED);
    for (place, byte) in frame.iter_mut().skip(BEHIND_HEAD).zip(data) {
        *place = *byte;
    }
    read(&frame);
    // An IPv4 packet with a header of any length, protocol UDP.
    let mut packet = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17].to_vec();
    packet.extend(data);
    if let Some((length, _)) = data.split_first() {
        packet[0] = 0x40 | length & 15;
    }
    read(&packet);
});

fn read(data: &[u8]) {
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
}
