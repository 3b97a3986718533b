//! The DHCP server: sockets and the loop around the [`Engine`].

mod arch;
mod engine;
mod packet;
mod reply;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
mod writer;

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use arch::{BIOS as BIOS_PROGRAM, EFI as EFI_PROGRAM};
pub use engine::{Context, Engine, Origin, Send};
pub use packet::{Client, Heard, Malformed, Request, parse};
pub use settings::{Mode, RelayReply, Scheme, Settings};

use crate::clock;
use crate::leases::{LeaseFile, Leases};
use writer::{Batch, Writer};

/// UDP port of proxies (PXE specification 2.1 §2.2).
pub const PROXY_PORT: u16 = 4011;
/// Most messages that are read between two looks at the other sockets.
const BATCH: usize = 256;
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
}

/// The DHCP server.
pub struct Server {
    server: Arc<UdpSocket>,
    client: Option<UdpSocket>,
    proxy: Option<UdpSocket>,
    engine: Engine,
    leases: Arc<Mutex<Leases>>,
    file: LeaseFile,
}

impl Server {
    /// A server that keeps the engine's leases in `file`.
    pub fn new(sockets: Sockets, engine: Engine, file: LeaseFile) -> Self {
        let leases = Arc::clone(&engine.context().leases);
        let Sockets { server, client, proxy } = sockets;
        Self { server: Arc::new(server), client, proxy, engine, leases, file }
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Self { server, client, proxy, mut engine, leases, file } = self;
        let (batches, waiting) = mpsc::channel(WAITING);
        let writer = Writer::new(Arc::clone(&server), Arc::clone(&leases), file);
        let writer = tokio::spawn(writer.run(waiting));
        let (mut buffer, mut other, mut asked) = ([0; LONGEST], [0; LONGEST], [0; LONGEST]);
        loop {
            let mut replies = Vec::new();
            tokio::select! {
                () = stop.cancelled() => break,
                ready = server.readable() => {
                    if let Err(error) = ready {
                        tracing::debug!("receiving DHCP: {error}");
                    }
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
