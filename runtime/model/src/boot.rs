//! Boot parameters: what CNAPI keeps per server and the booter renders into boot scripts (C§4.2),
//! and the kernel parameters that the booted machine then finds (C§1.1).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::net::MacAddr;

/// CNAPI's boot object of a server or of `default` (C§4.2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootParams {
    /// The stamp of the platform image to boot; empty or `latest` is the newest one.
    #[serde(default)]
    pub platform: String,
    /// Extra kernel parameters, by name.
    #[serde(default)]
    pub kernel_args: BTreeMap<String, serde_json::Value>,
    /// Kernel flags (`-k`, `-d`); `true` or a value.
    #[serde(default)]
    pub kernel_flags: BTreeMap<String, serde_json::Value>,
    /// Small files that the loader hands to the kernel.
    #[serde(default)]
    pub boot_modules: Vec<BootModule>,
    /// `serial` or `vga`.
    #[serde(default = "default_console")]
    pub default_console: String,
    /// The serial device when the console is serial: `ttya`…`ttyd`.
    #[serde(default = "default_serial")]
    pub serial: String,
}

impl BootParams {
    /// Whether nothing is said about what to boot; an empty object counts as none (C§4.2).
    pub fn is_empty(&self) -> bool {
        self.platform.is_empty()
            && self.kernel_args.is_empty()
            && self.kernel_flags.is_empty()
            && self.boot_modules.is_empty()
    }

    /// Whether the machine is to start without its pools, for repairs (C§4.6).
    pub fn is_rescue(&self) -> bool {
        let told = self.kernel_args.get("noimport");
        told.is_some_and(|value| value.as_bool() == Some(true) || value.as_str() == Some("true"))
    }
}

/// A small file handed to the kernel at boot; its content is at most 4 KiB (C§4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootModule {
    /// Where the booted system finds it, relative.
    pub path: String,
    /// Always `base64`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The content in base64.
    pub content: String,
}

fn default_console() -> String {
    "serial".to_owned()
}

fn default_serial() -> String {
    "ttyb".to_owned()
}

/// The parameters of a running kernel by name; a name without `=` has an empty value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KernelParams(pub BTreeMap<String, String>);

impl KernelParams {
    /// Reads a kernel command line. Blanks within double quotes belong to the value; the first
    /// of two parameters of the same name wins, except `console`, where the last one does
    /// (it is the one that becomes `/dev/console`).
    pub fn parse(line: &str) -> Self {
        let mut params = BTreeMap::new();
        let mut word = String::new();
        let mut quoted = false;
        for c in line.chars().chain([' ']) {
            match c {
                '"' => quoted = !quoted,
                c if c.is_whitespace() && !quoted => {
                    let done = std::mem::take(&mut word);
                    if done.is_empty() {
                        continue;
                    }
                    let (name, value) = done.split_once('=').unwrap_or((&done, ""));
                    if name == "console" {
                        params.insert(name.to_owned(), value.to_owned());
                    } else {
                        params.entry(name.to_owned()).or_insert_with(|| value.to_owned());
                    }
                }
                c => word.push(c),
            }
        }
        Self(params)
    }

    /// A parameter's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether a parameter is `true`.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// Whether this machine is a headnode.
    pub fn headnode(&self) -> bool {
        self.is_true("headnode")
    }

    /// The MAC of the admin NIC: `admin_nic`, else the NIC that the loader used (`BOOTIF`, whose
    /// value begins with the hardware type `01-`).
    pub fn admin_nic(&self) -> Option<MacAddr> {
        let explicit = self.get("admin_nic").and_then(|v| v.parse().ok());
        explicit.or_else(|| self.get("BOOTIF")?.strip_prefix("01-")?.parse().ok())
    }

    /// The address and mask in `ip=<ip>:::<mask>::` (C§4.5).
    pub fn ip(&self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let mut fields = self.get("ip")?.split(':');
        let ip = fields.next()?.parse().ok()?;
        Some((ip, fields.nth(2)?.parse().ok()?))
    }

    /// The gateway in `ip=<ip>::<gateway>:<mask>::`, when there is one.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.get("ip")?.split(':').nth(2)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_nodes_command_line_is_understood() {
        let line = "console=tty0 console=ttyS0,115200n8 BOOTIF=01-90-b8-d0-01-02-03 \
                    ip=10.99.99.40:::255.255.255.0:: assets_admin_ip=10.99.99.7 \
                    aggr0_aggr=\"a b\" quiet\n";
        let params = KernelParams::parse(line);
        assert_eq!(params.get("console"), Some("ttyS0,115200n8"));
        assert_eq!(params.admin_nic(), "90:b8:d0:01:02:03".parse().ok());
        let mask = Ipv4Addr::new(255, 255, 255, 0);
        assert_eq!(params.ip(), Some((Ipv4Addr::new(10, 99, 99, 40), mask)));
        assert_eq!(params.gateway(), None);
        assert_eq!(params.get("aggr0_aggr"), Some("a b"));
        assert_eq!(params.get("quiet"), Some(""));
        assert!(!params.headnode());
    }

    #[test]
    fn an_empty_object_says_nothing_and_rescue_is_told_in_both_ways() {
        let read = |text: &str| serde_json::from_str::<BootParams>(text).unwrap();
        assert!(read("{}").is_empty() && !read("{}").is_rescue());
        for (value, rescue) in [("true", true), ("\"true\"", true), ("\"false\"", false)] {
            let params = read(&format!("{{\"kernel_args\": {{\"noimport\": {value}}}}}"));
            assert_eq!((params.is_empty(), params.is_rescue()), (false, rescue), "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line: String) {
            let params = KernelParams::parse(&line);
            let _ = (params.admin_nic(), params.ip(), params.gateway());
        }
    }
}
