//! The questions of first boot as data, and the configuration that follows from the answers
//! (C§2.2–2.4).

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::answers::{Answer, Answers, PASSWORDS, is_secret};
use crate::config::Problem;
use crate::net::{self, MacAddr};

mod check;
mod derive;

pub use check::{check, password_problems};
pub use derive::{Hashes, config};

/// Key of the configuration that holds the id of the setup that wrote it; the pool carries the same.
pub const SETUP_ID: &str = "headnode_setup_id";

/// What an answer must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text without quotes, not empty.
    Text,
    /// A DNS label in lower case.
    Label,
    /// A DNS domain in lower case.
    Domain,
    /// A MAC, of a NIC that is there.
    Nic,
    /// An IPv4 address.
    Address,
    /// An IPv4 address or `none`.
    AddressOrNone,
    /// A dotted netmask.
    Netmask,
    /// A VLAN id or `none`.
    Vlan,
    /// `true` or `false`; `yes` and `no` are taken too.
    Bool,
    /// A host name or address.
    Host,
    /// A password; kept as it is.
    Password,
    /// A password's hash, as in `/etc/shadow`.
    Hash,
}

/// When a question is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It is asked unless the answers file answers it.
    Always,
    /// As `Always`, when there is an external network.
    WithExternal,
    /// It is not asked: the answers file or the default decides.
    Never,
}

/// A question of first boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Key in the answers file (C§2.2).
    pub key: &'static str,
    /// What is asked on the console.
    pub prompt: &'static str,
    /// One more line for those who do not know.
    pub help: &'static str,
    /// What the answer must look like.
    pub kind: Kind,
    /// When it is put.
    pub asked: Asked,
}

const fn question(
    key: &'static str,
    prompt: &'static str,
    help: &'static str,
    kind: Kind,
    asked: Asked,
) -> Question {
    Question { key, prompt, help, kind, asked }
}

/// The questions in the order in which they are put. A question may depend on earlier ones only.
pub const QUESTIONS: [Question; 22] = [
    question(
        "datacenter_company_name",
        "Company",
        "who owns the datacenter",
        Kind::Text,
        Asked::Never,
    ),
    question(
        "datacenter_name",
        "Datacenter name",
        "a DNS label, as: us-east-1",
        Kind::Label,
        Asked::Always,
    ),
    question(
        "region_name",
        "Region name",
        "a DNS label; several datacenters may share one",
        Kind::Label,
        Asked::Never,
    ),
    question("datacenter_location", "Location", "city and country", Kind::Text, Asked::Never),
    question(
        "admin_nic",
        "Admin NIC",
        "MAC of the NIC on the network of the compute nodes",
        Kind::Nic,
        Asked::Always,
    ),
    question(
        "admin_ip",
        "Admin IP address",
        "this machine's address there",
        Kind::Address,
        Asked::Always,
    ),
    question("admin_netmask", "Admin netmask", "as: 255.255.255.0", Kind::Netmask, Asked::Always),
    question(
        "admin_gateway",
        "Admin gateway",
        "router on the admin network, or none",
        Kind::AddressOrNone,
        Asked::Never,
    ),
    question(
        "admin_provisionable_start",
        "First service address",
        "on the admin network",
        Kind::Address,
        Asked::Never,
    ),
    question(
        "dhcp_range_start",
        "First address of compute nodes",
        "on the admin network",
        Kind::Address,
        Asked::Never,
    ),
    question(
        "dhcp_range_end",
        "Last address of compute nodes",
        "on the admin network",
        Kind::Address,
        Asked::Never,
    ),
    question(
        "setup_external_network",
        "Set up an external network?",
        "a second NIC towards the Internet",
        Kind::Bool,
        Asked::Never,
    ),
    question("external_nic", "External NIC", "its MAC", Kind::Nic, Asked::WithExternal),
    question(
        "external_ip",
        "External IP address",
        "this machine's address there",
        Kind::Address,
        Asked::WithExternal,
    ),
    question(
        "external_netmask",
        "External netmask",
        "as: 255.255.255.0",
        Kind::Netmask,
        Asked::WithExternal,
    ),
    question(
        "external_gateway",
        "External gateway",
        "router on the external network, or none",
        Kind::AddressOrNone,
        Asked::WithExternal,
    ),
    question(
        "external_vlan_id",
        "External VLAN",
        "1 to 4094, or none",
        Kind::Vlan,
        Asked::WithExternal,
    ),
    question("dns_resolver1", "First name server", "upstream", Kind::Address, Asked::Never),
    question("dns_resolver2", "Second name server", "upstream", Kind::Address, Asked::Never),
    question(
        "dns_domain",
        "DNS domain",
        "services are named SERVICE.DATACENTER.DOMAIN",
        Kind::Domain,
        Asked::Always,
    ),
    question("ntp_host", "NTP server", "upstream", Kind::Host, Asked::Never),
    question(
        "root_password",
        "Password of root",
        "for logging in on the console",
        Kind::Password,
        Asked::Always,
    ),
];

/// Keys of the answers file that are no questions of [`QUESTIONS`]: Triton's control keys and
/// questions that this version has no use for, and our wishes about disks.
const OTHER_KEYS: [&str; 28] = [
    "adopt_pool",
    "admin_password",
    "admin_password_hash",
    "api_password",
    "config_console",
    "dns_search",
    "dtrace_zone_setup",
    "external_provisionable_end",
    "external_provisionable_start",
    "headnode_default_gateway",
    "install_pkgsrc",
    "mail_from",
    "mail_to",
    "ntp_hosts",
    "phonehome_automatic",
    "pool_disks",
    "root_password_hash",
    "simple_headers",
    "skip_dns_check",
    "skip_edit_config",
    "skip_final_confirm",
    "skip_final_summary",
    "skip_instructions",
    "skip_ntp_check",
    "swap",
    "update_channel",
    "wipe_disks",
    "compute_node_swap",
];

/// What is known of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// MACs of its NICs; `None` when the answers are checked elsewhere.
    pub nics: Option<Vec<MacAddr>>,
    /// The kernel parameter `admin_nic`.
    pub admin_nic: Option<MacAddr>,
}

/// The answers as far as they go. `Debug` hides secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Good answers and defaults by key.
    pub values: BTreeMap<&'static str, String>,
    /// Questions that must still be put, in their order.
    pub missing: Vec<Question>,
    /// All that is wrong.
    pub problems: Vec<Problem>,
    /// Keys that nobody reads.
    pub unknown: Vec<String>,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hide = |(key, value): (&&'static str, &String)| {
            let shown = if is_secret(key) { "<hidden>".to_owned() } else { value.clone() };
            (*key, shown)
        };
        f.debug_struct("Outcome")
            .field("values", &self.values.iter().map(hide).collect::<BTreeMap<_, _>>())
            .field("missing", &self.missing)
            .field("problems", &self.problems)
            .field("unknown", &self.unknown)
            .finish()
    }
}

/// Whether a key of the answers file has a meaning, if only for Triton's own scripts.
pub fn is_known(key: &str) -> bool {
    QUESTIONS.iter().any(|q| q.key == key) || OTHER_KEYS.contains(&key)
}

/// Reads the answers: checks each and all together, fills in the defaults.
pub fn evaluate(answers: &Answers, facts: &Facts) -> Outcome {
    let unknown = answers.0.keys().filter(|key| !is_known(key)).cloned().collect();
    let mut outcome = Outcome { unknown, ..Outcome::default() };
    for question in QUESTIONS {
        let external = outcome.values.get("setup_external_network").is_some_and(|v| v == "true");
        if question.asked == Asked::WithExternal && !external {
            continue;
        }
        // The hash in a password's place answers its question.
        if let Some((_, hashed)) = PASSWORDS.iter().find(|(clear, _)| *clear == question.key)
            && answers.get(question.key) == Answer::Missing
            && let Answer::Given(hash) = answers.get(hashed)
        {
            outcome.values.insert(hashed, hash);
            continue;
        }
        let default = default(question.key, &outcome.values, facts);
        let mut bad = |message: String| {
            outcome.problems.push(Problem { key: question.key.to_owned(), message });
        };
        match answers.get(question.key) {
            Answer::Given(text) => match check(question.kind, &text, facts) {
                Ok(value) => drop(outcome.values.insert(question.key, value)),
                Err(message) => bad(message),
            },
            // Told with the other problems of passwords.
            Answer::Unusable(_) | Answer::Default if question.kind == Kind::Password => {}
            Answer::Unusable(text) => bad(format!("{text} is neither text nor number")),
            Answer::Default => match default {
                Some(value) => drop(outcome.values.insert(question.key, value)),
                None => bad("has no default: give a value".to_owned()),
            },
            Answer::Missing if question.asked == Asked::Never => {
                if let Some(value) = default {
                    outcome.values.insert(question.key, value);
                }
            }
            Answer::Missing => outcome.missing.push(question),
        }
    }
    let together = check_together(&outcome.values);
    outcome.problems.extend(together);
    for (clear, hashed) in PASSWORDS {
        for problem in password_problems(answers, clear, hashed) {
            if !outcome.problems.iter().any(|known| known.key == problem.key) {
                outcome.problems.push(problem);
            }
        }
    }
    for key in PASSWORDS.map(|(_, hashed)| hashed) {
        if let Answer::Given(hash) = answers.get(key) {
            outcome.values.entry(key).or_insert(hash);
        }
    }
    for key in ["pool_disks", "wipe_disks"] {
        if let Err(problem) = words(answers, key) {
            outcome.problems.push(problem);
        }
    }
    outcome
}

/// A list of words in the answers file; an absent key is an empty list.
///
/// # Errors
/// When it is no list of texts.
pub fn words(answers: &Answers, key: &str) -> Result<Vec<String>, Problem> {
    let bad = || Problem {
        key: key.to_owned(),
        message: "must be a list of serial numbers or device names".to_owned(),
    };
    match answers.0.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            list.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(bad)).collect()
        }
        Some(_) => Err(bad()),
    }
}

/// How many addresses Triton's services take on the admin network before the compute nodes' begin
/// (C§2.3); the same here, so that a configuration can be carried over.
const SERVICE_ADDRESSES: u32 = 29;

fn network_of(values: &BTreeMap<&'static str, String>, ip: &str, mask: &str) -> Option<Ipv4Net> {
    net::network(values.get(ip)?.parse().ok()?, values.get(mask)?.parse().ok()?)
}

/// The default of a question, given the answers before it.
pub fn default(
    key: &str,
    values: &BTreeMap<&'static str, String>,
    facts: &Facts,
) -> Option<String> {
    let admin = || network_of(values, "admin_ip", "admin_netmask");
    let last = |net: Ipv4Net| u32::from(net.broadcast()).checked_sub(1).map(Ipv4Addr::from);
    let only_nic = || match facts.nics.as_deref() {
        Some([only]) => Some(*only),
        _ => None,
    };
    Some(match key {
        "region_name" => values.get("datacenter_name")?.clone(),
        "admin_nic" => facts.admin_nic.or_else(only_nic)?.to_string(),
        "admin_netmask" | "external_netmask" => "255.255.255.0".to_owned(),
        "admin_gateway" | "external_vlan_id" | "external_gateway" => "none".to_owned(),
        "admin_provisionable_start" => net::offset(admin()?.addr(), 1)?.to_string(),
        "dhcp_range_start" => {
            let first: Ipv4Addr = values.get("admin_provisionable_start")?.parse().ok()?;
            let last = last(admin()?)?;
            // In a network too small for Triton's layout the nodes follow the headnode directly.
            let usual = net::offset(first, SERVICE_ADDRESSES).filter(|ip| *ip <= last);
            usual.unwrap_or(first).to_string()
        }
        "dhcp_range_end" => last(admin()?)?.to_string(),
        "setup_external_network" => "false".to_owned(),
        "dns_resolver1" => "8.8.8.8".to_owned(),
        "dns_resolver2" => "8.8.4.4".to_owned(),
        "ntp_host" => "0.smartos.pool.ntp.org".to_owned(),
        _ => return None,
    })
}

/// What is wrong between answers that are good each for itself.
fn check_together(values: &BTreeMap<&'static str, String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut bad =
        |key: &str, message: String| problems.push(Problem { key: key.to_owned(), message });
    let address = |key: &str| values.get(key).and_then(|v| v.parse::<Ipv4Addr>().ok());
    for (ip_key, mask_key, inside) in [
        (
            "admin_ip",
            "admin_netmask",
            &["admin_gateway", "admin_provisionable_start", "dhcp_range_start", "dhcp_range_end"][..],
        ),
        ("external_ip", "external_netmask", &["external_gateway"][..]),
    ] {
        let Some(network) = network_of(values, ip_key, mask_key) else { continue };
        let own = network.addr();
        if own == network.broadcast() || own == network.network() {
            bad(
                ip_key,
                format!(
                    "{own} is the first or last address of {}, which no machine can have",
                    network.trunc()
                ),
            );
            continue;
        }
        for key in inside {
            if let Some(ip) = address(key).filter(|ip| !network.contains(ip)) {
                bad(key, format!("{ip} is not in the network {} of {ip_key}", network.trunc()));
            }
        }
    }
    if let (Some(start), Some(end), Some(own)) =
        (address("dhcp_range_start"), address("dhcp_range_end"), address("admin_ip"))
    {
        if end < start {
            bad(
                "dhcp_range_end",
                format!(
                    "{end} lies before dhcp_range_start, {start}: no address is left for compute nodes"
                ),
            );
        } else if (start..=end).contains(&own) {
            bad(
                "dhcp_range_start",
                format!("the range {start} to {end} holds the headnode's own address {own}"),
            );
        }
    }
    if values.contains_key("external_nic")
        && values.get("external_nic") == values.get("admin_nic")
        && values.get("external_vlan_id").is_none_or(|v| v == "none")
    {
        bad("external_nic", "is the admin NIC; sharing it needs an external_vlan_id".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests;
