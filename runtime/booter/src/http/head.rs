//! The head of a request (RFC 9112).

use httparse::{EMPTY_HEADER, Header, Status};

use super::path::path_of;

/// Longest head in bytes.
pub const HEAD_LIMIT: usize = 8 << 10;
/// Most header lines.
pub const HEADERS: usize = 64;

/// Room for the header lines of one head.
pub type Lines<'b> = [Header<'b>; HEADERS];

/// Empty [`Lines`].
pub const fn lines<'b>() -> Lines<'b> {
    [EMPTY_HEADER; HEADERS]
}

/// A request's head.
#[derive(Debug)]
pub struct Head<'h, 'b> {
    /// The method, as sent.
    pub method: &'b str,
    /// The target, as sent: path and query, or a whole URL.
    pub target: &'b str,
    /// The target's path, percent-encoded as sent.
    pub path: &'b str,
    /// HTTP/1.0, not 1.1.
    pub old: bool,
    /// All header lines.
    pub headers: &'h [Header<'b>],
    /// Bytes of the head; what follows is the body or the next request.
    pub length: usize,
    /// Whether the client wants the connection to stay.
    pub keep_alive: bool,
    /// How long the body is.
    pub body: Body,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects: bool,
}

/// The body that follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// So many bytes; 0 when there is none.
    Length(u64),
    /// `Transfer-Encoding`, which this server does not read.
    Encoded,
}

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It cannot be read.
    #[error("the request cannot be read")]
    Malformed,
    /// Longer than [`HEAD_LIMIT`], or more lines than [`HEADERS`].
    #[error("the request's head is too long")]
    TooLong,
    /// HTTP/2 or something else.
    #[error("this server speaks HTTP/1.1 and 1.0")]
    Version,
}

impl Head<'_, '_> {
    /// The value of a header line, the first when there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self.headers.iter().find(|line| line.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(line.value).ok().map(str::trim)
    }
}

/// Whether `bytes` hold the empty line that ends a head; bytes before `from` were looked at before.
pub fn ends(bytes: &[u8], from: usize) -> bool {
    let from = from.saturating_sub(3);
    let tail = bytes.get(from..).unwrap_or_default();
    tail.iter().enumerate().any(|(at, byte)| {
        *byte == b'\n' && matches!(tail.get(at + 1..), Some([b'\n', ..] | [b'\r', b'\n', ..]))
    })
}

/// Reads the head at the beginning of `bytes`; `None` when its end is not there yet.
///
/// # Errors
/// When it is no head of a request, or too long. The connection is of no use any more.
pub fn parse<'h, 'b>(
    bytes: &'b [u8],
    lines: &'h mut Lines<'b>,
) -> Result<Option<Head<'h, 'b>>, Wrong> {
    let within = bytes.get(..HEAD_LIMIT).unwrap_or(bytes);
    let mut request = httparse::Request::new(lines);
    let length = match request.parse(within) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if bytes.len() < HEAD_LIMIT => return Ok(None),
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(Wrong::TooLong),
        Err(httparse::Error::Version) => return Err(Wrong::Version),
        Err(_) => return Err(Wrong::Malformed),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Wrong::Malformed);
    };
    let headers: &'h [Header<'b>] = request.headers;
    let old = minor == 0;
    let mut head = Head {
        method,
        target,
        path: path_of(target).unwrap_or(target),
        old,
        headers,
        length,
        keep_alive: !old,
        body: Body::Length(0),
        expects: false,
    };
    let mut hosts = 0;
    let mut sizes = None;
    for line in headers {
        let name = line.name;
        if name.eq_ignore_ascii_case("host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case("connection") {
            let value = line.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            for word in value {
                if word.eq_ignore_ascii_case(b"close") {
                    head.keep_alive = false;
                } else if old && word.eq_ignore_ascii_case(b"keep-alive") {
                    head.keep_alive = true;
                }
            }
        } else if name.eq_ignore_ascii_case("content-length") {
            let size = length_of(line.value).ok_or(Wrong::Malformed)?;
            if sizes.replace(size).is_some_and(|other| other != size) {
                return Err(Wrong::Malformed);
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            head.body = Body::Encoded;
        } else if name.eq_ignore_ascii_case("expect") {
            head.expects = line.value.eq_ignore_ascii_case(b"100-continue");
        }
    }
    match (head.body, sizes) {
        // Two lengths are how requests are smuggled (RFC 9112 §6.1).
        (Body::Encoded, Some(_)) => return Err(Wrong::Malformed),
        (Body::Length(_), Some(size)) => head.body = Body::Length(size),
        (_, None) => {}
    }
    if hosts > 1 || (hosts == 0 && !old) {
        return Err(Wrong::Malformed);
    }
    Ok(Some(head))
}

fn length_of(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    // Without this, `+1` would be a number.
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, check: impl FnOnce(Head<'_, '_>)) {
        check(parse(text.as_bytes(), &mut lines()).unwrap().unwrap());
    }

    fn wrong(text: &str) -> Wrong {
        parse(text.as_bytes(), &mut lines()).unwrap_err()
    }

    #[test]
    fn heads_of_firmware_and_tools_are_read() {
        check("GET /a?b HTTP/1.1\r\nhost: x\r\nRange: bytes=1-\r\n\r\nmore", |head| {
            assert_eq!((head.method, head.target, head.path), ("GET", "/a?b", "/a"));
            assert_eq!((head.length, head.keep_alive, head.old), (47, true, false));
            assert_eq!(head.header("range"), Some("bytes=1-"));
            assert_eq!(head.body, Body::Length(0));
        });
        check("GET / HTTP/1.0\r\n\r\n", |head| assert!(head.old && !head.keep_alive));
        let kept = "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
        check(kept, |head| assert!(head.keep_alive));
        let closed = "GET / HTTP/1.1\r\nHost:\r\nConnection: te, Close\r\n\r\n";
        check(closed, |head| assert!(!head.keep_alive));
        let posted =
            "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        check(posted, |head| assert!(head.body == Body::Length(5) && head.expects));
        let encoded = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(encoded, |head| assert_eq!(head.body, Body::Encoded));
    }

    #[test]
    fn bad_heads_are_refused() {
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "\u{16}\u{3}\u{1}\r\n\r\n",
            "GET\r\n\r\n",
        ] {
            assert_eq!(wrong(text), Wrong::Malformed, "{text:?}");
        }
        assert_eq!(wrong("PRI * HTTP/2.0\r\n\r\n"), Wrong::Version);
        let many = "a: b\r\n".repeat(65);
        assert_eq!(wrong(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Wrong::TooLong);
        assert_eq!(wrong(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(9000))), Wrong::TooLong);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, &mut lines());
        }

        #[test]
        fn a_head_in_pieces_is_partial_until_its_end(
            path in "/[a-z/%0-9]{0,30}", value in "[ -~]{0,40}", more in "[a-z]{0,10}"
        ) {
            let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-A: {value}\r\n\r\n");
            let text = format!("{head}{more}");
            for cut in 0..head.len() {
                prop_assert!(parse(&text.as_bytes()[..cut], &mut lines()).unwrap().is_none());
                prop_assert!(!ends(&text.as_bytes()[..cut], 0));
            }
            prop_assert!(ends(text.as_bytes(), head.len() - 1));
            let mut lines = lines();
            let parsed = parse(text.as_bytes(), &mut lines).unwrap().unwrap();
            prop_assert_eq!(parsed.length, head.len());
            prop_assert_eq!(parsed.header("x-a"), Some(value.trim()));
        }
    }
}
