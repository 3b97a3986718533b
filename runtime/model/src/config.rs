//! The configuration of a datacenter's headnode, with Triton's keys (C§2.4), and of a compute node
//! (C§2.5): the one type that prompts, answers, files and daemons share.
//!
//! The file is a list of `KEY=VALUE` lines that a shell can read too (C§1.6). Only assignments are
//! accepted: no expansions, no commands.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

use crate::answers::is_secret;
use crate::net::{self, MacAddr};
use crate::{ports, timing};

/// Something wrong in a configuration or in answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Problem {
    /// The key that is wrong.
    pub key: String,
    /// What is wrong with it and what is wanted, for people.
    pub message: String,
}

/// All that is wrong, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} {} in the configuration:", if count == 1 { "error" } else { "errors" })?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

/// A configuration: keys and values, in the order of the keys. `Debug` hides secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, String>);

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hide = |(key, value): (&String, &String)| {
            (key.clone(), if is_secret(key) { "<hidden>".to_owned() } else { value.clone() })
        };
        f.debug_map().entries(self.0.iter().map(hide)).finish()
    }
}

/// A line for a message, without the value of a secret.
fn shown(line: &str) -> String {
    match line.split_once('=') {
        Some((key, _)) if is_secret(key) => format!("{key}=<hidden>"),
        None if is_secret(line) => "<hidden>".to_owned(),
        _ => line.to_owned(),
    }
}

impl Config {
    /// Reads the shell form. Later lines win over earlier ones.
    ///
    /// # Errors
    /// All lines that are no plain assignment, with their numbers.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let mut values = BTreeMap::new();
        let mut problems = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let assignment = line.strip_prefix("export ").unwrap_or(line);
            let parsed = assignment
                .split_once('=')
                .filter(|(key, _)| is_key(key))
                .and_then(|(key, value)| Some((key.to_owned(), unquote(value)?)));
            match parsed {
                Some((key, value)) => drop(values.insert(key, value)),
                None => problems.push(Problem {
                    key: format!("line {}", number + 1),
                    message: format!(
                        "{:?} is not of the form key=value or key='value'",
                        shown(line)
                    ),
                }),
            }
        }
        if problems.is_empty() { Ok(Self(values)) } else { Err(Problems(problems)) }
    }

    /// A value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Sets a value.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// Takes over all values of `over`, which win.
    pub fn merge(&mut self, over: Self) {
        self.0.extend(over.0);
    }

    /// Keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The configuration that a compute node receives: C§2.5's keys, where `compute_node_X` wins
    /// over `X`, and the addresses of our services.
    pub fn for_compute_node(&self) -> Self {
        // Not `admin_ip` and `admin_netmask`: the headnode's would be taken for the node's own.
        const KEYS: [&str; 16] = [
            "assets_admin_ip",
            "cnapi_client_url",
            "datacenter_name",
            "dhcp_lease_time",
            "dns_domain",
            "dns_resolvers",
            "imgapi_domain",
            "ntp_conf_file",
            "ntp_hosts",
            "region_name",
            "root_authorized_keys_file",
            "root_shadow",
            "sapi_domain",
            "swap",
            "ufds_admin_uuid",
            "vmapi_domain",
        ];
        let value = |key: &str| self.get(&format!("compute_node_{key}")).or_else(|| self.get(key));
        Self(
            KEYS.iter()
                .filter_map(|key| Some(((*key).to_owned(), value(key)?.to_owned())))
                .collect(),
        )
    }

    /// A value of a type, or what is wrong with it.
    ///
    /// # Errors
    /// When the key is absent or its value does not parse.
    pub fn typed<T: FromStr<Err: fmt::Display>>(&self, key: &str) -> Result<T, Problem> {
        let problem = |message| Problem { key: key.to_owned(), message };
        let text = self.get(key).ok_or_else(|| problem("is missing".to_owned()))?;
        text.parse().map_err(|error| problem(format!("{text:?} is not usable: {error}")))
    }

    /// What the headnode's services need, checked.
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub fn headnode(&self) -> Result<Headnode, Problems> {
        let mut problems = Vec::new();
        let mut keep = |problem| problems.push(problem);
        let datacenter_name = self.typed::<String>("datacenter_name").map_err(&mut keep).ok();
        let dns_domain = self.typed::<String>("dns_domain").map_err(&mut keep).ok();
        let admin_nic = self.typed::<MacAddr>("admin_nic").map_err(&mut keep).ok();
        let admin_ip = self.typed::<Ipv4Addr>("admin_ip").map_err(&mut keep).ok();
        let netmask = self.typed::<Ipv4Addr>("admin_netmask").map_err(&mut keep).ok();
        let start = self.typed::<Ipv4Addr>("dhcp_range_start").map_err(&mut keep).ok();
        let end = self.typed::<Ipv4Addr>("dhcp_range_end").map_err(&mut keep).ok();
        let lease = match self.get("dhcp_lease_time") {
            None => Some(timing::DHCP_LEASE_SECONDS),
            Some(_) => self.typed::<u32>("dhcp_lease_time").map_err(&mut keep).ok(),
        };
        let resolvers = self.addresses("dns_resolvers").map_err(&mut keep).ok();
        let gateway = match self.get("admin_gateway") {
            None | Some("" | "none") => Some(None),
            Some(_) => self.typed::<Ipv4Addr>("admin_gateway").map_err(&mut keep).ok().map(Some),
        };
        let admin = admin_ip.zip(netmask).map(|(ip, mask)| {
            net::network(ip, mask).ok_or_else(|| Problem {
                key: "admin_netmask".to_owned(),
                message: format!("{mask} is not a netmask: its bits have a gap"),
            })
        });
        let admin_net = match admin {
            Some(Err(problem)) => {
                keep(problem);
                None
            }
            Some(Ok(net)) => Some(net),
            None => None,
        };
        if let (Some(start), Some(end), Some(net)) = (start, end, admin_net) {
            for (key, ip) in [("dhcp_range_start", start), ("dhcp_range_end", end)] {
                if !net.contains(&ip) {
                    keep(Problem {
                        key: key.to_owned(),
                        message: format!("{ip} is not in the admin network {}", net.trunc()),
                    });
                }
            }
            if end < start {
                keep(Problem {
                    key: "dhcp_range_end".to_owned(),
                    message: format!("{end} lies before dhcp_range_start, {start}"),
                });
            }
        }
        let all = (|| {
            Some(Headnode {
                datacenter_name: datacenter_name?,
                dns_domain: dns_domain?,
                admin_nic: admin_nic?,
                admin_ip: admin_ip?,
                admin_net: admin_net?,
                admin_gateway: gateway?,
                dhcp_range: (start?, end?),
                dhcp_lease_time: lease?,
                dns_resolvers: resolvers?,
            })
        })();
        match all {
            Some(headnode) if problems.is_empty() => Ok(headnode),
            _ => Err(Problems(problems)),
        }
    }

    /// A list of addresses, separated by commas or blanks; an absent key is an empty list.
    ///
    /// # Errors
    /// Names the first entry that is no address.
    pub fn addresses(&self, key: &str) -> Result<Vec<Ipv4Addr>, Problem> {
        let text = self.get(key).unwrap_or_default();
        let words = text.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty());
        let parse = |word: &str| {
            word.parse().map_err(|_| Problem {
                key: key.to_owned(),
                message: format!("{word:?} is not an IPv4 address"),
            })
        };
        words.map(parse).collect()
    }

    /// Base URL of CNAPI: `cnapi_client_url`, else the admin address.
    pub fn cnapi_url(&self) -> Option<String> {
        let given = self.get("cnapi_client_url").map(str::to_owned);
        given.or_else(|| Some(format!("http://{}:{}", self.get("admin_ip")?, ports::CNAPI)))
    }
}

impl fmt::Display for Config {
    /// The shell form; values in single quotes where a shell would read them otherwise.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, value)| writeln!(f, "{key}={}", quote(value)))
    }
}

/// What the headnode's services need of the configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headnode {
    /// Name of the datacenter, a DNS label.
    pub datacenter_name: String,
    /// Domain that service names end in.
    pub dns_domain: String,
    /// MAC of the NIC on the admin network.
    pub admin_nic: MacAddr,
    /// The headnode's address on the admin network.
    pub admin_ip: Ipv4Addr,
    /// The admin network; holds `admin_ip` as its address.
    pub admin_net: Ipv4Net,
    /// Default gateway of compute nodes.
    pub admin_gateway: Option<Ipv4Addr>,
    /// First and last address for compute nodes.
    pub dhcp_range: (Ipv4Addr, Ipv4Addr),
    /// Lease time in seconds.
    pub dhcp_lease_time: u32,
    /// Upstream name servers.
    pub dns_resolvers: Vec<Ipv4Addr>,
}

fn is_key(key: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !key.is_empty() && key.chars().all(word) && !key.starts_with(|c: char| c.is_ascii_digit())
}

/// The text that a shell would make of an assignment's right side, when that is plain: quoted and
/// unquoted pieces, no expansion. A trailing comment is cut off.
fn unquote(value: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' => loop {
                match chars.next()? {
                    '\'' => break,
                    c => text.push(c),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        c @ ('"' | '\\' | '$' | '`') => text.push(c),
                        c => text.extend(['\\', c]),
                    },
                    '$' | '`' => return None,
                    c => text.push(c),
                }
            },
            '\\' => text.push(chars.next()?),
            c if c.is_whitespace() => {
                let rest: String = chars.collect();
                let rest = rest.trim_start();
                return (rest.is_empty() || rest.starts_with('#')).then_some(text);
            }
            '$' | '`' | ';' | '&' | '|' | '<' | '>' | '(' | ')' => return None,
            c => text.push(c),
        }
    }
    Some(text)
}

fn quote(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@+%".contains(c);
    if value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "datacenter_name=coal\nregion_name='coal'\ndns_domain=\"example.com\" # c\n\
        admin_nic=00:50:56:34:60:4c\nadmin_ip=10.99.99.7\nadmin_netmask=255.255.255.0\n\
        dhcp_range_start=10.99.99.38\ndhcp_range_end=10.99.99.253\ndns_resolvers=8.8.8.8,8.8.4.4\n\
        root_shadow='$6$salt$hash'\n";

    #[test]
    fn a_good_file_is_read_and_written_back() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!(config.get("root_shadow"), Some("$6$salt$hash"));
        let headnode = config.headnode().unwrap();
        assert_eq!(headnode.admin_net.to_string(), "10.99.99.7/24");
        assert_eq!(headnode.dns_resolvers.len(), 2);
        assert_eq!(headnode.dhcp_lease_time, 2_592_000);
        assert_eq!(Config::parse(&config.to_string()).unwrap(), config);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = "datacenter_name=x\ndns_domain=y\nadmin_nic=nope\nadmin_ip=10.0.0.300\nadmin_netmask=255.0.255.0\n\
             dhcp_range_start=10.0.0.5\ndhcp_range_end=10.0.0.9";
        let config = Config::parse(text).unwrap();
        let problems = config.headnode().unwrap_err();
        let keys: Vec<_> = problems.0.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["admin_nic", "admin_ip"]);
        let mut config = Config::parse(GOOD).unwrap();
        config.set("admin_netmask", "255.0.255.0");
        config.set("dhcp_range_end", "nope");
        assert_eq!(config.headnode().unwrap_err().0.len(), 2);
        config.set("admin_netmask", "255.255.255.0");
        config.set("dhcp_range_start", "10.1.0.1");
        config.set("dhcp_range_end", "10.0.0.1");
        assert_eq!(config.headnode().unwrap_err().0.len(), 3);
    }

    #[test]
    fn commands_and_expansions_are_refused_with_their_line() {
        for line in [
            "a=$(reboot)",
            "a=`reboot`",
            "a=b; reboot",
            "a=\"$HOME\"",
            "a='open",
            "reboot",
            "1a=b",
            "a=b c",
        ] {
            let problems = Config::parse(&format!("# first\n{line}\n")).unwrap_err();
            assert_eq!(problems.0[0].key, "line 2", "{line}");
        }
    }

    #[test]
    fn a_node_gets_no_secret_of_the_headnode_and_its_own_values_win() {
        let mut config = Config::parse(GOOD).unwrap();
        config.set("ufds_admin_pw", "secret");
        config.set("ntp_hosts", "pool.example.com");
        config.set("compute_node_ntp_hosts", "10.99.99.7");
        let node = config.for_compute_node();
        assert_eq!(node.get("ntp_hosts"), Some("10.99.99.7"));
        assert_eq!(node.get("ufds_admin_pw"), None);
        assert_eq!(node.get("admin_ip"), None);
    }

    proptest! {
        #[test]
        fn any_value_survives_the_file(value in "[^\n\r]*") {
            let mut config = Config::default();
            config.set("key", value.clone());
            let back = Config::parse(&config.to_string()).unwrap();
            prop_assert_eq!(back.get("key"), Some(value.as_str()));
        }

        #[test]
        fn no_text_panics(text: String) {
            drop(Config::parse(&text));
        }
    }
}
