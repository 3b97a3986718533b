//! The questions of first boot as data, and the configuration that follows from the answers
//! (C§2.2–2.4).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::answers::{Answer, Answers};
use crate::config::{Config, Problem, Problems};
use crate::net::{self, MacAddr};
use crate::{ports, timing};

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
const OTHER_KEYS: [&str; 26] = [
    "adopt_pool",
    "admin_password",
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

/// The answers as far as they go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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

/// Reads the answers: checks each and all together, fills in the defaults.
pub fn evaluate(answers: &Answers, facts: &Facts) -> Outcome {
    let mut outcome = Outcome::default();
    let known = |key: &str| QUESTIONS.iter().any(|q| q.key == key) || OTHER_KEYS.contains(&key);
    outcome.unknown = answers.0.keys().filter(|key| !known(key)).cloned().collect();
    for question in QUESTIONS {
        let external = outcome.values.get("setup_external_network").is_some_and(|v| v == "true");
        if question.asked == Asked::WithExternal && !external {
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

/// Checks one answer; gives its normal form.
///
/// # Errors
/// What is wrong with it and what is wanted.
pub fn check(kind: Kind, text: &str, facts: &Facts) -> Result<String, String> {
    let trimmed = text.trim();
    let quoted = || format!("{trimmed:?}");
    let address =
        || trimmed.parse::<Ipv4Addr>().map_err(|_| format!("{} is not an IPv4 address", quoted()));
    match kind {
        Kind::Password if text.is_empty() => Err("must not be empty".to_owned()),
        Kind::Password => Ok(text.to_owned()),
        Kind::Text if trimmed.is_empty() => Err("must not be empty".to_owned()),
        Kind::Text if trimmed.contains(['"', '\'', '`', '\n', '\r']) => {
            Err("must not contain quotes".to_owned())
        }
        Kind::Text => Ok(trimmed.to_owned()),
        Kind::Label => label(trimmed).map(|()| trimmed.to_owned()),
        Kind::Domain | Kind::Host => {
            if kind == Kind::Host && trimmed.parse::<std::net::IpAddr>().is_ok() {
                return Ok(trimmed.to_owned());
            }
            let good = trimmed.len() <= 253 && trimmed.split('.').all(domain_part);
            good.then(|| trimmed.to_owned()).ok_or_else(|| {
                format!("{} is not a DNS name in lower case, as example.com", quoted())
            })
        }
        Kind::Nic => {
            let mac: MacAddr = trimmed.parse().map_err(|e: net::MacError| e.to_string())?;
            match &facts.nics {
                Some(nics) if !nics.contains(&mac) => {
                    let list = nics.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    let list = if list.is_empty() { "none".to_owned() } else { list };
                    Err(format!("this machine has no NIC with the MAC {mac}; it has: {list}"))
                }
                _ => Ok(mac.to_string()),
            }
        }
        Kind::Address => address().map(|ip| ip.to_string()),
        Kind::AddressOrNone if trimmed == "none" => Ok("none".to_owned()),
        Kind::AddressOrNone => {
            address().map(|ip| ip.to_string()).map_err(|e| format!("{e}, and not `none`"))
        }
        Kind::Netmask => {
            let mask = trimmed.parse::<Ipv4Addr>().ok().filter(|mask| {
                net::network(Ipv4Addr::UNSPECIFIED, *mask)
                    .is_some_and(|n| (1..=30).contains(&n.prefix_len()))
            });
            mask.map(|m| m.to_string())
                .ok_or_else(|| format!("{} is not a netmask, as 255.255.255.0", quoted()))
        }
        Kind::Vlan if trimmed == "none" || trimmed == "0" => Ok("none".to_owned()),
        Kind::Vlan => match trimmed.parse::<u16>() {
            Ok(id) if (1..=4094).contains(&id) => Ok(id.to_string()),
            _ => Err(format!("{} is not a VLAN id from 1 to 4094, and not `none`", quoted())),
        },
        Kind::Bool => match trimmed.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" => Ok("true".to_owned()),
            "false" | "no" | "n" => Ok("false".to_owned()),
            _ => Err(format!("{} is neither true nor false", quoted())),
        },
    }
}

fn label(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let wrong = if text.is_empty() {
        "must not be empty"
    } else if text.len() > 63 {
        "is longer than 63 letters"
    } else if !text.chars().all(plain) {
        "may hold only lower-case letters, digits and `-`"
    } else if text.starts_with('-') || text.ends_with('-') {
        "must begin and end with a letter or digit"
    } else if text.chars().all(|c| c.is_ascii_digit()) {
        "must not be a number"
    } else if text == "ca" {
        "`ca` is taken: its names would look like Cloud Analytics'"
    } else {
        return Ok(());
    };
    Err(format!("{text:?}: {wrong}"))
}

fn domain_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&part.len())
        && part.chars().all(plain)
        && !part.starts_with('-')
        && !part.ends_with('-')
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

/// The configuration that follows from complete answers (C§2.4). `root_shadow` is the hash of
/// `root_password`, which itself is left out.
///
/// # Errors
/// All that is wrong.
pub fn config(
    outcome: &Outcome,
    answers: &Answers,
    setup_id: &str,
    root_shadow: &str,
) -> Result<Config, Problems> {
    let missing =
        |q: &Question| Problem { key: q.key.to_owned(), message: "is missing".to_owned() };
    let problems: Vec<_> =
        outcome.problems.iter().cloned().chain(outcome.missing.iter().map(missing)).collect();
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let mut config = Config::default();
    let skip =
        ["root_password", "setup_external_network", "dns_resolver1", "dns_resolver2", "ntp_host"];
    for (key, value) in outcome.values.iter().filter(|(key, _)| !skip.contains(*key)) {
        if !(*key == "external_vlan_id" && value == "none") {
            config.set(key, value.as_str());
        }
    }
    let value = |key: &str| outcome.values.get(key).map(String::as_str).unwrap_or_default();
    let given = |key: &str| match answers.get(key) {
        Answer::Given(text) => Some(text),
        _ => None,
    };
    for (name, ip, mask) in [
        ("admin_network", "admin_ip", "admin_netmask"),
        ("external_network", "external_ip", "external_netmask"),
    ] {
        if let Some(network) = network_of(&outcome.values, ip, mask) {
            config.set(name, network.network().to_string());
        }
    }
    let admin_ip = value("admin_ip");
    config.set(SETUP_ID, setup_id);
    config.set("root_shadow", root_shadow);
    config.set("dns_resolvers", format!("{},{}", value("dns_resolver1"), value("dns_resolver2")));
    config.set("ntp_hosts", given("ntp_hosts").unwrap_or_else(|| value("ntp_host").to_owned()));
    config.set("compute_node_ntp_hosts", admin_ip);
    config.set("dhcp_lease_time", timing::DHCP_LEASE_SECONDS.to_string());
    config.set("assets_admin_ip", admin_ip);
    config.set("dhcpd_admin_ip", admin_ip);
    for (api, port) in [
        ("cnapi", ports::CNAPI),
        ("napi", ports::NAPI),
        ("vmapi", ports::VMAPI),
        ("imgapi", ports::IMGAPI),
        ("papi", ports::PAPI),
        ("fwapi", ports::FWAPI),
    ] {
        config.set(&format!("{api}_client_url"), format!("http://{admin_ip}:{port}"));
        config.set(&format!("{api}_admin_ips"), admin_ip);
    }
    config.set("napi_mac_prefix", "90b8d0");
    config.set("default_rack_name", "RACK1");
    config.set("root_authorized_keys_file", "root.authorized_keys");
    config.set("ufds_admin_uuid", "930896af-bf8c-48d4-885c-6573a94b1853");
    // As Triton's: the search domain, when it is given, is the suffix of all names (C§2.2).
    if let Some(search) = given("dns_search").filter(|s| !s.is_empty()) {
        config.set("dns_domain", search);
    }
    for key in ["headnode_default_gateway", "mail_to", "mail_from", "swap", "compute_node_swap"] {
        if let Some(value) = given(key) {
            config.set(key, value);
        }
    }
    config.headnode()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn answers(value: serde_json::Value) -> Answers {
        serde_json::from_value(value).unwrap()
    }

    fn good() -> serde_json::Value {
        json!({
            "datacenter_name": "coal", "admin_nic": "00:50:56:34:60:4c", "admin_ip": "10.99.99.7",
            "admin_netmask": "<default>", "dns_domain": "example.com", "root_password": "root",
        })
    }

    #[test]
    fn minimal_answers_make_a_whole_configuration() {
        let answers = answers(good());
        let outcome = evaluate(&answers, &Facts::default());
        let config = config(&outcome, &answers, "id", "$6$x$y").unwrap();
        assert_eq!(config.get("region_name"), Some("coal"));
        assert_eq!(config.get("dhcp_range_start"), Some("10.99.99.37"));
        assert_eq!(config.get("dhcp_range_end"), Some("10.99.99.254"));
        assert_eq!(config.get("admin_network"), Some("10.99.99.0"));
        assert_eq!(config.get("cnapi_client_url"), Some("http://10.99.99.7:8010"));
        assert_eq!(config.get("root_password"), None);
        assert!(!config.to_string().contains("=root\n"));
        assert_eq!(config.for_compute_node().get("ntp_hosts"), Some("10.99.99.7"));
    }

    #[test]
    fn all_errors_are_named_at_once() {
        let mut value = good();
        value["admin_ip"] = json!("10.99.99.300");
        value["datacenter_name"] = json!("Coal!");
        value["admin_nic"] = json!("00:50:56:34:60:4d");
        value["colour"] = json!("red");
        let facts = Facts { nics: Some(vec![MacAddr([0, 1, 2, 3, 4, 5])]), admin_nic: None };
        let outcome = evaluate(&answers(value), &facts);
        let keys: Vec<_> = outcome.problems.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["datacenter_name", "admin_nic", "admin_ip"]);
        assert!(outcome.problems[1].message.contains("00:01:02:03:04:05"));
        assert_eq!(outcome.unknown, ["colour"]);
    }

    #[test]
    fn answers_that_do_not_fit_together_are_named() {
        for (key, value, blamed) in [
            ("admin_ip", "10.99.99.255", "admin_ip"),
            ("admin_gateway", "10.1.1.1", "admin_gateway"),
            ("dhcp_range_end", "10.99.99.9", "dhcp_range_end"),
            ("dhcp_range_start", "10.99.99.2", "dhcp_range_start"),
            ("admin_netmask", "255.0.255.0", "admin_netmask"),
            ("pool_disks", "sda", "pool_disks"),
        ] {
            let mut all = good();
            all[key] = json!(value);
            let outcome = evaluate(&answers(all), &Facts::default());
            assert!(
                outcome.problems.iter().any(|p| p.key == blamed),
                "{key}: {:?}",
                outcome.problems
            );
        }
    }

    #[test]
    fn a_small_network_and_an_external_one_work() {
        let mut all = good();
        all["admin_netmask"] = json!("255.255.255.240");
        all["setup_external_network"] = json!(true);
        let outcome = evaluate(&answers(all.clone()), &Facts::default());
        let missing: Vec<_> = outcome.missing.iter().map(|q| q.key).collect();
        assert_eq!(
            missing,
            [
                "external_nic",
                "external_ip",
                "external_netmask",
                "external_gateway",
                "external_vlan_id"
            ]
        );
        assert_eq!(outcome.values["dhcp_range_start"], "10.99.99.8");
        for (key, value) in [
            ("external_nic", "00:00:00:00:00:02"),
            ("external_ip", "192.168.1.5"),
            ("external_netmask", "<default>"),
            ("external_gateway", "192.168.1.1"),
            ("external_vlan_id", "none"),
        ] {
            all[key] = json!(value);
        }
        let answers = answers(all);
        let config = config(&evaluate(&answers, &Facts::default()), &answers, "id", "x").unwrap();
        assert_eq!(config.get("external_network"), Some("192.168.1.0"));
        assert_eq!(config.get("external_vlan_id"), None);
    }

    proptest! {
        #[test]
        fn no_answer_panics(key in "[a-z_]{1,20}", text: String, which in 0usize..QUESTIONS.len()) {
            let mut all = good();
            all[key] = json!(text.clone());
            all[QUESTIONS[which].key] = json!(text);
            let answers = answers(all);
            let outcome = evaluate(&answers, &Facts::default());
            drop(config(&outcome, &answers, "id", "x"));
        }
    }
}
