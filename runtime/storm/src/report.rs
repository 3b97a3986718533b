//! What became of the machines.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::node::{Outcome, Stage};

/// Reasons that are listed; the others are counted together.
const REASONS: usize = 20;

/// One stage over all machines.
#[derive(Debug, Clone, Serialize)]
pub struct StageReport {
    /// Which.
    pub stage: Stage,
    /// Machines that passed it.
    pub passed: usize,
    /// Median of its time in seconds.
    pub p50: f64,
    /// 99th percentile in seconds.
    pub p99: f64,
    /// Longest time in seconds.
    pub max: f64,
    /// Messages or requests that were made again.
    pub retries: u64,
}

/// Machines that failed in the same way.
#[derive(Debug, Clone, Serialize)]
pub struct Failed {
    /// Where.
    pub stage: Stage,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: usize,
}

/// The whole storm.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Machines in all.
    pub nodes: u32,
    /// Machines that booted.
    pub booted: usize,
    /// Machines that waited for as long as their firmware does, and gave up.
    pub gave_up: usize,
    /// Addresses that more than one machine was given; always an error of the server.
    pub shared_addresses: usize,
    /// Seconds until the last machine had booted or failed.
    pub last: f64,
    /// Median of a machine's whole time in seconds.
    pub p50: f64,
    /// 99th percentile of it in seconds.
    pub p99: f64,
    /// Bytes that came by TFTP and HTTP.
    pub bytes: u64,
    /// Each stage that any machine passed.
    pub stages: Vec<StageReport>,
    /// All failures.
    pub failures: Vec<Failed>,
    #[serde(skip)]
    times: BTreeMap<Stage, (Vec<f64>, u64)>,
    #[serde(skip)]
    totals: Vec<f64>,
    #[serde(skip)]
    reasons: BTreeMap<(Stage, String), usize>,
    /// All addresses that were given.
    #[serde(skip)]
    pub addresses: HashSet<Ipv4Addr>,
}

impl Report {
    pub(crate) fn new(nodes: u32) -> Self {
        Self {
            nodes,
            booted: 0,
            gave_up: 0,
            shared_addresses: 0,
            last: 0.0,
            p50: 0.0,
            p99: 0.0,
            bytes: 0,
            stages: Vec::new(),
            failures: Vec::new(),
            times: BTreeMap::new(),
            totals: Vec::new(),
            reasons: BTreeMap::new(),
            addresses: HashSet::new(),
        }
    }

    /// `took` is the machine's own time, `at` that of the storm, in seconds.
    pub(crate) fn add(&mut self, outcome: Outcome, took: f64, at: f64) {
        self.last = self.last.max(at);
        self.bytes += outcome.bytes;
        for (stage, seconds, retries) in outcome.passed {
            let (times, all) = self.times.entry(stage).or_default();
            times.push(seconds);
            *all += u64::from(retries);
        }
        if let Some(ip) = outcome.ip
            && !self.addresses.insert(ip)
        {
            self.shared_addresses += 1;
        }
        match outcome.failure {
            None => {
                self.booted += 1;
                self.totals.push(took);
            }
            Some((stage, error)) => {
                self.gave_up += usize::from(error.is_silence());
                let mut key = (stage, error.to_string());
                if self.reasons.len() >= REASONS && !self.reasons.contains_key(&key) {
                    key.1 = "other reasons".to_owned();
                }
                *self.reasons.entry(key).or_default() += 1;
            }
        }
    }

    pub(crate) fn finish(&mut self) {
        for (stage, (mut times, retries)) in std::mem::take(&mut self.times) {
            let (p50, p99, max) = quantiles(&mut times);
            self.stages.push(StageReport { stage, passed: times.len(), p50, p99, max, retries });
        }
        (self.p50, self.p99, _) = quantiles(&mut self.totals);
        let reasons = std::mem::take(&mut self.reasons).into_iter();
        self.failures =
            reasons.map(|((stage, reason), count)| Failed { stage, reason, count }).collect();
    }

    /// Whether every machine booted, each with an address of its own.
    pub fn is_good(&self) -> bool {
        self.booted == self.nodes as usize && self.shared_addresses == 0
    }
}

/// Median, 99th percentile, maximum.
fn quantiles(times: &mut [f64]) -> (f64, f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |share: usize| {
        let index = (times.len() * share).div_ceil(100).saturating_sub(1);
        times.get(index).copied().unwrap_or(0.0)
    };
    (at(50), at(99), at(100))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:16}{:>8}{:>10}{:>10}{:>10}{:>9}",
            "stage", "passed", "p50", "p99", "max", "retries"
        )?;
        for stage in &self.stages {
            writeln!(
                f,
                "{:16}{:>8}{:>8.3} s{:>8.3} s{:>8.3} s{:>9}",
                stage.stage.word(),
                stage.passed,
                stage.p50,
                stage.p99,
                stage.max,
                stage.retries
            )?;
        }
        writeln!(
            f,
            "{:16}{:>8}{:>8.3} s{:>8.3} s{:>8.3} s",
            "whole boot", self.booted, self.p50, self.p99, self.last
        )?;
        let failed = (self.nodes as usize).saturating_sub(self.booted);
        writeln!(
            f,
            "{} machines: {} booted, {failed} failed ({} of them waited as long as firmware does), \
             {} addresses given twice; {:.1} MB in {:.1} s",
            self.nodes,
            self.booted,
            self.gave_up,
            self.shared_addresses,
            self.bytes as f64 / 1e6,
            self.last
        )?;
        for failed in &self.failures {
            writeln!(f, "  {} × {}: {}", failed.count, failed.stage.word(), failed.reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn quantiles_are_those_of_the_nearest_rank() {
        let mut times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(quantiles(&mut times), (100.0, 198.0, 200.0));
        assert_eq!(quantiles(&mut [3.0]), (3.0, 3.0, 3.0));
        assert_eq!(quantiles(&mut []), (0.0, 0.0, 0.0));
    }

    #[test]
    fn failures_are_told_together_and_shared_addresses_are_not_good() {
        let mut report = Report::new(3);
        let ip = Some([10, 0, 0, 1].into());
        let passed = || vec![(Stage::Address, 0.5, 1)];
        report.add(Outcome { passed: passed(), ip, ..Outcome::default() }, 1.0, 1.0);
        report.add(Outcome { passed: passed(), ip, ..Outcome::default() }, 1.0, 2.0);
        let silent = Error::Silent { what: "offer", seconds: 60 };
        let failure = Some((Stage::Address, silent));
        report.add(Outcome { failure, ..Outcome::default() }, 60.0, 60.0);
        report.finish();
        assert_eq!((report.booted, report.gave_up, report.shared_addresses), (2, 1, 1));
        assert!(!report.is_good());
        let text = report.to_string();
        assert!(text.contains("1 × DHCP, firmware: no offer within 60 s"), "{text}");
    }
}
