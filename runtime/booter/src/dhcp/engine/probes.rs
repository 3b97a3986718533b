//! Whether somebody uses an address already, before it is offered to a machine that has not had it
//! (RFC 2131 §2.2).
//!
//! The DISCOVER of a new machine is held while its address is asked about, and looked at again when
//! nobody has answered in time, or at once for the next address when somebody has. Each machine
//! waits for itself: all others, and all that are known, are answered meanwhile. Only networks on
//! the booter's own interface can be asked; ARP does not pass relays.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use headnode_model::net::MacAddr;

use super::{Asked, Engine, LOG_PAUSE, Origin, Outcome, Send};
use crate::arp;
use crate::dhcp::packet::{self, Heard};
use crate::dhcp::settings::Mode;
use crate::limit::LogLimit;
use crate::metrics::Metrics;

/// Most machines that are held at a time: 6 MB at most. The others get their offer unprobed.
const MOST: usize = 4096;
/// Most machines that are held for one address: under a flood, offers of one address are
/// exchanged faster than probes end.
const MOST_OF_ADDRESS: usize = 8;
/// So many addresses are tried for one DISCOVER; then the machine has to ask again.
const TRIES: u8 = 16;
/// Who claims more addresses than this in [`CLAIM_SECONDS`] answers for others: a router with
/// proxy ARP, which would keep every new machine from booting. It is believed no longer.
const MOST_CLAIMS: u32 = 32;
/// How long claims are counted, in seconds.
const CLAIM_SECONDS: i64 = 3600;
/// Most NICs whose claims are counted.
const MOST_CLAIMERS: usize = 1024;

/// How often a DISCOVER was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// It has just come.
    First,
    /// It was held, and nobody uses its address.
    Probed,
    /// Somebody uses the address that it would have got.
    Claimed { ip: Ipv4Addr, by: MacAddr, tries: u8 },
}

impl Round {
    fn tries(self) -> u8 {
        if let Self::Claimed { tries, .. } = self { tries } else { 0 }
    }
}

#[derive(Debug)]
struct Held {
    mac: MacAddr,
    bytes: Vec<u8>,
    from: Origin,
    tries: u8,
}

/// All that wait for the same address, and until when; never none.
#[derive(Debug)]
struct Waiting {
    end: Instant,
    machines: Vec<Held>,
}

/// The probes that run.
#[derive(Debug)]
pub(super) struct Probes {
    on: bool,
    held: HashMap<Ipv4Addr, Waiting>,
    count: usize,
    ends: BTreeSet<(Instant, Ipv4Addr)>,
    /// To be sent.
    new: Vec<Ipv4Addr>,
    /// When the count began, Unix seconds, and the count.
    claims: HashMap<MacAddr, (i64, u32)>,
    log: LogLimit<Ipv4Addr>,
    proxies: LogLimit<MacAddr>,
}

impl Probes {
    pub fn new() -> Self {
        Self {
            on: false,
            held: HashMap::new(),
            count: 0,
            ends: BTreeSet::new(),
            new: Vec::new(),
            claims: HashMap::new(),
            log: LogLimit::new(LOG_PAUSE),
            proxies: LogLimit::new(LOG_PAUSE),
        }
    }

    /// Holds a DISCOVER until `end`. Says whether there was room.
    fn hold(&mut self, ip: Ipv4Addr, end: Instant, held: Held) -> bool {
        let full = self.count >= MOST;
        match self.held.get_mut(&ip) {
            Some(waiting) => {
                let mut before = waiting.machines.iter_mut();
                // The machine has sent it again: the answer must be to the latest.
                if let Some(before) = before.find(|before| before.mac == held.mac) {
                    *before = held;
                    return true;
                }
                if full || waiting.machines.len() >= MOST_OF_ADDRESS {
                    return false;
                }
                // One probe for all that wait for the address.
                waiting.machines.push(held);
            }
            None if full => return false,
            None => {
                self.held.insert(ip, Waiting { end, machines: vec![held] });
                self.ends.insert((end, ip));
                self.new.push(ip);
            }
        }
        self.count += 1;
        true
    }

    fn take(&mut self, ip: Ipv4Addr) -> Vec<Held> {
        let Some(Waiting { end, machines }) = self.held.remove(&ip) else { return Vec::new() };
        self.ends.remove(&(end, ip));
        self.count = self.count.saturating_sub(machines.len());
        machines
    }

    /// The machine no longer wants the address.
    pub fn withdraw(&mut self, ip: Ipv4Addr, mac: MacAddr) {
        let Some(waiting) = self.held.get_mut(&ip) else { return };
        let before = waiting.machines.len();
        waiting.machines.retain(|held| held.mac != mac);
        self.count = self.count.saturating_sub(before - waiting.machines.len());
        if waiting.machines.is_empty() {
            self.take(ip);
        }
    }

    /// Counts a claim. Says whether its NIC is to be believed.
    fn believed(&mut self, by: MacAddr, now: i64) -> bool {
        let fresh = |(since, _): &(i64, u32)| now.saturating_sub(*since) < CLAIM_SECONDS;
        if self.claims.len() >= MOST_CLAIMERS && !self.claims.contains_key(&by) {
            self.claims.retain(|_, claim| fresh(claim));
            // More liars than any network has: none counts more than the others.
            if self.claims.len() >= MOST_CLAIMERS {
                self.claims.clear();
            }
        }
        let claim = self.claims.entry(by).or_insert((now, 0));
        if !fresh(claim) {
            *claim = (now, 0);
        }
        claim.1 = claim.1.saturating_add(1);
        claim.1 <= MOST_CLAIMS
    }
}

impl Engine {
    /// From now on, addresses that are new to a machine are asked about: see
    /// [`Engine::take_probes`], [`Engine::arp`] and [`Engine::end_probes`], which must be called.
    pub fn probe_addresses(&mut self) {
        self.probes.on = true;
    }

    /// The addresses to send probes for.
    pub fn take_probes(&mut self) -> Vec<Ipv4Addr> {
        std::mem::take(&mut self.probes.new)
    }

    /// When [`Engine::end_probes`] has something to do.
    pub fn next_end(&self) -> Option<Instant> {
        self.probes.ends.first().map(|(end, _)| *end)
    }

    /// The answers to the machines whose probes have ended by `at`: nobody uses their addresses.
    /// `now` is in Unix seconds.
    pub fn end_probes(&mut self, at: Instant, now: i64) -> Vec<Send> {
        let mut sends = Vec::new();
        while let Some((end, ip)) = self.probes.ends.first().copied()
            && end <= at
        {
            // Also takes the end away.
            for held in self.probes.take(ip) {
                sends.extend(self.again(&held, Round::Probed, now));
            }
        }
        sends
    }

    /// An ARP message of somebody else was heard: when it claims an address that is asked about,
    /// nobody gets that for an hour, and the machines go on with the next address. `now` is in Unix
    /// seconds.
    pub fn arp(&mut self, message: &arp::Message, now: i64) -> Vec<Send> {
        let (ip, by) = (message.ip, message.sender);
        let Some(waiting) = self.probes.held.get(&ip) else { return Vec::new() };
        // The machine itself: its system runs with the address that its firmware asks for.
        if waiting.machines.iter().any(|held| held.mac == by) {
            return Vec::new();
        }
        if !self.probes.believed(by, now) {
            if self.probes.proxies.pass(by, now) {
                tracing::error!(
                    %by,
                    "{by} answers for more than {MOST_CLAIMS} addresses of the range: a router with \
                     proxy ARP? Its claims are not believed any more; switch that off"
                );
            }
            return Vec::new();
        }
        let held = self.probes.take(ip);
        self.leases().in_use(ip, now);
        Metrics::count(&self.context.metrics.address_probes, "conflict");
        if let Some(first) = held.first()
            && self.probes.log.pass(ip, now)
            && self.may_log(now)
        {
            tracing::warn!(
                %ip, mac = %first.mac, %by,
                "{ip} is in use by {by}, which has not got it from here: {} gets another address; \
                 look for a machine with this fixed address",
                first.mac
            );
        }
        let mut sends = Vec::new();
        for held in held {
            let round = Round::Claimed { ip, by, tries: held.tries.saturating_add(1) };
            sends.extend(self.again(&held, round, now));
        }
        sends
    }

    fn again(&mut self, held: &Held, round: Round, now: i64) -> Option<Send> {
        let settings = self.context.dhcp.get();
        match packet::parse(&held.bytes) {
            // The settings may have changed meanwhile.
            Ok(Heard::Request(request)) if settings.mode == Mode::Server => {
                self.serve((&request, &held.bytes), held.from, &settings, round, now)
            }
            _ => None,
        }
    }

    /// Whether a DISCOVER is held until it is known whether somebody uses `ip`.
    pub(super) fn hold(&mut self, asked: &Asked<'_>, at: usize, ip: Ipv4Addr) -> bool {
        let wait = asked.settings.probe_ms;
        // The first network is the one on the booter's own interface.
        if !self.probes.on || wait == 0 || at != 0 || asked.round == Round::Probed {
            return false;
        }
        let end = Instant::now() + Duration::from_millis(wait.into());
        let held = Held {
            mac: asked.request.mac,
            bytes: asked.bytes.to_vec(),
            from: asked.from,
            tries: asked.round.tries(),
        };
        let holds = self.probes.hold(ip, end, held);
        if !holds {
            Metrics::count(&self.context.metrics.address_probes, "skipped");
        }
        holds
    }

    /// Tells of a claimed address, and why there is no answer when there were too many.
    pub(super) fn claimed(&self, asked: &Asked<'_>) -> Option<Outcome> {
        let Round::Claimed { ip, by, tries } = asked.round else { return None };
        let mut problem: Cow<'static, str> = format!("{ip} is in use by {by}").into();
        self.tell(asked, &Outcome::silent(problem.clone()));
        if tries < TRIES {
            return None;
        }
        problem.to_mut().push_str(&format!(", the last of {tries} addresses: it has to ask again"));
        Some(Outcome::silent(problem))
    }
}

#[cfg(test)]
#[path = "probes_tests.rs"]
mod tests;
