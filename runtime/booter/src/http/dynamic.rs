//! Requests that the router answers: scripts, the operator's API, metrics.

use std::io;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header,
};
use axum::response::Response;
use headnode_client::with_request_id;
use headnode_model::api::REQUEST_ID_HEADER;
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tower_service::Service;

use super::answer::{Answer, Style};
use super::head::Head;
use super::report::Report;
use super::stream::Out;
use super::{Peer, Site};

/// Header lines that belong to the connection, which is ours.
const OURS: [HeaderName; 4] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::DATE];

/// The request as the router wants it; `None` when a part of it is not legal.
pub(super) fn request(head: &Head<'_, '_>, body: Bytes, peer: Peer) -> Option<Request<Body>> {
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    for line in head.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::from_bytes(head.method.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(head.target).ok()?;
    *request.version_mut() = if head.old { Version::HTTP_10 } else { Version::HTTP_11 };
    *request.headers_mut() = headers;
    request.extensions_mut().insert(peer);
    Some(request)
}

/// Calls the router, where the connections are that it may ask others by. It is told to stop when nobody
/// waits for it any more.
///
/// # Errors
/// When it has panicked, or everything ends.
pub(super) async fn call(
    site: &Site,
    main: &Handle,
    request: Request<Body>,
    id: &str,
) -> io::Result<Response> {
    let mut router = site.dynamic.clone();
    let answer = main.spawn(with_request_id(id.to_owned(), router.call(request)));
    let answer = AbortOnDropHandle::new(answer).await.map_err(io::Error::other)?;
    Ok(answer.unwrap_or_else(|never| match never {}))
}

/// Sends what the router has answered. Whether the connection can stay.
pub(super) async fn send(
    out: &mut Out<'_>,
    head: &Head<'_, '_>,
    response: Response,
    keep: bool,
    report: &mut Report<'_>,
) -> io::Result<bool> {
    let (parts, body) = response.into_parts();
    let status = parts.status;
    let empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || status.is_informational();
    let given = parts.headers.get(header::CONTENT_LENGTH);
    let size = body.size_hint().exact();
    // Without a length, HTTP/1.0 knows the end of the connection only.
    let keep = keep && (empty || size.is_some() || !head.old);
    report.status = status.as_u16();
    let style = Style { old: head.old, keep, id: &report.id };
    let mut answer = Answer::new(status, style, 0);
    for (name, value) in &parts.headers {
        if !OURS.contains(name) && name != REQUEST_ID_HEADER {
            answer.raw(name.as_str(), value.as_bytes());
        }
    }
    let nothing = empty || head.method == "HEAD";
    let mut chunked = false;
    match (empty, given, size) {
        (true, ..) => {}
        (false, Some(given), _) if nothing => answer.raw("Content-Length", given.as_bytes()),
        (false, _, Some(size)) => answer.line("Content-Length", size),
        (false, _, None) if !head.old => {
            chunked = true;
            answer.line("Transfer-Encoding", "chunked");
        }
        (false, _, None) => {}
    }
    answer.end();
    if nothing {
        out.bytes(&answer.0, false).await?;
    } else {
        self::body(out, answer.0, body, chunked, report).await?;
    }
    report.complete = true;
    Ok(keep)
}

/// Sends `bytes`, which is the head, and the body, its first piece together with the head.
async fn body(
    out: &mut Out<'_>,
    mut bytes: Vec<u8>,
    mut body: Body,
    chunked: bool,
    report: &mut Report<'_>,
) -> io::Result<()> {
    let mut sent = 0;
    loop {
        // What the handler takes is not the client's time.
        out.place.busy();
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(io::Error::other)?;
        let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else { continue };
        if chunked {
            bytes.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        }
        bytes.extend_from_slice(data);
        if chunked {
            bytes.extend_from_slice(b"\r\n");
        }
        sent += data.len() as u64;
        if body.is_end_stream() {
            break;
        }
        out.bytes(&bytes, false).await?;
        report.bytes = sent;
        bytes.clear();
    }
    if chunked {
        bytes.extend_from_slice(b"0\r\n\r\n");
    }
    out.bytes(&bytes, false).await?;
    report.bytes = sent;
    Ok(())
}
