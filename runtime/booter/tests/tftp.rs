//! TFTP over loopback, with a client that loses packets.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod tftp_client;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{LIMIT, kpxe, world};
use tftp_client::Client;
use tokio::net::UdpSocket;

const WIDE: [(&str, &str); 3] = [("blksize", "1468"), ("tsize", "0"), ("windowsize", "16")];

#[tokio::test]
async fn a_file_arrives_whole_in_every_way() {
    let world = world(Arc::default()).await;
    let whole = kpxe();
    for (options, size, window, lose) in [
        (&[][..], 512, 1, 0),
        (&[("blksize", "1468")][..], 1468, 1, 0),
        (&WIDE[..], 1468, 16, 0),
        // Every seventh packet lost: first, middle and last of a window in turn.
        (&[("blksize", "1468"), ("windowsize", "4")][..], 1468, 4, 7),
    ] {
        let mut client = Client::new(lose).await;
        client.request(world.tftp(), "undionly.kpxe", "octet", options).await;
        assert!(client.take(size, window).await == whole, "{options:?}");
    }
    // A multiple of the block size ends with an empty block.
    let mut client = Client::new(0).await;
    client.request(world.tftp(), "/snponly.efi", "OCTET", &[]).await;
    assert_eq!(client.take(512, 1).await.len(), 2048);
}

#[tokio::test]
async fn options_are_sent_again_for_a_repeated_request_and_data_when_no_answer_comes() {
    let world = world(Arc::default()).await;
    let mut client = Client::new(0).await;
    client.request(world.tftp(), "undionly.kpxe", "octet", &WIDE).await;
    let oack = client.receive().await;
    // As firmware does when the answer was lost.
    client.request(world.tftp(), "undionly.kpxe", "octet", &WIDE).await;
    assert_eq!(client.receive().await, oack);
    client.ack(0).await;
    // A whole window is thrown away.
    for _ in 0..16 {
        client.receive().await;
    }
    assert!(client.take(1468, 16).await == kpxe());
}

#[tokio::test]
async fn a_request_that_the_network_doubles_or_delays_ends_no_transfer() {
    let world = world(Arc::default()).await;
    let mut client = Client::new(0).await;
    client.request(world.tftp(), "undionly.kpxe", "octet", &WIDE).await;
    let oack = client.receive().await;
    let transfer = client.server;
    // The copy arrives after the answer to the first one has left: the client knows its port already.
    client.request(world.tftp(), "undionly.kpxe", "octet", &WIDE).await;
    client.server = transfer;
    assert_eq!(client.receive().await, oack, "from the same port");
    client.ack(0).await;
    client.receive().await;
    // Another copy is late; the client refuses what it starts, as RFC 1350 §4 wants.
    client.request(world.tftp(), "undionly.kpxe", "octet", &WIDE).await;
    let mut buffer = [0; 2048];
    let other = loop {
        let (length, from) = client.socket.recv_from(&mut buffer).await.unwrap();
        if buffer[..length] == oack[..] {
            break from;
        }
    };
    assert_ne!(Some(other), transfer);
    client.socket.send_to(b"\0\x05\0\x05Unknown transfer\0", other).await.unwrap();
    client.server = transfer;
    let mut block = 0_u16;
    loop {
        let packet = client.receive().await;
        if packet[..2] != [0, 3] {
            continue;
        }
        block = block.max(u16::from_be_bytes([packet[2], packet[3]]));
        if block.is_multiple_of(16) || packet.len() < 1472 {
            client.ack(block).await;
        }
        if packet.len() < 1472 {
            break;
        }
    }
    world.counted("tftp_transfers_total{kind=\"complete\"} 1").await;
}

#[tokio::test]
async fn block_numbers_roll_over() {
    let world = world(Arc::default()).await;
    let big = vec![9; 8 * 70_000 + 3];
    std::fs::write(world.dir.path().join("firmware/ipxe/big"), &big).unwrap();
    let mut client = Client::new(0).await;
    let options = [("blksize", "8"), ("windowsize", "32")];
    client.request(world.tftp(), "big", "octet", &options).await;
    assert_eq!(client.take(8, 32).await.len(), big.len());
}

#[tokio::test]
async fn edk2s_size_probe_and_its_real_request_from_the_same_port_work() {
    let world = world(Arc::default()).await;
    let mut client = Client::new(0).await;
    client.request(world.tftp(), "undionly.kpxe", "octet", &[("tsize", "0")]).await;
    let oack = client.receive().await;
    assert_eq!(oack, b"\0\x06tsize\x0084321\0");
    client.send(b"\0\x05\0\x08User aborted the transfer\0").await;
    client.request(world.tftp(), "undionly.kpxe", "octet", &WIDE).await;
    assert!(client.take(1468, 16).await == kpxe());
    // Also without the error, as when it is lost: the new request ends the old transfer.
    client.request(world.tftp(), "undionly.kpxe", "octet", &[("tsize", "0")]).await;
    client.receive().await;
    client.request(world.tftp(), "undionly.kpxe", "octet", &WIDE).await;
    assert!(client.take(1468, 16).await == kpxe());
    // The server counts a transfer when it has our last ACK.
    world.counted("tftp_transfers_total{kind=\"probe\"} 1").await;
    world.counted("tftp_transfers_total{kind=\"complete\"} 2").await;
}

#[tokio::test]
async fn a_repeated_ack_does_not_double_the_data() {
    let world = world(Arc::default()).await;
    let mut client = Client::new(0).await;
    client.request(world.tftp(), "undionly.kpxe", "octet", &[("timeout", "2")]).await;
    assert_eq!(client.receive().await, b"\0\x06timeout\x002\0");
    for _ in 0..5 {
        client.ack(0).await;
    }
    assert_eq!(client.receive().await[..4], [0, 3, 0, 1]);
    for _ in 0..5 {
        client.ack(1).await;
    }
    assert_eq!(client.receive().await[..4], [0, 3, 0, 2]);
    // Nothing but the retransmission, after the 2 s that were agreed.
    assert_eq!(client.receive_within(Duration::from_millis(300)).await, None);
}

#[tokio::test]
async fn what_is_not_served_is_refused_with_the_right_error() {
    let world = world(Arc::default()).await;
    for (name, mode, code) in [
        ("none", "octet", 1),
        ("../private/answers.json", "octet", 2),
        ("/etc/passwd", "octet", 1),
        ("undionly.kpxe", "netascii", 4),
        ("undionly.kpxe", "mail", 4),
    ] {
        let mut client = Client::new(0).await;
        client.request(world.tftp(), name, mode, &[]).await;
        let error = client.receive().await;
        assert_eq!(error[..4], [0, 5, 0, code], "{name}");
        assert!(!String::from_utf8_lossy(&error).contains("tmp"), "no path is told");
    }
    let mut client = Client::new(0).await;
    client.socket.send_to(b"\0\x02a\0octet\0", world.tftp()).await.unwrap();
    assert_eq!(client.receive().await[..4], [0, 5, 0, 2]);
}

#[tokio::test]
async fn rubbish_on_the_port_does_no_harm() {
    let world = world(Arc::default()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..1000u32 {
        let bytes: Vec<u8> = (0..n % 60).map(|i| (n.wrapping_mul(i + 7) >> 3) as u8).collect();
        socket.send_to(&bytes, world.tftp()).await.unwrap();
    }
    // The socket may still be full: a machine asks again.
    let until = Instant::now() + common::LIMIT;
    loop {
        let mut probe = Client::new(0).await;
        probe.request(world.tftp(), "none", "octet", &[]).await;
        if probe.receive_within(Duration::from_millis(500)).await.is_some() {
            break;
        }
        assert!(Instant::now() < until);
    }
    let mut client = Client::new(0).await;
    client.request(world.tftp(), "undionly.kpxe", "octet", &WIDE).await;
    assert!(client.take(1468, 16).await == kpxe());
}

#[tokio::test]
async fn new_settings_count_for_the_next_request_and_wrong_ones_are_refused() {
    let world = world(Arc::default()).await;
    let mut running = Client::new(0).await;
    running.request(world.tftp(), "undionly.kpxe", "octet", &WIDE).await;
    running.receive().await;
    assert_ne!(running.server, Some(world.tftp()));
    let folder = world.dir.path().join("config.inc");
    std::fs::create_dir_all(&folder).unwrap();
    let write = |text: &str| std::fs::write(folder.join("booter.toml"), text).unwrap();
    write("[tftp]\nports = \"single\"\ntransfers_per_client = 0\n");
    let error = world.booter.reload().await.unwrap_err();
    assert!(error.contains("tftp.transfers_per_client"), "{error}");
    write("[tftp]\nports = \"single\"\n");
    assert_eq!(world.booter.reload().await, Ok(vec!["tftp".to_owned()]));
    let mut client = Client::new(0).await;
    client.request(world.tftp(), "undionly.kpxe", "octet", &WIDE).await;
    assert!(client.take(1468, 16).await == kpxe());
    assert_eq!(client.server, Some(world.tftp()));
    // What has begun goes on as it was.
    running.ack(0).await;
    assert!(running.take(1468, 16).await == kpxe());
}
