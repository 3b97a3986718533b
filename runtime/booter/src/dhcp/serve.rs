//! The thread that answers: reads messages, has the [`Engine`] decide, and sends.
//!
//! A thread of its own, and not a task: nothing that happens in the other servers can hold it up,
//! and a message costs no more than the calls that read and answer it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::writer::Batch;
use super::{Engine, Origin, Send};
use crate::leases::Leases;
use crate::limit::LogLimit;
use crate::metrics::Metrics;
use crate::overhear::Overhear;
use crate::{arp, clock};

/// Most messages that are read between two looks at the other sockets.
const BATCH: usize = 256;
/// Longer messages are cut off; the largest that a client may send unasked has 576 bytes
/// (RFC 2131 §2), an Ethernet frame holds 1472.
const LONGEST: usize = 1500;
/// Messages that come as soon as this after the last ones were read are let gather: waking up for
/// each of them costs more than answering it, and their leases are written to disk together.
const BUSY: Duration = Duration::from_millis(2);
/// How long.
const GATHER: Duration = Duration::from_millis(1);
/// Longest time that a reply waits for room in a socket, in milliseconds.
const ROOM: u16 = 1000;
/// How long nothing is read after the kernel could not even wait.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Loop {
    pub server: Arc<UdpSocket>,
    pub client: Option<UdpSocket>,
    pub wire: Option<Overhear>,
    pub proxy: Option<UdpSocket>,
    pub arp: Option<arp::Socket>,
    pub engine: Engine,
    pub leases: Arc<Mutex<Leases>>,
    pub batches: SyncSender<Batch>,
    /// Ends the loop when its other end is closed.
    pub stop: UnixStream,
}

/// Which sockets have something to read.
#[derive(Default)]
struct Ready {
    stop: bool,
    server: bool,
    client: bool,
    wire: bool,
    proxy: bool,
    arp: bool,
}

impl Loop {
    /// Serves until told to stop.
    pub fn run(mut self) {
        let mut buffer = [0; LONGEST];
        let mut replies = Vec::new();
        let mut last: Option<Instant> = None;
        loop {
            let ready = self.wait();
            if ready.stop {
                return;
            }
            if ready.server {
                if last.is_some_and(|last| last.elapsed() < BUSY) {
                    std::thread::sleep(GATHER);
                }
                last = Some(Instant::now());
                drain(&mut self.engine, &self.server, false, &mut buffer, &mut replies);
            }
            if let Some(client) = self.client.as_ref().filter(|_| ready.client) {
                drain(&mut self.engine, client, false, &mut buffer, &mut replies);
            }
            if ready.wire {
                self.overhear(&mut buffer);
            }
            if let Some(proxy) = self.proxy.as_ref().filter(|_| ready.proxy) {
                let mut answers = Vec::new();
                drain(&mut self.engine, proxy, true, &mut buffer, &mut answers);
                // From the port that was asked: some firmware checks it.
                answers.iter().for_each(|answer| send(proxy, answer));
            }
            if let Some(arp) = self.arp.as_ref().filter(|_| ready.arp) {
                for message in std::iter::from_fn(|| arp.take(BATCH)).take(BATCH) {
                    replies.extend(self.engine.arp(&message, clock::unix_now()));
                }
            }
            if self.engine.next_end().is_some_and(|end| end <= Instant::now()) {
                replies.extend(self.engine.end_probes(Instant::now(), clock::unix_now()));
            }
            self.probe();
            if !self.answer(&mut replies) {
                tracing::error!("the writer of the lease file has ended: no lease can be given");
                return;
            }
        }
    }

    fn wait(&self) -> Ready {
        let fds: [Option<BorrowedFd<'_>>; 6] = [
            Some(self.stop.as_fd()),
            Some(self.server.as_fd()),
            self.client.as_ref().map(AsFd::as_fd),
            self.wire.as_ref().map(AsFd::as_fd),
            self.proxy.as_ref().map(AsFd::as_fd),
            self.arp.as_ref().map(AsFd::as_fd),
        ];
        let mut polled: Vec<PollFd<'_>> =
            fds.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        let timeout = self.engine.next_end().map_or(PollTimeout::NONE, |end| {
            // Up to the next millisecond: else the rest of it is spent in empty rounds.
            let left = end.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ready::default(),
            Err(error) => {
                tracing::error!("waiting for DHCP messages: {error}");
                std::thread::sleep(PAUSE);
                return Ready::default();
            }
        }
        let mut polled = polled.into_iter();
        // Errors too: reading takes them.
        let [stop, server, client, wire, proxy, arp] =
            fds.map(|fd| fd.is_some() && polled.next().is_some_and(|fd| fd.any().unwrap_or(true)));
        Ready { stop, server, client, wire, proxy, arp }
    }

    /// What servers say to clients needs no answer.
    fn overhear(&mut self, buffer: &mut [u8]) {
        let Some(wire) = &self.wire else { return };
        let now = clock::unix_now();
        for _ in 0..BATCH {
            match wire.take(buffer) {
                Ok(Some((peer, bytes))) => {
                    let _ = self.engine.hear(bytes, Origin { peer, proxy: false }, now);
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => tracing::debug!("hearing DHCP servers: {error}"),
            }
        }
    }

    fn probe(&mut self) {
        for ip in self.engine.take_probes() {
            let sent = self.arp.as_ref().map(|arp| arp.probe(ip));
            let kind = if matches!(sent, Some(Ok(()))) { "sent" } else { "failed" };
            Metrics::count(&self.engine.context().metrics.address_probes, kind);
            if let Some(Err(error)) = sent {
                tracing::debug!(%ip, "sending an ARP probe: {error}");
            }
        }
    }

    /// Whether leases can still be given.
    fn answer(&mut self, replies: &mut Vec<Send>) -> bool {
        let text = self.leases.lock().unwrap_or_else(PoisonError::into_inner).take_journal();
        let mut promises = Vec::new();
        for reply in replies.drain(..) {
            if reply.promise {
                promises.push(reply);
            } else {
                send(&self.server, &reply);
            }
        }
        (text.is_empty() && promises.is_empty())
            || self.batches.send(Batch { text, promises }).is_ok()
    }
}

fn drain(
    engine: &mut Engine,
    socket: &UdpSocket,
    proxy: bool,
    buffer: &mut [u8],
    replies: &mut Vec<Send>,
) {
    let now = clock::unix_now();
    for _ in 0..BATCH {
        match socket.recv_from(buffer) {
            Ok((length, SocketAddr::V4(peer))) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                replies.extend(engine.hear(bytes, Origin { peer, proxy }, now));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // An earlier reply could not be delivered; the kernel tells it here.
            Err(error) => tracing::debug!("receiving DHCP: {error}"),
        }
    }
}

/// Which errors of sending were logged lately: a forged request may name a relay that nothing can be
/// sent to.
static UNSENT: LazyLock<Mutex<LogLimit<io::ErrorKind>>> =
    LazyLock::new(|| Mutex::new(LogLimit::new(60)));

/// Sends a reply; waits a while when the socket is full.
pub(super) fn send(socket: &UdpSocket, reply: &Send) {
    let mut sent = socket.send_to(&reply.bytes, reply.to);
    if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
        // Whatever comes of it, the second try tells.
        let _ =
            poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(ROOM));
        sent = socket.send_to(&reply.bytes, reply.to);
    }
    if let Err(error) = sent
        && UNSENT
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pass(error.kind(), clock::unix_now())
    {
        tracing::error!(to = %reply.to, "sending a DHCP reply: {error}; is the admin NIC up?");
    }
}
