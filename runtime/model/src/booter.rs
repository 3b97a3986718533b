//! What the booter tells an operator: machines on their way, step by step (`sdc boot`).

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::net::MacAddr;

/// Where the booter's operator interface listens: a Unix socket, for root and the booter only.
pub const SOCKET: &str = "/run/sdc-booter/sdc-booter.sock";

/// How far a machine has come in its boot, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It asked for an address and got no answer.
    Asked,
    /// It was offered an address, or a boot program beside another server's address.
    Offer,
    /// It has its address.
    Ack,
    /// It has the boot program.
    Loader,
    /// It has its script.
    Script,
    /// It has the kernel.
    Kernel,
    /// It has the archive with the system.
    Archive,
    /// It has the node's software.
    Bundle,
    /// Its agent runs: it has fetched the node's configuration.
    Agent,
}

impl Stage {
    /// All stages in their order.
    pub const ALL: [Self; 9] = [
        Self::Asked,
        Self::Offer,
        Self::Ack,
        Self::Loader,
        Self::Script,
        Self::Kernel,
        Self::Archive,
        Self::Bundle,
        Self::Agent,
    ];

    /// Its word in tables, JSON and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Offer => "offer",
            Self::Ack => "ack",
            Self::Loader => "loader",
            Self::Script => "script",
            Self::Kernel => "kernel",
            Self::Archive => "archive",
            Self::Bundle => "bundle",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// One stage of a boot, as far as it was seen. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which.
    pub stage: Stage,
    /// When it was first reached in this boot.
    pub first: i64,
    /// When last.
    pub last: i64,
    /// How often.
    pub count: u32,
    /// Bytes of files sent in it.
    pub bytes: u64,
}

/// A machine and its latest boot. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Its NIC.
    pub mac: MacAddr,
    /// The address last given to it.
    pub ip: Option<IpAddr>,
    /// Its SMBIOS UUID.
    pub uuid: Option<Uuid>,
    /// Name of its architecture, as "x86-64 UEFI".
    pub arch: String,
    /// Who asked last: `pxe`, `ipxe`, `http`, `sunw`, `other`.
    pub client: String,
    /// The relay's NIC tag, when it comes through a relay.
    pub rack: Option<String>,
    /// The furthest stage of the latest boot.
    pub stage: Stage,
    /// What its script does: `boot`, `hold`, `menu`, `message`.
    pub script: Option<String>,
    /// Where its parameters came from: `server`, `default`, `cache`, `builtin`, `host`.
    pub origin: Option<String>,
    /// The platform that it boots.
    pub platform: Option<String>,
    /// An operator's decision: `approved` or `denied`.
    pub decision: Option<String>,
    /// Whether it waits for an operator's decision.
    pub held: bool,
    /// Number of boots seen.
    pub attempts: u32,
    /// When it was first seen.
    pub seen: i64,
    /// When its latest boot began.
    pub began: i64,
    /// When it was last heard of.
    pub last: i64,
    /// The stages of the latest boot, in the order of [`Stage`].
    pub steps: Vec<Step>,
    /// What went wrong last in this boot.
    pub problem: Option<String>,
    /// Why it does not go on, and what to look at.
    pub stuck: Option<String>,
}

/// A machine with what happened to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootDetail {
    /// The machine.
    #[serde(flatten)]
    pub boot: Boot,
    /// Its last events, oldest first.
    pub events: Vec<BootEvent>,
}

/// Something that the booter did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEvent {
    /// Its number; they count up from 1 since the booter's start.
    pub seq: u64,
    /// When, in Unix milliseconds.
    pub at: i64,
    /// For which machine, when that is known.
    pub mac: Option<MacAddr>,
    /// For which address, when the machine is not known or the address is new.
    pub ip: Option<IpAddr>,
    /// What, in one line.
    pub what: String,
    /// Whether it is a problem.
    pub problem: bool,
}

/// Events after a number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEvents {
    /// The events, oldest first.
    pub events: Vec<BootEvent>,
    /// The number to ask after next time.
    pub next: u64,
    /// How many were asked for but are forgotten by now.
    pub missed: u64,
}

/// How the booter is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BooterStatus {
    /// Its version.
    pub version: String,
    /// When it was started, in Unix seconds.
    pub started: i64,
    /// What is done with unknown machines: `admit`, `hold`, `ignore`.
    pub policy: String,
    /// Machines known to the tracker.
    pub machines: u64,
    /// Machines that wait for an operator.
    pub held: u64,
    /// Machines that do not go on.
    pub stuck: u64,
    /// New machines that were not kept track of because the table was full.
    pub untracked: u64,
    /// More lines for people: name and value.
    #[serde(default)]
    pub more: Vec<(String, String)>,
}

/// An operator's decision about machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// Who decides.
    pub who: String,
    /// Why.
    #[serde(default)]
    pub note: String,
}
