//! The networks that the booter gives addresses on.

use std::net::Ipv4Addr;

use headnode_model::net::MacAddr;
use ipnet::Ipv4Net;
use serde::Deserialize;

/// A network: the booter's own one, or one behind a relay.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// A name for people and logs, unique.
    pub name: String,
    /// The network, as `10.99.99.0/24`.
    pub subnet: Ipv4Net,
    /// Addresses to give out; none gives static reservations only.
    #[serde(default)]
    pub ranges: Vec<Range>,
    /// Default gateway of its machines (option 3).
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Name servers of its machines (option 6).
    #[serde(default)]
    pub resolvers: Vec<Ipv4Addr>,
    /// Domain of its machines (option 15).
    #[serde(default)]
    pub domain: Option<String>,
    /// Lease time in seconds, at least 60.
    #[serde(default = "default_lease")]
    pub lease_seconds: u32,
    /// NIC tag of its machines: `admin`, or `admin_rack_…` behind a relay (C§4.1).
    #[serde(default = "default_tag")]
    pub nic_tag: String,
    /// Circuit ids of relays (option 82, sub-option 1) whose clients are on this network; without
    /// any, the relay's address decides.
    #[serde(default)]
    pub circuits: Vec<String>,
    /// Addresses that belong to certain machines, within the subnet, in or out of the ranges.
    #[serde(default, rename = "reservation")]
    pub reservations: Vec<Reservation>,
}

/// Addresses to give out, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The first address.
    pub first: Ipv4Addr,
    /// The last address.
    pub last: Ipv4Addr,
}

/// An address that belongs to one machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// The machine's NIC.
    pub mac: MacAddr,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its host name (option 12).
    #[serde(default)]
    pub hostname: Option<String>,
}

fn default_lease() -> u32 {
    // Triton's `dhcp_lease_time` (C§4.1): 30 days.
    2_592_000
}

fn default_tag() -> String {
    "admin".to_owned()
}
