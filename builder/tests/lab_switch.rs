//! The switch as QEMU sees it: clients that connect to the ports' Unix sockets.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use headnode::lab::paths::{connect, listen};
use headnode::lab::switch::{Port, Switch};
use headnode::lab::{Rack, relay};

const DEADLINE: Duration = Duration::from_secs(10);

fn port(switch: &Switch, dir: &Path, name: &str) -> Port {
    let port = switch.add_port(name);
    port.serve(listen(&dir.join(name)).unwrap()).unwrap();
    port
}

fn plug(dir: &Path, port: &Port) -> UnixStream {
    let before = port.stats().connected;
    let stream = connect(&dir.join(port.name())).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let begin = Instant::now();
    while !before && !port.stats().connected {
        assert!(begin.elapsed() < DEADLINE, "the port takes nobody");
        std::thread::yield_now();
    }
    stream
}

fn frame(destination: u8, source: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0, 0, destination, 0x52, 0x54, 0, 0, 0, source, 0x88, 0xb5];
    frame.extend_from_slice(body);
    let mut out = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
    out.extend(frame);
    out
}

fn receive(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame[14..].to_vec()
}

#[test]
fn a_machine_that_is_switched_off_and_on_gets_its_port_back() {
    let folder = tempfile::tempdir().unwrap();
    let switch = Switch::new();
    let (a, b) = (port(&switch, folder.path(), "a"), port(&switch, folder.path(), "b"));
    let mut one = plug(folder.path(), &a);
    let mut two = plug(folder.path(), &b);
    for round in 0..3 {
        one.write_all(&frame(2, 1, &[round])).unwrap();
        assert_eq!(receive(&mut two), [round]);
        two.write_all(&frame(1, 2, &[round, 9])).unwrap();
        assert_eq!(receive(&mut one), [round, 9]);
        drop(two);
        let begin = Instant::now();
        while b.stats().connected {
            assert!(begin.elapsed() < DEADLINE, "the port does not notice");
            std::thread::yield_now();
        }
        two = plug(folder.path(), &b);
    }
}

#[test]
fn frames_that_come_in_single_bytes_and_frames_that_come_together_pass_alike() {
    let folder = tempfile::tempdir().unwrap();
    let switch = Switch::new();
    let (a, b) = (port(&switch, folder.path(), "a"), port(&switch, folder.path(), "b"));
    let mut one = plug(folder.path(), &a);
    let mut two = plug(folder.path(), &b);
    for byte in frame(2, 1, b"slow") {
        one.write_all(&[byte]).unwrap();
    }
    assert_eq!(receive(&mut two), b"slow");
    let mut together = Vec::new();
    for i in 0..1000u32 {
        together.extend(frame(2, 1, &i.to_be_bytes()));
    }
    one.write_all(&together).unwrap();
    for i in 0..1000u32 {
        assert_eq!(receive(&mut two), i.to_be_bytes());
    }
    // A frame is counted after it was written: its reader may be here first.
    let begin = Instant::now();
    while b.stats().frames_out < 1001 {
        assert!(begin.elapsed() < DEADLINE, "{} frames are counted", b.stats().frames_out);
        std::thread::yield_now();
    }
    assert_eq!(b.stats().frames_out, 1001);
}

#[test]
fn two_switches_know_nothing_of_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (left, right) = (Switch::new(), Switch::new());
    let ports = [
        port(&left, folder.path(), "l1"),
        port(&left, folder.path(), "l2"),
        port(&right, folder.path(), "r1"),
    ];
    let mut l1 = plug(folder.path(), &ports[0]);
    let mut l2 = plug(folder.path(), &ports[1]);
    let _r1 = plug(folder.path(), &ports[2]);
    l1.write_all(&frame(2, 1, b"left")).unwrap();
    assert_eq!(receive(&mut l2), b"left");
    assert_eq!(ports[2].stats().frames_out, 0);
}

/// An ARP request or reply (RFC 826), framed for the socket.
fn arp(operation: u8, from: ([u8; 6], [u8; 4]), to: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let ethernet = if operation == 1 { [0xff; 6] } else { to.0 };
    let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, operation];
    let frame = [&ethernet[..], &from.0, &head, &from.0, &from.1, &to.0, &to.1].concat();
    [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], &frame].concat()
}

#[test]
fn a_rack_sees_its_router_and_nothing_of_the_admin_network() {
    let folder = tempfile::tempdir().unwrap();
    let (admin, rack) = (Switch::new(), Switch::new());
    let (a, b) = (port(&admin, folder.path(), "a"), port(&rack, folder.path(), "b"));
    let (uplink, inside) = (admin.add_port("rack1"), rack.add_port("rack1"));
    relay::connect(&Rack::default(), &uplink, &inside).unwrap();
    let mut headnode = plug(folder.path(), &a);
    let mut node = plug(folder.path(), &b);

    // What the headnode shouts stays on its network: the node's first frame is the router's answer.
    headnode.write_all(&frame(0xff, 1, b"not for racks")).unwrap();
    let (mac, ip) = ([0x52, 0x54, 0, 0, 0, 6], [10, 98, 0, 20]);
    node.write_all(&arp(1, (mac, ip), ([0; 6], [10, 98, 0, 1]))).unwrap();
    let router = [0x52, 0x54, 0, 0, 2, 2];
    let answer = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &router, &[10, 98, 0, 1], &mac, &ip].concat();
    assert_eq!(receive(&mut node), answer);

    // A packet to the headnode makes the router ask for it; then the packet comes, one hop older.
    // Protocol 253 is for experiments (RFC 3692); the checksum is right.
    let mut packet = vec![0x45, 0, 0, 22, 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend_from_slice(&ip);
    packet.extend_from_slice(&[10, 99, 99, 7]);
    let sum = packet.chunks(2).fold(0u32, |sum, w| sum + u32::from(w[0]) * 256 + u32::from(w[1]));
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(b"hi");
    let sent = [&router[..], &mac, &[8, 0], &packet].concat();
    node.write_all(&[&u32::try_from(sent.len()).unwrap().to_be_bytes()[..], &sent].concat())
        .unwrap();
    let question = receive(&mut headnode);
    assert_eq!(question[24..28], [10, 99, 99, 7]);
    let (own, asker) = ([0x52, 0x54, 0, 0, 0, 1], [0x52, 0x54, 0, 0, 2, 1]);
    headnode.write_all(&arp(2, (own, [10, 99, 99, 7]), (asker, [10, 99, 99, 1]))).unwrap();
    let routed = receive(&mut headnode);
    assert_eq!((routed[8], &routed[12..]), (63, &packet[12..]));
}
