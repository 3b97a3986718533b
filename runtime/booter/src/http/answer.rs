//! The head of an answer.

use std::io::Write;
use std::time::SystemTime;

use axum::http::StatusCode;
use headnode_model::api::REQUEST_ID_HEADER;

/// What every answer's head is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style<'a> {
    /// The request was HTTP/1.0.
    pub(super) old: bool,
    /// The connection stays.
    pub(super) keep: bool,
    /// The request's id.
    pub(super) id: &'a str,
}

/// The bytes of an answer that are sent together: head, and body when it is short.
pub(super) struct Answer(pub(super) Vec<u8>);

impl Answer {
    /// Status line and the lines that all answers have. `room` is for what follows.
    pub(super) fn new(status: StatusCode, style: Style<'_>, room: usize) -> Self {
        let mut answer = Self(Vec::with_capacity(512 + room));
        let reason = status.canonical_reason().unwrap_or("Unknown");
        answer.push(format_args!("HTTP/1.1 {} {reason}\r\n", status.as_u16()));
        answer.line("Date", httpdate::HttpDate::from(SystemTime::now()));
        answer.line(REQUEST_ID_HEADER, style.id);
        match (style.keep, style.old) {
            (false, _) => answer.line("Connection", "close"),
            (true, true) => answer.line("Connection", "keep-alive"),
            (true, false) => {}
        }
        answer
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to memory cannot fail.
        let _ = self.0.write_fmt(text);
    }

    /// A header line.
    pub(super) fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        self.push(format_args!("{name}: {value}\r\n"));
    }

    /// A header line whose value need not be text.
    pub(super) fn raw(&mut self, name: &str, value: &[u8]) {
        self.push(format_args!("{name}: "));
        self.0.extend_from_slice(value);
        self.end();
    }

    /// The empty line.
    pub(super) fn end(&mut self) {
        self.0.extend_from_slice(b"\r\n");
    }
}
