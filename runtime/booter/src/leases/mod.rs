//! Which address belongs to which machine.
//!
//! A machine keeps its address for ever, as long as the range has unused addresses for the others:
//! nodes configure the address statically for a whole uptime and never renew it. Where the search
//! for a free address begins is a hash of the MAC, so that also a lost lease file gives nearly
//! every machine the address that it had.

mod file;
mod lines;
mod pool;
mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use headnode_model::net::MacAddr;
use ipnet::Ipv4Net;
use uuid::Uuid;

pub use file::LeaseFile;
pub use lines::{Entry, parse_log, parse_snapshot};

use crate::networks::{Network, Place, find};
use pool::Pool;

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
    /// NIC tag of where the machine is: `admin`, or `admin_rack_…` behind a relay (C§4.1).
    pub tag: Option<Arc<str>>,
}

/// Why there is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// All addresses of the ranges are in use.
    #[error(
        "the ranges of network {0} have no free address left: make them larger \
         (dhcp_range_start, dhcp_range_end)"
    )]
    Exhausted(Ipv4Net),
    /// The address is outside of the range or kept for something else.
    #[error("{0} is not ours to give: outside of the ranges, or kept for a service or a machine")]
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

/// Why a machine thinks that an address is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It names this server: it takes an offer.
    Offered,
    /// It remembers the address, or already uses it.
    Remembered,
}

/// How long after its last question a machine may still be booting with the address that it has, in
/// seconds: slow firmware takes minutes.
const BOOTING: i64 = 600;

/// The table of leases and offers of all networks.
#[derive(Debug)]
pub struct Leases {
    server: Ipv4Addr,
    /// As configured.
    networks: Vec<Network>,
    /// Addresses that a directory has given to machines.
    assigned: BTreeMap<MacAddr, Ipv4Addr>,
    /// What of them was not taken.
    refused: BTreeSet<(MacAddr, Ipv4Addr)>,
    pools: Vec<Pool>,
    journal: String,
}

impl Leases {
    /// An empty table. The first network is the booter's own; `server` is its own address, which
    /// it never gives away.
    pub fn new(networks: Vec<Network>, server: Ipv4Addr) -> Self {
        Self::with(networks, BTreeMap::new(), server)
    }

    fn with(
        networks: Vec<Network>,
        assigned: BTreeMap<MacAddr, Ipv4Addr>,
        server: Ipv4Addr,
    ) -> Self {
        let pool = |network: &Network| Pool::new(Arc::new(network.clone()), server, &assigned);
        let pools = networks.iter().map(pool).collect();
        let (refused, journal) = (BTreeSet::new(), String::new());
        Self { server, networks, assigned, refused, pools, journal }
    }

    /// Other networks from now on. Leases that still fit are kept, and so is what is known of addresses
    /// that somebody else uses; the other leases are dropped, and so are offers.
    pub fn reconfigure(&mut self, networks: Vec<Network>) {
        self.rebuild(networks, self.assigned.clone(), false);
    }

    /// The addresses that a directory has given to machines: each is kept for its machine, which gets no
    /// other on that network from its next question on; until then it keeps what it has. Reservations of
    /// the configuration count before them. An address that another machine uses at `now` (Unix seconds)
    /// is not taken from that: when it was never this directory's to give, until the lease is over; else
    /// until it has surely booted. Says whether anything has changed.
    pub fn assign(&mut self, mut assigned: BTreeMap<MacAddr, Ipv4Addr>, now: i64) -> bool {
        let mut refused = BTreeSet::new();
        assigned.retain(|mac, ip| {
            let Some(holder) = self.holder(*ip).filter(|lease| lease.mac != *mac) else { return true };
            let told = self.assigned.get(&holder.mac) == Some(ip);
            let booting = holder.seen.saturating_add(BOOTING) > now;
            if holder.until <= now || told && !booting {
                return true;
            }
            if !self.refused.contains(&(*mac, *ip)) {
                tracing::warn!(
                    %mac, %ip, holder = %holder.mac,
                    "an address that NAPI has given to a machine is leased to another one: keep NAPI's \
                     addresses out of the DHCP ranges"
                );
            }
            refused.insert((*mac, *ip));
            false
        });
        let changed = assigned != self.assigned;
        if changed {
            self.rebuild(self.networks.clone(), assigned, true);
        }
        self.refused = refused;
        changed
    }

    /// What [`Leases::assign`] was told and has taken.
    pub fn assigned(&self) -> &BTreeMap<MacAddr, Ipv4Addr> {
        &self.assigned
    }

    /// `all`: leases stay, unless somebody else has a right to the address now.
    fn rebuild(
        &mut self,
        networks: Vec<Network>,
        assigned: BTreeMap<MacAddr, Ipv4Addr>,
        all: bool,
    ) {
        let mut fresh = Self::with(networks, assigned, self.server);
        for lease in self.iter() {
            let (mac, ip) = (lease.mac, lease.ip);
            if let Err(refusal) = fresh.take_over(lease.clone(), all) {
                tracing::warn!(%mac, "a lease does not fit any more: {refusal}");
                lines::gone(&mut fresh.journal, mac, ip);
            }
        }
        for old in &self.pools {
            fresh.pools.iter_mut().for_each(|pool| pool.take_conflicts(old));
        }
        let pending = std::mem::take(&mut self.journal);
        fresh.journal.insert_str(0, &pending);
        *self = fresh;
    }

    /// The network that a request belongs to.
    pub fn place(&self, place: &Place<'_>) -> Option<usize> {
        find(self.pools.iter().map(|pool| &*pool.network), place)
    }

    /// A network by its number; `None` after a reload with fewer networks.
    pub fn network(&self, at: usize) -> Option<&Arc<Network>> {
        self.pools.get(at).map(|pool| &pool.network)
    }

    /// The NIC tag of a network's machines.
    pub fn tag(&self, at: usize) -> Option<Arc<str>> {
        self.pools.get(at).map(|pool| Arc::clone(&pool.tag))
    }

    /// The NIC tags of all networks.
    pub fn tags(&self) -> Vec<Arc<str>> {
        self.pools.iter().map(|pool| Arc::clone(&pool.tag)).collect()
    }

    /// The host name that is reserved for a machine.
    pub fn hostname(&self, at: usize, mac: MacAddr) -> Option<&str> {
        self.pools.get(at)?.reservation(mac)?.hostname.as_deref()
    }

    /// Takes over a lease from the file.
    ///
    /// # Errors
    /// When no network has the address any more.
    pub fn restore(&mut self, lease: Lease) -> Result<(), Refusal> {
        self.take_over(lease, false)
    }

    fn take_over(&mut self, lease: Lease, all: bool) -> Result<(), Refusal> {
        let subnet = |pool: &&mut Pool| pool.network.subnet.contains(&lease.ip);
        let pool = self.pools.iter_mut().find(subnet).ok_or(Refusal::NotOurs(lease.ip))?;
        pool.restore(lease, all)
    }

    /// Takes over a line of the log.
    ///
    /// # Errors
    /// As [`Leases::restore`].
    pub fn replay(&mut self, entry: Entry) -> Result<(), Refusal> {
        match entry {
            Entry::Lease(lease) => self.restore(lease),
            Entry::Gone(mac, ip) => {
                for pool in &mut self.pools {
                    if pool.by_mac.get(&mac).is_some_and(|lease| lease.ip == ip) {
                        pool.remove(mac);
                    }
                }
                Ok(())
            }
        }
    }

    /// The address for a machine: the one reserved for it, else the one it has, else the one it
    /// would like, else a free one. Says too whether the address is new to the machine: neither
    /// leased to it nor reserved for it.
    ///
    /// # Errors
    /// When the range is used up, or somebody else uses the reserved address.
    pub fn offer(
        &mut self,
        at: usize,
        mac: MacAddr,
        wanted: Option<Ipv4Addr>,
        now: i64,
    ) -> Result<(Ipv4Addr, bool), Refusal> {
        let none = Refusal::NotOurs(wanted.unwrap_or(Ipv4Addr::UNSPECIFIED));
        self.pools.get_mut(at).ok_or(none)?.offer(mac, wanted, now)
    }

    /// Gives `lease.ip` to a machine that asks for it. Says whether [`Leases::take_journal`] now
    /// has it.
    ///
    /// # Errors
    /// Why the machine cannot have it.
    pub fn commit(&mut self, at: usize, lease: Lease, claim: Claim) -> Result<bool, Refusal> {
        let pool = self.pools.get_mut(at).ok_or(Refusal::NotOurs(lease.ip))?;
        let mac = lease.mac;
        let (changed, ended) = pool.commit(lease, claim)?;
        if let Some(Lease { mac: old, ip, .. }) = ended {
            tracing::info!(%ip, mac = %old, "no unused address is left: an expired lease ends");
            lines::gone(&mut self.journal, old, ip);
        }
        if let Some(lease) = pool.by_mac.get(&mac).filter(|_| changed) {
            lines::lease(&mut self.journal, lease);
        }
        Ok(changed)
    }

    /// The machine took another server's offer: ours are free again. Gives their addresses.
    pub fn withdraw_offer(&mut self, mac: MacAddr) -> Vec<Ipv4Addr> {
        self.pools.iter_mut().filter_map(|pool| pool.drop_offer(mac)).collect()
    }

    /// The machine no longer uses its address. The lease stays, as expired, so that the machine
    /// gets the same address the next time. Says whether there was such a lease.
    pub fn release(&mut self, mac: MacAddr, ip: Ipv4Addr, now: i64) -> bool {
        let released = self.pools.iter_mut().find_map(|pool| pool.release(mac, ip, now));
        if let Some(lease) = &released {
            lines::lease(&mut self.journal, lease);
        }
        released.is_some()
    }

    /// Somebody else uses the machine's address: nobody gets it for an hour. Says whether the
    /// address was this machine's; only then it is believed, else one machine could block all.
    pub fn conflict(&mut self, mac: MacAddr, ip: Ipv4Addr, now: i64) -> bool {
        let found = self.pools.iter_mut().find_map(|pool| pool.conflict(mac, ip, now));
        if let Some(Some(lease)) = &found {
            lines::gone(&mut self.journal, lease.mac, lease.ip);
        }
        found.is_some()
    }

    /// Somebody unknown was found using an address that was about to be offered: nobody gets it for
    /// an hour. Not believed of an address that a machine has a valid lease of.
    pub fn in_use(&mut self, ip: Ipv4Addr, now: i64) {
        let ended = self.pools.iter_mut().find_map(|pool| pool.in_use(ip, now));
        if let Some(lease) = ended {
            lines::gone(&mut self.journal, lease.mac, lease.ip);
        }
    }

    /// A machine's lease; the one that it used last when it has been on several networks.
    pub fn get(&self, mac: MacAddr) -> Option<&Lease> {
        let all = self.pools.iter().filter_map(|pool| pool.by_mac.get(&mac));
        all.max_by_key(|lease| lease.seen)
    }

    /// A machine's lease on a network.
    pub fn at(&self, at: usize, mac: MacAddr) -> Option<&Lease> {
        self.pools.get(at)?.by_mac.get(&mac)
    }

    /// Who has an address.
    pub fn holder(&self, ip: Ipv4Addr) -> Option<&Lease> {
        self.pools.iter().find_map(|pool| pool.by_mac.get(pool.owners.get(&ip)?))
    }

    /// All leases, by network and MAC.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.pools.iter().flat_map(|pool| pool.by_mac.values())
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.pools.iter().map(|pool| pool.by_mac.len()).sum()
    }

    /// Whether no machine has a lease.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Another machine of the network with the same UUID that was seen at `since` (Unix seconds)
    /// or later.
    pub fn twin(&self, at: usize, mac: MacAddr, uuid: Uuid, since: i64) -> Option<&Lease> {
        self.pools.get(at)?.twin(mac, uuid, since)
    }

    /// Whether a machine may have an address.
    pub fn ours(&self, mac: MacAddr, ip: Ipv4Addr) -> bool {
        self.pools.iter().any(|pool| pool.network.subnet.contains(&ip) && pool.ours(mac, ip))
    }

    /// Of each network its name, how many addresses machines have, and how many are free.
    pub fn usage(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.pools.iter().map(|pool| {
            let (used, free) = pool.usage();
            (pool.network.name.as_str(), used, free)
        })
    }

    /// What has to be appended to the log before the answers to the last messages are sent.
    pub fn take_journal(&mut self) -> String {
        std::mem::take(&mut self.journal)
    }
}

#[cfg(test)]
mod tests;
