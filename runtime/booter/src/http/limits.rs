//! The settings of the HTTP server: `[http]` in the booter's file.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use headnode_model::config::Problem;
use ipnet::IpNet;
use serde::Deserialize;

use super::tls;

/// How much the HTTP server gives, to whom and for how long. Read anew for each request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most connections at the same time, 1 to 65536; more wait in the kernel's queue.
    pub connections: usize,
    /// Most connections of one address at the same time, 1 to `connections`; more are closed.
    pub connections_per_client: usize,
    /// Seconds that a client has to send a request's head, from the connection or the head's first
    /// byte on, 1 to 600.
    pub head_seconds: u64,
    /// Seconds that a connection may wait for its next request, 1 to 3600.
    pub idle_seconds: u64,
    /// Seconds without progress after which a receiver is given up, 1 to 3600.
    pub stall_seconds: u64,
    /// KiB/s for each client address; 0 is no limit.
    pub rate_limit_kib: u32,
    /// Clients with firmware that stalls when it is served fast (A§2.18). The first that contains
    /// the client's address counts, before `rate_limit_kib`.
    pub slow_clients: Vec<SlowClient>,
    /// TLS, when it is to be served too. A change of the port needs a restart.
    pub tls: Option<Tls>,
}

/// Clients that are served slowly.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlowClient {
    /// Their network, as `10.0.0.0/24`.
    pub subnet: IpNet,
    /// KiB/s for each of their addresses; 0 is no limit.
    pub kib: u32,
}

/// Where TLS is served and with what.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// TCP port.
    pub port: u16,
    /// PEM file of the certificate and the chain to its root, the server's own first.
    pub certificate: PathBuf,
    /// PEM file of the certificate's private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_client: 32,
            head_seconds: 10,
            idle_seconds: 60,
            stall_seconds: 60,
            rate_limit_kib: 0,
            slow_clients: Vec::new(),
            tls: None,
        }
    }
}

impl Limits {
    /// Bytes per second for a client; `None` is no limit.
    pub fn rate(&self, client: IpAddr) -> Option<u64> {
        let slow = self.slow_clients.iter().find(|slow| slow.subnet.contains(&client));
        let kib = slow.map_or(self.rate_limit_kib, |slow| slow.kib);
        (kib > 0).then(|| u64::from(kib) << 10)
    }

    pub(super) fn head(&self) -> Duration {
        Duration::from_secs(self.head_seconds)
    }

    pub(super) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }

    pub(super) fn stall(&self) -> Duration {
        Duration::from_secs(self.stall_seconds)
    }

    /// What is wrong with the values, and with the files of TLS.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |key: &str, message: String| {
            problems.push(Problem { key: format!("http.{key}"), message });
        };
        if !(1..=65_536).contains(&self.connections) {
            add("connections", format!("{} is not within 1 to 65536", self.connections));
        }
        if !(1..=self.connections).contains(&self.connections_per_client) {
            let most = self.connections;
            let message = format!("{} is not within 1 to {most}", self.connections_per_client);
            add("connections_per_client", message);
        }
        for (key, seconds, most) in [
            ("head_seconds", self.head_seconds, 600),
            ("idle_seconds", self.idle_seconds, 3600),
            ("stall_seconds", self.stall_seconds, 3600),
        ] {
            if !(1..=most).contains(&seconds) {
                add(key, format!("{seconds} is not within 1 to {most}"));
            }
        }
        if let Some(tls) = &self.tls {
            if tls.port == 0 {
                add("tls.port", "0 is not a port; 443 is the usual one".to_owned());
            }
            if let Err(error) = tls::load(tls) {
                add(error.key(), error.to_string());
            }
            // A group may: that is how a key is shared among services on purpose.
            let mode = fs::metadata(&tls.key).map(|about| about.permissions().mode());
            if mode.is_ok_and(|mode| mode & 0o007 != 0) {
                let key = tls.key.display();
                add("tls.key", format!("{key} can be read by everybody: chmod o= {key}"));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_network_that_holds_a_client_sets_its_rate() {
        let text = r#"{"rate_limit_kib": 9, "slow_clients": [
            {"subnet": "10.0.0.0/30", "kib": 0}, {"subnet": "10.0.0.0/8", "kib": 2}]}"#;
        let limits: Limits = serde_json::from_str(text).unwrap();
        assert_eq!(limits.rate([10, 0, 0, 1].into()), None);
        assert_eq!(limits.rate([10, 0, 0, 4].into()), Some(2048));
        assert_eq!(limits.rate([11, 0, 0, 4].into()), Some(9216));
        assert_eq!(Limits::default().rate([10, 0, 0, 1].into()), None);
        assert!(serde_json::from_str::<Limits>(r#"{"conections": 1}"#).is_err());
    }

    #[test]
    fn wrong_values_are_named() {
        assert_eq!(Limits::default().problems(), []);
        let wrong = Limits {
            connections: 0,
            head_seconds: 0,
            idle_seconds: 3601,
            stall_seconds: 0,
            tls: Some(Tls { port: 0, certificate: "/no/cert".into(), key: "/no/key".into() }),
            ..Limits::default()
        };
        let keys: Vec<_> = wrong.problems().into_iter().map(|problem| problem.key).collect();
        let expected = [
            "http.connections",
            "http.connections_per_client",
            "http.head_seconds",
            "http.idle_seconds",
            "http.stall_seconds",
            "http.tls.port",
            "http.tls.certificate",
        ];
        assert_eq!(keys, expected);
    }
}
