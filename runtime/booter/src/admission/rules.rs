//! The configuration's section `[admission]`: rules and the policy for machines that none matches.

use std::fmt;
use std::str::FromStr;

use headnode_model::config::Problem;
use headnode_model::net::MacAddr;
use serde::Deserialize;
use uuid::Uuid;

use super::{Machine, Verdict};

/// Section `[admission]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What is done with a machine that nobody decided about, that is no server of the datacenter,
    /// and that no rule matches. Default: `admit`, as Triton's booter does (C§4.2).
    pub policy: Verdict,
    /// Rules, `[[admission.rule]]`; the first one that matches counts.
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { policy: Verdict::Admit, rules: Vec::new() }
    }
}

/// A rule; all that it names must fit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The NIC's address or its beginning, as `00:25:90`.
    #[serde(default)]
    pub mac: Option<MacPrefix>,
    /// The SMBIOS UUID.
    #[serde(default)]
    pub uuid: Option<Uuid>,
    /// The serial number, in any case of letters.
    #[serde(default)]
    pub serial: Option<String>,
    /// A part of the maker's name, in any case of letters.
    #[serde(default)]
    pub vendor: Option<String>,
    /// The NIC tag of the relay's rack, in any case of letters.
    #[serde(default)]
    pub rack: Option<String>,
    /// What is done with the machines that fit.
    pub verdict: Verdict,
}

/// Whether a rule fits a machine, as far as the machine is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Yes,
    No,
    /// It depends on what the machine has not told yet.
    Open,
}

impl Rule {
    pub(super) fn fit(&self, machine: &Machine<'_>) -> Fit {
        let told = |fits: Option<bool>| match fits {
            Some(true) => Fit::Yes,
            Some(false) => Fit::No,
            None => Fit::Open,
        };
        let same = |rule: &str, text: &str| rule.trim().eq_ignore_ascii_case(text.trim());
        let parts = [
            self.mac.as_ref().map(|prefix| told(Some(prefix.matches(machine.mac)))),
            // The rack is known from the first packet: no relay is no rack.
            self.rack.as_ref().map(|rule| told(Some(machine.rack.is_some_and(|r| same(rule, r))))),
            self.uuid.map(|uuid| told(machine.uuid.map(|told| told == uuid))),
            self.serial.as_ref().map(|rule| told(machine.serial.map(|text| same(rule, text)))),
            self.vendor.as_ref().map(|rule| {
                let rule = rule.trim().to_lowercase();
                told(machine.vendor.map(|text| text.to_lowercase().contains(&rule)))
            }),
        ];
        let mut fit = Fit::Yes;
        for part in parts.into_iter().flatten() {
            match part {
                Fit::No => return Fit::No,
                Fit::Open => fit = Fit::Open,
                Fit::Yes => {}
            }
        }
        fit
    }

    fn names_nothing(&self) -> bool {
        let blank = |text: &Option<String>| text.as_ref().is_none_or(|text| text.trim().is_empty());
        self.mac.is_none()
            && self.uuid.is_none()
            && blank(&self.serial)
            && blank(&self.vendor)
            && blank(&self.rack)
    }
}

impl Settings {
    /// What is wrong with the section.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let key = format!("admission.rule {}", index + 1);
            if rule.names_nothing() {
                let message = "it names no machine, so it would fit all: use `policy` for that";
                problems.push(Problem { key, message: message.to_owned() });
                continue;
            }
            for (name, text) in
                [("serial", &rule.serial), ("vendor", &rule.vendor), ("rack", &rule.rack)]
            {
                if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
                    let message = format!("`{name}` is empty: leave it out or give a value");
                    problems.push(Problem { key: key.clone(), message });
                }
            }
        }
        problems
    }

    /// Whether a rule asks for what DHCP does not tell: serial number or maker.
    pub(super) fn names_identity(&self) -> bool {
        self.rules.iter().any(|rule| rule.serial.is_some() || rule.vendor.is_some())
    }

    /// The verdict of rules and policy. Without serial number, vendor or UUID, `Ignore` only when
    /// none of them could lead to anything else.
    pub(super) fn verdict(&self, machine: &Machine<'_>) -> Verdict {
        let mut could_enter = false;
        for rule in &self.rules {
            match rule.fit(machine) {
                Fit::No => {}
                Fit::Yes => return soften(rule.verdict, could_enter),
                Fit::Open => could_enter |= rule.verdict != Verdict::Ignore,
            }
        }
        soften(self.policy, could_enter)
    }
}

fn soften(verdict: Verdict, could_enter: bool) -> Verdict {
    if verdict == Verdict::Ignore && could_enter { Verdict::Hold } else { verdict }
}

/// An Ethernet address or its beginning: one to six bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MacPrefix(Vec<u8>);

impl MacPrefix {
    /// Whether an address begins with it.
    pub fn matches(&self, mac: MacAddr) -> bool {
        mac.0.starts_with(&self.0)
    }
}

impl fmt::Display for MacPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&parts.join(":"))
    }
}

impl FromStr for MacPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(mac) = text.parse::<MacAddr>() {
            return Ok(Self(mac.0.to_vec()));
        }
        let byte = |part: &str| {
            let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        };
        let bytes: Option<Vec<u8>> = text.split([':', '-']).map(byte).collect();
        match bytes {
            Some(bytes) if bytes.len() <= 6 => Ok(Self(bytes)),
            _ => Err(format!(
                "{text:?} is neither a MAC address nor the beginning of one: expected pairs of hex \
                 digits, as 00:25:90"
            )),
        }
    }
}

impl TryFrom<String> for MacPrefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn beginnings_of_addresses_in_their_forms() {
        let mac = MacAddr([0, 0x25, 0x90, 1, 2, 3]);
        for text in ["00", "00:25:90", "00-25-90", "00:25:90:01:02:03", "002590010203"] {
            assert!(text.parse::<MacPrefix>().unwrap().matches(mac), "{text}");
        }
        assert!(!"00:25:91".parse::<MacPrefix>().unwrap().matches(mac));
        for text in ["", ":", "0:25", "00:25:90:01:02:03:04", "00:gg", "+0"] {
            assert!(text.parse::<MacPrefix>().is_err(), "{text}");
        }
        assert_eq!("00-25-90".parse::<MacPrefix>().unwrap().to_string(), "00:25:90");
    }

    #[test]
    fn rules_that_fit_everybody_are_told() {
        let rule = Rule {
            mac: None,
            uuid: None,
            serial: None,
            vendor: Some(" ".into()),
            rack: None,
            verdict: Verdict::Admit,
        };
        let settings = Settings { policy: Verdict::Ignore, rules: vec![rule.clone()] };
        assert_eq!(settings.problems().len(), 1);
        let rule = Rule { mac: "00".parse().ok(), ..rule };
        let settings = Settings { policy: Verdict::Ignore, rules: vec![rule] };
        let problems = settings.problems();
        assert!(problems[0].message.contains("`vendor` is empty"), "{problems:?}");
        assert!(Settings::default().problems().is_empty());
    }

    proptest! {
        #[test]
        fn no_prefix_panics(text: String) {
            drop(text.parse::<MacPrefix>());
        }

        #[test]
        fn prefix_and_back(bytes in proptest::collection::vec(any::<u8>(), 1..=6)) {
            let prefix = MacPrefix(bytes);
            prop_assert_eq!(prefix.to_string().parse::<MacPrefix>(), Ok(prefix));
        }
    }
}
