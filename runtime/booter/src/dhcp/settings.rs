//! What an operator may set about DHCP.

use std::collections::BTreeMap;

use headnode_model::config::Problem;
use serde::Deserialize;

use super::arch;

/// The section `[dhcp]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What the booter does on the DHCP ports.
    pub mode: Mode,
    /// Whether a machine that remembers an address which is wrong here is told so at once (NAK)
    /// instead of being left to find out; wrong only beside another DHCP server.
    pub authoritative: bool,
    /// Whether machines that send no vendor class (option 60) are answered (C§4.8).
    pub allow_missing_class_id: bool,
    /// Whether machines that do not boot by network are answered: operating systems and others.
    pub allow_others: bool,
    /// Where replies to a relay go.
    pub relay_reply: RelayReply,
    /// The scheme of URLs for UEFI HTTP boot.
    pub http_scheme: Scheme,
    /// How long the network is asked (ARP) whether somebody uses an address already, before it is
    /// offered to a machine that has never had it: milliseconds, 0 (never) to 1000. Firmware sends
    /// its question again after 1 to 4 s. Networks behind relays cannot be asked.
    pub probe_ms: u16,
    /// Boot programs by architecture (IANA's number) instead of the built-in ones, as names
    /// in the folder of boot programs.
    pub programs: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Server,
            authoritative: true,
            allow_missing_class_id: false,
            allow_others: false,
            relay_reply: RelayReply::Giaddr,
            http_scheme: Scheme::Http,
            probe_ms: 300,
            programs: BTreeMap::new(),
        }
    }
}

/// What the booter does on the DHCP ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Gives addresses and boot files.
    Server,
    /// Gives boot files only, beside a server that gives addresses (PXE specification 2.1 §2.2).
    Proxy,
    /// Nothing.
    Off,
}

/// Where replies to a relay go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayReply {
    /// To the address that the relay tells (RFC 2131 §4.1).
    Giaddr,
    /// To the address that the request came from, as Triton's booter does.
    Source,
}

/// The scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS: firmware must have the certificate's authority.
    Https,
}

/// Longer than this, and firmware has sent its question again.
const LONGEST_PROBE: u16 = 1000;

impl Settings {
    /// What is wrong with them.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.probe_ms > LONGEST_PROBE {
            let message = format!("{} is not within 0 to {LONGEST_PROBE}", self.probe_ms);
            problems.push(Problem { key: "dhcp.probe_ms".to_owned(), message });
        }
        for (number, file) in &self.programs {
            let key = format!("dhcp.programs.{number}");
            if number.parse::<u16>().is_err() {
                let message = "the key must be the number of an architecture, 0 to 65535".into();
                problems.push(Problem { key: key.clone(), message });
            }
            let good = |c: char| c.is_ascii_alphanumeric() || "._-+/".contains(c);
            let parts_good = file.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
            if !parts_good || file.len() > arch::LONGEST_NAME || !file.chars().all(good) {
                let message = format!("{file:?} is no file name below the folder of programs");
                problems.push(Problem { key, message });
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_wrong_values_are_named() {
        assert_eq!(Settings::default().problems(), []);
        let programs =
            [("11", "arm64/a.efi"), ("x", "a"), ("12", "../a"), ("13", "/a"), ("14", "a b")];
        let bad = Settings {
            probe_ms: 1001,
            programs: programs.map(|(n, f)| (n.to_owned(), f.to_owned())).into(),
            ..Settings::default()
        };
        let keys: Vec<String> = bad.problems().into_iter().map(|problem| problem.key).collect();
        let wrong = ["probe_ms", "programs.12", "programs.13", "programs.14", "programs.x"];
        assert_eq!(keys, wrong.map(|key| format!("dhcp.{key}")));
    }
}
