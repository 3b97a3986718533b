//! The switch as QEMU sees it: clients that connect to the ports' Unix sockets.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use headnode::lab::paths::{connect, listen};
use headnode::lab::switch::{Port, Switch};

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
