//! From a request to the end of its transfer.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::Context;
use super::channel::Channel;
use super::files::{Refused, Stored};
use super::large::{Broken, Reader};
use super::options::Terms;
use super::packet::{self, Code, ReadRequest};
use super::table::Ticket;
use super::transfer::{Ending, Report, Source, Transfer};
use crate::clock::unix_now;
use crate::limit::LogLimit;
use crate::metrics::Metrics;
use crate::observe::Event;

/// Most files that are made, and most that are read from disk, at the same time: more requests wait, and
/// one whose place another needs waits no longer. What they use, HTTP uses too.
pub const TOGETHER: usize = 32;

/// Files that are on no disk: made for who asks.
#[async_trait::async_trait]
pub trait VirtualFiles: Send + Sync {
    /// Whether `name` may be that of such a file; where that can be told, others are served
    /// sooner. Must not block.
    fn has(&self, _name: &str) -> bool {
        true
    }

    /// The content for the client at `peer`; when there is none, a file on disk is looked for.
    /// `name` is what the client has sent, at most 128 bytes of any text. While this runs, the
    /// client's repeated requests wait. At most [`TOGETHER`] run at the same time.
    async fn get(&self, peer: SocketAddr, name: &str) -> Option<Bytes>;
}

/// No such files.
#[derive(Debug, Clone, Copy, Default)]
pub struct NothingRendered;

#[async_trait::async_trait]
impl VirtualFiles for NothingRendered {
    fn has(&self, _: &str) -> bool {
        false
    }

    async fn get(&self, _: SocketAddr, _: &str) -> Option<Bytes> {
        None
    }
}

/// What a client wants.
pub(super) enum Asked {
    /// A file.
    File(Arc<ReadRequest>),
    /// To send one.
    Write,
}

/// What is sent.
enum Content {
    File(Stored),
    Rendered(Bytes),
}

impl Content {
    /// For one transfer.
    fn source(&self) -> Source<'_> {
        match self {
            Self::File(Stored::Whole(content)) => Source::Memory(content),
            Self::File(Stored::Large(large)) => Source::File(Reader::new(Arc::clone(large))),
            Self::Rendered(content) => Source::Memory(content),
        }
    }
}

/// A refusal: what the client is told, and what the operator is.
struct No {
    code: Code,
    text: &'static str,
    why: String,
}

/// What all transfers share.
pub(super) struct Shared {
    pub local: IpAddr,
    pub socket: Arc<UdpSocket>,
    pub context: Context,
    /// Where everything but TFTP runs.
    pub main: Handle,
    /// Places for files that are made, and that are read.
    pub making: Arc<Semaphore>,
    pub reading: Arc<Semaphore>,
    /// What was told lately about clients that have not answered.
    pub told: Mutex<LogLimit<(IpAddr, &'static str)>>,
}

impl Shared {
    pub async fn serve(self: Arc<Self>, client: SocketAddr, asked: Asked, mut ticket: Ticket) {
        let (stop, inbox) = (ticket.stop.clone(), ticket.inbox.take());
        let work = async {
            let channel = match inbox {
                Some(inbox) => Ok(Channel::shared(Arc::clone(&self.socket), client, inbox)),
                None => self.connect(client).await.map(Channel::own),
            };
            match channel {
                Ok(channel) => self.answer(client, &asked, &ticket, channel).await,
                Err(error) if self.tell(client, "socket") => {
                    tracing::error!(%client, "opening a socket for a TFTP transfer: {error}");
                }
                Err(_) => {}
            }
        };
        tokio::select! {
            // Who has to make room sends nothing more.
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn connect(&self, client: SocketAddr) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((self.local, 0)).await?;
        socket.connect(client).await?;
        Ok(socket)
    }

    async fn answer(&self, client: SocketAddr, asked: &Asked, ticket: &Ticket, channel: Channel) {
        let start = Instant::now();
        let (name, found) = match asked {
            Asked::File(request) => (request.name.as_str(), self.find(client, request).await),
            Asked::Write => {
                let why = "it wants to send a file".to_owned();
                ("", Err(No { code: Code::Access, text: "this server takes no files", why }))
            }
        };
        ticket.prepared();
        let (content, terms) = match found {
            Ok(found) => found,
            Err(No { code, text, why }) => {
                Metrics::count(&self.context.metrics.tftp_transfers, "refused");
                if let Err(error) = channel.send(&packet::error(code, text)).await {
                    tracing::debug!(%client, "sending a TFTP error: {error}");
                }
                if self.tell(client, "refused") {
                    tracing::warn!(%client, "TFTP request for {name:?} refused: {why}");
                    self.observe(client, name, "refused", 0, start);
                }
                return;
            }
        };
        let settings = &self.context.settings;
        let report = Transfer::new(channel, content.source(), &terms, ticket, settings).run().await;
        self.log(client, name, &terms, &report, start);
    }

    async fn find(
        &self,
        client: SocketAddr,
        request: &ReadRequest,
    ) -> Result<(Content, Terms), No> {
        if request.mode != "octet" {
            let why = format!("its mode {:?} is not octet", request.mode);
            return Err(No { code: Code::Illegal, text: "only octet mode is served", why });
        }
        let content = self.content(client, &request.name).await.map_err(|refused| {
            let (code, text) = match refused {
                Refused::Missing => (Code::NotFound, "file not found"),
                Refused::Name | Refused::Kind => (Code::Access, "access denied"),
                Refused::Changing | Refused::Io(_) => (Code::Undefined, "the file cannot be read"),
            };
            No { code, text, why: refused.to_string() }
        })?;
        let terms = Terms::agree(request, content.source().size() as u64);
        Ok((content, terms))
    }

    async fn content(&self, client: SocketAddr, name: &str) -> Result<Content, Refused> {
        if self.context.rendered.has(name) {
            let (rendered, wanted) = (Arc::clone(&self.context.rendered), name.to_owned());
            let permit = Arc::clone(&self.making).acquire_owned().await;
            // It may ask others, whose connections belong to the main runtime.
            let made = self.main.spawn(async move {
                let _permit = permit;
                rendered.get(client, &wanted).await
            });
            let made = made.await;
            if let Some(content) = made.map_err(|e| Refused::Io(io::Error::other(e)))? {
                return Ok(Content::Rendered(content));
            }
        }
        if let Some(content) = self.context.files.hot(name) {
            return Ok(Content::File(content));
        }
        let (files, name) = (self.context.files.clone(), name.to_owned());
        let permit = Arc::clone(&self.reading).acquire_owned().await;
        let read = tokio::task::spawn_blocking(move || {
            // Until it is read, also when nobody waits for it any more.
            let _permit = permit;
            files.read(&name)
        });
        let read = read.await;
        read.unwrap_or_else(|e| Err(Refused::Io(io::Error::other(e)))).map(Content::File)
    }

    /// Whether something about a client whose address may be forged is told now.
    fn tell(&self, client: SocketAddr, what: &'static str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.pass((client.ip(), what), unix_now())
    }

    fn observe(
        &self,
        client: SocketAddr,
        file: &str,
        outcome: &'static str,
        bytes: usize,
        start: Instant,
    ) {
        let (client, bytes, took) = (client.ip(), bytes as u64, start.elapsed());
        self.context.observer.event(&Event::Tftp { client, file, outcome, bytes, took });
    }

    fn log(&self, client: SocketAddr, file: &str, terms: &Terms, report: &Report, start: Instant) {
        let (bytes, resent) = (report.bytes, report.resent);
        self.context.metrics.tftp_bytes.inc_by(bytes as u64);
        let (word, problem) = match &report.ending {
            Ending::Complete => ("complete", None),
            Ending::Probe => ("probe", None),
            Ending::Aborted { code, message } => {
                ("aborted", Some(format!("the client gave up: error {code} {message:?}")))
            }
            Ending::Silent if !report.confirmed => (
                "silent",
                Some(
                    "the client has never answered; does a firewall on the way let UDP port 69 \
                     through only? Then [tftp] ports = \"single\" helps"
                        .to_owned(),
                ),
            ),
            Ending::Silent => ("silent", Some("the client no longer answers".to_owned())),
            Ending::Gone => ("gone", Some("the client has closed its port".to_owned())),
            Ending::Broken(broken @ Broken::Changed) => ("changed", Some(broken.to_string())),
            Ending::Broken(broken @ Broken::Io(_)) => ("unreadable", Some(broken.to_string())),
        };
        Metrics::count(&self.context.metrics.tftp_transfers, word);
        if !report.confirmed && !self.tell(client, word) {
            return;
        }
        if let Some(problem) = problem {
            tracing::warn!(%client, file, bytes, resent, "TFTP transfer failed: {problem}");
        } else {
            let seconds = start.elapsed().as_secs_f64();
            let speed = bytes as f64 / 1e6 / seconds.max(1e-6);
            tracing::info!(
                %client, file, bytes, resent, block = terms.block, window = terms.window,
                "TFTP {word}: {bytes} bytes in {seconds:.3} s, {speed:.1} MB/s"
            );
        }
        self.observe(client, file, word, bytes, start);
    }
}
