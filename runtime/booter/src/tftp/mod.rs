//! The TFTP server: read requests only, one socket and one task per transfer.

mod files;
mod options;
mod packet;
mod transfer;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use files::{Files, Refused};
pub use packet::{Code, Malformed, Packet, ReadRequest};

use crate::clock::unix_now;
use crate::limit::LogLimit;
use crate::metrics::Metrics;
use options::Terms;
use transfer::{Ending, Report, Transfer};

/// Most transfers at the same time. A client that finds no place asks again after some seconds;
/// iPXE is small, so places are free again soon.
const TRANSFERS: usize = 4096;

/// The TFTP server.
pub struct Server {
    socket: UdpSocket,
    shared: Arc<Shared>,
}

struct Shared {
    local: IpAddr,
    files: Files,
    metrics: Metrics,
    /// What runs, by client: a new request of a client ends its old transfer. The number tells
    /// transfers of the same client apart.
    running: Mutex<HashMap<SocketAddr, (u64, CancellationToken)>>,
}

impl Server {
    /// A server of `files` on a bound socket.
    ///
    /// # Errors
    /// When the socket has no address.
    pub fn new(socket: UdpSocket, files: Files, metrics: Metrics) -> io::Result<Self> {
        let local = socket.local_addr()?.ip();
        let shared = Shared { local, files, metrics, running: Mutex::default() };
        Ok(Self { socket, shared: Arc::new(shared) })
    }

    /// Serves until `stop`, and ends the running transfers then.
    pub async fn run(self, stop: CancellationToken) {
        let mut buffer = [0; 2048];
        let mut number = 0;
        // Requests with forged sources must not fill the log.
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
            let packet = Packet::parse(buffer.get(..length).unwrap_or_default());
            let request = match packet {
                Ok(Packet::Read(request)) => Ok(request),
                Ok(Packet::Write) => Err((Code::Access, "this server takes no files")),
                // Strays of an old transfer; an answer could start a loop.
                Ok(Packet::Ack(_) | Packet::Error { .. }) => continue,
                Err(problem) => {
                    tracing::debug!(%client, "a TFTP packet is ignored: {problem}");
                    self.count("malformed");
                    continue;
                }
            };
            number += 1;
            if let Some(token) = self.admit(client, number, &stop, &mut busy) {
                let shared = Arc::clone(&self.shared);
                tasks.spawn(async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = shared.serve(client, request) => {}
                    }
                    shared.leave(client, number);
                });
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    fn admit(
        &self,
        client: SocketAddr,
        number: u64,
        stop: &CancellationToken,
        busy: &mut LogLimit<()>,
    ) -> Option<CancellationToken> {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.len() >= TRANSFERS && !running.contains_key(&client) {
            if busy.pass((), unix_now()) {
                tracing::warn!(%client, "{TRANSFERS} TFTP transfers are running: requests must wait");
            }
            self.count("busy");
            return None;
        }
        let token = stop.child_token();
        if let Some((_, old)) = running.insert(client, (number, token.clone())) {
            old.cancel();
        }
        self.shared.tell_active(running.len());
        Some(token)
    }

    fn count(&self, kind: &'static str) {
        Metrics::count(&self.shared.metrics.tftp_transfers, kind);
    }
}

impl Shared {
    fn leave(&self, client: SocketAddr, number: u64) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.get(&client).is_some_and(|(current, _)| *current == number) {
            running.remove(&client);
            self.tell_active(running.len());
        }
    }

    fn tell_active(&self, transfers: usize) {
        self.metrics.tftp_active.set(i64::try_from(transfers).unwrap_or(i64::MAX));
    }

    async fn serve(
        self: &Arc<Self>,
        client: SocketAddr,
        request: Result<ReadRequest, (Code, &'static str)>,
    ) {
        let socket = match self.connect(client).await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%client, "opening a socket for a TFTP transfer: {error}");
                return;
            }
        };
        let refuse = async |code, why: &str| {
            Metrics::count(&self.metrics.tftp_transfers, "refused");
            if let Err(error) = socket.send(&packet::error(code, why)).await {
                tracing::debug!(%client, "sending a TFTP error: {error}");
            }
        };
        let request = match request {
            Ok(request) if request.mode == "octet" => request,
            Ok(request) => {
                tracing::warn!(%client, "TFTP request for {request} refused: mode is not octet");
                return refuse(Code::Illegal, "only octet mode is served").await;
            }
            Err((code, why)) => {
                tracing::warn!(%client, "TFTP write request refused: {why}");
                return refuse(code, why).await;
            }
        };
        let (this, name) = (Arc::clone(self), request.name.clone());
        let read = tokio::task::spawn_blocking(move || this.files.read(&name)).await;
        let content = match read.unwrap_or_else(|e| Err(Refused::Io(io::Error::other(e)))) {
            Ok(content) => content,
            Err(why) => {
                tracing::warn!(%client, "TFTP request for {request} refused: {why}");
                let (code, text) = match why {
                    Refused::Missing => (Code::NotFound, "file not found"),
                    Refused::Name | Refused::Kind => (Code::Access, "access denied"),
                    Refused::Io(_) => (Code::Undefined, "the file cannot be read"),
                };
                return refuse(code, text).await;
            }
        };
        let terms = Terms::agree(&request, content.len() as u64);
        let start = Instant::now();
        let report = Transfer::new(&socket, &content, &terms).run().await;
        self.log(client, &request, &terms, &report, start.elapsed().as_secs_f64());
    }

    async fn connect(&self, client: SocketAddr) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((self.local, 0)).await?;
        socket.connect(client).await?;
        Ok(socket)
    }

    fn log(
        &self,
        client: SocketAddr,
        request: &ReadRequest,
        terms: &Terms,
        report: &Report,
        seconds: f64,
    ) {
        self.metrics.tftp_bytes.inc_by(report.bytes as u64);
        let (word, problem) = match &report.ending {
            Ending::Complete => ("complete", None),
            Ending::Probe => ("probe", None),
            Ending::Aborted { code, message } => {
                ("aborted", Some(format!("the client gave up: error {code} {message:?}")))
            }
            Ending::Silent => ("silent", Some("the client no longer answers".to_owned())),
            Ending::Gone => ("gone", Some("the client has closed its port".to_owned())),
        };
        Metrics::count(&self.metrics.tftp_transfers, word);
        let file = &request.name;
        let (bytes, resent) = (report.bytes, report.resent);
        if let Some(problem) = problem {
            tracing::warn!(%client, file, bytes, resent, "TFTP transfer failed: {problem}");
        } else {
            let speed = bytes as f64 / 1e6 / seconds.max(1e-6);
            tracing::info!(
                %client, file, bytes, resent, block = terms.block, window = terms.window,
                "TFTP {word}: {bytes} bytes in {seconds:.3} s, {speed:.1} MB/s"
            );
        }
    }
}
