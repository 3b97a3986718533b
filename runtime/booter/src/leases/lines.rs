//! The text of the lease file and its log: one readable line per machine.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use headnode_model::net::MacAddr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Lease;

/// First lines of the lease file.
pub(super) const HEAD: &str = "# Leases of sdc-booter; it rewrites this file. One line per machine:\n\
    # MAC address, IP address, last seen, valid until, UUID of the machine or -, NIC tag or -\n\
    # What is newer is in leases.log.\n";
const GONE: &str = "gone";

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A lease, new or prolonged.
    Lease(Lease),
    /// The machine no longer has the address.
    Gone(MacAddr, Ipv4Addr),
}

/// Appends a lease's line.
pub(super) fn lease(text: &mut String, Lease { mac, ip, uuid, seen, until, tag }: &Lease) {
    let good = |tag: &&Arc<str>| !tag.is_empty() && !tag.contains(char::is_whitespace);
    let tag = tag.as_ref().filter(good).map_or("-", |tag| tag);
    // Writing to a String cannot fail.
    let _ = write!(text, "{mac} {ip:<15} {} {} ", stamp(*seen), stamp(*until));
    let _ = match uuid {
        Some(uuid) => writeln!(text, "{uuid} {tag}"),
        None => writeln!(text, "- {tag}"),
    };
}

/// Appends the line of a lease that has ended.
pub(super) fn gone(text: &mut String, mac: MacAddr, ip: Ipv4Addr) {
    let _ = writeln!(text, "{GONE} {mac} {ip}");
}

/// The lease file's text.
pub(super) fn snapshot<'a>(leases: impl Iterator<Item = &'a Lease>) -> String {
    let mut text = String::from(HEAD);
    let mut count = 0;
    for found in leases {
        lease(&mut text, found);
        count += 1;
    }
    let _ = writeln!(text, "# end {count}");
    text
}

/// The leases in the lease file's text, and what is wrong with the text.
pub fn parse_snapshot(text: &str) -> (Vec<Lease>, Vec<String>) {
    let mut leases = Vec::new();
    let mut problems = Vec::new();
    let mut end = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(count) = line.strip_prefix("# end ") {
            end = count.parse::<usize>().ok();
        } else if !line.is_empty() && !line.starts_with('#') {
            match parse_lease(line) {
                Some(lease) => leases.push(lease),
                None => problems.push(wrong(number, line)),
            }
        }
    }
    match end {
        None => problems.push("its last line (# end …) is missing: it was cut off".to_owned()),
        Some(count) if count != leases.len() + problems.len() => {
            problems.push(format!("it should hold {count} leases but has {}", leases.len()));
        }
        Some(_) => {}
    }
    (leases, problems)
}

/// The lines of the log, and what is wrong with it. A last line without its end was being written
/// when the power went; its machine had no answer yet.
pub fn parse_log(text: &str) -> (Vec<Entry>, Vec<String>) {
    let (whole, torn) = match text.rfind('\n') {
        Some(at) => text.split_at(at + 1),
        None => ("", text),
    };
    let mut entries = Vec::new();
    let mut problems = Vec::new();
    for (number, line) in whole.lines().enumerate() {
        match parse_entry(line.trim()) {
            Some(entry) => entries.push(entry),
            None => problems.push(wrong(number, line)),
        }
    }
    if !torn.is_empty() {
        problems.push("its last line was cut off while it was written".to_owned());
    }
    (entries, problems)
}

fn wrong(number: usize, line: &str) -> String {
    let shown: String = line.chars().take(120).collect();
    format!("line {} is no lease: {shown:?}", number + 1)
}

fn parse_entry(line: &str) -> Option<Entry> {
    let Some(rest) = line.strip_prefix(GONE) else {
        return parse_lease(line).map(Entry::Lease);
    };
    let mut words = rest.split_whitespace();
    let entry = Entry::Gone(words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some(entry)
}

fn parse_lease(line: &str) -> Option<Lease> {
    let mut words = line.split_whitespace();
    let time = |word: &str| Some(OffsetDateTime::parse(word, &Rfc3339).ok()?.unix_timestamp());
    let lease = Lease {
        mac: words.next()?.parse().ok()?,
        ip: words.next()?.parse().ok()?,
        seen: time(words.next()?)?,
        until: time(words.next()?)?,
        uuid: match words.next()? {
            "-" => None,
            text => Some(text.parse().ok()?),
        },
        // Files of older versions have no tags.
        tag: words.next().filter(|tag| *tag != "-").map(Into::into),
    };
    words.next().is_none().then_some(lease)
}

fn stamp(unix: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}
