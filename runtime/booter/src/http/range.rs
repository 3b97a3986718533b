//! Which part of a file is asked for, and whether the client has it already (RFC 9110 §13, §14).

use std::time::{Duration, SystemTime};

use super::head::Head;

/// What identifies the content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Strong entity tag, with its quotes.
    pub etag: String,
    /// Time of the last change, in whole seconds as HTTP has it.
    pub modified: SystemTime,
    /// Bytes.
    pub size: u64,
}

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it (200).
    Whole,
    /// So many bytes from a place on, at least one (206).
    Bytes {
        /// The first byte's place.
        from: u64,
        /// How many.
        length: u64,
    },
    /// The range lies outside of the file (416).
    Outside,
    /// The client has it already (304).
    Unchanged,
    /// The file is not the one that the client wants (412).
    Changed,
}

/// The part of a file that a GET or HEAD request asks for.
pub fn part(head: &Head<'_, '_>, version: &Version) -> Part {
    let time = |name| head.header(name).and_then(|text| httpdate::parse_http_date(text).ok());
    if let Some(tags) = head.header("if-match") {
        if !lists(tags, &version.etag, false) {
            return Part::Changed;
        }
    } else if time("if-unmodified-since").is_some_and(|since| version.modified > since) {
        return Part::Changed;
    }
    if let Some(tags) = head.header("if-none-match") {
        if lists(tags, &version.etag, true) {
            return Part::Unchanged;
        }
    } else if time("if-modified-since").is_some_and(|since| version.modified <= since) {
        return Part::Unchanged;
    }
    match head.header("range") {
        Some(range) if head.method == "GET" && still(head, version) => bytes(range, version.size),
        _ => Part::Whole,
    }
}

/// Whether the file is still the one whose part the client has.
fn still(head: &Head<'_, '_>, version: &Version) -> bool {
    match head.header("if-range") {
        None => true,
        Some(tag) if tag.ends_with('"') => tag == version.etag,
        Some(date) => httpdate::parse_http_date(date).is_ok_and(|date| date == version.modified),
    }
}

/// Whether a list of entity tags has ours; ours never holds a comma.
fn lists(tags: &str, etag: &str, weak: bool) -> bool {
    tags.split(',').map(str::trim).any(|tag| {
        tag == "*" || tag == etag || (weak && tag.strip_prefix("W/").is_some_and(|tag| tag == etag))
    })
}

/// Reads a `Range`. Several ranges, other units and what cannot be read give the whole file, as
/// RFC 9110 §14.2 allows.
pub fn bytes(range: &str, size: u64) -> Part {
    let Some((unit, spec)) = range.split_once('=') else { return Part::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Part::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return Part::Whole };
    let (first, last) = (first.trim(), last.trim());
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return Part::Whole;
    }
    // A number too large for us is beyond the end of any file.
    let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
    match (first.is_empty(), last.is_empty()) {
        (true, true) => Part::Whole,
        (true, false) => match number(last).min(size) {
            0 => Part::Outside,
            length => Part::Bytes { from: size - length, length },
        },
        (false, open) => {
            let from = number(first);
            let last = if open { u64::MAX } else { number(last) };
            if last < from {
                return Part::Whole;
            }
            if from >= size {
                return Part::Outside;
            }
            Part::Bytes { from, length: (last - from).saturating_add(1).min(size - from) }
        }
    }
}

/// The version of a file, from its metadata.
pub fn version(inode: u64, size: u64, seconds: u64, nanoseconds: u64) -> Version {
    Version {
        etag: format!("\"{inode:x}-{size:x}-{seconds:x}.{nanoseconds:x}\""),
        modified: SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))
            // The largest date that HTTP can write is in the year 9999.
            .filter(|_| seconds < 253_402_300_800)
            .unwrap_or(SystemTime::UNIX_EPOCH),
        size,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::head::{lines, parse};
    use super::*;

    fn ask(headers: &str, version: &Version) -> Part {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        part(&parse(text.as_bytes(), &mut lines()).unwrap().unwrap(), version)
    }

    #[test]
    fn ranges_are_read() {
        let part = |from, length| Part::Bytes { from, length };
        for (range, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=10-", part(10, 90)),
            ("Bytes = 10-1000", part(10, 90)),
            ("bytes=-5", part(95, 5)),
            ("bytes=-500", part(0, 100)),
            ("bytes=0-99999999999999999999999", part(0, 100)),
            ("bytes=100-", Part::Outside),
            ("bytes=99999999999999999999999-", Part::Outside),
            ("bytes=-0", Part::Outside),
            ("bytes=5-4", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(bytes(range, 100), expected, "{range}");
        }
        assert_eq!(bytes("bytes=0-", 0), Part::Outside);
    }

    #[test]
    fn conditions_are_weighed_in_their_order() {
        let version = version(7, 100, 1_700_000_000, 5);
        let (tag, date) = (&version.etag, httpdate::fmt_http_date(version.modified));
        let before = httpdate::fmt_http_date(version.modified - Duration::from_secs(1));
        let ask = |headers: String| ask(&headers, &version);
        let ten = Part::Bytes { from: 10, length: 90 };
        let range = "Range: bytes=10-\r\n";
        assert_eq!(ask(format!("If-None-Match: \"x\", W/{tag}\r\n{range}")), Part::Unchanged);
        assert_eq!(ask("If-None-Match: *\r\n".into()), Part::Unchanged);
        assert_eq!(ask(format!("If-Modified-Since: {date}\r\n")), Part::Unchanged);
        assert_eq!(ask(format!("If-Modified-Since: {before}\r\n")), Part::Whole);
        // The tag counts before the date.
        let both = format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}\r\n");
        assert_eq!(ask(both), Part::Whole);
        assert_eq!(ask(format!("If-Match: W/{tag}\r\n")), Part::Changed);
        assert_eq!(ask(format!("If-Match: {tag}\r\n{range}")), ten);
        assert_eq!(ask(format!("If-Unmodified-Since: {before}\r\n")), Part::Changed);
        assert_eq!(ask(format!("If-Range: {tag}\r\n{range}")), ten);
        assert_eq!(ask(format!("If-Range: W/{tag}\r\n{range}")), Part::Whole);
        assert_eq!(ask(format!("If-Range: {date}\r\n{range}")), ten);
        assert_eq!(ask(format!("If-Range: {before}\r\n{range}")), Part::Whole);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(range in "(bytes=)?[-0-9,=]{0,24}", size in any::<u64>()) {
            if let Part::Bytes { from, length } = bytes(&range, size) {
                prop_assert!(length > 0 && from.checked_add(length).is_some_and(|end| end <= size));
            }
        }

        #[test]
        fn any_time_of_change_can_be_written(seconds in any::<u64>()) {
            httpdate::fmt_http_date(version(1, 1, seconds, 0).modified);
        }
    }
}
