//! The DHCP server: sockets and the loop around the [`Engine`].

mod arch;
mod engine;
mod others;
mod packet;
mod reply;
mod serve;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
mod writer;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use arch::{BIOS as BIOS_PROGRAM, EFI as EFI_PROGRAM};
pub use engine::{Context, Engine, Origin, Send};
pub use others::{Other, Others};
pub use packet::{Client, Heard, Malformed, Request, parse};
pub use settings::{Mode, RelayReply, Scheme, Settings};

use crate::arp;
use crate::leases::{LeaseFile, Leases};
use crate::overhear::Overhear;
use serve::Loop;
use writer::Writer;

/// UDP port of proxies (PXE specification 2.1 §2.2).
pub const PROXY_PORT: u16 = 4011;
/// Most batches that wait for the disk; when there are more, messages wait in the socket.
const WAITING: usize = 16;

/// The sockets of the server.
#[derive(Debug)]
pub struct Sockets {
    /// Where clients and relays send to; all replies leave from here.
    pub server: UdpSocket,
    /// Hears other servers. Not vital.
    pub ears: Option<Ears>,
    /// Where clients ask a proxy (port 4011); needed in mode `proxy` only.
    pub proxy: Option<UdpSocket>,
    /// Asks whether addresses are in use before they are offered. Not vital.
    pub arp: Option<arp::Socket>,
}

/// Where other servers' replies to clients are heard.
#[derive(Debug)]
pub enum Ears {
    /// On the clients' port.
    Port(UdpSocket),
    /// On the wire, beside another program that holds that port.
    Wire(Overhear),
}

/// The DHCP server.
pub struct Server {
    sockets: Sockets,
    engine: Engine,
    leases: Arc<Mutex<Leases>>,
    file: LeaseFile,
}

impl Server {
    /// A server that keeps the engine's leases in `file`.
    pub fn new(sockets: Sockets, mut engine: Engine, file: LeaseFile) -> Self {
        let leases = Arc::clone(&engine.context().leases);
        if sockets.arp.is_some() {
            engine.probe_addresses();
        }
        Self { sockets, engine, leases, file }
    }

    /// Serves until `stop`, which it cancels itself when it cannot go on.
    pub async fn run(self, stop: CancellationToken) {
        let (ended, mut end) = oneshot::channel();
        let stopper = match self.start(ended) {
            Ok(stopper) => stopper,
            Err(error) => {
                tracing::error!("starting the DHCP server: {error}");
                return stop.cancel();
            }
        };
        tokio::select! {
            () = stop.cancelled() => {
                drop(stopper);
                // It tells by going away.
                let _ = end.await;
            }
            _ = &mut end => {
                tracing::error!("the DHCP server has ended by itself");
                stop.cancel();
            }
        }
    }

    /// Starts the threads; they end when what is returned is dropped, and drop `ended` then.
    fn start(self, ended: oneshot::Sender<()>) -> io::Result<UnixStream> {
        let Self { sockets: Sockets { server, ears, proxy, arp }, engine, leases, file } = self;
        let (stopper, stop) = UnixStream::pair()?;
        let (batches, waiting) = mpsc::sync_channel(WAITING);
        let server = Arc::new(server.into_std()?);
        let (mut client, mut wire) = (None, None);
        match ears {
            Some(Ears::Port(socket)) => client = Some(socket.into_std()?),
            Some(Ears::Wire(hears)) => wire = Some(hears),
            None => {}
        }
        let proxy = proxy.map(UdpSocket::into_std).transpose()?;
        let writer = Writer::new(Arc::clone(&server), Arc::clone(&leases), file);
        let serving = Loop { server, client, wire, proxy, arp, engine, leases, batches, stop };
        let writer = thread::Builder::new()
            .name("dhcp-leases".to_owned())
            .spawn(move || writer.run(&waiting))?;
        thread::Builder::new().name("dhcp".to_owned()).spawn(move || {
            serving.run();
            if writer.join().is_err() {
                tracing::error!("the writer of the lease file has failed");
            }
            drop(ended);
        })?;
        Ok(stopper)
    }
}
