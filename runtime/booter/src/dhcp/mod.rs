//! The DHCP server: sockets and the loop around the [`Engine`].

mod arch;
mod engine;
mod others;
mod packet;
mod reply;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
mod writer;

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use arch::{BIOS as BIOS_PROGRAM, EFI as EFI_PROGRAM};
pub use engine::{Context, Engine, Origin, Send};
pub use others::{Other, Others};
pub use packet::{Client, Heard, Malformed, Request, parse};
pub use settings::{Mode, RelayReply, Scheme, Settings};

use crate::leases::{LeaseFile, Leases};
use crate::metrics::Metrics;
use crate::{arp, clock};
use writer::{Batch, Writer};

/// UDP port of proxies (PXE specification 2.1 §2.2).
pub const PROXY_PORT: u16 = 4011;
/// Most messages that are read between two looks at the other sockets.
const BATCH: usize = 256;
/// Messages that come as soon as this after the last ones were read are let gather.
const BUSY: Duration = Duration::from_millis(2);
/// How long.
const GATHER: Duration = Duration::from_millis(1);
/// Most batches that wait for the disk; when there are more, messages wait in the socket.
const WAITING: usize = 16;
/// Longer messages are cut off; the largest that a client may send unasked has 576 bytes
/// (RFC 2131 §2), an Ethernet frame holds 1472.
const LONGEST: usize = 1500;

/// The sockets of the server.
#[derive(Debug)]
pub struct Sockets {
    /// Where clients and relays send to; all replies leave from here.
    pub server: UdpSocket,
    /// Where replies to clients arrive: hears other servers. Not vital.
    pub client: Option<UdpSocket>,
    /// Where clients ask a proxy (port 4011); needed in mode `proxy` only.
    pub proxy: Option<UdpSocket>,
    /// Asks whether addresses are in use before they are offered. Not vital.
    pub arp: Option<arp::Socket>,
}

/// The DHCP server.
pub struct Server {
    server: Arc<UdpSocket>,
    client: Option<UdpSocket>,
    proxy: Option<UdpSocket>,
    arp: Option<arp::Socket>,
    engine: Engine,
    leases: Arc<Mutex<Leases>>,
    file: LeaseFile,
}

impl Server {
    /// A server that keeps the engine's leases in `file`.
    pub fn new(sockets: Sockets, mut engine: Engine, file: LeaseFile) -> Self {
        let leases = Arc::clone(&engine.context().leases);
        let Sockets { server, client, proxy, arp } = sockets;
        if arp.is_some() {
            engine.probe_addresses();
        }
        Self { server: Arc::new(server), client, proxy, arp, engine, leases, file }
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Self { server, client, proxy, arp, mut engine, leases, file } = self;
        let (batches, waiting) = mpsc::channel(WAITING);
        let writer = Writer::new(Arc::clone(&server), Arc::clone(&leases), file);
        let writer = tokio::spawn(writer.run(waiting));
        let (mut buffer, mut other, mut asked) = ([0; LONGEST], [0; LONGEST], [0; LONGEST]);
        let mut pace = Pace::default();
        loop {
            let mut replies = Vec::new();
            tokio::select! {
                () = stop.cancelled() => break,
                ready = server.readable() => {
                    if let Err(error) = ready {
                        tracing::debug!("receiving DHCP: {error}");
                    }
                    pace.gather().await;
                    for _ in 0..BATCH {
                        match server.try_recv_from(&mut buffer) {
                            Ok(got) => hear(&mut engine, got, &buffer, false, &mut replies),
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                            // An earlier reply could not be delivered; the kernel tells it here.
                            Err(error) => tracing::debug!("receiving DHCP: {error}"),
                        }
                    }
                }
                got = receive(client.as_ref(), &mut other) => {
                    if let Ok(got) = got {
                        hear(&mut engine, got, &other, false, &mut replies);
                    }
                }
                got = receive(proxy.as_ref(), &mut asked) => {
                    if let Ok(got) = got {
                        let mut answers = Vec::new();
                        hear(&mut engine, got, &asked, true, &mut answers);
                        for answer in answers {
                            // From the port that was asked: some firmware checks it.
                            send(proxy.as_ref().unwrap_or(&server), &answer).await;
                        }
                    }
                }
                () = heard(arp.as_ref()) => {
                    let messages = arp.iter().flat_map(|arp| {
                        std::iter::from_fn(|| arp.take(BATCH)).take(BATCH)
                    });
                    for message in messages {
                        replies.extend(engine.arp(&message, clock::unix_now()));
                    }
                }
                () = until(engine.next_end()) => {
                    replies.extend(engine.end_probes(Instant::now(), clock::unix_now()));
                }
            }
            for ip in engine.take_probes() {
                let sent = arp.as_ref().map(|arp| arp.probe(ip));
                let kind = if matches!(sent, Some(Ok(()))) { "sent" } else { "failed" };
                Metrics::count(&engine.context().metrics.address_probes, kind);
                if let Some(Err(error)) = sent {
                    tracing::debug!(%ip, "sending an ARP probe: {error}");
                }
            }
            let text = leases.lock().unwrap_or_else(PoisonError::into_inner).take_journal();
            let (promises, rest): (Vec<Send>, Vec<Send>) =
                replies.into_iter().partition(|reply| reply.promise);
            for reply in rest {
                send(&server, &reply).await;
            }
            if !text.is_empty() || !promises.is_empty() {
                // Fails only when the writer is gone, and that is told below.
                let _ = batches.send(Batch { text, promises }).await;
            }
        }
        drop(batches);
        if let Err(error) = writer.await {
            tracing::error!("the writer of the lease file has failed: {error}");
        }
    }
}

/// Lets messages gather while there are many: waking up for each of them costs more than answering
/// it, and their leases are written to disk together.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
}

impl Pace {
    /// Returns at once when the time before was quiet.
    async fn gather(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() < BUSY) {
            tokio::time::sleep(GATHER).await;
        }
        self.last = Some(Instant::now());
    }
}

async fn heard(arp: Option<&arp::Socket>) {
    match arp {
        Some(arp) => {
            if let Err(error) = arp.readable().await {
                tracing::debug!("receiving ARP: {error}");
            }
        }
        None => std::future::pending().await,
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

fn hear(
    engine: &mut Engine,
    (length, peer): (usize, SocketAddr),
    buffer: &[u8],
    proxy: bool,
    replies: &mut Vec<Send>,
) {
    let SocketAddr::V4(peer) = peer else { return };
    let bytes = buffer.get(..length).unwrap_or_default();
    replies.extend(engine.hear(bytes, Origin { peer, proxy }, clock::unix_now()));
}

async fn send(socket: &UdpSocket, reply: &Send) {
    let to: SocketAddrV4 = reply.to;
    if let Err(error) = socket.send_to(&reply.bytes, to).await {
        tracing::error!(%to, "sending a DHCP reply: {error}; is the admin NIC up?");
    }
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}
