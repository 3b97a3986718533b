//! The gate that the servers ask.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use headnode_model::net::MacAddr;
use uuid::Uuid;

use super::decisions::{self, LIMIT};
use super::{Decision, DecisionError, Decisions, Gate, Machine, Settings, Verdict};
use crate::clock::unix_now;
use crate::live::Live;
use crate::metrics::Metrics;

/// The servers of the datacenter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Their UUIDs.
    pub uuids: HashSet<Uuid>,
    /// Their NICs.
    pub macs: HashSet<MacAddr>,
}

/// Admits by decisions, by CNAPI's servers, by rules, and by policy, in this order.
///
/// Questions take no lock; a decision copies all of them, at the pace of operators.
#[derive(Debug)]
pub struct Admission {
    settings: Live<Settings>,
    decisions: ArcSwap<Decisions>,
    /// `None` while nobody has told.
    known: ArcSwapOption<Known>,
    /// Whether there is a CNAPI that may know a machine.
    directory: bool,
    path: PathBuf,
    writing: Mutex<()>,
    metrics: Metrics,
}

impl Admission {
    /// Reads the decisions in the state folder. `directory` says that there is a CNAPI: then a
    /// machine is not ignored before its servers are told ([`Admission::set_known`]).
    ///
    /// # Errors
    /// When the decisions' file is there and cannot be read.
    pub fn open(
        settings: Live<Settings>,
        state: &Path,
        directory: bool,
        metrics: Metrics,
    ) -> Result<Self, DecisionError> {
        let path = decisions::path(state);
        let decisions = ArcSwap::from_pointee(decisions::load(&path)?);
        let (known, writing) = (ArcSwapOption::empty(), Mutex::new(()));
        Ok(Self { settings, decisions, known, directory, path, writing, metrics })
    }

    /// Tells who the datacenter's servers are, so that they need no approval from their first packet
    /// on.
    pub fn set_known(&self, known: Known) {
        self.known.store(Some(Arc::new(known)));
    }

    /// All decisions.
    pub fn decisions(&self) -> Arc<Decisions> {
        self.decisions.load_full()
    }

    /// The policy of this moment.
    pub fn policy(&self) -> Verdict {
        self.settings.get().policy
    }

    /// Lets machines boot. All of them or, when the file cannot be written, none. Blocks.
    ///
    /// # Errors
    /// When there are too many decisions or the file cannot be written.
    pub fn approve(&self, macs: &[MacAddr], who: &str, note: &str) -> Result<(), DecisionError> {
        self.decide(macs, true, who, note)
    }

    /// Keeps machines from booting; they get no answer any more. Blocks.
    ///
    /// # Errors
    /// As [`Admission::approve`].
    pub fn deny(&self, macs: &[MacAddr], who: &str, note: &str) -> Result<(), DecisionError> {
        self.decide(macs, false, who, note)
    }

    /// Takes decisions back, so that rules and policy count again; gives how many there were. Blocks.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget(&self, macs: &[MacAddr], who: &str, note: &str) -> Result<usize, DecisionError> {
        let note = decisions::plain(note);
        let forgotten = self.change(|all| {
            let before = all.len();
            for mac in macs {
                all.remove(mac);
            }
            Ok(before - all.len())
        })?;
        for mac in macs {
            tracing::info!(%mac, who, note, "an operator's decision is forgotten");
        }
        Ok(forgotten)
    }

    fn decide(
        &self,
        macs: &[MacAddr],
        approved: bool,
        who: &str,
        note: &str,
    ) -> Result<(), DecisionError> {
        let decision = Decision {
            approved,
            at: unix_now(),
            who: decisions::word(who),
            note: decisions::plain(note),
        };
        self.change(|all| {
            all.extend(macs.iter().map(|mac| (*mac, decision.clone())));
            if all.len() > LIMIT { Err(DecisionError::Full) } else { Ok(()) }
        })?;
        for mac in macs {
            let Decision { who, note, .. } = &decision;
            tracing::info!(%mac, approved, who, note, "an operator has decided about a machine");
        }
        Ok(())
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Decisions) -> Result<T, DecisionError>,
    ) -> Result<T, DecisionError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.decisions.load_full();
        let mut all = Decisions::clone(&before);
        let result = change(&mut all)?;
        if all != *before {
            let text = decisions::write(&all);
            crate::durable::replace(&self.path, text.as_bytes()).map_err(|source| {
                DecisionError::File { what: "writing", path: self.path.clone(), source }
            })?;
            self.decisions.store(Arc::new(all));
        }
        Ok(result)
    }

    fn decided(&self, mac: MacAddr) -> Option<Verdict> {
        let approved = self.decisions.load().get(&mac)?.approved;
        Some(if approved { Verdict::Admit } else { Verdict::Ignore })
    }

    fn count(&self, verdict: Verdict) -> Verdict {
        Metrics::count(&self.metrics.admission_verdicts, verdict.word());
        verdict
    }
}

impl Admission {
    /// Whether a machine is one of the datacenter's servers; `None` while nobody has told them.
    fn is_known(&self, machine: &Machine<'_>) -> Option<bool> {
        let known = self.known.load();
        known.as_ref().map(|known| {
            let uuid = machine.uuid.is_some_and(|uuid| known.uuids.contains(&uuid));
            uuid || known.macs.contains(&machine.mac)
        })
    }
}

impl Gate for Admission {
    fn at_dhcp(&self, machine: &Machine<'_>) -> Verdict {
        if let Some(decided) = self.decided(machine.mac) {
            return self.count(decided);
        }
        let told = self.is_known(machine);
        if told == Some(true) {
            return self.count(Verdict::Admit);
        }
        let mut verdict = self.settings.get().verdict(machine);
        // CNAPI may know it all the same: by a UUID that it has not told yet, or CNAPI was not asked.
        let may_be_known = self.directory && (told.is_none() || machine.uuid.is_none());
        if verdict == Verdict::Ignore && may_be_known {
            verdict = Verdict::Hold;
        }
        self.count(verdict)
    }

    fn at_script(&self, machine: &Machine<'_>, known: bool) -> Verdict {
        let verdict = match self.decided(machine.mac) {
            Some(decided) => decided,
            None if known || self.is_known(machine) == Some(true) => Verdict::Admit,
            None => {
                // What it has not told by now it will never tell.
                let machine = Machine {
                    uuid: Some(machine.uuid.unwrap_or_default()),
                    serial: Some(machine.serial.unwrap_or_default()),
                    vendor: Some(machine.vendor.unwrap_or_default()),
                    ..*machine
                };
                self.settings.get().verdict(&machine)
            }
        };
        self.count(verdict)
    }

    fn needs_identity(&self, mac: MacAddr) -> bool {
        self.decided(mac).is_none() && self.settings.get().names_identity()
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
