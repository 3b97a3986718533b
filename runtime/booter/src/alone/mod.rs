//! The booter without a headnode: a PXE server for any operating system, by one TOML file.
//!
//! The servers are the same. What a machine boots comes from the file instead of CNAPI: sections for
//! hosts, groups and all others ([`Plan`]), rendered as an iPXE script per request
//! ([`ScriptSource`]), or a boot program of the operator's without iPXE.

mod boot;
mod check;
mod config;
mod lines;
mod nic;
mod placeholders;
mod plan;
mod scripts;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use ipnet::Ipv4Net;
use uuid::Uuid;

pub use boot::{Boot, Bootfile, OneOrMany, Way};
pub use check::{Loaded, Refused, again, faults, load};
pub use config::{Config, Fault, Host, Macs, Read, Top};
pub use nic::Nic;
pub use placeholders::{Template, Values};
pub use plan::{Choice, Plan};
pub use scripts::Scripts;

use crate::admission::{Known, Machine};
use crate::live::Live;
use crate::networks::{Network, Reservation};
use crate::params::{ParamSource, SourceError};
use crate::settings::Settings;

/// The first part of the path of files in `root`.
pub const FILES: &str = "files";
/// Where Debian's package `ipxe` puts iPXE's programs.
pub const IPXE: &str = "/usr/lib/ipxe";
/// A configuration to begin with.
pub const EXAMPLE: &str = include_str!("../../../../packaging/debian/booter.toml");

/// What is known of a booter that runs alone.
#[derive(Debug, Clone)]
pub struct Alone {
    /// The configuration file.
    pub path: PathBuf,
    /// Its first keys as they were at the start.
    pub top: Top,
    /// The networks: the own one first.
    pub networks: Vec<Network>,
    /// What machines boot.
    pub plan: Live<Plan>,
}

/// A machine that wants its script.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Who it is.
    pub machine: Machine<'a>,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Whether it was asked for its serial number.
    pub identified: bool,
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A script with which it comes back and tells who it is.
    Identify(String),
    /// Its script.
    Script {
        /// What iPXE runs.
        text: String,
        /// `boot`, `kernel`, `other` or `message` ([`crate::observe::Event::Script`]).
        kind: &'static str,
        /// `host` or `default`.
        origin: &'static str,
        /// What it boots, for people.
        what: String,
        /// Why it does not boot.
        problem: Option<String>,
    },
}

impl Answer {
    /// A script that boots the machine.
    fn boot(text: String, kind: &'static str, origin: &'static str, what: String) -> Self {
        Self::Script { text, kind, origin, what, problem: None }
    }
}

/// Says what a machine boots, when that is not for CNAPI to say.
pub trait ScriptSource: Send + Sync + 'static {
    /// Whether the machine is one that the operator has named: it needs no approval.
    fn knows(&self, machine: &Machine<'_>) -> bool;

    /// Whether the machine has to tell its serial number first.
    fn needs_identity(&self, machine: &Machine<'_>) -> bool;

    /// The machine's script. Blocks while a file is read.
    fn script(&self, asked: &Asked<'_>) -> Answer;

    /// A script with which a machine comes back and tells who it is.
    fn identify(&self, mac: MacAddr) -> String;

    /// A script that shows a message and tries again.
    fn message(&self, mac: MacAddr, message: &str) -> String;

    /// The script for an iPXE whose machine is not known from the URL.
    fn chain(&self) -> String;
}

/// The networks of a configuration: the one with the server's address first, then those behind
/// relays; hosts' addresses are reserved in them. Beside another DHCP server the own network needs
/// no section.
pub fn networks(server: Ipv4Addr, net: Ipv4Net, config: &Config) -> Vec<Network> {
    let mut networks = config.file.networks.clone();
    match networks.iter().position(|network| network.subnet.contains(&server)) {
        Some(own) => networks.get_mut(..=own).unwrap_or_default().rotate_right(1),
        None => networks.insert(0, without_ranges(net)),
    }
    for host in &config.hosts {
        let ([mac], Some(ip)) = (host.macs(), host.ip) else { continue };
        let Some(network) = networks.iter_mut().find(|n| n.subnet.contains(&ip)) else { continue };
        let (mac, hostname) = (*mac, host.hostname.clone());
        network.reservations.push(Reservation { mac, ip, hostname });
    }
    networks
}

/// The own network beside another DHCP server.
fn without_ranges(subnet: Ipv4Net) -> Network {
    Network {
        name: "own".to_owned(),
        subnet,
        ranges: Vec::new(),
        gateway: None,
        routes: Vec::new(),
        resolvers: Vec::new(),
        domain: None,
        lease_seconds: 86_400,
        nic_tag: "admin".to_owned(),
        circuits: Vec::new(),
        reservations: Vec::new(),
    }
}

/// Stands in for CNAPI, which is not there.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCnapi;

const NO_CNAPI: &str = "there is no CNAPI: the booter runs alone";

#[async_trait::async_trait]
impl ParamSource for NoCnapi {
    async fn boot_params(&self, _: Uuid) -> Result<Option<BootParams>, SourceError> {
        Err(NO_CNAPI.into())
    }

    async fn default_boot_params(&self) -> Result<BootParams, SourceError> {
        Err(NO_CNAPI.into())
    }

    async fn servers(&self) -> Result<Known, SourceError> {
        Err(NO_CNAPI.into())
    }
}

impl Settings {
    /// The boot program of a machine that boots without iPXE, by the configuration of a booter that
    /// runs alone; `None` for all others.
    ///
    /// # Errors
    /// A sentence why there is none for this machine.
    pub fn own_boot_file(
        &self,
        machine: (MacAddr, Option<Uuid>),
        archs: &[u16],
    ) -> Option<Result<String, String>> {
        self.alone.as_ref()?.plan.get().boot_file(machine, archs, self.admin_ip)
    }
}
