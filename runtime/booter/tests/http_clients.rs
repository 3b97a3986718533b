//! Many clients of the HTTP server, slow ones, and those that only want to be in the way.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod http_world;

use std::fs;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_world::{big, curl, world};
use sdc_booter::http::{Limits, SlowClient};
use socket2::{Domain, Socket, Type};

#[test]
fn who_stops_in_the_middle_is_told() {
    let world = world(Limits::default());
    let mut stream = world.connect();
    stream.write_all(b"GET /os/big HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    drop(stream);
    let (_, status, bytes, _) = world.told(|(path, _, _, complete)| path == "/os/big" && !complete);
    assert_eq!(status, 200);
    assert!(bytes < 12_000_001);
}

#[test]
fn a_crowd_of_slow_clients_keeps_nobody_from_a_file() {
    let world = world(Limits { connections: 64, head_seconds: 2, ..Limits::default() });
    // From one address: 200 that send a byte now and then.
    let mut crowd: Vec<_> = (0..200).map(|_| world.connect()).collect();
    // From others: heads that never end, more than there are places.
    let mut halves: Vec<_> = (0..100u8)
        .map(|n| {
            let mut stream = world.connect_from([127, 0, 1, n + 1]);
            stream.write_all(b"GET /os/a/kernel HTTP/1.1\r\nHo").unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    let mut good = world.connect_from([127, 0, 0, 2]);
    good.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    good.write_all(b"GET /os/a/kernel HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // The crowd goes on for as long as the good one waits.
    while let Err(error) = good.read_to_end(&mut answer) {
        assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10), "it got nothing");
        for stream in crowd.iter_mut().chain(&mut halves) {
            let _ = stream.write(b"G");
        }
    }
    assert!(answer.ends_with(b"\r\n\r\nkernel"));
    // And all of the crowd is closed in the end.
    for mut stream in crowd.into_iter().chain(halves) {
        match stream.read(&mut [0; 16]) {
            Ok(0) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
            Ok(_) => panic!("a half head was answered"),
        }
    }
}

#[test]
fn idle_connections_make_room_for_new_ones() {
    let world = world(Limits { connections: 8, ..Limits::default() });
    let ask = b"GET /os/a/kernel HTTP/1.1\r\nHost: a\r\n\r\n";
    let streams: Vec<_> = (0..30)
        .map(|_| {
            let mut stream = world.connect();
            stream.write_all(ask).unwrap();
            let mut head = [0; 15];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200 OK");
            stream
        })
        .collect();
    drop(streams);
}

#[test]
fn a_receiver_without_progress_is_given_up() {
    let world = world(Limits { stall_seconds: 1, ..Limits::default() });
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&world.address.into()).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    stream.write_all(b"GET /os/big HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let (_, _, bytes, complete) = world.told(|(path, ..)| path == "/os/big");
    assert!(!complete && bytes < 12_000_001);
    drop(stream);
}

#[test]
fn a_slow_client_gets_its_rate_and_others_get_all() {
    let slow = SlowClient { subnet: "127.0.0.3/32".parse().unwrap(), kib: 200 };
    let world = world(Limits { slow_clients: vec![slow], ..Limits::default() });
    let url = world.url("/os/big");
    let time = |arguments: &[&str]| {
        let begun = Instant::now();
        assert_eq!(curl(arguments).len(), 409_600);
        begun.elapsed()
    };
    let range = ["-r", "0-409599", &url];
    let two = time(&[&["--interface", "127.0.0.3"], range.as_slice()].concat());
    // How much later it is, and how fast others are, is a matter of the machine.
    assert!(two.as_secs_f64() >= 1.8, "{two:?}");
    let fastest = |arguments: &[&str]| (0..3).map(|_| time(arguments)).min().unwrap();
    let other = fastest(&range);
    assert!(other < two / 2, "{other:?}, {two:?}");
    // A reload counts for the next request.
    world.limits.set(Limits::default());
    let fast = fastest(&[&["--interface", "127.0.0.3"], range.as_slice()].concat());
    assert!(fast < two / 2, "{fast:?}, {two:?}");
}

#[test]
fn running_answers_may_end_when_it_stops() {
    let world = world(Limits { rate_limit_kib: 12_000, ..Limits::default() });
    let mut stream = world.connect();
    let mut idle = world.connect();
    idle.write_all(b"GET /os/a/kernel HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    idle.read_exact(&mut [0; 15]).unwrap();
    stream.write_all(b"GET /os/big HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 15]).unwrap();
    world.stop.cancel();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    rest.clear();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&big()));
    world.told(|(path, _, _, complete)| path == "/os/big" && *complete);
}

#[test]
fn many_clients_at_once_get_whole_files() {
    let world = world(Limits { connections_per_client: 4, ..Limits::default() });
    let expected = Arc::new(big());
    let threads: Vec<_> = (0..40u8)
        .map(|n| {
            let mut stream = world.connect_from([127, 0, 2, n + 1]);
            let expected = Arc::clone(&expected);
            std::thread::spawn(move || {
                let ask = "GET /os/big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
                stream.write_all(ask.as_bytes()).unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).unwrap();
                assert!(answer.ends_with(&expected));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(world.seen.0.lock().unwrap().iter().filter(|seen| seen.3).count(), 40);
}

#[test]
fn a_thousand_nodes_that_load_at_once_take_little_memory() {
    let resident = || {
        let about = fs::read_to_string("/proc/self/status").unwrap();
        let line = about.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap()
    };
    let world = world(Limits::default());
    let before = resident();
    let nodes: Vec<_> = (0..1000u16)
        .map(|n| {
            let [high, low] = (n / 4 + 1).to_be_bytes();
            let mut stream = world.connect_from([127, 1, high, low]);
            stream.write_all(b"GET /os/big HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            let mut head = [0; 15];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200 OK");
            stream
        })
        .collect();
    // All of them are in the middle of the file now.
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more for 1000 nodes");
    println!("{grown} KiB more for 1000 nodes");
    drop(nodes);
}
