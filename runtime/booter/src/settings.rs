//! What the booter needs to know, from the headnode's configuration and the command line.

mod file;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headnode_model::config::{Config, Headnode, Problem};
use headnode_model::{paths, ports, timing};
use ipnet::Ipv4Net;

use crate::alone::{self, Alone};
use crate::dhcp;
use crate::networks::Network;
use crate::script::{Platforms, Scheme};

pub use file::{BESIDE_CONFIG, File, ReadError};

/// UDP and TCP ports; other than the standard ones in tests only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Where DHCP clients and relays send to.
    pub dhcp_server: u16,
    /// Where DHCP clients listen.
    pub dhcp_client: u16,
    /// TFTP.
    pub tftp: u16,
    /// HTTP.
    pub http: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            dhcp_server: ports::DHCP_SERVER,
            dhcp_client: ports::DHCP_CLIENT,
            tftp: ports::TFTP,
            http: ports::BOOTER_HTTP,
        }
    }
}

/// All settings of a booter.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The headnode's address on the admin network.
    pub admin_ip: Ipv4Addr,
    /// The admin network.
    pub admin_net: Ipv4Net,
    /// Default gateway of nodes.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers of nodes.
    pub resolvers: Vec<Ipv4Addr>,
    /// Name of the datacenter, for the nodes' `networking.json`; may be empty.
    pub datacenter_name: String,
    /// Domain that service names end in, for the same; may be empty.
    pub dns_domain: String,
    /// First and last address for nodes.
    pub range: (Ipv4Addr, Ipv4Addr),
    /// Lease time in seconds.
    pub lease_seconds: u32,
    /// Where `os`, `extra` and `firmware/ipxe` are.
    pub root: PathBuf,
    /// Where leases and cached boot parameters are kept.
    pub state: PathBuf,
    /// The NIC to serve on; `None` serves on all (tests on loopback).
    pub interface: Option<String>,
    /// The address that the DHCP sockets are bound to. Broadcasts reach only 0.0.0.0.
    pub dhcp_listen: Ipv4Addr,
    /// Where replies to clients without an address go.
    pub broadcast: Ipv4Addr,
    /// Ports.
    pub ports: Ports,
    /// What Triton's configuration has no keys for.
    pub more: File,
    /// Where the operator's interface listens (a Unix socket); `None` in tests.
    pub socket: Option<PathBuf>,
    /// What a booter that runs without a headnode boots machines with.
    pub alone: Option<Alone>,
    /// How long to wait for CNAPI when there is nothing else to boot a node with.
    pub budget: Duration,
    /// How long to wait for CNAPI when the node's parameters are in the cache.
    pub cached_budget: Duration,
}

/// The standard port of HTTPS.
const HTTPS: u16 = 443;

fn with_port(word: &str, ip: Ipv4Addr, port: u16, standard: u16) -> String {
    if port == standard { format!("{word}://{ip}") } else { format!("{word}://{ip}:{port}") }
}

impl Settings {
    /// The settings that a checked configuration gives, with standard ports and all interfaces.
    pub fn new(headnode: &Headnode, root: &Path, state: &Path) -> Self {
        Self {
            admin_ip: headnode.admin_ip,
            admin_net: headnode.admin_net,
            gateway: headnode.admin_gateway,
            resolvers: headnode.dns_resolvers.clone(),
            datacenter_name: headnode.datacenter_name.clone(),
            dns_domain: headnode.dns_domain.clone(),
            range: headnode.dhcp_range,
            lease_seconds: headnode.dhcp_lease_time,
            root: root.to_owned(),
            state: state.to_owned(),
            interface: None,
            dhcp_listen: Ipv4Addr::UNSPECIFIED,
            broadcast: Ipv4Addr::BROADCAST,
            ports: Ports::default(),
            more: File::default(),
            socket: None,
            alone: None,
            budget: timing::BOOT_PARAMS_BUDGET,
            // A node that reboots while CNAPI hangs should not lose half a minute.
            cached_budget: Duration::from_secs(2),
        }
    }

    /// All networks: the admin network first, then those behind relays.
    pub fn networks(&self) -> Vec<Network> {
        if let Some(alone) = &self.alone {
            return alone.networks.clone();
        }
        let further = self.more.networks.iter().cloned();
        std::iter::once(Network::own(self)).chain(further).collect()
    }

    /// Addresses within the range that belong to services and never to a node.
    pub fn reserved(&self) -> HashSet<Ipv4Addr> {
        let net = self.admin_net;
        let mut reserved = HashSet::from([self.admin_ip, net.network(), net.broadcast()]);
        reserved.extend(self.gateway);
        reserved.extend(&self.resolvers);
        reserved
    }

    /// The beginning of the booter's URLs, without a slash at its end.
    pub fn base(&self, scheme: dhcp::Scheme) -> String {
        let (word, port, standard) = match scheme {
            dhcp::Scheme::Http => ("http", self.ports.http, ports::BOOTER_HTTP),
            dhcp::Scheme::Https => {
                ("https", self.more.http.tls.as_ref().map_or(HTTPS, |tls| tls.port), HTTPS)
            }
        };
        with_port(word, self.admin_ip, port, standard)
    }

    /// The beginning of the URLs of iPXE's scripts.
    pub fn script_base(&self) -> String {
        self.base(match self.more.script.scheme {
            Scheme::Https => dhcp::Scheme::Https,
            Scheme::Http | Scheme::Tftp => dhcp::Scheme::Http,
        })
    }

    /// The beginning of TFTP's URLs.
    pub fn tftp_base(&self) -> String {
        with_port("tftp", self.admin_ip, self.ports.tftp, ports::TFTP)
    }

    /// The folder of boot programs: what TFTP and `/firmware/` hand out.
    pub fn firmware(&self) -> PathBuf {
        match &self.alone {
            None => self.root.join(paths::FIRMWARE_IPXE),
            Some(_) => self.root.clone(),
        }
    }

    /// Where boot programs are that the folder of boot programs lacks.
    pub fn more_firmware(&self) -> Option<&'static Path> {
        self.alone.as_ref().map(|_| Path::new(alone::IPXE))
    }

    /// All that keeps nodes from booting, found without starting anything.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add =
            |key: &str, message: String| problems.push(Problem { key: key.to_owned(), message });
        for name in [crate::BIOS_PROGRAM, crate::EFI_PROGRAM] {
            let path = self.firmware().join(name);
            if let Err(error) = std::fs::File::open(&path) {
                add("firmware", format!("{} cannot be read: {error}", path.display()));
            }
        }
        let platforms = Platforms::new(&self.root);
        match platforms.newest() {
            Err(error) => add("platforms", error.to_string()),
            Ok(None) => {
                let folder = self.root.join(paths::PLATFORMS);
                add("platforms", format!("{} holds no platform image", folder.display()));
            }
            Ok(Some(_)) => {}
        }
        let bundle = self.root.join(paths::EXTRA_BUNDLE_NODE);
        if let Err(error) = std::fs::File::open(&bundle) {
            add("bundle", format!("{} cannot be read: {error}", bundle.display()));
        }
        if let Err(error) = std::fs::create_dir_all(&self.state) {
            add("state", format!("{} cannot be made: {error}", self.state.display()));
        }
        for problem in crate::script::template_problems(&self.root) {
            add("templates", problem);
        }
        let (first, last) = self.range;
        let reserved = self.reserved();
        let in_range = reserved.iter().filter(|ip| (first..=last).contains(*ip)).count();
        // The configuration's check has seen to it that the range does not end before it begins.
        let others = u32::from(last).saturating_sub(u32::from(first));
        if usize::try_from(others).is_ok_and(|others| others < in_range) {
            add("dhcp_range_end", format!("{first} to {last} leaves no address for a node"));
        }
        problems
    }

    /// The settings of a configuration file's text.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn from_config(
        text: &str,
        root: &Path,
        state: &Path,
    ) -> Result<(Self, Config), headnode_model::config::Problems> {
        let config = Config::parse(text)?;
        let settings = Self::new(&config.headnode()?, root, state);
        Ok((settings, config))
    }

    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(crate) fn for_tests() -> Self {
        let text = "datacenter_name=coal\ndns_domain=example.com\nadmin_nic=00:50:56:34:60:4c\n\
            admin_ip=10.99.99.7\nadmin_netmask=255.255.255.0\nadmin_gateway=10.99.99.1\n\
            dhcp_range_start=10.99.99.38\ndhcp_range_end=10.99.99.253\ndns_resolvers=10.99.99.11\n";
        Self::from_config(text, Path::new("/usbkey"), Path::new("/var/lib/sdc-booter")).unwrap().0
    }
}
