//! Which machines may boot.
//!
//! An operator's decision about a MAC counts first ([`Decisions`], kept in a file), then that CNAPI
//! has the machine as a server, then the rules of the configuration, then its policy.

mod decisions;
mod directory;
mod gate;
mod rules;

pub use decisions::{Decision, DecisionError, Decisions, parse};
pub use directory::follow;
pub use gate::{Admission, Known};
pub use rules::{MacPrefix, Rule, Settings};

use headnode_model::net::MacAddr;
use uuid::Uuid;

/// What is known of a machine that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine<'a> {
    /// Its NIC.
    pub mac: MacAddr,
    /// Its SMBIOS UUID, from DHCP's option 97 or from its script's URL.
    pub uuid: Option<Uuid>,
    /// Its serial number; told only when it asks for its script.
    pub serial: Option<&'a str>,
    /// Its maker (SMBIOS manufacturer); told only when it asks for its script.
    pub vendor: Option<&'a str>,
    /// Its rack: the NIC tag of the relay that it came through.
    pub rack: Option<&'a str>,
}

/// What is done with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It boots.
    Admit,
    /// It gets an address and a script that waits and asks again, until an operator decides.
    Hold,
    /// It gets no answer.
    Ignore,
}

impl Verdict {
    /// One word for logs and metrics, as in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Hold => "hold",
            Self::Ignore => "ignore",
        }
    }
}

/// Decides about machines. Asked for each message: it must be quick and must not block.
pub trait Gate: Send + Sync + 'static {
    /// At DHCP, when serial number and vendor are not known yet: `Ignore` only when nothing that the
    /// machine could still tell would let it in.
    fn at_dhcp(&self, machine: &Machine<'_>) -> Verdict;

    /// At its script. `known` says that CNAPI has the machine as a server of the datacenter.
    fn at_script(&self, machine: &Machine<'_>, known: bool) -> Verdict;

    /// Whether the machine has to tell its serial number and maker before it gets its script.
    fn needs_identity(&self, mac: MacAddr) -> bool;
}

/// Admits everybody: for tests and fuzzing of the servers that ask a gate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Everybody;

impl Gate for Everybody {
    fn at_dhcp(&self, _: &Machine<'_>) -> Verdict {
        Verdict::Admit
    }

    fn at_script(&self, _: &Machine<'_>, _: bool) -> Verdict {
        Verdict::Admit
    }

    fn needs_identity(&self, _: MacAddr) -> bool {
        false
    }
}
