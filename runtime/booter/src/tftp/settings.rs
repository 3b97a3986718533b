//! The settings of the TFTP server: `[tftp]` in the booter's file.

use headnode_model::config::Problem;
use serde::Deserialize;

/// Slower than this, one window would take longer than firmware waits, in bytes/s.
const SLOWEST: u64 = 16 << 10;

/// From which ports files are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ports {
    /// Each transfer has a port of its own (RFC 1350 §4).
    #[default]
    PerTransfer,
    /// All from the port that requests are sent to, for firewalls and NAT that let nothing else
    /// through. Who can forge a source can then forge its acknowledgements too, and have a whole
    /// window sent to it: not for networks that strangers reach.
    Single,
}

/// How much the TFTP server gives, and to whom. Read anew for each request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// From which ports files are sent: `per-transfer` or `single`.
    pub ports: Ports,
    /// Most transfers at the same time, 1 to 65536. When all places are taken, the oldest transfer
    /// whose client has never answered makes room.
    pub transfers: usize,
    /// Most transfers of one address at the same time, 1 to `transfers`.
    pub transfers_per_client: usize,
    /// Bytes of files per second for each client address, from 16384; 0 is no limit.
    pub bytes_per_second_per_client: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ports: Ports::PerTransfer,
            // Machines that are switched on together ask together, and answer when all have been answered.
            transfers: 16_384,
            // Behind NAT a rack is one address.
            transfers_per_client: 256,
            bytes_per_second_per_client: 0,
        }
    }
}

impl Settings {
    /// What is wrong with the values.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |key: &str, message: String| {
            problems.push(Problem { key: format!("tftp.{key}"), message });
        };
        if !(1..=65_536).contains(&self.transfers) {
            add("transfers", format!("{} is not within 1 to 65536", self.transfers));
        }
        if !(1..=self.transfers).contains(&self.transfers_per_client) {
            let most = self.transfers;
            let message = format!("{} is not within 1 to {most}", self.transfers_per_client);
            add("transfers_per_client", message);
        }
        let rate = self.bytes_per_second_per_client;
        if (1..SLOWEST).contains(&rate) {
            let message = format!("{rate} is neither 0 nor at least {SLOWEST}");
            add("bytes_per_second_per_client", message);
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_each_wrong_value_is_named() {
        assert_eq!(Settings::default().problems(), []);
        let text = "ports = \"single\"\ntransfers = 0\nbytes_per_second_per_client = 9";
        let settings: Settings = toml::from_str(text).unwrap();
        assert_eq!(settings.ports, Ports::Single);
        let keys: Vec<_> = settings.problems().into_iter().map(|problem| problem.key).collect();
        let wrong = ["transfers", "transfers_per_client", "bytes_per_second_per_client"];
        assert_eq!(keys, wrong.map(|key| format!("tftp.{key}")));
        assert!(toml::from_str::<Settings>("ports = \"two\"").is_err());
    }
}
