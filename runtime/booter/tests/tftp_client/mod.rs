//! A TFTP client that tests drive packet by packet, and a network that loses and repeats.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::LIMIT;

/// Client side of one transfer.
pub struct Client {
    pub socket: UdpSocket,
    /// Whom the transfer is with, once it has answered.
    pub server: Option<SocketAddr>,
    /// Every n-th received packet is thrown away; 0 for none.
    lose: usize,
    received: usize,
}

impl Client {
    pub async fn new(lose: usize) -> Self {
        Self::at("127.0.0.1", lose).await
    }

    pub async fn at(ip: &str, lose: usize) -> Self {
        let socket = UdpSocket::bind((ip, 0)).await.unwrap();
        Self { socket, server: None, lose, received: 0 }
    }

    pub async fn request(
        &mut self,
        server: SocketAddr,
        name: &str,
        mode: &str,
        options: &[(&str, &str)],
    ) {
        let mut bytes = vec![0, 1];
        for text in [name, mode].into_iter().chain(options.iter().flat_map(|(n, v)| [*n, *v])) {
            bytes.extend(text.bytes());
            bytes.push(0);
        }
        self.server = None;
        self.socket.send_to(&bytes, server).await.unwrap();
    }

    pub async fn receive(&mut self) -> Vec<u8> {
        self.receive_within(LIMIT).await.expect("no packet from the server")
    }

    pub async fn receive_within(&mut self, limit: Duration) -> Option<Vec<u8>> {
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

    /// The packet of a block. A busy machine's answers may have been late: what was sent again of blocks
    /// before it is passed over.
    pub async fn receive_block(&mut self, block: u16) -> Vec<u8> {
        loop {
            let packet = self.receive().await;
            let [0, 3, high, low, ..] = packet[..] else { panic!("no data: {packet:?}") };
            let got = u16::from_be_bytes([high, low]);
            assert!(got <= block, "block {got}, not {block}");
            if got == block {
                return packet;
            }
        }
    }

    pub async fn send(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.server.unwrap()).await.unwrap();
    }

    pub async fn ack(&self, block: u16) {
        let [a, b] = block.to_be_bytes();
        self.send(&[0, 4, a, b]).await;
    }

    /// Takes a whole file as RFC 7440 describes.
    pub async fn take(&mut self, size: usize, window: u16) -> Vec<u8> {
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

/// What a [`Proxy`] does. Every n-th packet; 0 for none. The first packets are spared, since a
/// request and its answer are never sent again by a server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Network {
    /// From the server: lost.
    pub lose_down: u32,
    /// From the client: lost.
    pub lose_up: u32,
    /// From the client: arrives twice.
    pub twice_up: u32,
    /// One way.
    pub delay: Duration,
}

/// How many packets of each direction are spared.
const SPARED: u32 = 3;

/// A network between one client and a server.
pub struct Proxy {
    /// Where the client finds the server.
    pub address: SocketAddr,
    /// DATA packets that the server has sent.
    pub data: Arc<AtomicU32>,
}

impl Proxy {
    pub async fn new(server: SocketAddr, network: Network) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (address, data) = (front.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
        let (up, mut queue_up) = mpsc::unbounded_channel::<(Instant, Vec<u8>, SocketAddr)>();
        let (down, mut queue_down) = mpsc::unbounded_channel::<(Instant, Vec<u8>, SocketAddr)>();
        let (out_front, out_back) = (Arc::clone(&front), Arc::clone(&back));
        tokio::spawn(async move {
            while let Some((at, bytes, to)) = queue_up.recv().await {
                tokio::time::sleep_until(at).await;
                out_back.send_to(&bytes, to).await.unwrap();
            }
        });
        tokio::spawn(async move {
            while let Some((at, bytes, to)) = queue_down.recv().await {
                tokio::time::sleep_until(at).await;
                out_front.send_to(&bytes, to).await.unwrap();
            }
        });
        let counter = Arc::clone(&data);
        tokio::spawn(async move {
            let (mut client, mut transfer) = (None, server);
            let (mut ups, mut downs) = (0_u32, 0_u32);
            let (mut a, mut b) = ([0; 2048], [0; 2048]);
            let hit =
                |count: u32, every: u32| every > 0 && count > SPARED && count.is_multiple_of(every);
            loop {
                tokio::select! {
                    got = front.recv_from(&mut a) => {
                        let (length, from) = got.unwrap();
                        client = Some(from);
                        ups += 1;
                        let copies = if hit(ups, network.lose_up) {
                            0
                        } else {
                            1 + usize::from(hit(ups, network.twice_up))
                        };
                        for _ in 0..copies {
                            let at = Instant::now() + network.delay;
                            up.send((at, a[..length].to_vec(), transfer)).unwrap();
                        }
                    }
                    got = back.recv_from(&mut b) => {
                        let (length, from) = got.unwrap();
                        transfer = from;
                        downs += 1;
                        counter.fetch_add(u32::from(b[1] == 3), Ordering::SeqCst);
                        if !hit(downs, network.lose_down) {
                            let at = Instant::now() + network.delay;
                            down.send((at, b[..length].to_vec(), client.unwrap())).unwrap();
                        }
                    }
                }
            }
        });
        Self { address, data }
    }
}
