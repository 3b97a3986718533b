use std::net::Ipv4Addr;

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, EtherType, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};
use proptest::prelude::*;

use super::*;

const HEADNODE: (Mac, Ipv4Addr) = (Mac([0x52, 0x54, 0, 0, 0, 1]), Ipv4Addr::new(10, 99, 99, 7));
const NODE: (Mac, Ipv4Addr) = (Mac([0x52, 0x54, 0, 0, 0, 6]), Ipv4Addr::new(10, 98, 0, 20));
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const UPLINK: Ipv4Addr = Ipv4Addr::new(10, 99, 99, 1);

fn router() -> Router {
    Router::new(Rack::default())
}

fn handle(router: &mut Router, side: Side, frame: &[u8]) -> Out {
    let mut out = Vec::new();
    router.handle(side, frame, &mut out);
    out
}

/// The one frame that came of it.
fn one(router: &mut Router, side: Side, frame: &[u8]) -> (Side, Vec<u8>) {
    let mut out = handle(router, side, frame);
    assert_eq!(out.len(), 1, "{out:?}");
    out.remove(0)
}

fn arp(operation: ArpOperation, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation,
        sender_mac: from.0.0,
        sender_ipv4: from.1.octets(),
        target_mac: to.0.0,
        target_ipv4: to.1.octets(),
    };
    ethernet(from.0, to.0, EtherType::ARP, &packet.to_bytes())
}

fn packet(
    from: (Mac, Ipv4Addr),
    to: (Mac, Ipv4Addr),
    ttl: u8,
    ports: (u16, u16),
    text: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.0.0, to.0.0)
        .ipv4(from.1.octets(), to.1.octets(), ttl)
        .udp(ports.0, ports.1)
        .write(&mut frame, text)
        .unwrap();
    frame
}

/// What a UDP frame says: Ethernet receiver, source, destination, TTL, payload; its checksums are
/// right.
fn said(frame: &[u8]) -> (Mac, Ipv4Addr, Ipv4Addr, u8, Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("no IPv4") };
    let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
    let header = ip.header();
    assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
    let sum = udp.to_header().calc_checksum_ipv4(&header.to_header(), udp.payload()).unwrap();
    assert_eq!(udp.checksum(), sum);
    let (from, to) = (header.source_addr(), header.destination_addr());
    (addresses(frame).unwrap().1, from, to, header.ttl(), udp.payload().to_vec())
}

/// A DHCP message with these options.
fn message(op: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..3].copy_from_slice(&[op, 1, 6]);
    message[4..8].copy_from_slice(&[1, 2, 3, 4]);
    message[28..34].copy_from_slice(&NODE.0.0);
    message[236..240].copy_from_slice(&[99, 130, 83, 99]);
    message.extend_from_slice(options);
    message
}

const DISCOVER: [u8; 4] = [53, 1, 1, 255];
const CIRCUIT: [u8; 9] = [82, 7, 1, 5, b'r', b'a', b'c', b'k', b'1'];

fn from_client(message: &[u8]) -> Vec<u8> {
    let (nobody, all) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    packet((NODE.0, nobody), (EVERYBODY, all), 20, (68, 67), message)
}

fn from_server(message: &[u8]) -> Vec<u8> {
    packet(HEADNODE, (MACS[0], GATEWAY), 64, (67, 67), message)
}

/// Lets the router know the headnode and the node.
fn introduced() -> Router {
    let mut router = router();
    one(&mut router, Side::Uplink, &arp(ArpOperation::REQUEST, HEADNODE, (EVERYBODY, UPLINK)));
    one(&mut router, Side::Rack, &arp(ArpOperation::REQUEST, NODE, (EVERYBODY, GATEWAY)));
    router
}

#[test]
fn arp_is_answered_for_the_address_of_that_side_only() {
    let mut router = router();
    let (side, answer) =
        one(&mut router, Side::Rack, &arp(ArpOperation::REQUEST, NODE, (EVERYBODY, GATEWAY)));
    assert_eq!(side, Side::Rack);
    assert_eq!(answer, arp(ArpOperation::REPLY, (MACS[1], GATEWAY), NODE));
    for other in [UPLINK, HEADNODE.1, Ipv4Addr::new(10, 98, 0, 9)] {
        let asked = arp(ArpOperation::REQUEST, NODE, (EVERYBODY, other));
        assert_eq!(handle(&mut router, Side::Rack, &asked), []);
    }
}

#[test]
fn a_discover_is_relayed_with_the_gateway_and_the_circuit() {
    let mut router = introduced();
    let (side, frame) = one(&mut router, Side::Rack, &from_client(&message(1, &DISCOVER)));
    let (mac, from, to, _, relayed) = said(&frame);
    assert_eq!((side, mac, from, to), (Side::Uplink, HEADNODE.0, UPLINK, HEADNODE.1));
    let mut wanted = message(1, &[53, 1, 1]);
    wanted[3] = 1;
    wanted[24..28].copy_from_slice(&GATEWAY.octets());
    wanted.extend_from_slice(&CIRCUIT);
    wanted.push(255);
    wanted.resize(300, 0);
    assert_eq!(relayed, wanted);
}

#[test]
fn what_is_no_request_of_a_client_is_not_relayed() {
    let mut router = introduced();
    let mut relayed_before = message(1, &DISCOVER);
    relayed_before[24..28].copy_from_slice(&[10, 98, 0, 77]);
    let mut round_and_round = message(1, &DISCOVER);
    round_and_round[3] = 16;
    let pretends = message(1, &[&CIRCUIT[..], &DISCOVER].concat());
    let cut = message(1, &[53, 9, 1]);
    let reply = message(2, &DISCOVER);
    for message in [relayed_before, round_and_round, pretends, cut, reply, vec![1, 1, 6]] {
        assert_eq!(handle(&mut router, Side::Rack, &from_client(&message)), []);
    }
    // Nor does a broadcast of the admin network reach the rack.
    let here = message(1, &DISCOVER);
    assert_eq!(handle(&mut router, Side::Uplink, &from_client(&here)), []);
}

#[test]
fn a_reply_goes_to_the_client_without_the_circuit() {
    let mut router = introduced();
    let offer = |flags: u8, giaddr: Ipv4Addr| {
        let mut offer =
            message(2, &[&[53, 1, 2][..], &CIRCUIT, &[3, 4, 10, 98, 0, 1, 255]].concat());
        offer[10] = flags;
        offer[16..20].copy_from_slice(&NODE.1.octets());
        offer[24..28].copy_from_slice(&giaddr.octets());
        offer
    };
    let (side, frame) = one(&mut router, Side::Uplink, &from_server(&offer(0, GATEWAY)));
    let (mac, from, to, _, told) = said(&frame);
    assert_eq!((side, mac, from, to), (Side::Rack, NODE.0, GATEWAY, NODE.1));
    assert_eq!(told[240..250], [53, 1, 2, 3, 4, 10, 98, 0, 1, 255]);
    assert_eq!(told.len(), 300);

    let (_, frame) = one(&mut router, Side::Uplink, &from_server(&offer(0x80, GATEWAY)));
    let (mac, _, to, _, _) = said(&frame);
    assert_eq!((mac, to), (EVERYBODY, Ipv4Addr::BROADCAST));

    assert_eq!(handle(&mut router, Side::Uplink, &from_server(&offer(0, UPLINK))), []);
}

#[test]
fn packets_are_routed_both_ways_and_age() {
    let mut router = introduced();
    let there = packet(NODE, (MACS[1], HEADNODE.1), 64, (1000, 80), b"hello");
    let (side, frame) = one(&mut router, Side::Rack, &there);
    let wanted = (HEADNODE.0, NODE.1, HEADNODE.1, 63, b"hello".to_vec());
    assert_eq!((side, said(&frame)), (Side::Uplink, wanted));

    // Padding behind the packet stays behind.
    let mut back = packet(HEADNODE, (MACS[0], NODE.1), 2, (80, 1000), b"x");
    let length = back.len();
    back.resize(60, 0xee);
    let (side, frame) = one(&mut router, Side::Uplink, &back);
    assert_eq!((side, frame.len()), (Side::Rack, length));
    assert_eq!(said(&frame), (NODE.0, HEADNODE.1, NODE.1, 1, b"x".to_vec()));

    let dying = packet(HEADNODE, (MACS[0], NODE.1), 1, (80, 1000), b"x");
    assert_eq!(handle(&mut router, Side::Uplink, &dying), []);
    let mut wrong = there;
    wrong[14 + 10] ^= 1;
    assert_eq!(handle(&mut router, Side::Rack, &wrong), []);
}

#[test]
fn packets_to_elsewhere_or_to_others_are_dropped() {
    let mut router = introduced();
    let elsewhere = Ipv4Addr::new(8, 8, 8, 8);
    let own_side = Ipv4Addr::new(10, 98, 0, 30);
    for to in [elsewhere, own_side, Ipv4Addr::new(10, 99, 99, 255), Ipv4Addr::BROADCAST] {
        let frame = packet(NODE, (MACS[1], to), 64, (1, 2), b"x");
        assert_eq!(handle(&mut router, Side::Rack, &frame), [], "{to}");
    }
    let overheard = packet(NODE, (HEADNODE.0, HEADNODE.1), 64, (1, 2), b"x");
    assert_eq!(handle(&mut router, Side::Rack, &overheard), []);
}

#[test]
fn a_packet_waits_for_its_receivers_address() {
    let mut router = router();
    let frame = packet(NODE, (MACS[1], HEADNODE.1), 64, (1000, 80), b"hello");
    let (side, question) = one(&mut router, Side::Rack, &frame);
    assert_eq!(side, Side::Uplink);
    let mut wanted = arp(ArpOperation::REQUEST, (MACS[0], UPLINK), (Mac([0; 6]), HEADNODE.1));
    wanted[..6].copy_from_slice(&EVERYBODY.0);
    assert_eq!(question, wanted);
    let answer = arp(ArpOperation::REPLY, HEADNODE, (MACS[0], UPLINK));
    let (side, frame) = one(&mut router, Side::Uplink, &answer);
    assert_eq!((side, said(&frame).0, said(&frame).4), (Side::Uplink, HEADNODE.0, b"hello".into()));
    assert!(handle(&mut router, Side::Uplink, &answer).is_empty());
}

#[test]
fn only_so_many_packets_wait_and_the_oldest_go() {
    let mut router = router();
    for n in 0..WAITING + 10 {
        let text = n.to_string();
        let frame = packet(NODE, (MACS[1], HEADNODE.1), 64, (1, 2), text.as_bytes());
        handle(&mut router, Side::Rack, &frame);
    }
    let answer = arp(ArpOperation::REPLY, HEADNODE, (MACS[0], UPLINK));
    let out = handle(&mut router, Side::Uplink, &answer);
    assert_eq!((out.len(), said(&out[0].1).4), (WAITING, b"10".to_vec()));
}

#[test]
fn both_addresses_answer_a_ping() {
    let mut router = introduced();
    for address in [GATEWAY, UPLINK] {
        let mut ping = Vec::new();
        PacketBuilder::ethernet2(NODE.0.0, MACS[1].0)
            .ipv4(NODE.1.octets(), address.octets(), 64)
            .icmpv4_echo_request(7, 9)
            .write(&mut ping, b"are you there?")
            .unwrap();
        let (side, frame) = one(&mut router, Side::Rack, &ping);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Icmpv4(pong)) = sliced.transport else { panic!("no ICMP") };
        let Icmpv4Type::EchoReply(echo) = pong.icmp_type() else { panic!("no reply") };
        assert_eq!((side, echo.id, echo.seq), (Side::Rack, 7, 9));
        assert_eq!(pong.payload(), b"are you there?");
        assert_eq!(sender(&frame), address);
    }
}

fn sender(frame: &[u8]) -> Ipv4Addr {
    crate::lab::switch::sender_ip(frame).unwrap()
}

#[test]
fn a_wrong_rack_is_told() {
    assert_eq!(Rack::default().problems(), Vec::<String>::new());
    let rack = Rack {
        name: "Rack 1".to_owned(),
        gateway: "10.99.0.0/16".parse().unwrap(),
        server: Ipv4Addr::new(10, 1, 1, 1),
        ..Rack::default()
    };
    assert_eq!(rack.problems().len(), 4, "{:#?}", rack.problems());
}

proptest! {
    #[test]
    fn no_frame_makes_it_fail_or_send_more_than_a_few(
        frames in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..400)), 0..20),
        kind in prop::sample::select(vec![[8u8, 0], [8, 6]]),
    ) {
        let mut router = introduced();
        for (rack, mut frame) in frames {
            let side = if rack { Side::Rack } else { Side::Uplink };
            if frame.len() >= ETHERNET {
                frame[..6].copy_from_slice(&side.mac().0);
                frame[12..14].copy_from_slice(&kind);
            }
            let out = handle(&mut router, side, &frame);
            prop_assert!(out.len() <= WAITING + 1);
        }
        prop_assert!(router.waiting.len() <= WAITING && router.neighbours.len() <= NEIGHBOURS);
    }

    #[test]
    fn options_of_any_kind_pass_the_relay_unchanged(
        options in prop::collection::vec(
            (prop::sample::select(vec![12u8, 53, 55, 60, 61, 77, 93, 97, 43]), prop::collection::vec(any::<u8>(), 0..60)),
            0..12,
        ),
    ) {
        let mut bytes = Vec::new();
        for (code, value) in &options {
            bytes.extend_from_slice(&[*code, u8::try_from(value.len()).unwrap()]);
            bytes.extend_from_slice(value);
        }
        let sent = message(1, &[&bytes[..], &[255]].concat());
        let relayed = dhcp::to_server(&sent, GATEWAY, "rack1").unwrap();
        prop_assert_eq!(&relayed[240..240 + bytes.len()], &bytes[..]);
        let mut answer = relayed;
        answer[0] = 2;
        let (told, _) = dhcp::to_client(&answer, GATEWAY).unwrap();
        prop_assert_eq!(&told[240..240 + bytes.len()], &bytes[..]);
        prop_assert_eq!(told[240 + bytes.len()], 255);
    }
}
