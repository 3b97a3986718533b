//! All machines, bounded: strangers that only ask for addresses make room, machines that came past
//! DHCP do not.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use headnode_model::booter::{BootEvent, BootEvents};
use headnode_model::net::MacAddr;

use super::machine::Machine;

/// Events kept over all machines.
pub(super) const EVENTS: usize = 4096;
/// Events in one answer.
const ANSWER: usize = 1024;
/// Longest text of an event in bytes.
const TEXT: usize = 240;

#[derive(Default)]
pub(super) struct Table {
    pub machines: HashMap<MacAddr, Machine>,
    by_ip: HashMap<IpAddr, MacAddr>,
    /// Whether it came past DHCP, when it was last heard of: the first one goes first.
    order: BTreeSet<(bool, i64, MacAddr)>,
    events: VecDeque<BootEvent>,
    /// Number of the last event.
    pub seq: u64,
    /// New machines that found no room.
    pub untracked: u64,
}

impl Table {
    /// Changes a machine, which is taken into the table if there is room for it. `arrives` says
    /// that it is past DHCP, so that it may take the place of one that has been silent for longest.
    pub fn with<T>(
        &mut self,
        (mac, arrives, limit): (MacAddr, bool, usize),
        now: i64,
        change: impl FnOnce(&mut Machine) -> T,
    ) -> Option<T> {
        if !self.machines.contains_key(&mac) && !self.make_room(arrives, limit) {
            self.untracked = self.untracked.saturating_add(1);
            return None;
        }
        let machine = self.machines.entry(mac).or_insert_with(|| Machine::new(mac, now));
        self.order.remove(&(machine.arrived, machine.last, mac));
        let ip = machine.ip;
        let result = change(machine);
        machine.last = machine.last.max(now);
        self.order.insert((machine.arrived, machine.last, mac));
        let new = machine.ip;
        if ip != new {
            self.release(ip, mac);
            if let Some(new) = new
                && let Some(before) = self.by_ip.insert(new, mac)
                && let Some(other) = self.machines.get_mut(&before)
            {
                other.ip = None;
            }
        }
        Some(result)
    }

    /// Which machine has an address.
    pub fn at(&self, ip: IpAddr) -> Option<MacAddr> {
        self.by_ip.get(&ip).copied()
    }

    /// Forgets a machine.
    pub fn forget(&mut self, mac: MacAddr) -> bool {
        let Some(machine) = self.machines.remove(&mac) else { return false };
        self.order.remove(&(machine.arrived, machine.last, mac));
        self.release(machine.ip, mac);
        true
    }

    fn release(&mut self, ip: Option<IpAddr>, mac: MacAddr) {
        if let Some(ip) = ip
            && self.by_ip.get(&ip) == Some(&mac)
        {
            self.by_ip.remove(&ip);
        }
    }

    fn make_room(&mut self, arrives: bool, limit: usize) -> bool {
        while self.machines.len() >= limit.max(1) {
            let Some(&(arrived, _, mac)) = self.order.first() else { return false };
            if arrived && !arrives {
                return false;
            }
            self.forget(mac);
        }
        true
    }

    /// Writes an event down.
    pub fn tell(&mut self, mut event: BootEvent) {
        self.seq += 1;
        event.seq = self.seq;
        event.what = event.what.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        event.what.truncate(event.what.floor_char_boundary(TEXT));
        if let Some(machine) = event.mac.and_then(|mac| self.machines.get_mut(&mac)) {
            machine.remember(event.clone());
        }
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The events after number `after`, of one machine or all.
    pub fn events(&self, after: u64, mac: Option<MacAddr>) -> BootEvents {
        // A number from before a restart: begin anew.
        let after = if after > self.seq { 0 } else { after };
        let first = self.events.front().map_or(self.seq + 1, |event| event.seq);
        let skip = usize::try_from((after + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let mut answer = BootEvents {
            events: Vec::new(),
            next: self.seq,
            missed: first.saturating_sub(after + 1),
        };
        for event in self.events.iter().skip(skip) {
            if mac.is_some() && event.mac != mac {
                continue;
            }
            if answer.events.len() >= ANSWER {
                answer.next = answer.events.last().map_or(after, |event| event.seq);
                break;
            }
            answer.events.push(event.clone());
        }
        answer
    }

    #[cfg(test)]
    pub fn is_sound(&self, limit: usize) -> bool {
        self.machines.len() <= limit
            && self.order.len() == self.machines.len()
            && self.events.len() <= EVENTS
            && self.by_ip.iter().all(|(ip, mac)| self.machines[mac].ip == Some(*ip))
            && self.machines.values().all(|m| m.ip.is_none_or(|ip| self.at(ip) == Some(m.mac)))
    }
}
