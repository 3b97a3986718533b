//! The section `[params]`.

use headnode_client::{Error, Napi};
use headnode_model::config::Problem;
use serde::Deserialize;

/// Section `[params]`: where boot parameters come from beside CNAPI, and how they are kept. A change
/// counts after a restart.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// NAPI's base URL, as `http://10.99.99.7:8011`; without it networks are known from DHCP only. What
    /// addresses it has given on the networks' NIC tags is asked for once a minute: they are kept for
    /// their NICs.
    pub napi: Option<String>,
    /// Most machines that are asked for at the same time, 1 to 1000.
    pub lookups: usize,
    /// Most machines whose parameters are kept on disk, 100 to 1,000,000, about 4 KiB each. Servers of
    /// the datacenter are always kept.
    pub machines: usize,
    /// How often all kept parameters are asked for anew, in seconds, from 10; 0 is never.
    pub refresh_seconds: u32,
}

impl Default for Settings {
    fn default() -> Self {
        // The pause is Triton's (C§4.2).
        Self { napi: None, lookups: 64, machines: 20_000, refresh_seconds: 300 }
    }
}

impl Settings {
    /// What is wrong with the section.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |key: &str, message: String| {
            problems.push(Problem { key: format!("params.{key}"), message });
        };
        if let Err(error) = self.napi() {
            add("napi", error.to_string());
        }
        if !(1..=1000).contains(&self.lookups) {
            add("lookups", format!("{} is not within 1 to 1000", self.lookups));
        }
        if !(100..=1_000_000).contains(&self.machines) {
            add("machines", format!("{} is not within 100 to 1000000", self.machines));
        }
        if (1..10).contains(&self.refresh_seconds) {
            add("refresh_seconds", format!("{} is neither 0 nor from 10", self.refresh_seconds));
        }
        problems
    }

    /// The datacenter's NAPI, when there is one.
    ///
    /// # Errors
    /// When its URL is none.
    pub fn napi(&self) -> Result<Option<Napi>, Error> {
        self.napi.as_deref().map(Napi::new).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_named() {
        assert_eq!(Settings::default().problems(), Vec::new());
        let wrong = Settings {
            napi: Some("ftp://x".to_owned()),
            lookups: 0,
            machines: 1,
            refresh_seconds: 3,
        };
        let keys: Vec<String> = wrong.problems().into_iter().map(|p| p.key).collect();
        assert_eq!(
            keys,
            ["params.napi", "params.lookups", "params.machines", "params.refresh_seconds"]
        );
    }
}
