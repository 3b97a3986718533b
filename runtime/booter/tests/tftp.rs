//! TFTP over loopback, with a client that loses packets.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{LIMIT, World, kpxe, world};
use tokio::net::UdpSocket;

/// Client side of one transfer.
struct Client {
    socket: UdpSocket,
    server: Option<SocketAddr>,
    /// Every n-th received packet is thrown away; 0 for none.
    lose: usize,
    received: usize,
}

impl Client {
    async fn new(lose: usize) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        Self { socket, server: None, lose, received: 0 }
    }

    async fn request(&mut self, world: &World, name: &str, mode: &str, options: &[(&str, &str)]) {
        let mut bytes = vec![0, 1];
        for text in [name, mode].into_iter().chain(options.iter().flat_map(|(n, v)| [*n, *v])) {
            bytes.extend(text.bytes());
            bytes.push(0);
        }
        self.server = None;
        self.socket.send_to(&bytes, world.tftp()).await.unwrap();
    }

    async fn receive(&mut self) -> Vec<u8> {
        self.receive_within(LIMIT).await.expect("no packet from the server")
    }

    async fn receive_within(&mut self, limit: Duration) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        loop {
            let got = tokio::time::timeout(limit, self.socket.recv_from(&mut buffer)).await.ok()?;
            let (length, from) = got.unwrap();
            if self.server.is_some_and(|server| server != from) {
                continue;
            }
            self.server = Some(from);
            self.received += 1;
            if self.lose == 0 || !self.received.is_multiple_of(self.lose) {
                return Some(buffer[..length].to_vec());
            }
        }
    }

    async fn send(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.server.unwrap()).await.unwrap();
    }

    async fn ack(&self, block: u16) {
        let [a, b] = block.to_be_bytes();
        self.send(&[0, 4, a, b]).await;
    }

    /// Takes a whole file as RFC 7440 describes.
    async fn take(&mut self, size: usize, window: u16) -> Vec<u8> {
        let mut content = Vec::new();
        let (mut expected, mut in_window) = (1u16, 0);
        loop {
            let packet = self.receive().await;
            match packet[..4] {
                [0, 6, ..] => self.ack(0).await,
                [0, 3, a, b] => {
                    let block = u16::from_be_bytes([a, b]);
                    if block != expected {
                        self.ack(expected.wrapping_sub(1)).await;
                        in_window = 0;
                        continue;
                    }
                    content.extend(&packet[4..]);
                    expected = expected.wrapping_add(1);
                    in_window += 1;
                    let last = packet.len() - 4 < size;
                    if in_window == window || last {
                        self.ack(block).await;
                        in_window = 0;
                    }
                    if last {
                        return content;
                    }
                }
                _ => panic!("{packet:?}"),
            }
        }
    }
}

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
        client.request(&world, "undionly.kpxe", "octet", options).await;
        assert!(client.take(size, window).await == whole, "{options:?}");
    }
    // A multiple of the block size ends with an empty block.
    let mut client = Client::new(0).await;
    client.request(&world, "/snponly.efi", "OCTET", &[]).await;
    assert_eq!(client.take(512, 1).await.len(), 2048);
}

#[tokio::test]
async fn options_are_sent_again_for_a_repeated_request_and_data_when_no_answer_comes() {
    let world = world(Arc::default()).await;
    let mut client = Client::new(0).await;
    client.request(&world, "undionly.kpxe", "octet", &WIDE).await;
    let oack = client.receive().await;
    // As firmware does when the answer was lost.
    client.request(&world, "undionly.kpxe", "octet", &WIDE).await;
    assert_eq!(client.receive().await, oack);
    client.ack(0).await;
    // A whole window is thrown away.
    for _ in 0..16 {
        client.receive().await;
    }
    assert!(client.take(1468, 16).await == kpxe());
}

#[tokio::test]
async fn block_numbers_roll_over() {
    let world = world(Arc::default()).await;
    let big = vec![9; 8 * 70_000 + 3];
    std::fs::write(world.dir.path().join("firmware/ipxe/big"), &big).unwrap();
    let mut client = Client::new(0).await;
    let options = [("blksize", "8"), ("windowsize", "32")];
    client.request(&world, "big", "octet", &options).await;
    assert_eq!(client.take(8, 32).await.len(), big.len());
}

#[tokio::test]
async fn edk2s_size_probe_and_its_real_request_from_the_same_port_work() {
    let world = world(Arc::default()).await;
    let mut client = Client::new(0).await;
    client.request(&world, "undionly.kpxe", "octet", &[("tsize", "0")]).await;
    let oack = client.receive().await;
    assert_eq!(oack, b"\0\x06tsize\x0084321\0");
    client.send(b"\0\x05\0\x08User aborted the transfer\0").await;
    client.request(&world, "undionly.kpxe", "octet", &WIDE).await;
    assert!(client.take(1468, 16).await == kpxe());
    // Also without the error, as when it is lost: the new request ends the old transfer.
    client.request(&world, "undionly.kpxe", "octet", &[("tsize", "0")]).await;
    client.receive().await;
    client.request(&world, "undionly.kpxe", "octet", &WIDE).await;
    assert!(client.take(1468, 16).await == kpxe());
    // The server counts a transfer when it has our last ACK.
    world.counted("tftp_transfers_total{kind=\"probe\"} 1").await;
    world.counted("tftp_transfers_total{kind=\"complete\"} 2").await;
}

#[tokio::test]
async fn a_repeated_ack_does_not_double_the_data() {
    let world = world(Arc::default()).await;
    let mut client = Client::new(0).await;
    client.request(&world, "undionly.kpxe", "octet", &[("timeout", "2")]).await;
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
        ("/etc/passwd", "octet", 2),
        ("undionly.kpxe", "netascii", 4),
        ("undionly.kpxe", "mail", 4),
    ] {
        let mut client = Client::new(0).await;
        client.request(&world, name, mode, &[]).await;
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
    let mut client = Client::new(0).await;
    client.request(&world, "undionly.kpxe", "octet", &WIDE).await;
    assert!(client.take(1468, 16).await == kpxe());
}
