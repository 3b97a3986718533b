//! DHCP servers other than this one, for the operator.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use headnode_model::net::MacAddr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Most servers that are remembered: forged ones must not eat the memory.
const MOST: usize = 32;

/// What was heard of another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Messages of it or to it.
    pub messages: u64,
    /// When the last of them was heard, Unix seconds.
    pub last: i64,
    /// What that was: `offer`, `ack`, `nak`, or a client's `request`.
    pub kind: &'static str,
    /// The client that it was for or from.
    pub client: MacAddr,
}

/// Other DHCP servers on the admin network, by their addresses.
#[derive(Debug, Default)]
pub struct Others(Mutex<BTreeMap<Ipv4Addr, Other>>);

impl Others {
    fn table(&self) -> MutexGuard<'_, BTreeMap<Ipv4Addr, Other>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a message; of too many servers the one is forgotten that was silent longest.
    pub(super) fn note(&self, server: Ipv4Addr, client: MacAddr, kind: &'static str, now: i64) {
        let mut table = self.table();
        if !table.contains_key(&server) && table.len() >= MOST {
            let oldest = table.iter().min_by_key(|(_, other)| other.last).map(|(ip, _)| *ip);
            oldest.map(|ip| table.remove(&ip));
        }
        let messages = table.get(&server).map_or(0, |other| other.messages).saturating_add(1);
        table.insert(server, Other { messages, last: now, kind, client });
    }

    /// All that were heard.
    pub fn list(&self) -> BTreeMap<Ipv4Addr, Other> {
        self.table().clone()
    }

    /// A line for people for each: what it is, and what was heard of it.
    pub fn lines(&self) -> Vec<(String, String)> {
        let line = |(server, other): (Ipv4Addr, Other)| {
            let Other { messages, last, kind, client } = other;
            let at = OffsetDateTime::from_unix_timestamp(last).ok();
            let at = at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default();
            let way = if kind == "request" { "from" } else { "to" };
            let text = format!("{messages} messages, last: {kind} {way} {client} at {at}");
            (format!("other DHCP server {server}"), text)
        };
        self.list().into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_told_and_forged_ones_do_not_pile_up() {
        let others = Others::default();
        let (ip, mac) = (Ipv4Addr::new(10, 0, 0, 1), MacAddr([2, 0, 0, 0, 0, 1]));
        others.note(ip, mac, "offer", 0);
        others.note(ip, mac, "ack", 60);
        let text = "2 messages, last: ack to 02:00:00:00:00:01 at 1970-01-01T00:01:00Z";
        assert_eq!(others.lines(), [("other DHCP server 10.0.0.1".to_owned(), text.to_owned())]);
        for n in 0..1000_u32 {
            others.note(Ipv4Addr::from(n), mac, "offer", 61 + i64::from(n));
        }
        assert_eq!(others.list().len(), MOST);
        assert!(!others.list().contains_key(&ip), "silent longest");
    }
}
