//! The DHCP server: sockets and the loop around the [`Engine`].

mod arch;
mod engine;
mod packet;
mod reply;
#[cfg(test)]
pub(crate) mod testing;

use std::io;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

pub use arch::{BIOS as BIOS_PROGRAM, EFI as EFI_PROGRAM};
pub use engine::{Engine, Send};
pub use packet::{Heard, Malformed, Request, parse};

use crate::clock;
use crate::leases::{LeaseFile, Leases, render};

/// Most messages that are answered between two writes of the lease file: a boot storm then costs
/// one write per batch and not one per node.
const BATCH: usize = 64;
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
}

/// The DHCP server.
pub struct Server {
    sockets: Sockets,
    engine: Engine,
    leases: Arc<Mutex<Leases>>,
    file: LeaseFile,
}

impl Server {
    /// A server that keeps `leases` in `file`.
    pub fn new(
        sockets: Sockets,
        engine: Engine,
        leases: Arc<Mutex<Leases>>,
        file: LeaseFile,
    ) -> Self {
        Self { sockets, engine, leases, file }
    }

    /// Serves until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut buffer = vec![0; LONGEST];
        let mut other = vec![0; LONGEST];
        loop {
            let mut replies = Vec::new();
            tokio::select! {
                () = stop.cancelled() => break,
                got = self.sockets.server.recv_from(&mut buffer) => {
                    self.hear(got, &buffer, &mut replies);
                }
                got = receive(self.sockets.client.as_ref(), &mut other) => {
                    self.hear(got, &other, &mut replies);
                }
            }
            for _ in 1..BATCH {
                let Ok(got) = self.sockets.server.try_recv_from(&mut buffer) else { break };
                self.hear(Ok(got), &buffer, &mut replies);
            }
            // An address is promised only when it is safely on disk.
            if self.engine.take_changed() {
                self.save().await;
            }
            for reply in replies {
                self.send(&reply).await;
            }
        }
        self.save().await;
    }

    fn hear(
        &mut self,
        got: io::Result<(usize, std::net::SocketAddr)>,
        buffer: &[u8],
        replies: &mut Vec<Send>,
    ) {
        match got {
            Ok((length, _)) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                replies.extend(self.engine.hear(bytes, clock::unix_now()));
            }
            // An earlier reply could not be delivered; the kernel tells it here.
            Err(error) => tracing::debug!("receiving DHCP: {error}"),
        }
    }

    async fn send(&self, reply: &Send) {
        let to: SocketAddrV4 = reply.to;
        if let Err(error) = self.sockets.server.send_to(&reply.bytes, to).await {
            tracing::error!(%to, "sending a DHCP reply: {error}; is the admin NIC up?");
        }
    }

    async fn save(&self) {
        let text = render(&self.leases.lock().unwrap_or_else(PoisonError::into_inner));
        let file = self.file.clone();
        let done = tokio::task::spawn_blocking(move || file.save(&text)).await;
        // Without the file the nodes still boot, and most get the same address again by the hash.
        if let Err(error) = done.unwrap_or_else(|error| Err(io::Error::other(error))) {
            let path = self.file.path().display();
            tracing::error!("writing the leases to {path}: {error}; they are kept in memory only");
        }
    }
}

async fn receive(
    socket: Option<&UdpSocket>,
    buffer: &mut [u8],
) -> io::Result<(usize, std::net::SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}
