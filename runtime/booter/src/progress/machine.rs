//! One machine and its latest boot.

use std::collections::VecDeque;
use std::net::IpAddr;

use headnode_model::booter::{Boot, BootEvent, Stage, Step};
use headnode_model::net::MacAddr;
use uuid::Uuid;

/// Events kept per machine.
const EVENTS: usize = 64;
/// A boot is over when the firmware asks for an address again, or after this pause in milliseconds.
const PAUSE: i64 = 30 * 60 * 1000;

pub(super) struct Machine {
    pub mac: MacAddr,
    pub ip: Option<IpAddr>,
    pub uuid: Option<Uuid>,
    pub arch: &'static str,
    pub client: String,
    pub rack: Option<String>,
    pub script: Option<String>,
    pub origin: Option<&'static str>,
    pub platform: Option<String>,
    pub problem: Option<String>,
    pub attempts: u32,
    pub seen: i64,
    pub began: i64,
    pub last: i64,
    /// Whether it ever came past DHCP: then it is not forgotten for a stranger.
    pub arrived: bool,
    pub steps: Vec<Step>,
    pub events: VecDeque<BootEvent>,
}

impl Machine {
    pub fn new(mac: MacAddr, now: i64) -> Self {
        Self {
            mac,
            ip: None,
            uuid: None,
            arch: "",
            client: String::new(),
            rack: None,
            script: None,
            origin: None,
            platform: None,
            problem: None,
            attempts: 1,
            seen: now,
            began: now,
            last: now,
            arrived: false,
            steps: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// The furthest stage.
    pub fn stage(&self) -> Stage {
        self.steps.last().map_or(Stage::Asked, |step| step.stage)
    }

    /// Whether a question for an address begins another boot: the firmware asks anew after it had
    /// been served, or iPXE after it had its script.
    pub fn begins_anew(&self, client: &str, now: i64) -> bool {
        if self.steps.is_empty() {
            return false;
        }
        let limit = match client {
            "pxe" | "http" | "sunw" => Stage::Loader,
            "ipxe" => Stage::Script,
            _ => return false,
        };
        self.stage() >= limit || now.saturating_sub(self.last) > PAUSE
    }

    /// Begins another boot; gives what the one before came to.
    pub fn begin(&mut self, now: i64) -> Stage {
        let before = self.stage();
        self.attempts = self.attempts.saturating_add(1);
        self.began = now;
        self.steps.clear();
        (self.script, self.origin, self.platform, self.problem) = (None, None, None, None);
        before
    }

    /// Reaches a stage; gives the milliseconds since the first offer when it does so for the first
    /// time in this boot.
    pub fn reach(&mut self, stage: Stage, bytes: u64, now: i64) -> Option<i64> {
        self.arrived |= stage > Stage::Ack;
        match self.steps.binary_search_by_key(&stage, |step| step.stage) {
            Ok(at) => {
                if let Some(step) = self.steps.get_mut(at) {
                    step.last = now;
                    step.count = step.count.saturating_add(1);
                    step.bytes = step.bytes.saturating_add(bytes);
                }
                None
            }
            Err(at) => {
                self.steps.insert(at, Step { stage, first: now, last: now, count: 1, bytes });
                let offer = self.steps.iter().find(|step| step.stage >= Stage::Offer)?;
                Some(now.saturating_sub(offer.first))
            }
        }
    }

    pub fn remember(&mut self, event: BootEvent) {
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub fn held(&self) -> bool {
        self.stage() == Stage::Script && self.script.as_deref() == Some("hold")
    }

    pub fn boot(&self, stuck: Option<String>) -> Boot {
        Boot {
            mac: self.mac,
            ip: self.ip,
            uuid: self.uuid,
            arch: self.arch.to_owned(),
            client: self.client.clone(),
            rack: self.rack.clone(),
            stage: self.stage(),
            script: self.script.clone(),
            origin: self.origin.map(str::to_owned),
            platform: self.platform.clone(),
            decision: None,
            held: self.held(),
            attempts: self.attempts,
            seen: self.seen,
            began: self.began,
            last: self.last,
            steps: self.steps.clone(),
            problem: self.problem.clone(),
            stuck,
        }
    }
}
