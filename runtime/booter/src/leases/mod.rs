//! Which address belongs to which machine.
//!
//! A machine keeps its address for ever, as long as the range has unused addresses for the others:
//! nodes configure the address statically for a whole uptime and never renew it. Where the search
//! for a free address begins is a hash of the MAC, so that also a lost lease file gives nearly
//! every machine the address that it had.

mod file;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;

use headnode_model::net::MacAddr;
use uuid::Uuid;

pub(crate) use file::render;
pub use file::{LeaseFile, parse};

/// How long an offered address is held for a machine that has not yet asked for it, in seconds.
/// PXE firmware takes up to about 30 s from offer to request (four tries of DISCOVER).
const OFFER_SECONDS: i64 = 120;
/// How long an address is left alone after a machine has found somebody else using it, in seconds.
const DECLINE_SECONDS: i64 = 3600;

/// One machine's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is.
    pub mac: MacAddr,
    /// The address.
    pub ip: Ipv4Addr,
    /// The machine's SMBIOS UUID, when it has told one (option 97).
    pub uuid: Option<Uuid>,
    /// When the machine last asked for the address, Unix seconds.
    pub seen: i64,
    /// Until when the machine may use it, Unix seconds. It is given to another machine only when
    /// this is over and no unused address is left.
    pub until: i64,
}

/// Why there is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// All addresses of the range are in use.
    #[error(
        "the range {first} to {last} (dhcp_range_start, dhcp_range_end) has no free address left"
    )]
    Exhausted {
        /// First address of the range.
        first: Ipv4Addr,
        /// Last address of the range.
        last: Ipv4Addr,
    },
    /// The address is outside of the range or kept for something else.
    #[error("{0} is not ours to give: outside of the range, or in use by a service")]
    NotOurs(Ipv4Addr),
    /// The address belongs to somebody else.
    #[error("{0} belongs to {1}")]
    Taken(Ipv4Addr, MacAddr),
    /// The machine has another address.
    #[error("{0} was asked for, but the machine's address is {1}")]
    Other(Ipv4Addr, Ipv4Addr),
    /// A machine has found somebody else using the address a short while ago.
    #[error("{0} is in use by an unknown machine")]
    Conflict(Ipv4Addr),
}

/// The table of leases and offers.
#[derive(Debug)]
pub struct Leases {
    first: Ipv4Addr,
    last: Ipv4Addr,
    reserved: HashSet<Ipv4Addr>,
    by_mac: BTreeMap<MacAddr, Lease>,
    owners: HashMap<Ipv4Addr, MacAddr>,
    offers: HashMap<MacAddr, (Ipv4Addr, i64)>,
    declined: HashMap<Ipv4Addr, i64>,
}

impl Leases {
    /// An empty table for the addresses `range`, both ends included, without those `reserved`.
    pub fn new(range: (Ipv4Addr, Ipv4Addr), reserved: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        Self {
            first: range.0,
            last: range.1,
            reserved: reserved.into_iter().collect(),
            by_mac: BTreeMap::new(),
            owners: HashMap::new(),
            offers: HashMap::new(),
            declined: HashMap::new(),
        }
    }

    /// Takes over a lease from the file.
    ///
    /// # Errors
    /// When the range has changed since, or another machine has the address.
    pub fn restore(&mut self, lease: Lease) -> Result<(), Refusal> {
        if !self.ours(lease.ip) {
            return Err(Refusal::NotOurs(lease.ip));
        }
        match self.owners.get(&lease.ip) {
            Some(owner) if *owner != lease.mac => Err(Refusal::Taken(lease.ip, *owner)),
            _ => {
                self.insert(lease);
                Ok(())
            }
        }
    }

    /// The address for a machine: the one it has, else the one it would like, else a free one.
    ///
    /// # Errors
    /// When the range is used up.
    pub fn offer(
        &mut self,
        mac: MacAddr,
        wanted: Option<Ipv4Addr>,
        now: i64,
    ) -> Result<Ipv4Addr, Refusal> {
        self.forget_old(now);
        let held = self.by_mac.get(&mac).map(|lease| lease.ip);
        let held = held.or_else(|| self.offers.get(&mac).map(|(ip, _)| *ip));
        let free = |ip: &Ipv4Addr| self.refusal(mac, *ip).is_none();
        let ip = held
            .or_else(|| wanted.filter(free))
            .or_else(|| self.search(mac))
            .or_else(|| self.oldest_expired(now))
            .ok_or(Refusal::Exhausted { first: self.first, last: self.last })?;
        if self.by_mac.get(&mac).is_none_or(|lease| lease.ip != ip) {
            self.offers.insert(mac, (ip, now.saturating_add(OFFER_SECONDS)));
        }
        Ok(ip)
    }

    /// Gives `ip` to a machine that asks for it. Says whether the file has to be written.
    ///
    /// # Errors
    /// Why the machine cannot have it.
    pub fn commit(&mut self, lease: Lease) -> Result<bool, Refusal> {
        self.forget_old(lease.seen);
        let held = self.by_mac.get(&lease.mac);
        if let Some(held) = held.filter(|held| held.ip != lease.ip) {
            return Err(Refusal::Other(lease.ip, held.ip));
        }
        if let Some(refusal) = self.refusal(lease.mac, lease.ip) {
            return Err(refusal);
        }
        // PXE firmware and iPXE ask within seconds of each other: one write is enough for both.
        let changed = held.is_none_or(|held| {
            held.uuid != lease.uuid && lease.uuid.is_some()
                || lease.seen.saturating_sub(held.seen).unsigned_abs() > 60
        });
        let uuid = lease.uuid.or_else(|| held.and_then(|held| held.uuid));
        self.offers.remove(&lease.mac);
        self.insert(Lease { uuid, ..lease });
        Ok(changed)
    }

    /// The machine took another server's offer: ours is free again.
    pub fn withdraw_offer(&mut self, mac: MacAddr) {
        self.offers.remove(&mac);
    }

    /// The machine no longer uses its address. The lease stays, as expired, so that the machine
    /// gets the same address the next time. Says whether there was such a lease.
    pub fn release(&mut self, mac: MacAddr, ip: Ipv4Addr, now: i64) -> bool {
        let lease = self.by_mac.get_mut(&mac).filter(|lease| lease.ip == ip);
        lease.map(|lease| lease.until = now).is_some()
    }

    /// The machine found somebody else using the address: nobody gets it for an hour. Says whether
    /// the address was this machine's.
    pub fn decline(&mut self, mac: MacAddr, ip: Ipv4Addr, now: i64) -> bool {
        let leased = self.by_mac.get(&mac).is_some_and(|lease| lease.ip == ip);
        let offered = self.offers.get(&mac).is_some_and(|(offered, _)| *offered == ip);
        if leased {
            self.by_mac.remove(&mac);
            self.owners.remove(&ip);
        }
        if offered {
            self.offers.remove(&mac);
        }
        // Only the address's own holder is believed, else one machine could block all others.
        if leased || offered {
            self.declined.insert(ip, now.saturating_add(DECLINE_SECONDS));
        }
        leased || offered
    }

    /// A machine's lease.
    pub fn get(&self, mac: MacAddr) -> Option<&Lease> {
        self.by_mac.get(&mac)
    }

    /// All leases, by MAC.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.by_mac.values()
    }

    /// How many machines have a lease.
    pub fn len(&self) -> usize {
        self.by_mac.len()
    }

    /// Whether no machine has a lease.
    pub fn is_empty(&self) -> bool {
        self.by_mac.is_empty()
    }

    /// Another machine with the same UUID that was seen at `since` (Unix seconds) or later.
    pub fn twin(&self, mac: MacAddr, uuid: Uuid, since: i64) -> Option<&Lease> {
        self.by_mac
            .values()
            .find(|lease| lease.mac != mac && lease.uuid == Some(uuid) && lease.seen >= since)
    }

    /// Whether an address is in the range and not kept for something else.
    pub fn ours(&self, ip: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&ip) && !self.reserved.contains(&ip)
    }

    fn refusal(&self, mac: MacAddr, ip: Ipv4Addr) -> Option<Refusal> {
        if !self.ours(ip) {
            return Some(Refusal::NotOurs(ip));
        }
        if let Some(owner) = self.owners.get(&ip).filter(|owner| **owner != mac) {
            return Some(Refusal::Taken(ip, *owner));
        }
        if let Some((owner, _)) = self.offers.iter().find(|(m, (o, _))| **m != mac && *o == ip) {
            return Some(Refusal::Taken(ip, *owner));
        }
        self.declined.contains_key(&ip).then_some(Refusal::Conflict(ip))
    }

    fn search(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        let first = u32::from(self.first);
        let size = u64::from(u32::from(self.last).checked_sub(first)?) + 1;
        let offered: HashSet<Ipv4Addr> = self.offers.values().map(|(ip, _)| *ip).collect();
        let start = fnv1a(&mac.0) % size;
        (0..size)
            .filter_map(|step| u32::try_from((start + step) % size).ok())
            .filter_map(|distance| first.checked_add(distance).map(Ipv4Addr::from))
            .find(|ip| {
                !self.reserved.contains(ip)
                    && !self.owners.contains_key(ip)
                    && !offered.contains(ip)
                    && !self.declined.contains_key(ip)
            })
    }

    /// Frees the address of the machine that has been silent for the longest time, when its lease
    /// is over.
    fn oldest_expired(&mut self, now: i64) -> Option<Ipv4Addr> {
        let oldest = self.by_mac.values().filter(|lease| lease.until <= now);
        let Lease { mac, ip, .. } = *oldest.min_by_key(|lease| lease.seen)?;
        self.by_mac.remove(&mac);
        self.owners.remove(&ip);
        tracing::info!(%ip, %mac, "no unused address is left: the oldest expired lease ends");
        Some(ip)
    }

    fn insert(&mut self, lease: Lease) {
        self.owners.insert(lease.ip, lease.mac);
        if let Some(old) = self.by_mac.insert(lease.mac, lease.clone())
            && old.ip != lease.ip
        {
            self.owners.remove(&old.ip);
        }
    }

    fn forget_old(&mut self, now: i64) {
        self.offers.retain(|_, (_, until)| *until > now);
        self.declined.retain(|_, until| *until > now);
    }
}

/// FNV-1a, 64 bits: spreads the MACs of one production lot, which differ in their last bits only.
/// Must never change: it decides which address a machine gets after the lease file was lost.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
