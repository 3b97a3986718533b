//! One connection: requests in, answers out, in order.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use headnode_model::api::REQUEST_ID_HEADER;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::answer::{Answer, Style};
use super::files::Opened;
use super::head::{self, Body, HEAD_LIMIT, Head, Wrong};
use super::limits::Limits;
use super::path::{FilePath, file_path};
use super::places::Place;
use super::range::{Part, part};
use super::report::Report;
use super::stream::{Out, Stream};
use super::{Peer, Site, dynamic};
use crate::cold;

/// Longest body of a request.
const BODY_LIMIT: u64 = 64 << 10;
/// Files up to this size are sent together with their head: one system call instead of two.
const SMALL: u64 = 32 << 10;
/// After an error, what still comes is read and forgotten for so long and so much: closing at once
/// would make the client's kernel throw our answer away.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 256 << 10);
const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Answers requests until the other side has enough, does not get on, or `stop`.
pub(super) async fn run(
    stream: Stream,
    peer: SocketAddr,
    place: &Place,
    (site, main): (&Site, &Handle),
    stop: &CancellationToken,
) {
    let ids = Uuid::new_v4();
    let mut connection = Connection { stream, peer, place, site, main, stop, ids, served: 0 };
    let done = async {
        if let Err(error) = connection.serve().await {
            tracing::debug!(%peer, "HTTP connection: {error}");
        }
    };
    tokio::select! {
        biased;
        () = done => {}
        () = place.kicked() => {}
    }
}

struct Connection<'a> {
    stream: Stream,
    peer: SocketAddr,
    place: &'a Place,
    site: &'a Site,
    /// Where the router runs.
    main: &'a Handle,
    stop: &'a CancellationToken,
    /// Ids of requests are counted from here: asking the kernel for each is slow.
    ids: Uuid,
    served: u128,
}

/// How a connection goes on after an answer.
enum Next {
    /// With the next request, so many bytes after this one's head.
    Request(usize),
    /// It is closed.
    Close,
    /// It is closed, and the client may still be sending.
    Linger,
}

impl Connection<'_> {
    async fn serve(&mut self) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let limits = self.site.limits.get();
            if !self.receive(&mut buffer, &limits).await? {
                return Ok(());
            }
            let mut lines = head::lines();
            let next = match head::parse(&buffer, &mut lines) {
                Ok(None) => return Ok(()),
                Ok(Some(head)) => {
                    let length = head.length;
                    match self.answer(&head, &buffer, &limits).await? {
                        Next::Request(body) => Ok(length + body),
                        other => Err(other),
                    }
                }
                Err(wrong) => Err(self.refuse(wrong, &limits).await?),
            };
            match next {
                Ok(used) if used >= buffer.len() => buffer = Vec::new(),
                Ok(used) => drop(buffer.drain(..used)),
                Err(next) => {
                    self.stream.finish().await?;
                    if matches!(next, Next::Linger) {
                        self.linger(buffer).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Reads until a whole head is in the buffer, or too much. `false`: there is none.
    async fn receive(&mut self, buffer: &mut Vec<u8>, limits: &Limits) -> io::Result<bool> {
        let mut seen = 0;
        // The next of several requests that were sent together, or the head's time begins.
        if self.served > 0 && !buffer.is_empty() && !self.place.head(limits) {
            return Ok(false);
        }
        loop {
            if head::ends(buffer, seen) || buffer.len() >= HEAD_LIMIT {
                let mut lines = head::lines();
                if !matches!(head::parse(buffer, &mut lines), Ok(None)) {
                    // Else it was closed in this moment.
                    return Ok(self.place.busy());
                }
            }
            seen = buffer.len();
            let waits = buffer.is_empty() && self.served > 0;
            if waits && (!self.place.idle(limits) || self.stop.is_cancelled()) {
                return Ok(false);
            }
            if self.stream.read(buffer).await? == 0 {
                return Ok(false);
            }
            if waits && !self.place.head(limits) {
                return Ok(false);
            }
        }
    }

    fn id(&mut self, head: Option<&Head<'_, '_>>) -> String {
        self.served += 1;
        let given = head.and_then(|head| head.header(REQUEST_ID_HEADER));
        match given {
            Some(id)
                if (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                id.to_owned()
            }
            _ => Uuid::from_u128(self.ids.as_u128() ^ (self.served & 0xffff_ffff)).to_string(),
        }
    }

    fn out(&mut self, limits: &Limits) -> Out<'_> {
        let rate = limits.rate(self.peer.ip().to_canonical());
        let metrics = &self.site.metrics;
        Out { stream: &mut self.stream, place: self.place, metrics, stall: limits.stall(), rate }
    }

    async fn refuse(&mut self, wrong: Wrong, limits: &Limits) -> io::Result<Next> {
        let status = match wrong {
            Wrong::Malformed => StatusCode::BAD_REQUEST,
            Wrong::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Wrong::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        };
        let id = self.id(None);
        let mut report = Report::new(self.site, self.peer, ("-", "-"), id);
        let text = format!("{wrong}\n");
        self.text(None, status, &text, false, &mut report, limits).await?;
        Ok(Next::Linger)
    }

    async fn answer(
        &mut self,
        head: &Head<'_, '_>,
        buffer: &[u8],
        limits: &Limits,
    ) -> io::Result<Next> {
        let id = self.id(Some(head));
        let mut report = Report::new(self.site, self.peer, (head.method, head.path), id);
        let report = &mut report;
        let keep = head.keep_alive && !self.stop.is_cancelled();
        let refused = if head.body == Body::Encoded {
            Some((StatusCode::LENGTH_REQUIRED, "say Content-Length, not Transfer-Encoding\n"))
        } else if matches!(head.method, "CONNECT" | "TRACE") {
            Some((StatusCode::METHOD_NOT_ALLOWED, "this method is not for a boot server\n"))
        } else if !KNOWN.contains(&head.method) {
            Some((StatusCode::NOT_IMPLEMENTED, "no such method\n"))
        } else if !head.target.starts_with('/') && !head.target.contains("://") {
            Some((StatusCode::BAD_REQUEST, "the target must be a path\n"))
        } else {
            None
        };
        if let Some((status, text)) = refused {
            self.text(Some(head), status, text, false, report, limits).await?;
            return Ok(Next::Linger);
        }
        let length = match head.body {
            Body::Length(length) => length,
            Body::Encoded => 0,
        };
        if self.site.folders.holds(head.path) {
            let keep = keep && length == 0;
            self.file(head, keep, report, limits).await?;
            return Ok(match (keep, length) {
                (true, _) => Next::Request(0),
                (false, 0) => Next::Close,
                (false, _) => Next::Linger,
            });
        }
        if length > BODY_LIMIT {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            self.text(Some(head), status, "at most 64 KiB\n", false, report, limits).await?;
            return Ok(Next::Linger);
        }
        let length = usize::try_from(length).unwrap_or(0);
        let here = buffer.get(head.length..).unwrap_or_default();
        let here = here.get(..length).unwrap_or(here);
        let body = self.body(head, here, length, limits).await?;
        let Some(request) = dynamic::request(head, Bytes::from(body), Peer(self.peer)) else {
            let status = StatusCode::BAD_REQUEST;
            self.text(Some(head), status, "the request cannot be read\n", false, report, limits)
                .await?;
            return Ok(Next::Linger);
        };
        let response = dynamic::call(self.site, self.main, request, &report.id).await?;
        let mut out = self.out(limits);
        let keep = dynamic::send(&mut out, head, response, keep, report).await?;
        Ok(if keep { Next::Request(here.len()) } else { Next::Close })
    }

    /// The request's body, of which `here` has come with the head.
    async fn body(
        &mut self,
        head: &Head<'_, '_>,
        here: &[u8],
        length: usize,
        limits: &Limits,
    ) -> io::Result<Vec<u8>> {
        let mut body = here.to_vec();
        if body.len() < length && head.expects {
            self.out(limits).bytes(b"HTTP/1.1 100 Continue\r\n\r\n", false).await?;
        }
        // As long as for a head, for all of it: 64 KiB need not trickle.
        self.place.progress(limits.head());
        while body.len() < length {
            let before = body.len();
            let mut part = Vec::new();
            if self.stream.read(&mut part).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // What is more than the body would be the next request: nobody sends it before an
            // answer, and it cannot be put back.
            let most = length - before;
            if part.len() > most {
                return Err(io::Error::other("bytes after a request's body"));
            }
            body.append(&mut part);
        }
        self.place.busy();
        Ok(body)
    }

    async fn file(
        &mut self,
        head: &Head<'_, '_>,
        keep: bool,
        report: &mut Report<'_>,
        limits: &Limits,
    ) -> io::Result<()> {
        if !matches!(head.method, "GET" | "HEAD") {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            return self.text(Some(head), status, "files are read\n", keep, report, limits).await;
        }
        let opened = match file_path(head.path) {
            FilePath::File(name) => self.site.folders.open(&name),
            FilePath::Nothing => Err(io::ErrorKind::NotFound.into()),
            FilePath::Malformed => {
                let status = StatusCode::BAD_REQUEST;
                let text = "the path cannot be decoded\n";
                return self.text(Some(head), status, text, keep, report, limits).await;
            }
        };
        let error = match opened {
            Ok(opened) => return self.send(head, &opened, keep, report, limits).await,
            Err(error) => error,
        };
        let (status, text) = match error.kind() {
            io::ErrorKind::NotFound => (StatusCode::NOT_FOUND, "no such file\n"),
            io::ErrorKind::PermissionDenied => {
                (StatusCode::FORBIDDEN, "the booter may not read this file\n")
            }
            _ => {
                // Each failed request is in the log already, but not why.
                tracing::error!(req_id = report.id, "opening a file: {error}");
                (StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read\n")
            }
        };
        self.text(Some(head), status, text, keep, report, limits).await
    }

    async fn send(
        &mut self,
        head: &Head<'_, '_>,
        opened: &Opened,
        keep: bool,
        report: &mut Report<'_>,
        limits: &Limits,
    ) -> io::Result<()> {
        let version = &opened.version;
        let part = part(head, version);
        let (status, from, length) = match part {
            Part::Whole => (StatusCode::OK, 0, version.size),
            Part::Bytes { from, length } => (StatusCode::PARTIAL_CONTENT, from, length),
            Part::Outside => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
            Part::Unchanged => (StatusCode::NOT_MODIFIED, 0, 0),
            Part::Changed => (StatusCode::PRECONDITION_FAILED, 0, 0),
        };
        report.status = status.as_u16();
        let body = if head.method == "HEAD" { 0 } else { length };
        let mut out = self.out(limits);
        let together = body <= SMALL && out.rate.is_none();
        let room = if together { usize::try_from(body).unwrap_or(0) } else { 0 };
        let style = Style { old: head.old, keep, id: &report.id };
        let mut answer = Answer::new(status, style, room);
        match part {
            Part::Bytes { .. } => {
                let last = from + length - 1;
                answer.line("Content-Range", format_args!("bytes {from}-{last}/{}", version.size));
            }
            Part::Outside => answer.line("Content-Range", format_args!("bytes */{}", version.size)),
            _ => {}
        }
        if part != Part::Unchanged {
            answer.line("Content-Length", length);
        }
        if matches!(part, Part::Whole | Part::Bytes { .. }) {
            answer.line("Content-Type", opened.kind);
            answer.line("Accept-Ranges", "bytes");
        }
        answer.line("Last-Modified", httpdate::HttpDate::from(version.modified));
        answer.line("ETag", &version.etag);
        answer.end();
        let mut bytes = answer.0;
        let start = bytes.len();
        let mut read = 0;
        if room > 0 {
            bytes.resize(start + room, 0);
            let space = bytes.get_mut(start..).unwrap_or_default();
            read = cold::cached(&opened.file, space, from).unwrap_or(0);
            bytes.truncate(start + read);
        }
        let read = read as u64;
        out.bytes(&bytes, read < body).await?;
        drop(bytes);
        report.bytes = read;
        if read < body {
            out.file(&opened.file, from + read, body - read, &mut report.bytes).await?;
        }
        report.complete = true;
        Ok(())
    }

    async fn text(
        &mut self,
        head: Option<&Head<'_, '_>>,
        status: StatusCode,
        text: &str,
        keep: bool,
        report: &mut Report<'_>,
        limits: &Limits,
    ) -> io::Result<()> {
        report.status = status.as_u16();
        let style = Style { old: head.is_some_and(|head| head.old), keep, id: &report.id };
        let mut answer = Answer::new(status, style, text.len());
        if status == StatusCode::METHOD_NOT_ALLOWED {
            answer.line("Allow", "GET, HEAD");
        }
        answer.line("Content-Type", "text/plain; charset=utf-8");
        answer.line("Content-Length", text.len());
        answer.end();
        if head.is_none_or(|head| head.method != "HEAD") {
            answer.0.extend_from_slice(text.as_bytes());
            report.bytes = text.len() as u64;
        }
        self.out(limits).bytes(&answer.0, false).await?;
        report.complete = true;
        Ok(())
    }

    async fn linger(&mut self, mut buffer: Vec<u8>) -> io::Result<()> {
        let (time, most) = LINGER;
        self.place.progress(time);
        let mut read = 0;
        while read < most {
            buffer.clear();
            match self.stream.read(&mut buffer).await? {
                0 => break,
                more => read += more,
            }
        }
        Ok(())
    }
}
