//! How far each machine has come, for operators: who asked what, got what, and where it hangs.
//!
//! Built from what the servers tell ([`crate::observe`]). HTTP and TFTP know addresses only: they
//! count for the machine that was last given the address. Its memory is bounded; machines that only
//! ask for addresses, as a flood of made-up MACs does, never push out one that came past DHCP.

mod files;
mod machine;
mod stuck;
mod table;
mod told;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headnode_model::booter::{Boot, BootDetail, BootEvent, BootEvents, Stage};
use headnode_model::config::Problem;
use headnode_model::net::MacAddr;
use serde::Deserialize;
use tokio::sync::watch;

use crate::live::Live;
use crate::metrics::{Kind, Metrics};
use crate::observe::{Event, Observer};
use table::Table;

/// Section `[progress]`: when a machine is called stuck, in seconds after the last thing that it did.
/// 0 turns a limit off.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Most machines that are kept track of, 1 to 1,000,000; about 2 KiB each, 20 with all events.
    pub machines: usize,
    /// From the offer to the request.
    pub offer_seconds: u32,
    /// From the address to the boot program.
    pub ack_seconds: u32,
    /// From the boot program to the script.
    pub loader_seconds: u32,
    /// From the script to the kernel.
    pub script_seconds: u32,
    /// From the kernel to the end of the archive.
    pub kernel_seconds: u32,
    /// From the archive to the agent; off where agents do not fetch their configuration at each boot.
    pub agent_seconds: u32,
    /// Between two questions of a machine that is held.
    pub hold_seconds: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            machines: 10_000,
            offer_seconds: 30,
            ack_seconds: 60,
            loader_seconds: 60,
            script_seconds: 30,
            kernel_seconds: 600,
            agent_seconds: 0,
            hold_seconds: 120,
        }
    }
}

impl Settings {
    /// What is wrong with the section.
    pub fn problems(&self) -> Vec<Problem> {
        if (1..=1_000_000).contains(&self.machines) {
            return Vec::new();
        }
        let message = format!("{} is not within 1 to 1000000", self.machines);
        vec![Problem { key: "progress.machines".to_owned(), message }]
    }
}

/// Unix milliseconds.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Follows all machines.
pub struct Tracker {
    settings: Live<Settings>,
    table: Mutex<Table>,
    /// Number of the last event, for those who wait for the next.
    last: watch::Sender<u64>,
    clock: Clock,
    metrics: Metrics,
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tracker")
    }
}

/// Machines by what an operator has to do about them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub machines: u64,
    /// Those that wait for an operator.
    pub held: u64,
    /// Those that do not go on.
    pub stuck: u64,
    /// New ones that found no room.
    pub untracked: u64,
}

impl Tracker {
    /// A tracker without machines.
    pub fn new(settings: Live<Settings>, metrics: Metrics) -> Self {
        let now = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        };
        Self::with_clock(settings, metrics, Arc::new(now))
    }

    fn with_clock(settings: Live<Settings>, metrics: Metrics, clock: Clock) -> Self {
        Self { settings, table: Mutex::default(), last: watch::Sender::new(0), clock, metrics }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All machines, the one heard of last first.
    pub fn boots(&self) -> Vec<Boot> {
        let (settings, now) = (self.settings.get(), (self.clock)());
        let mut boots: Vec<Boot> = {
            let table = self.table();
            let machines = table.machines.values();
            machines.map(|m| m.boot(stuck::reason(m, &settings, now))).collect()
        };
        boots.sort_by_key(|boot| (std::cmp::Reverse(boot.last), boot.mac));
        boots
    }

    /// A machine with its events.
    pub fn boot(&self, mac: MacAddr) -> Option<BootDetail> {
        let (settings, now) = (self.settings.get(), (self.clock)());
        let table = self.table();
        let machine = table.machines.get(&mac)?;
        let boot = machine.boot(stuck::reason(machine, &settings, now));
        Some(BootDetail { boot, events: machine.events.iter().cloned().collect() })
    }

    /// Forgets a machine; whether there was one.
    pub fn forget(&self, mac: MacAddr) -> bool {
        self.table().forget(mac)
    }

    /// The events after number `after`, at most 1,024, of one machine or all.
    pub fn events(&self, after: u64, mac: Option<MacAddr>) -> BootEvents {
        self.table().events(after, mac)
    }

    /// The same, but waits up to `wait` for the first one.
    pub async fn next_events(
        &self,
        after: u64,
        mac: Option<MacAddr>,
        wait: Duration,
    ) -> BootEvents {
        let mut last = self.last.subscribe();
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            last.borrow_and_update();
            let events = self.events(after, mac);
            if !events.events.is_empty() {
                return events;
            }
            match tokio::time::timeout_at(deadline, last.changed()).await {
                Ok(Ok(())) => {}
                _ => return events,
            }
        }
    }

    /// How many machines there are.
    pub fn counts(&self) -> Counts {
        let (settings, now) = (self.settings.get(), (self.clock)());
        let table = self.table();
        let mut counts = Counts { untracked: table.untracked, ..Counts::default() };
        for machine in table.machines.values() {
            counts.machines += 1;
            counts.held += u64::from(machine.held());
            counts.stuck += u64::from(stuck::reason(machine, &settings, now).is_some());
        }
        counts
    }

    /// Brings the gauges of machines by stage up to date.
    pub fn measure(&self, metrics: &Metrics) {
        let mut stages = [0i64; Stage::ALL.len()];
        for machine in self.table().machines.values() {
            if let Some(count) = stages.get_mut(machine.stage() as usize) {
                *count += 1;
            }
        }
        for (stage, count) in Stage::ALL.into_iter().zip(stages) {
            metrics.boots.get_or_create(&Kind { kind: stage.word() }).set(count);
        }
        let counts = self.counts();
        metrics.boots_stuck.set(i64::try_from(counts.stuck).unwrap_or(i64::MAX));
        metrics.boots_held.set(i64::try_from(counts.held).unwrap_or(i64::MAX));
    }

    fn reach(&self, table: &mut Table, mac: MacAddr, stage: Stage, bytes: u64, what: String) {
        let (now, limit) = ((self.clock)(), self.settings.get().machines);
        let since = table
            .with((mac, stage > Stage::Ack, limit), now, |machine| machine.reach(stage, bytes, now))
            .flatten();
        if let (Some(since), Stage::Archive) = (since, stage) {
            let seconds = Duration::from_millis(u64::try_from(since).unwrap_or(0)).as_secs_f64();
            self.metrics.boot_seconds.observe(seconds);
        }
        self.tell(table, Some(mac), None, what, false);
    }

    fn tell(
        &self,
        table: &mut Table,
        mac: Option<MacAddr>,
        ip: Option<IpAddr>,
        what: String,
        problem: bool,
    ) {
        table.tell(BootEvent { seq: 0, at: (self.clock)(), mac, ip, what, problem });
        self.last.send_replace(table.seq);
    }
}

impl Observer for Tracker {
    fn event(&self, event: &Event<'_>) {
        self.hear(event);
    }
}

#[cfg(test)]
mod tests;
