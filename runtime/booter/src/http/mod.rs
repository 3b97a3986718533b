//! The HTTP server: files from disk at the kernel's speed, everything else from a router.
//!
//! HTTP/1.1 and 1.0, each connection a task: [`head`] reads a request, [`path`] and [`files`] find
//! its file, [`range`] what of it is wanted, and it goes out by `sendfile` ([`stream`]) once it is
//! in memory ([`crate::cold`]). Connections have threads of their own ([`Threads`]); what the router answers
//! is made by the main ones. [`places`] keeps the hostile and the slow from taking all connections,
//! [`rate`] keeps a client from more than its firmware can bear.

mod answer;
mod boot;
mod connection;
mod dynamic;
pub mod files;
pub mod head;
mod limits;
mod own;
pub mod path;
mod places;
pub mod range;
mod rate;
mod report;
pub mod routes;
mod stream;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use files::Folders;
pub use limits::{Limits, SlowClient, Tls};
pub use routes::App;
pub use tls::{Certificate, Error as TlsError};

use crate::live::Live;
use crate::metrics::Metrics;
use crate::observe::Observer;
use crate::threads::{Threads, processors};
use places::{Full, Place, Places};
use stream::Stream;

/// How often connections are looked over; also how exact their times are.
const SWEEP: Duration = Duration::from_millis(500);
/// How many sweeps until the certificate's files are looked at again.
const CERTIFICATE: u32 = 10;
/// How long no connection is accepted after that has failed: others must end first.
const PAUSE: Duration = Duration::from_millis(200);

/// Most threads for connections: these fill any NIC of a headnode, also with TLS.
const THREADS: usize = 8;
/// Threads that wait for the disk, per thread.
const READERS: usize = 8;

/// What is served and how.
pub struct Site {
    /// Folders whose files are served.
    pub folders: Folders,
    /// Answers everything that is not below a folder. The client's address is in each request's
    /// extensions, as [`Peer`].
    pub dynamic: Router,
    /// How much, to whom, for how long.
    pub limits: Live<Limits>,
    /// Hears of each answer.
    pub observer: Arc<dyn Observer>,
    /// The counters.
    pub metrics: Metrics,
}

/// The client's address, an extension of requests that [`Site::dynamic`] gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Serves on `listener`, and with TLS on the other one, until `stop`; then lets running answers end.
/// A listener that does not accept is tried again. [`Site::dynamic`] runs in the tokio runtime in which
/// this is called.
pub async fn serve(
    listener: TcpListener,
    tls: Option<(TcpListener, Certificate)>,
    site: Arc<Site>,
    stop: CancellationToken,
) {
    more_files();
    let (places, tasks) = (Arc::new(Places::new()), TaskTracker::new());
    let threads = match Threads::start("http", processors().min(THREADS), READERS) {
        Ok(threads) => Some(Arc::new(threads)),
        Err(error) => {
            tracing::warn!("starting threads for HTTP: {error}; others do their work, more slowly");
            None
        }
    };
    let server = |certificate| Server {
        site: Arc::clone(&site),
        places: Arc::clone(&places),
        tasks: tasks.clone(),
        threads: threads.clone(),
        main: Handle::current(),
        stop: stop.clone(),
        certificate,
    };
    let plain = server(None).accept(listener);
    let certificate = tls.as_ref().map(|(_, certificate)| certificate.clone());
    let secure = async {
        if let Some((listener, certificate)) = tls {
            server(Some(certificate)).accept(listener).await;
        }
    };
    let sweep = sweep(&places, &site.folders, certificate);
    let all = async {
        tokio::join!(plain, secure);
        places.close_waiting();
        tasks.close();
        tasks.wait().await;
    };
    tokio::select! {
        () = all => {}
        () = sweep => {}
    }
}

/// As many open files as this process may have: service managers start with 1024, and each node
/// that loads has two.
fn more_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("allowing more open files: {error}; few nodes can load at the same time");
    }
}

async fn sweep(places: &Places, folders: &Folders, certificate: Option<Certificate>) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0u32;
    loop {
        tick.tick().await;
        places.sweep();
        folders.close_old();
        count = count.wrapping_add(1);
        if let Some(certificate) = certificate.clone().filter(|_| count.is_multiple_of(CERTIFICATE))
        {
            let followed = tokio::task::spawn_blocking(move || certificate.follow()).await;
            if let Err(error) = followed {
                tracing::error!("looking at the certificate: {error}");
            }
        }
    }
}

/// Counts a connection while it is there.
struct Active(Metrics);

impl Active {
    fn new(metrics: &Metrics) -> Self {
        metrics.http_active.inc();
        Self(metrics.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.http_active.dec();
    }
}

/// What one listener's connections need.
struct Server {
    site: Arc<Site>,
    places: Arc<Places>,
    tasks: TaskTracker,
    /// For connections; else they are the main runtime's too.
    threads: Option<Arc<Threads>>,
    /// The main runtime.
    main: Handle,
    stop: CancellationToken,
    certificate: Option<Certificate>,
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let place = tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return,
                        place = self.place(peer) => place,
                    };
                    if let Some(place) = place {
                        self.start(stream, peer, place);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!("accepting an HTTP connection: {error}");
                    self.places.make_room();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A place, as soon as there is one; none when the client has enough.
    async fn place(&self, peer: SocketAddr) -> Option<Place> {
        loop {
            match self.places.enter(peer.ip().to_canonical(), &self.site.limits.get()) {
                Ok(place) => return Some(place),
                Err(Full::Client) => {
                    tracing::debug!(%peer, "an HTTP client has too many connections");
                    return None;
                }
                // Others wait in the kernel's queue meanwhile. Not only until one ends: one may
                // become idle, or too slow to stay.
                Err(Full::All) => {
                    let _ = tokio::time::timeout(PAUSE, self.places.freed.notified()).await;
                }
            }
        }
    }

    fn start(&self, stream: TcpStream, peer: SocketAddr, place: Place) {
        stream::prepare(&stream);
        let main = self.main.clone();
        let thread = self.threads.as_ref().map_or(&main, |threads| threads.any());
        // Its events go to the thread that uses it.
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%peer, "moving an HTTP connection: {error}"),
        };
        let acceptor = self.certificate.as_ref().map(Certificate::acceptor);
        let (site, stop) = (Arc::clone(&self.site), self.stop.clone());
        let (active, router) = (Active::new(&site.metrics), main.clone());
        let connection = async move {
            let _active = active;
            let stream = match TcpStream::from_std(stream) {
                Ok(stream) => stream,
                Err(error) => return tracing::warn!(%peer, "moving an HTTP connection: {error}"),
            };
            let stream = match acceptor {
                None => Stream::Plain(stream),
                Some(acceptor) => {
                    let accepted = acceptor.accept_with(stream, |session| {
                        session.set_buffer_limit(Some(tls::BUFFER));
                    });
                    let accepted = tokio::select! {
                        accepted = accepted => accepted,
                        () = place.kicked() => return,
                    };
                    match accepted {
                        Ok(stream) => Stream::Tls(Box::new(stream)),
                        Err(error) => {
                            tracing::info!(%peer, "a TLS client gave up or was refused: {error}");
                            return;
                        }
                    }
                }
            };
            connection::run(stream, peer, &place, (&site, &router), &stop).await;
        };
        self.tasks.spawn_on(connection, thread);
    }
}
