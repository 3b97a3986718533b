//! A part of a file, as it arrives: for readers that keep nothing on disk.

use std::io::{self, Read};

use ureq::BodyReader;
use ureq::http::{StatusCode, header};

use super::{Error, Fault, Http, Patience};
use crate::source::headers::{content_range, length, validator};

/// An answer whose body is being read.
pub(crate) struct Part {
    /// Where in the file the body begins: 0 when the server sends the whole file, asked or not.
    pub start: u64,
    /// Whether it is the part that was asked for.
    pub partial: bool,
    /// Length of the whole file in bytes.
    pub size: Option<u64>,
    /// Length of the body in bytes: some servers send less at once than was asked for.
    pub length: Option<u64>,
    /// Whether the end of the body can be told from a broken connection.
    pub framed: bool,
    /// What changes when the file does: an ETag or a date.
    pub validator: Option<String>,
    body: BodyReader<'static>,
}

impl Http {
    /// How patient it is.
    pub(crate) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Asks for the bytes from `start` on, up to `end` (exclusive) when that is known. With a
    /// validator, a file that is another one by now comes from its beginning, as RFC 9110 section 13.1.5
    /// has it.
    pub(crate) fn part(
        &self,
        url: &str,
        start: u64,
        end: Option<u64>,
        known: Option<&str>,
    ) -> Result<Part, Fault> {
        let range = match end {
            Some(end) => format!("bytes={start}-{}", end.saturating_sub(1)),
            None => format!("bytes={start}-"),
        };
        // What a server packs on its own has no ranges of the file's own bytes.
        let mut headers = vec![("accept-encoding", "identity")];
        if start > 0 || end.is_some() {
            headers.push(("range", range.as_str()));
            if let Some(known) = known {
                headers.push(("if-range", known));
            }
        }
        let response = self.call(url, &headers)?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let headers = response.headers();
        let wrong =
            |why: &str| Fault::Final(Error::Wrong { url: url.to_owned(), why: why.to_owned() });
        let (found, size) = match partial {
            true => content_range(headers)
                .ok_or_else(|| wrong("it sends a part of the file and does not say which"))?,
            false => (0, length(headers)),
        };
        if partial && found != start {
            return Err(wrong("it sends another part of the file than was asked for"));
        }
        let told = length(headers);
        let framed = told.is_some() || headers.contains_key(header::TRANSFER_ENCODING);
        let validator = validator(headers);
        let body = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(Part { start: found, partial, size, length: told, framed, validator, body })
    }

    /// Reads some of a part's body; 0 at its end.
    pub(crate) fn read(&self, part: &mut Part, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            match part.body.read(buffer) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }
}
