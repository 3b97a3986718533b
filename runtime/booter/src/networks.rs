//! The networks that the booter gives addresses on.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use headnode_model::config::Problem;
use headnode_model::net::MacAddr;
use ipnet::Ipv4Net;
use serde::Deserialize;

use crate::settings::Settings;

/// What the NIC tag of a rack begins with (C§4.1).
const RACK_PREFIX: &str = "admin_rack_";
/// Longest NIC tag that is made from a circuit id.
const LONGEST_TAG: usize = 64;
/// Most routes: with the default gateway's, of 9 bytes each, they fit into one option of 255.
pub const MOST_ROUTES: usize = 27;

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
    /// Further routes of its machines (option 121, RFC 3442), at most [`MOST_ROUTES`].
    #[serde(default)]
    pub routes: Vec<Route>,
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

/// Where packets for other networks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The other network.
    pub to: Ipv4Net,
    /// The router; 0.0.0.0 when the network is on the same cable (RFC 3442).
    pub via: Ipv4Addr,
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

impl Range {
    /// How many addresses it has; 0 when it ends before it begins.
    pub fn size(&self) -> u32 {
        let distance = u32::from(self.last).checked_sub(u32::from(self.first));
        distance.map_or(0, |distance| distance.saturating_add(1))
    }
}

impl Network {
    /// The booter's own network, as the headnode's configuration tells it.
    pub fn own(settings: &Settings) -> Self {
        Self {
            name: "admin".to_owned(),
            subnet: settings.admin_net,
            ranges: vec![Range { first: settings.range.0, last: settings.range.1 }],
            gateway: settings.gateway,
            routes: Vec::new(),
            resolvers: settings.resolvers.clone(),
            domain: None,
            lease_seconds: settings.lease_seconds,
            nic_tag: default_tag(),
            circuits: Vec::new(),
            reservations: Vec::new(),
        }
    }

    /// All routes as option 121 has them: who gets it does not look at the default gateway's own option
    /// (RFC 3442), so that is among them. None when there are no others.
    pub fn classless_routes(&self) -> Vec<(Ipv4Net, Ipv4Addr)> {
        let mut routes: Vec<_> =
            self.routes.iter().map(|route| (route.to.trunc(), route.via)).collect();
        let default = Ipv4Net::default();
        if let Some(gateway) = self.gateway
            && !routes.is_empty()
            && routes.iter().all(|(to, _)| *to != default)
        {
            routes.push((default, gateway));
        }
        routes
    }

    /// What is wrong with it on its own.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let name = &self.name;
        let mut add = |key: &str, message: String| {
            problems.push(Problem { key: format!("network {name}: {key}"), message });
        };
        let subnet = self.subnet;
        for range in &self.ranges {
            let Range { first, last } = range;
            if range.size() == 0 {
                add("ranges", format!("{first} to {last} ends before it begins"));
            }
            for ip in [first, last].into_iter().filter(|ip| !subnet.contains(*ip)) {
                add("ranges", format!("{ip} is not in {subnet}"));
            }
        }
        let mut sorted = self.ranges.clone();
        sorted.sort_by_key(|range| range.first);
        for pair in sorted.windows(2) {
            if let [a, b] = pair
                && a.last >= b.first
            {
                add(
                    "ranges",
                    format!("{} to {} and {} to {} overlap", a.first, a.last, b.first, b.last),
                );
            }
        }
        if let Some(gateway) = self.gateway.filter(|ip| !subnet.contains(ip)) {
            add("gateway", format!("{gateway} is not in {subnet}"));
        }
        if self.routes.len() > MOST_ROUTES {
            add("routes", format!("{} are more than {MOST_ROUTES}", self.routes.len()));
        }
        for Route { to, via } in &self.routes {
            if !via.is_unspecified() && !subnet.contains(via) {
                add("routes", format!("{via}, the router to {to}, is not in {subnet}"));
            }
        }
        if self.lease_seconds < 60 {
            add("lease_seconds", format!("{} is less than 60", self.lease_seconds));
        }
        if tag(&self.nic_tag).is_none() {
            add("nic_tag", format!("{:?} must be 1 to 64 letters without blanks", self.nic_tag));
        }
        let (mut macs, mut ips) = (HashSet::new(), HashSet::new());
        for Reservation { mac, ip, .. } in &self.reservations {
            if !subnet.contains(ip) {
                add("reservation", format!("{ip} of {mac} is not in {subnet}"));
            }
            if !macs.insert(mac) {
                add("reservation", format!("{mac} has two"));
            }
            if !ips.insert(ip) {
                add("reservation", format!("{ip} is reserved for two machines"));
            }
        }
        problems
    }
}

/// What is wrong with a list of networks, the booter's own one first.
pub fn problems(networks: &[Network]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = networks.iter().flat_map(Network::problems).collect();
    let mut circuits = HashSet::new();
    for (at, network) in networks.iter().enumerate() {
        let key = || format!("network {}", network.name);
        for other in &networks[..at] {
            if other.name == network.name {
                problems.push(Problem { key: key(), message: "there are two of this name".into() });
            }
            if other.subnet.contains(&network.subnet) || network.subnet.contains(&other.subnet) {
                let message = format!(
                    "{} overlaps {} of network {}",
                    network.subnet, other.subnet, other.name
                );
                problems.push(Problem { key: key(), message });
            }
        }
        for circuit in &network.circuits {
            if !circuits.insert(rack_tag(circuit).to_ascii_lowercase()) {
                let message = format!("the circuit id {circuit:?} is told twice");
                problems.push(Problem { key: key(), message });
            }
        }
    }
    problems
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The relay's circuit id (option 82, sub-option 1), when it is text.
    pub circuit: Option<&'a str>,
    /// The subnet that the relay selects (option 82, sub-option 5; RFC 3527).
    pub link: Option<Ipv4Addr>,
    /// The relay, else 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// The address that the client uses already, else 0.0.0.0.
    pub ciaddr: Ipv4Addr,
}

/// The number of the network that a request belongs to; `None` when there is none for its relay.
/// Option 82 counts only from a relay: a client on the own network could write anything there.
pub fn find<'n>(
    networks: impl Iterator<Item = &'n Network> + Clone,
    place: &Place<'_>,
) -> Option<usize> {
    let holds = |ip: Ipv4Addr| networks.clone().position(|network| network.subnet.contains(&ip));
    if place.giaddr.is_unspecified() {
        let used = Some(place.ciaddr).filter(|ip| !ip.is_unspecified()).and_then(holds);
        return used.or_else(|| networks.clone().next().map(|_| 0));
    }
    let circuit = place.circuit.and_then(tag).and_then(|circuit| {
        let wanted = rack_tag(circuit);
        networks.clone().position(|network| {
            let same = |told: &String| rack_tag(told).eq_ignore_ascii_case(&wanted);
            network.circuits.iter().any(same) || network.nic_tag.eq_ignore_ascii_case(&wanted)
        })
    });
    circuit.or_else(|| place.link.and_then(holds)).or_else(|| holds(place.giaddr))
}

/// The NIC tag that a circuit id names (C§4.1).
pub fn rack_tag(circuit: &str) -> String {
    let start = circuit.get(..RACK_PREFIX.len());
    if start.is_some_and(|start| start.eq_ignore_ascii_case(RACK_PREFIX)) {
        circuit.to_owned()
    } else {
        format!("{RACK_PREFIX}{circuit}")
    }
}

/// A text that may be a NIC tag: short, and without blanks and control characters.
pub(crate) fn tag(text: &str) -> Option<&str> {
    let good = !text.is_empty() && text.len() <= LONGEST_TAG;
    (good && text.bytes().all(|byte| byte.is_ascii_graphic())).then_some(text)
}

fn default_lease() -> u32 {
    // Triton's `dhcp_lease_time` (C§4.1): 30 days.
    2_592_000
}

fn default_tag() -> String {
    "admin".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, subnet: &str, circuits: &[&str]) -> Network {
        Network {
            subnet: subnet.parse().unwrap(),
            name: name.to_owned(),
            circuits: circuits.iter().map(|&circuit| circuit.to_owned()).collect(),
            ranges: Vec::new(),
            nic_tag: format!("admin_rack_{name}"),
            ..Network::own(&Settings::for_tests())
        }
    }

    #[test]
    fn a_request_is_placed_by_circuit_then_link_then_relay_then_address() {
        let all = [
            network("own", "10.0.0.0/24", &[]),
            network("a", "10.0.1.0/24", &["R1", "admin_rack_r2"]),
            network("b", "10.0.2.0/24", &[]),
        ];
        let ip = |text: &str| -> Ipv4Addr { text.parse().unwrap() };
        let zero = Ipv4Addr::UNSPECIFIED;
        for (circuit, link, giaddr, ciaddr, at) in [
            (None, None, zero, zero, Some(0)),
            (Some("r1"), None, zero, zero, Some(0)),
            (None, None, zero, ip("10.0.2.9"), Some(2)),
            (None, None, zero, ip("10.9.9.9"), Some(0)),
            (None, None, ip("10.0.1.1"), zero, Some(1)),
            (None, None, ip("10.9.9.9"), zero, None),
            (Some("r1"), None, ip("10.9.9.9"), zero, Some(1)),
            (Some("ADMIN_RACK_R2"), Some(ip("10.0.2.0")), ip("10.9.9.9"), zero, Some(1)),
            (Some("B"), None, ip("10.0.1.1"), zero, Some(2)),
            (Some("other"), Some(ip("10.0.2.0")), ip("10.0.1.1"), zero, Some(2)),
        ] {
            let place = Place { circuit, link, giaddr, ciaddr };
            assert_eq!(find(all.iter(), &place), at, "{place:?}");
        }
    }

    #[test]
    fn routes_have_the_default_one_among_them() {
        let mut network = Network::own(&Settings::for_tests());
        let (gateway, other) = (network.subnet.hosts().next().unwrap(), Ipv4Addr::UNSPECIFIED);
        network.gateway = Some(gateway);
        assert_eq!(network.classless_routes(), []);
        network.routes = vec![Route { to: "172.16.9.9/12".parse().unwrap(), via: other }];
        let (to, all) = ("172.16.0.0/12".parse().unwrap(), Ipv4Net::default());
        assert_eq!(network.classless_routes(), [(to, other), (all, gateway)]);
        network.routes.push(Route { to: all, via: other });
        assert_eq!(network.classless_routes(), [(to, other), (all, other)]);
    }

    #[test]
    fn all_that_is_wrong_is_named() {
        assert_eq!(problems(&[Network::own(&Settings::for_tests())]), []);
        let ip = |n| Ipv4Addr::new(10, 0, 0, n);
        let mut bad = network("own", "10.0.0.0/24", &["x", "admin_rack_X"]);
        bad.ranges = vec![
            Range { first: ip(9), last: ip(5) },
            Range { first: ip(20), last: ip(30) },
            Range { first: ip(30), last: Ipv4Addr::new(10, 0, 1, 0) },
        ];
        bad.gateway = Some(Ipv4Addr::new(10, 9, 0, 1));
        bad.lease_seconds = 59;
        bad.routes = vec![Route { to: Ipv4Net::default(), via: Ipv4Addr::new(10, 8, 0, 1) }; 28];
        let reserved = Reservation { mac: MacAddr([2; 6]), ip: ip(3), hostname: None };
        bad.reservations = vec![reserved.clone(), reserved];
        let text = format!("{:?}", problems(&[network("own", "10.0.0.0/16", &[]), bad]));
        for word in [
            "ends before",
            "10.0.1.0 is not in",
            "overlap\"",
            "10.9.0.1",
            "10.8.0.1",
            "28 are more than 27",
            "less than 60",
            "has two",
            "for two machines",
            "of this name",
            "10.0.0.0/24 overlaps",
            "told twice",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
