//! The TFTP server: read requests only, one task per transfer.

mod channel;
mod files;
mod large;
mod options;
mod pace;
mod packet;
mod rto;
mod serve;
mod settings;
mod table;
mod transfer;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use files::{Files, Refused, Stored};
pub use large::Large;
pub use packet::{Code, Malformed, Packet, ReadRequest};
pub use serve::{NothingRendered, VirtualFiles};
pub use settings::{Ports, Settings};

use crate::clock::unix_now;
use crate::limit::LogLimit;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::observe::Observer;
use crate::threads::{Threads, processors};
use channel::Told;
use serve::{Asked, Shared, TOGETHER};
use table::{Admitted, Table};

/// Most threads, each with half a processor's worth: these fill any NIC of a headnode.
const THREADS: usize = 4;
/// Threads that read files, per thread: what is hot is not read at all.
const READERS: usize = 4;

/// What a server works with.
pub struct Context {
    /// The files on disk.
    pub files: Files,
    /// Files that are made for who asks; looked at first, so that none on disk can hide one.
    pub rendered: Arc<dyn VirtualFiles>,
    /// `[tftp]`.
    pub settings: Live<Settings>,
    /// The counters.
    pub metrics: Metrics,
    /// Hears how transfers end.
    pub observer: Arc<dyn Observer>,
}

/// The TFTP server.
pub struct Server {
    socket: Arc<UdpSocket>,
    table: Arc<Table>,
    shared: Arc<Shared>,
    threads: Threads,
}

impl Server {
    /// A server on a bound socket. Needs a tokio runtime, on which rendered files are made.
    ///
    /// # Errors
    /// When the socket has no address, or there are no threads to be had.
    pub fn new(socket: UdpSocket, context: Context) -> io::Result<Self> {
        let local = socket.local_addr()?.ip();
        let threads = Threads::start("tftp", (processors() / 2).min(THREADS), READERS)?;
        let socket = {
            let _inside = threads.first().enter();
            Arc::new(UdpSocket::from_std(socket.into_std()?)?)
        };
        let main = Handle::try_current().map_err(io::Error::other)?;
        let table = Arc::new(Table::new(context.metrics.clone()));
        // Requests with forged sources must not fill the log.
        let told = Mutex::new(LogLimit::new(60));
        let places = || Arc::new(Semaphore::new(TOGETHER));
        let (making, reading) = (places(), places());
        let socket_of_all = Arc::clone(&socket);
        let shared = Shared { local, socket: socket_of_all, context, main, making, reading, told };
        let shared = Arc::new(shared);
        Ok(Self { socket, table, shared, threads })
    }

    /// Serves until `stop`, and ends the running transfers then.
    pub async fn run(self, stop: CancellationToken) {
        let first = self.threads.first().clone();
        // The reader is on another thread: it ends, and the port is free, when nobody waits here any more.
        let reading = stop.child_token();
        let _end = reading.clone().drop_guard();
        if let Err(error) = first.spawn(self.read(reading)).await {
            // Without it machines get no further: the service manager starts all anew.
            tracing::error!("the TFTP server has failed: {error}");
            stop.cancel();
        }
    }

    async fn read(mut self, stop: CancellationToken) {
        let mut buffer = [0; 2048];
        let mut busy = LogLimit::new(60);
        let tasks = TaskTracker::new();
        loop {
            let got = tokio::select! {
                () = stop.cancelled() => break,
                got = self.socket.recv_from(&mut buffer) => got,
            };
            let (length, client) = match got {
                Ok(got) => got,
                Err(error) => {
                    tracing::debug!("receiving TFTP: {error}");
                    continue;
                }
            };
            let asked = match Packet::parse(buffer.get(..length).unwrap_or_default()) {
                Ok(Packet::Read(request)) => Asked::File(Arc::new(request)),
                Ok(Packet::Write) => Asked::Write,
                // In single port mode. Strays of an old transfer get no answer: it could start a
                // loop.
                Ok(Packet::Ack(block)) => {
                    self.table.deliver(client, Told::Ack(block));
                    continue;
                }
                Ok(Packet::Error { code, message }) => {
                    self.table.deliver(client, Told::Error { code, message });
                    continue;
                }
                Err(problem) => {
                    tracing::debug!(%client, "a TFTP packet is ignored: {problem}");
                    self.count("malformed");
                    continue;
                }
            };
            self.start(client, asked, &stop, &tasks, &mut busy);
        }
        tasks.close();
        tasks.wait().await;
    }

    fn start(
        &mut self,
        client: SocketAddr,
        asked: Asked,
        stop: &CancellationToken,
        tasks: &TaskTracker,
        busy: &mut LogLimit<bool>,
    ) {
        let settings = self.shared.context.settings.get();
        let request = match &asked {
            Asked::File(request) => Some(request),
            Asked::Write => None,
        };
        match self.table.admit(client, request, &settings, stop) {
            Admitted::Yes(ticket) => {
                let shared = Arc::clone(&self.shared);
                let thread = match settings.ports {
                    Ports::PerTransfer => self.threads.any(),
                    // What the reader hands over should wake nobody else.
                    Ports::Single => self.threads.first(),
                };
                tasks.spawn_on(shared.serve(client, asked, ticket), thread);
            }
            Admitted::Repeated => {}
            Admitted::Busy { own } => {
                self.count("busy");
                if busy.pass(own, unix_now()) {
                    let (key, most) = if own {
                        ("transfers_per_client", settings.transfers_per_client)
                    } else {
                        ("transfers", settings.transfers)
                    };
                    tracing::warn!(
                        %client,
                        "a TFTP request must wait: {most} transfers are running ([tftp] {key})"
                    );
                }
            }
        }
    }

    fn count(&self, kind: &'static str) {
        Metrics::count(&self.shared.context.metrics.tftp_transfers, kind);
    }
}
