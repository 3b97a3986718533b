//! The addresses of one network: leases, offers and conflicts. Nothing here takes time that grows
//! faster than the logarithm of the number of machines.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use headnode_model::net::MacAddr;
use uuid::Uuid;

use super::runs::Runs;
use super::{Claim, Lease, Refusal};
use crate::networks::{Network, Reservation};

/// How long an offered address is held for a machine that has not yet asked for it, in seconds:
/// firmware asks a few seconds after the offer. A later request succeeds as well, as long as
/// nobody else has got the address meanwhile.
const OFFER_SECONDS: i64 = 20;
/// How long an address is left alone after somebody else was found using it, in seconds.
const CONFLICT_SECONDS: i64 = 3600;
/// Most offers that are remembered: random MACs must not eat the memory. A boot storm of 10,000
/// machines fits.
const MOST_OFFERS: usize = 16_384;
/// Most leases of a network, for ranges larger than any datacenter's.
const MOST_LEASES: usize = 1 << 18;
/// How many expired leases are looked at for one that is not offered already.
const EXPIRED_TRIES: usize = 64;

#[derive(Debug)]
pub(super) struct Pool {
    pub network: Arc<Network>,
    pub tag: Arc<str>,
    kept: HashSet<Ipv4Addr>,
    reserved: HashMap<MacAddr, Reservation>,
    reserved_for: HashMap<Ipv4Addr, MacAddr>,
    /// Those whose address a directory has given, and not the configuration.
    assigned: HashSet<MacAddr>,
    size: u32,
    taken: Runs,
    pub by_mac: BTreeMap<MacAddr, Lease>,
    pub owners: HashMap<Ipv4Addr, MacAddr>,
    by_uuid: BTreeSet<(Uuid, i64, MacAddr)>,
    by_end: BTreeSet<(i64, MacAddr)>,
    offers: HashMap<MacAddr, (Ipv4Addr, i64)>,
    offered: HashMap<Ipv4Addr, MacAddr>,
    offer_ends: BTreeSet<(i64, MacAddr)>,
    conflicts: HashMap<Ipv4Addr, i64>,
    conflict_ends: BTreeSet<(i64, Ipv4Addr)>,
}

impl Pool {
    /// `assigned` are the addresses that a directory has given to machines: those of this network are
    /// reserved, where the configuration says nothing else of machine and address.
    pub fn new(
        network: Arc<Network>,
        server: Ipv4Addr,
        assigned: &BTreeMap<MacAddr, Ipv4Addr>,
    ) -> Self {
        let net = network.subnet;
        let mut kept = HashSet::from([server, net.network(), net.broadcast()]);
        kept.extend(network.gateway);
        kept.extend(&network.resolvers);
        let reserved: HashMap<_, _> =
            network.reservations.iter().map(|found| (found.mac, found.clone())).collect();
        let mut pool = Self {
            tag: network.nic_tag.as_str().into(),
            size: network
                .ranges
                .iter()
                .fold(0, |size: u32, range| size.saturating_add(range.size())),
            reserved_for: network.reservations.iter().map(|found| (found.ip, found.mac)).collect(),
            kept,
            reserved,
            assigned: HashSet::new(),
            network,
            taken: Runs::default(),
            by_mac: BTreeMap::new(),
            owners: HashMap::new(),
            by_uuid: BTreeSet::new(),
            by_end: BTreeSet::new(),
            offers: HashMap::new(),
            offered: HashMap::new(),
            offer_ends: BTreeSet::new(),
            conflicts: HashMap::new(),
            conflict_ends: BTreeSet::new(),
        };
        for (mac, ip) in assigned {
            if net.contains(ip)
                && !pool.kept.contains(ip)
                && !pool.reserved.contains_key(mac)
                && !pool.reserved_for.contains_key(ip)
            {
                pool.reserved.insert(*mac, Reservation { mac: *mac, ip: *ip, hostname: None });
                pool.reserved_for.insert(*ip, *mac);
                pool.assigned.insert(*mac);
            }
        }
        let always: Vec<Ipv4Addr> =
            pool.kept.iter().chain(pool.reserved_for.keys()).copied().collect();
        always.into_iter().for_each(|ip| pool.refresh(ip));
        pool
    }

    pub fn reservation(&self, mac: MacAddr) -> Option<&Reservation> {
        self.reserved.get(&mac)
    }

    /// What is reserved for a machine and counts: while somebody else uses what a directory has given
    /// to it, it gets another address.
    fn right(&self, mac: MacAddr) -> Option<&Reservation> {
        let counts = |right: &&Reservation| {
            !self.assigned.contains(&mac) || !self.conflicts.contains_key(&right.ip)
        };
        self.reserved.get(&mac).filter(counts)
    }

    /// Whether a machine may have an address at all.
    pub fn ours(&self, mac: MacAddr, ip: Ipv4Addr) -> bool {
        match self.reserved_for.get(&ip) {
            Some(owner) => *owner == mac,
            None => {
                self.right(mac).is_none() && self.index(ip).is_some() && !self.kept.contains(&ip)
            }
        }
    }

    pub fn offer(
        &mut self,
        mac: MacAddr,
        wanted: Option<Ipv4Addr>,
        now: i64,
    ) -> Result<(Ipv4Addr, bool), Refusal> {
        self.forget_old(now);
        let lease = self.by_mac.get(&mac);
        if let Some(found) = self.right(mac) {
            if self.conflicts.contains_key(&found.ip) {
                return Err(Refusal::Conflict(found.ip));
            }
            // A directory may not know who uses an address that it gives.
            let has = lease.is_some_and(|lease| lease.ip == found.ip);
            return Ok((found.ip, self.assigned.contains(&mac) && !has));
        }
        if let Some(lease) = lease.filter(|lease| self.ours(mac, lease.ip)) {
            return Ok((lease.ip, false));
        }
        let held = self.offers.get(&mac).map(|(ip, _)| *ip);
        let ip = held
            .or_else(|| wanted.filter(|ip| self.free(mac, *ip)))
            .or_else(|| self.search(mac))
            .or_else(|| self.expired(now))
            .or_else(|| self.evict_offer())
            .ok_or(Refusal::Exhausted(self.network.subnet))?;
        if self.offers.len() >= MOST_OFFERS && held.is_none() {
            self.evict_offer();
        }
        self.drop_offer(mac);
        let until = now.saturating_add(OFFER_SECONDS);
        self.offers.insert(mac, (ip, until));
        self.offered.insert(ip, mac);
        self.offer_ends.insert((until, mac));
        self.refresh(ip);
        Ok((ip, true))
    }

    /// Gives an address. Says whether that has to be written, and whose expired lease it ended.
    pub fn commit(&mut self, lease: Lease, claim: Claim) -> Result<(bool, Option<Lease>), Refusal> {
        let (mac, ip) = (lease.mac, lease.ip);
        self.forget_old(lease.seen);
        if let Some(right) = self.right(mac).filter(|right| right.ip != ip) {
            return Err(Refusal::Other(ip, right.ip));
        }
        if !self.ours(mac, ip) {
            return Err(Refusal::NotOurs(ip));
        }
        let held = self.by_mac.get(&mac);
        // What it has may not be its own any more: then it moves.
        let stays = |held: &&Lease| held.ip != ip && self.right(mac).is_none();
        if let Some(held) = held.filter(stays).filter(|held| self.ours(mac, held.ip)) {
            return Err(Refusal::Other(ip, held.ip));
        }
        if self.conflicts.contains_key(&ip) {
            return Err(Refusal::Conflict(ip));
        }
        let owner = self.owners.get(&ip).copied().filter(|owner| *owner != mac);
        let mut ended = None;
        if let Some(owner) = owner {
            let over = self.by_mac.get(&owner).is_none_or(|other| other.until <= lease.seen);
            let offered = self.offered.get(&ip) == Some(&mac);
            if !(over && offered) {
                return Err(Refusal::Taken(ip, owner));
            }
            ended = Some(owner);
        }
        // Who takes an offer of ours wins over who only has one: under a flood of random MACs
        // offers are exchanged faster than firmware can answer.
        if let Some(other) = self.offered.get(&ip).filter(|other| **other != mac)
            && claim != Claim::Offered
            && held.is_none()
        {
            return Err(Refusal::Taken(ip, *other));
        }
        if held.is_none() && ended.is_none() && self.by_mac.len() >= MOST_LEASES {
            return Err(Refusal::Exhausted(self.network.subnet));
        }
        // PXE firmware and iPXE ask within seconds of each other: one write is enough for both.
        let changed = held.is_none_or(|held| {
            held.ip != ip
                || held.uuid != lease.uuid && lease.uuid.is_some()
                || held.tag != lease.tag
                || lease.seen.saturating_sub(held.seen).unsigned_abs() > 60
        });
        let uuid = lease.uuid.or_else(|| held.and_then(|held| held.uuid));
        let ended = ended.and_then(|owner| self.remove(owner));
        self.drop_offer(mac);
        if let Some(other) = self.offered.get(&ip).copied() {
            self.drop_offer(other);
        }
        self.insert(Lease { uuid, ..lease });
        Ok((changed, ended))
    }

    pub fn release(&mut self, mac: MacAddr, ip: Ipv4Addr, now: i64) -> Option<Lease> {
        let mut lease = self.by_mac.get(&mac).filter(|lease| lease.ip == ip)?.clone();
        lease.until = lease.until.min(now);
        self.insert(lease.clone());
        Some(lease)
    }

    /// Marks an address as used by somebody unknown, and takes it from `mac`. `None` when it was
    /// not this machine's, else the lease that it had on it.
    #[allow(clippy::option_option)]
    pub fn conflict(&mut self, mac: MacAddr, ip: Ipv4Addr, now: i64) -> Option<Option<Lease>> {
        let leased = self.by_mac.get(&mac).is_some_and(|lease| lease.ip == ip);
        let offered = self.offered.get(&ip) == Some(&mac);
        let reserved = self.reserved_for.get(&ip) == Some(&mac);
        if !leased && !offered && !reserved {
            return None;
        }
        self.drop_offer(mac);
        Some(self.burn(ip, now))
    }

    /// The same for whomever the address was about to be offered to. Gives the expired lease that
    /// was on it.
    pub fn in_use(&mut self, ip: Ipv4Addr, now: i64) -> Option<Lease> {
        let owner = self.owners.get(&ip).and_then(|owner| self.by_mac.get(owner));
        let known = self.index(ip).is_some() || self.reserved_for.contains_key(&ip);
        if owner.is_some_and(|lease| lease.until > now) || !known {
            return None;
        }
        if let Some(mac) = self.offered.get(&ip).copied() {
            self.drop_offer(mac);
        }
        self.burn(ip, now)
    }

    fn burn(&mut self, ip: Ipv4Addr, now: i64) -> Option<Lease> {
        // Of an offered address it is an expired lease of somebody else.
        let owner = self.owners.get(&ip).copied();
        let lease = owner.and_then(|owner| self.remove(owner));
        self.rest(ip, now.saturating_add(CONFLICT_SECONDS));
        lease
    }

    /// Nobody gets the address until then, Unix seconds.
    fn rest(&mut self, ip: Ipv4Addr, until: i64) {
        if let Some(before) = self.conflicts.remove(&ip) {
            self.conflict_ends.remove(&(before, ip));
        }
        // One host with many MACs must not be able to burn the whole range.
        let most = (self.size / 8).max(4);
        while usize::try_from(most).is_ok_and(|most| self.conflicts.len() >= most) {
            let Some((_, oldest)) = self.conflict_ends.pop_first() else { break };
            self.conflicts.remove(&oldest);
            self.refresh(oldest);
        }
        self.conflicts.insert(ip, until);
        self.conflict_ends.insert((until, ip));
        self.refresh(ip);
    }

    /// Takes over what is known of addresses that somebody unknown uses.
    pub fn take_conflicts(&mut self, other: &Self) {
        // The newest last, which push out others.
        for (until, ip) in &other.conflict_ends {
            let leased = self.owners.contains_key(ip);
            let known = self.index(*ip).is_some() || self.reserved_for.contains_key(ip);
            if self.network.subnet.contains(ip) && known && !leased {
                self.rest(*ip, *until);
            }
        }
    }

    /// Addresses that machines have, and addresses of the ranges that nobody has or was offered.
    pub fn usage(&self) -> (u64, u64) {
        let free = u64::from(self.size).saturating_sub(self.taken.len());
        (self.by_mac.len() as u64, free)
    }

    pub fn twin(&self, mac: MacAddr, uuid: Uuid, since: i64) -> Option<&Lease> {
        let lowest = (uuid, since, MacAddr([0; 6]));
        let mut found = self.by_uuid.range(lowest..).take_while(|(other, ..)| *other == uuid);
        let (.., other) = found.find(|(.., other)| *other != mac)?;
        self.by_mac.get(other)
    }

    /// Takes over a lease from a file or from before a reload; the newest word counts. Also one of an
    /// address that the machine will not get again: it uses it until it asks for the next one. `all` says
    /// that this is so for addresses out of the ranges too.
    pub fn restore(&mut self, lease: Lease, all: bool) -> Result<(), Refusal> {
        let (mac, ip) = (lease.mac, lease.ip);
        let others = self.reserved_for.get(&ip).is_some_and(|owner| *owner != mac);
        let stays = !others && !self.kept.contains(&ip) && (all || self.index(ip).is_some());
        if !stays && !self.ours(mac, ip) {
            return Err(Refusal::NotOurs(ip));
        }
        if let Some(owner) = self.owners.get(&lease.ip).copied().filter(|o| *o != lease.mac) {
            self.remove(owner);
        }
        self.insert(lease);
        Ok(())
    }

    pub fn remove(&mut self, mac: MacAddr) -> Option<Lease> {
        let lease = self.by_mac.remove(&mac)?;
        self.owners.remove(&lease.ip);
        self.by_end.remove(&(lease.until, mac));
        if let Some(uuid) = lease.uuid {
            self.by_uuid.remove(&(uuid, lease.seen, mac));
        }
        self.refresh(lease.ip);
        Some(lease)
    }

    /// Forgets a machine's offer, and gives its address.
    pub fn drop_offer(&mut self, mac: MacAddr) -> Option<Ipv4Addr> {
        let (ip, until) = self.offers.remove(&mac)?;
        self.offer_ends.remove(&(until, mac));
        if self.offered.get(&ip) == Some(&mac) {
            self.offered.remove(&ip);
        }
        self.refresh(ip);
        Some(ip)
    }

    /// Offers and conflicts that are remembered, for the bound's test.
    #[cfg(test)]
    pub fn remembered(&self) -> (usize, usize) {
        (self.offers.len(), self.conflicts.len())
    }

    fn insert(&mut self, lease: Lease) {
        self.remove(lease.mac);
        self.owners.insert(lease.ip, lease.mac);
        self.by_end.insert((lease.until, lease.mac));
        if let Some(uuid) = lease.uuid {
            self.by_uuid.insert((uuid, lease.seen, lease.mac));
        }
        let ip = lease.ip;
        self.by_mac.insert(lease.mac, lease);
        self.refresh(ip);
    }

    fn free(&self, mac: MacAddr, ip: Ipv4Addr) -> bool {
        self.ours(mac, ip)
            && !self.owners.contains_key(&ip)
            && !self.offered.contains_key(&ip)
            && !self.conflicts.contains_key(&ip)
    }

    fn search(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        let start = fnv1a(&mac.0).checked_rem(self.size.into())?;
        let index = self.taken.next_free(u32::try_from(start).ok()?, self.size)?;
        self.address(index)
    }

    /// An address whose lease is over and that is not offered to anybody. The lease itself ends
    /// only when the new machine takes the offer.
    fn expired(&self, now: i64) -> Option<Ipv4Addr> {
        let ended = self.by_end.iter().take_while(|(until, _)| *until <= now);
        let mut ips = ended.take(EXPIRED_TRIES).filter_map(|(_, mac)| self.by_mac.get(mac));
        let free = |ip: &Ipv4Addr| {
            !self.offered.contains_key(ip)
                && !self.reserved_for.contains_key(ip)
                && self.index(*ip).is_some()
        };
        ips.find_map(|lease| Some(lease.ip).filter(free))
    }

    fn evict_offer(&mut self) -> Option<Ipv4Addr> {
        let (_, mac) = *self.offer_ends.first()?;
        let (ip, _) = *self.offers.get(&mac)?;
        self.drop_offer(mac);
        Some(ip)
    }

    fn forget_old(&mut self, now: i64) {
        while let Some((until, mac)) = self.offer_ends.first().copied()
            && until <= now
        {
            self.drop_offer(mac);
        }
        while let Some((until, ip)) = self.conflict_ends.first().copied()
            && until <= now
        {
            self.conflict_ends.remove(&(until, ip));
            self.conflicts.remove(&ip);
            self.refresh(ip);
        }
    }

    fn refresh(&mut self, ip: Ipv4Addr) {
        if let Some(index) = self.index(ip) {
            let taken = self.kept.contains(&ip)
                || self.reserved_for.contains_key(&ip)
                || self.owners.contains_key(&ip)
                || self.offered.contains_key(&ip)
                || self.conflicts.contains_key(&ip);
            self.taken.set(index, taken);
        }
    }

    /// The number of an address, counted through all ranges.
    fn index(&self, ip: Ipv4Addr) -> Option<u32> {
        let mut before = 0u32;
        for range in &self.network.ranges {
            if (range.first..=range.last).contains(&ip) {
                return before.checked_add(u32::from(ip) - u32::from(range.first));
            }
            before = before.saturating_add(range.size());
        }
        None
    }

    fn address(&self, mut index: u32) -> Option<Ipv4Addr> {
        for range in &self.network.ranges {
            match index.checked_sub(range.size()) {
                None => return u32::from(range.first).checked_add(index).map(Ipv4Addr::from),
                Some(rest) => index = rest,
            }
        }
        None
    }
}

/// FNV-1a, 64 bits: spreads the MACs of one production lot, which differ in their last bits only.
/// Must never change: it decides which address a machine gets after the lease file was lost.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
