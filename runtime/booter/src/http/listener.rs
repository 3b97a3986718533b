//! Connections with a bound on their number and their idleness, and a count of the bytes sent.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use crate::metrics::Metrics;

/// Most connections at the same time; more wait in the kernel's queue of 1024.
const CONNECTIONS: usize = 256;
/// A connection on which nothing moves for this long is closed. Longer than CNAPI may take
/// ([`headnode_model::timing::BOOT_PARAMS_BUDGET`]), in which a node waits for its script.
const IDLE: Duration = Duration::from_secs(60);

/// Accepts connections.
pub(super) struct Listener {
    inner: TcpListener,
    places: Arc<Semaphore>,
    metrics: Metrics,
}

impl Listener {
    pub(super) fn new(inner: TcpListener, metrics: Metrics) -> Self {
        Self { inner, places: Arc::new(Semaphore::new(CONNECTIONS)), metrics }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match self.inner.accept().await {
                Ok((stream, peer)) => {
                    prepare(&stream);
                    let idle = Box::pin(tokio::time::sleep(IDLE));
                    let metrics = self.metrics.clone();
                    return (Connection { stream, idle, metrics, _place: place }, peer);
                }
                Err(error) => {
                    tracing::warn!("accepting an HTTP connection: {error}");
                    // Out of file descriptors or memory: others must end first.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A node that is switched off while it loads leaves its connection open: notice it.
fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(20))
        .with_interval(Duration::from_secs(5));
    let set = SockRef::from(stream).set_tcp_keepalive(&keepalive);
    if let Err(error) = set.and_then(|()| stream.set_nodelay(true)) {
        tracing::debug!("setting the options of an HTTP connection: {error}");
    }
}

/// One connection; gives its place back when it is dropped.
pub(super) struct Connection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    metrics: Metrics,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Passes a result on; nothing for [`IDLE`] becomes an error.
    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
            return poll;
        }
        self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn count<T: Copy + TryInto<u64>>(&self, poll: &Poll<io::Result<T>>) {
        if let Poll::Ready(Ok(bytes)) = poll
            && let Ok(bytes) = (*bytes).try_into()
        {
            self.metrics.http_bytes.inc_by(bytes);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.watch(cx, poll)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(&poll);
        self.watch(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.count(&poll);
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
