//! What the headers of an answer say.

use std::time::Duration;

use ureq::http::{HeaderMap, header};

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The length of the body in bytes.
pub fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_LENGTH)?.trim().parse().ok()
}

/// A strong ETag, or else the date of the last change. A weak ETag may stay when bytes change.
pub fn validator(headers: &HeaderMap) -> Option<String> {
    let etag = text(headers, header::ETAG).filter(|etag| !etag.starts_with("W/"));
    etag.or_else(|| text(headers, header::LAST_MODIFIED)).map(str::to_owned)
}

/// First byte and length of the whole file, from `bytes 5-9/10`.
pub fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, all) =
        text(headers, header::CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, all.trim().parse().ok()))
}

/// How long the server asks to wait.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = text(headers, header::RETRY_AFTER)?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
