//! What is told of each answer: a log line, the counters, the observer.

use std::net::SocketAddr;
use std::time::Instant;

use crate::http::Site;
use crate::metrics::Metrics;
use crate::observe::Event;

/// Most characters of a path that are told; a path is as long as a hostile client wants.
const PATH: usize = 200;

/// An answer. Tells about it when it is dropped, so also when it was broken off.
pub(super) struct Report<'a> {
    site: &'a Site,
    peer: SocketAddr,
    method: &'a str,
    path: &'a str,
    begun: Instant,
    /// The request's id.
    pub(super) id: String,
    /// The answer's status; 0 until there is one.
    pub(super) status: u16,
    /// Bytes of the body that were sent.
    pub(super) bytes: u64,
    /// Whether all of it was sent.
    pub(super) complete: bool,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        site: &'a Site,
        peer: SocketAddr,
        (method, path): (&'a str, &'a str),
        id: String,
    ) -> Self {
        let cut = path.char_indices().nth(PATH).map_or(path, |(at, _)| &path[..at]);
        let (status, bytes, complete) = (0, 0, false);
        let method = &method[..method.len().min(16)];
        Self { site, peer, method, path: cut, begun: Instant::now(), id, status, bytes, complete }
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let class = match self.status / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "other",
        };
        Metrics::count(&self.site.metrics.http_requests, class);
        // Monitoring asks every few seconds for ever.
        if matches!(self.path, "/healthz" | "/metrics") {
            return;
        }
        let (took, client) = (self.begun.elapsed(), self.peer.ip().to_canonical());
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            req_id = self.id, %client, method = self.method, path = self.path,
            status = self.status, bytes = self.bytes, complete = self.complete, ms, "HTTP"
        );
        self.site.observer.event(&Event::Http {
            client,
            path: self.path,
            status: self.status,
            bytes: self.bytes,
            complete: self.complete,
            took,
        });
    }
}
