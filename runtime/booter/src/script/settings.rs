//! The section `[script]`.

use headnode_model::config::Problem;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Section `[script]`: what the iPXE that machines load can do, and what comes with the kernel. A change
/// counts after a restart.
///
/// The default limits are upstream's limits for multiboot kernels as SmartOS' one, found by booting: what is
/// more it drops without a word. Triton's own build takes 16 modules.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Most modules beside the kernel, 2 to 64.
    pub modules: usize,
    /// Most bytes of all command lines together, URLs included, 256 to 65536.
    pub command_lines: usize,
    /// Whether nodes get `networking.json` and CNAPI's boot modules; `false` is what Triton calls
    /// `disable_boot_time_files` (C§4.8).
    pub boot_files: bool,
    /// How iPXE loads kernels, archives and modules. Scripts are loaded by HTTP, or by HTTPS where that
    /// is it.
    pub scheme: Scheme,
    /// `nictag_rules` of `networking.json`, by NIC tag (C§4.7: overlays such as `sdc_overlay`); left out
    /// when there are none.
    pub nictag_rules: Map<String, Value>,
}

/// How iPXE loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// HTTP.
    Http,
    /// HTTP with TLS: iPXE must have been built with the certificate's authority (`TRUST=`).
    Https,
    /// TFTP, what Triton calls `http_pxe_boot=false` (C§4.8).
    Tftp,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            modules: 8,
            command_lines: 512,
            boot_files: true,
            scheme: Scheme::Http,
            nictag_rules: Map::new(),
        }
    }
}

impl Settings {
    /// What is wrong with the section.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |key: &str, message: String| {
            problems.push(Problem { key: format!("script.{key}"), message });
        };
        if !(2..=64).contains(&self.modules) {
            add("modules", format!("{} is not within 2 to 64", self.modules));
        }
        if !(256..=65_536).contains(&self.command_lines) {
            add("command_lines", format!("{} is not within 256 to 65536", self.command_lines));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_named() {
        assert_eq!(Settings::default().problems(), Vec::new());
        let keys = Settings { modules: 1, command_lines: 0, ..Settings::default() }.problems();
        let keys: Vec<String> = keys.into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["script.modules", "script.command_lines"]);
    }
}
