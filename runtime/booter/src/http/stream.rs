//! A connection's bytes, with or without TLS, and sending files over it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::places::Place;
use super::tls;
use crate::cold;
use crate::metrics::Metrics;

/// Most bytes given to the kernel at a time.
const CHUNK: u64 = 1 << 20;
/// After so many bytes without a pause, other connections of the same thread get their turn: a fast
/// client's socket may never be full.
const TURN: u64 = 4 << 20;

pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A node that is switched off while it loads leaves its connection open: notice it.
pub(super) fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(20))
        .with_interval(Duration::from_secs(5));
    let set = SockRef::from(stream).set_tcp_keepalive(&keepalive);
    if let Err(error) = set.and_then(|()| stream.set_nodelay(true)) {
        tracing::debug!("setting the options of an HTTP connection: {error}");
    }
}

impl Stream {
    /// Appends what has come; 0 at the end.
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.reserve(1024);
        match self {
            Self::Plain(stream) => stream.read_buf(buffer).await,
            Self::Tls(stream) => stream.read_buf(buffer).await,
        }
    }

    /// `more`: more follows at once, and the kernel may wait for it.
    async fn write(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        match self {
            Self::Plain(stream) if more => {
                stream.async_io(Interest::WRITABLE, || send_more(stream, bytes)).await
            }
            Self::Plain(stream) => stream.write(bytes).await,
            Self::Tls(stream) => stream.write(bytes).await,
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush().await,
        }
    }

    /// Says that nothing more will be sent.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
        }
    }
}

#[cfg(target_os = "linux")]
fn send_more(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    use rustix::net::SendFlags;
    Ok(rustix::net::send(stream, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)?)
}

#[cfg(not(target_os = "linux"))]
fn send_more(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.try_write(bytes)
}

#[cfg(target_os = "linux")]
fn sendfile(stream: &TcpStream, file: &File, mut at: u64, length: u64) -> Result<usize, Errno> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    rustix::fs::sendfile(stream, file, Some(&mut at), length)
}

#[cfg(not(target_os = "linux"))]
fn sendfile(_: &TcpStream, _: &File, _: u64, _: u64) -> Result<usize, Errno> {
    Err(Errno::NOSYS)
}

/// What sending needs beside the stream.
pub(super) struct Out<'a> {
    pub(super) stream: &'a mut Stream,
    pub(super) place: &'a Place,
    pub(super) metrics: &'a Metrics,
    /// How long the receiver may make no progress.
    pub(super) stall: Duration,
    /// Bytes per second that the client may have.
    pub(super) rate: Option<u64>,
}

impl Out<'_> {
    /// Sends all of `bytes`; with `more`, the kernel may keep them for a moment.
    pub(super) async fn bytes(&mut self, mut bytes: &[u8], more: bool) -> io::Result<()> {
        while !bytes.is_empty() {
            self.place.progress(self.stall);
            let sent = self.stream.write(bytes, more).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.metrics.http_bytes.inc_by(sent as u64);
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        self.stream.flush().await
    }

    /// Sends a part of a file, counting in `sent` what has gone out so far.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file has become shorter; the receiver must not take it for whole.
    pub(super) async fn file(
        &mut self,
        file: &Arc<File>,
        mut at: u64,
        length: u64,
        sent: &mut u64,
    ) -> io::Result<()> {
        let end = at + length;
        let (mut warm, mut turn, mut by_kernel) = (at, 0, matches!(self.stream, Stream::Plain(_)));
        while at < end {
            if at >= warm {
                warm = end.min(at + CHUNK);
                cold::warm(file, at, warm - at).await?;
            }
            let granted = self.grant(warm - at).await;
            self.place.progress(self.stall);
            let gone = match (&*self.stream, by_kernel) {
                (Stream::Plain(stream), true) => {
                    let try_send = || Ok(sendfile(stream, file, at, granted)?);
                    match stream.try_io(Interest::WRITABLE, try_send) {
                        Ok(gone) => {
                            self.metrics.http_bytes.inc_by(gone as u64);
                            gone as u64
                        }
                        Err(error) => {
                            self.give_back(granted);
                            match Errno::from_io_error(&error) {
                                Some(Errno::INTR) => {}
                                // The file system cannot.
                                Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                                    by_kernel = false;
                                }
                                _ if error.kind() == io::ErrorKind::WouldBlock => {
                                    stream.writable().await?;
                                    turn = 0;
                                }
                                _ => return Err(error),
                            }
                            continue;
                        }
                    }
                }
                _ => self.copy(file, at, granted).await?,
            };
            if gone == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.give_back(granted - gone);
            at += gone;
            *sent += gone;
            turn += gone;
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Reads and writes up to `length` bytes.
    async fn copy(&mut self, file: &Arc<File>, at: u64, length: u64) -> io::Result<u64> {
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(tls::BUFFER);
        let bytes = cold::read(file, at, Vec::with_capacity(length), length).await?;
        self.bytes(&bytes, false).await?;
        Ok(bytes.len() as u64)
    }

    /// How many of `want` bytes may be sent now; waits until it is at least one.
    async fn grant(&self, want: u64) -> u64 {
        let Some(rate) = self.rate else { return want };
        loop {
            match self.place.bucket.take(want, rate, Instant::now()) {
                Ok(granted) => return granted,
                Err(wait) => {
                    self.place.progress(self.stall + wait);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        if let Some(rate) = self.rate
            && bytes > 0
        {
            self.place.bucket.give_back(bytes, rate);
        }
    }
}
