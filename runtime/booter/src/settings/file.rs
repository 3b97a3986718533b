//! What Triton's configuration has no keys for: a TOML file beside it.

use std::io;
use std::path::{Path, PathBuf};

use headnode_model::config::Problem;
use serde::Deserialize;

use crate::networks::Network;
use crate::{admission, dhcp, http, params, progress, script, tftp};

/// Larger files are no settings of ours, in bytes.
const SIZE_LIMIT: u64 = 4 << 20;

/// The file's place below the headnode's root; it may be absent.
pub const BESIDE_CONFIG: &str = "config.inc/booter.toml";

/// The whole file; every section may be left out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// Who is answered by DHCP, and how.
    pub dhcp: dhcp::Settings,
    /// Networks behind relays.
    #[serde(rename = "network")]
    pub networks: Vec<Network>,
    /// Limits of TFTP, and the ports it sends from.
    pub tftp: tftp::Settings,
    /// Limits of HTTP, and TLS.
    pub http: http::Limits,
    /// Which machines may boot.
    pub admission: admission::Settings,
    /// When a machine is called stuck.
    pub progress: progress::Settings,
    /// Where boot parameters come from, and how they are kept.
    pub params: params::Settings,
    /// What the machines' iPXE can do.
    pub script: script::ScriptSettings,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("reading {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Its content is wrong.
    #[error("{}: {source}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: Box<toml::de::Error>,
    },
}

impl File {
    /// Reads the file; the defaults when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or with the line that is wrong.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let error = |source| ReadError::Io { path: path.to_owned(), source };
        let size = match std::fs::metadata(path) {
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            about => about.map_err(error)?.len(),
        };
        if size > SIZE_LIMIT {
            return Err(error(io::Error::other("it is far too large for settings")));
        }
        let text = std::fs::read_to_string(path).map_err(error)?;
        toml::from_str(&text)
            .map_err(|source| ReadError::Wrong { path: path.to_owned(), source: Box::new(source) })
    }

    /// What is wrong with the sections, each on its own.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.dhcp.problems();
        problems.extend(self.tftp.problems());
        problems.extend(self.http.problems());
        problems.extend(self.admission.problems());
        problems.extend(self.progress.problems());
        problems.extend(self.params.problems());
        problems.extend(self.script.problems());
        let https = [
            ("dhcp.http_scheme", self.dhcp.http_scheme == dhcp::Scheme::Https),
            ("script.scheme", self.script.scheme == script::Scheme::Https),
        ];
        for (key, _) in https.into_iter().filter(|(_, told)| *told && self.http.tls.is_none()) {
            let message = "https needs a certificate: tell it in [http.tls]".to_owned();
            problems.push(Problem { key: key.to_owned(), message });
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rack_and_a_policy_are_read_and_an_unknown_key_is_an_error_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("booter.toml");
        assert_eq!(File::read(&path).unwrap(), File::default());
        let text = "[admission]\npolicy = \"hold\"\n[[network]]\nname = \"rack1\"\n\
            subnet = \"10.98.0.0/24\"\ncircuits = [\"rack1\"]\n";
        std::fs::write(&path, text).unwrap();
        let file = File::read(&path).unwrap();
        assert_eq!(file.networks.len(), 1);
        assert_eq!(file.admission.policy, admission::Verdict::Hold);
        let https = "[dhcp]\nhttp_scheme = \"https\"\n[script]\nscheme = \"https\"\n";
        let mut file: File = toml::from_str(https).unwrap();
        let keys: Vec<String> = file.problems().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["dhcp.http_scheme", "script.scheme"]);
        let (certificate, key) = ("/a".into(), "/b".into());
        file.http.tls = Some(http::Tls { port: 443, certificate, key });
        assert!(file.problems().iter().all(|problem| problem.key.starts_with("http.tls")));
        std::fs::write(&path, format!("{text}subnett = 1\n")).unwrap();
        let error = File::read(&path).unwrap_err().to_string();
        assert!(error.contains("subnett") && error.contains("line 7"), "{error}");
    }
}
