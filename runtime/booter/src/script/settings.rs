//! The section `[script]`.

use headnode_model::config::Problem;
use serde::Deserialize;

/// Section `[script]`: what the iPXE that machines load can do. A change counts after a restart.
///
/// The defaults are upstream's limits for multiboot kernels as SmartOS' one, found by booting: what is
/// more it drops without a word. Triton's own build takes 16 modules.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Most modules beside the kernel, 2 to 64.
    pub modules: usize,
    /// Most bytes of all command lines together, URLs included, 256 to 65536.
    pub command_lines: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { modules: 8, command_lines: 512 }
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
        let keys = Settings { modules: 1, command_lines: 0 }.problems();
        let keys: Vec<String> = keys.into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["script.modules", "script.command_lines"]);
    }
}
