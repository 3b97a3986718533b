//! The configuration that follows from answers.

use super::{Outcome, Question, SETUP_ID, network_of};
use crate::answers::{Answer, Answers, is_secret};
use crate::config::{Config, Problem, Problems};
use crate::{ports, timing};

/// The hashes of the passwords in the answers, which themselves are left out of the configuration.
#[derive(Clone, Copy)]
pub struct Hashes<'a> {
    /// That of `root_password`.
    pub root: &'a str,
    /// That of `admin_password`, when there is one. It becomes `ufds_admin_pw_hash`, in the place of
    /// Triton's `ufds_admin_pw`, which holds the password in clear: whoever checks admin's password
    /// checks it against the hash, and nobody needs the password itself.
    pub admin: Option<&'a str>,
}

/// The configuration that follows from complete answers (C§2.4).
///
/// # Errors
/// All that is wrong.
pub fn config(
    outcome: &Outcome,
    answers: &Answers,
    setup_id: &str,
    hashes: Hashes<'_>,
) -> Result<Config, Problems> {
    let missing =
        |q: &Question| Problem { key: q.key.to_owned(), message: "is missing".to_owned() };
    let problems: Vec<_> =
        outcome.problems.iter().cloned().chain(outcome.missing.iter().map(missing)).collect();
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let mut config = Config::default();
    let skip = ["setup_external_network", "dns_resolver1", "dns_resolver2", "ntp_host"];
    let skip = |key: &str| is_secret(key) || skip.contains(&key);
    for (key, value) in outcome.values.iter().filter(|(key, _)| !skip(key)) {
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
    config.set("root_shadow", hashes.root);
    if let Some(hash) = hashes.admin {
        config.set("ufds_admin_login", "admin");
        config.set("ufds_admin_pw_hash", hash);
    }
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
