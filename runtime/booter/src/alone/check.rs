//! From the file to settings, with all that is wrong on the way.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use headnode_model::config::{Problem, Problems};
use headnode_model::{paths, timing};

use super::boot::Boot;
use super::config::{Config, Fault, Host, Read, Top};
use super::plan::way;
use super::{Alone, IPXE, Nic, Plan, networks};
use crate::admission::Verdict;
use crate::dhcp::Mode;
use crate::live::Live;
use crate::networks::{self, Network};
use crate::settings::{File, Ports, Settings};
use crate::{BIOS_PROGRAM, EFI_PROGRAM};
use crate::{params, script};

/// The folder with boot files, unless told.
const ROOT: &str = "/srv/boot";

/// A configuration with which the booter can start.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The user to run as.
    pub user: Option<String>,
    /// What keeps some machines from booting: files that are missing.
    pub notes: Vec<Problem>,
}

/// Why the booter cannot start with a configuration.
#[derive(Debug)]
pub struct Refused {
    /// All that is wrong, missing files too.
    pub problems: Vec<Problem>,
    /// Whether nothing but the network interface or its address is missing: after a power cut it may
    /// come later than the booter.
    pub passing: bool,
}

/// Reads the file. What `over` says wins over its first keys.
///
/// # Errors
/// All that is wrong with it, missing files too.
pub fn load(path: &Path, over: Top, nics: &[Nic]) -> Result<Loaded, Refused> {
    let wrong = |problems| Refused { problems, passing: false };
    let mut read = Read::file(path).map_err(|message| {
        let key = "configuration".to_owned();
        wrong(vec![Problem { key, message }])
    })?;
    if read.is_unreadable() {
        // Nothing was understood: what seems to be missing is not.
        return Err(wrong(all(read.faults, Vec::new())));
    }
    let top = read.config.top.clone();
    let told = |name: &str| Some(PathBuf::from(name));
    let root = over.root.or(top.root.clone()).or(told(ROOT)).unwrap_or_default();
    let state = over.state.or(top.state.clone()).or(told(paths::BOOTER_STATE)).unwrap_or_default();
    let socket = over.socket.or(top.socket.clone()).or(told(headnode_model::booter::SOCKET));
    let interface = over.interface.or(top.interface.clone());
    let address = over.address.or(top.address);
    let named = interface.is_some() || address.is_some();
    let nic = Nic::choose(nics, interface.as_deref(), address)
        .map_err(|(key, message)| read.fault(key, message));
    for (key, folder) in [("root", &root), ("state", &state)] {
        if !folder.is_absolute() {
            read.fault(key, format!("{} must begin with /", folder.display()));
        }
    }
    if state.starts_with(&root) || root.starts_with(&state) {
        let message =
            "root and state must not be in each other: all of root can be read by everybody";
        read.fault("state", message);
    }
    check(&mut read, nic.as_ref().ok());
    let notes = notes(&read, &root);
    let Ok(nic) = nic else {
        let passing = named && read.faults.len() == 1;
        return Err(Refused { problems: all(read.faults, notes), passing });
    };
    if !read.faults.is_empty() {
        return Err(wrong(all(read.faults, notes)));
    }
    let networks = networks(nic.ip, nic.net, &read.config);
    // Of the own network, for what asks for a headnode's settings.
    let own = networks.first();
    let range = own.and_then(|own| own.ranges.first()).map(|range| (range.first, range.last));
    let plan = Live::new(Plan::new(&read.config));
    let user = over.user.or(top.user.clone());
    let settings = Settings {
        admin_ip: nic.ip,
        admin_net: own.map_or(nic.net, |own| own.subnet),
        gateway: own.and_then(|own| own.gateway),
        resolvers: own.map(|own| own.resolvers.clone()).unwrap_or_default(),
        datacenter_name: String::new(),
        dns_domain: String::new(),
        range: range.unwrap_or((Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED)),
        lease_seconds: own.map_or(86_400, |own| own.lease_seconds),
        root,
        state,
        interface: Some(nic.name),
        dhcp_listen: Ipv4Addr::UNSPECIFIED,
        broadcast: Ipv4Addr::BROADCAST,
        ports: Ports::default(),
        more: read.config.file.clone(),
        socket,
        budget: timing::BOOT_PARAMS_BUDGET,
        cached_budget: timing::BOOT_PARAMS_BUDGET,
        alone: Some(Alone { path: path.to_owned(), top, networks, plan }),
    };
    let notes = notes.into_iter().map(Problem::from).collect();
    Ok(Loaded { settings, user, notes })
}

/// Reads the file again, for settings that are in use: the sections, networks and plan from now on.
///
/// # Errors
/// What is wrong with it, or what takes a restart.
pub fn again(alone: &Alone, settings: &Settings) -> Result<(File, Vec<Network>, Plan), String> {
    let mut read = Read::file(&alone.path)?;
    let nic = Nic {
        name: settings.interface.clone().unwrap_or_default(),
        ip: settings.admin_ip,
        net: settings.admin_net,
    };
    check(&mut read, Some(&nic));
    if !read.faults.is_empty() {
        let problems = read.faults.into_iter().map(Problem::from).collect();
        return Err(format!("{}: {}", alone.path.display(), Problems(problems)));
    }
    if read.config.top != alone.top {
        return Err(
            "interface, address, root, state, socket and user change at a restart only".to_owned()
        );
    }
    for note in notes(&read, &settings.root) {
        tracing::warn!("{note}");
    }
    let networks = networks(nic.ip, nic.net, &read.config);
    let plan = Plan::new(&read.config);
    Ok((read.config.file, networks, plan))
}

/// All that is wrong with a text for a booter that serves on `nic`; missing files are not looked for.
pub fn faults(text: &str, nic: &Nic) -> Vec<Fault> {
    let mut read = Read::text(text);
    if !read.is_unreadable() {
        check(&mut read, Some(nic));
    }
    read.faults
}

fn all(faults: Vec<Fault>, notes: Vec<Fault>) -> Vec<Problem> {
    let mut all: Vec<Fault> = faults.into_iter().chain(notes).collect();
    all.sort_by_key(|fault| fault.line);
    all.into_iter().map(Problem::from).collect()
}

fn check(read: &mut Read, nic: Option<&Nic>) {
    let config = read.config.clone();
    read.problems(config.file.problems());
    for (key, told) in [
        ("params", config.file.params != params::Settings::default()),
        ("script", config.file.script != script::ScriptSettings::default()),
    ] {
        if told {
            read.fault(
                key,
                "it is for a headnode's booter, and changes nothing here: leave it out",
            );
        }
    }
    sections(read, "default", &config.default);
    for (name, group) in &config.groups {
        sections(read, &format!("group.{name}"), group);
    }
    for (index, host) in config.hosts.iter().enumerate() {
        // One that could not be read is told already.
        if *host != Host::default() {
            check_host(read, index, host, &config);
        }
    }
    twins(read, "mac", config.hosts.iter().map(|host| host.macs().to_vec()));
    twins(read, "uuid", config.hosts.iter().map(|host| Vec::from_iter(host.uuid)));
    let serial = |host: &Host| host.serial.as_deref().map(|serial| serial.trim().to_lowercase());
    twins(read, "serial", config.hosts.iter().map(|host| Vec::from_iter(serial(host))));
    twins(read, "hostname", config.hosts.iter().map(|host| Vec::from_iter(host.hostname.clone())));
    if let Some(nic) = nic {
        check_networks(read, nic);
    }
}

fn check_networks(read: &mut Read, nic: &Nic) {
    let config = read.config.clone();
    let all = networks(nic.ip, nic.net, &config);
    read.problems(networks::problems(&all));
    let told = config.file.networks.iter().any(|network| network.subnet.contains(&nic.ip));
    let fixed = all.first().is_some_and(|own| !own.reservations.is_empty());
    if config.file.dhcp.mode == Mode::Server && !told && !fixed {
        let message = format!(
            "no [[network]] holds {}, the server's address: add one with subnet = \"{}\" and \
             ranges = [{{ first = \"…\", last = \"…\" }}]; beside another DHCP server, write \
             mode = \"proxy\" into [dhcp]",
            nic.ip, nic.net
        );
        read.fault("network", message);
    }
    for (index, host) in config.hosts.iter().enumerate() {
        if let Some(ip) = host.ip
            && !all.iter().any(|network| network.subnet.contains(&ip))
        {
            read.fault(&format!("host.{index}.ip"), format!("{ip} is in no [[network]]: add one"));
        }
        if host.ip == Some(nic.ip) {
            let message = format!("{} is the server's own address", nic.ip);
            read.fault(&format!("host.{index}.ip"), message);
        }
    }
}

fn sections(read: &mut Read, path: &str, boot: &Boot) {
    for (key, message) in boot.problems() {
        read.fault(&format!("{path}.{key}"), message);
    }
}

fn check_host(read: &mut Read, index: usize, host: &Host, config: &Config) {
    let path = format!("host.{index}");
    let mut add = |key: &str, message: &str| read.fault(&format!("{path}.{key}"), message);
    let blank = |text: &Option<String>| text.as_deref().is_some_and(|text| text.trim().is_empty());
    if blank(&host.serial) {
        add("serial", "it is empty: leave it out or give a value");
    }
    if host.macs().is_empty() && host.uuid.is_none() && host.serial.is_none() {
        add("mac", "nothing says which machine this is: give mac, uuid or serial");
    }
    if host.ip.is_some() && host.macs().len() != 1 {
        add("ip", "an address belongs to one NIC: give exactly one mac");
    }
    if host.hostname.as_deref().is_some_and(|name| !is_hostname(name)) {
        add("hostname", "a name has 1 to 63 letters, digits and -, in parts with dots between");
    }
    let groups = &config.groups;
    if let Some(group) = host.group.as_ref().filter(|group| !groups.contains_key(*group)) {
        let names: Vec<String> = groups.keys().cloned().collect();
        let message = format!("there is no [group.{group}]: there are {names:?}");
        read.fault(&format!("{path}.group"), message);
    }
    sections(read, &path, &host.boot());
    if way(host, groups, &config.default).is_none() {
        let message = "nothing says what it boots: give kernel, script, local_disk or bootfile here, \
                       in its group or in [default]";
        read.fault(&path, message);
    }
    let policy = config.file.admission.policy;
    if policy == Verdict::Ignore && host.macs().is_empty() && host.uuid.is_none() {
        let message = "with policy = \"ignore\" no machine comes far enough to tell its serial \
                       number: give mac or uuid, or write policy = \"hold\"";
        read.fault(&format!("{path}.serial"), message);
    }
}

fn is_hostname(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let part = |part: &str| (1..=63).contains(&part.len()) && part.chars().all(letter);
    name.len() <= 253 && name.split('.').all(part)
}

/// Two hosts with the same value of a key.
fn twins<T: Hash + Eq + ToString>(
    read: &mut Read,
    key: &str,
    values: impl Iterator<Item = Vec<T>>,
) {
    let mut first: HashMap<T, usize> = HashMap::new();
    for (index, all) in values.enumerate() {
        for value in all {
            let text = value.to_string();
            if let Some(other) = first.insert(value, index) {
                let message = format!("{text} is host {} already", other + 1);
                read.fault(&format!("host.{index}.{key}"), message);
            }
        }
    }
}

/// What is missing on disk. An operator may bring it while the booter runs.
fn notes(read: &Read, root: &Path) -> Vec<Fault> {
    let config = &read.config;
    let mut notes = Vec::new();
    if !root.is_dir() {
        let message =
            format!("the folder {} is not there: make it, for boot files", root.display());
        notes.push(read.note("root", message));
    }
    let groups = config.groups.iter().map(|(name, group)| (format!("group.{name}"), group.clone()));
    let hosts = config.hosts.iter().enumerate();
    let hosts = hosts.map(|(index, host)| (format!("host.{index}"), host.boot()));
    let default = std::iter::once(("default".to_owned(), config.default.clone()));
    for (path, boot) in default.chain(groups).chain(hosts) {
        for (key, name) in boot.files() {
            let file = root.join(&name);
            if let Some(why) = unreadable(&file, key == "script") {
                let message = format!("{}: {why}", file.display());
                notes.push(read.note(&format!("{path}.{key}"), message));
            }
        }
    }
    // Without a plan for iPXE its programs are not needed.
    let only_own = config.default.bootfile.is_some()
        && config.hosts.iter().all(|host| {
            matches!(way(host, &config.groups, &config.default), Some(super::Way::Bootfile(_)))
        });
    if !only_own {
        for name in [BIOS_PROGRAM, EFI_PROGRAM] {
            let there = [root, Path::new(IPXE)].iter().any(|folder| folder.join(name).is_file());
            if !there {
                let message = format!(
                    "{name} is neither in {} nor in {IPXE}: install it (apt install ipxe)",
                    root.display()
                );
                notes.push(read.note("root", message));
            }
        }
    }
    for (number, name) in &config.file.dhcp.programs {
        let there = [root, Path::new(IPXE)].iter().any(|folder| folder.join(name).is_file());
        if !there {
            let message = format!("{name} is neither in {} nor in {IPXE}", root.display());
            notes.push(read.note(&format!("dhcp.programs.{number}"), message));
        }
    }
    notes
}

fn unreadable(file: &Path, script: bool) -> Option<String> {
    use std::io::Read as _;
    let mut begin = Vec::new();
    let opened = std::fs::File::open(file);
    let read = opened
        .and_then(|file| file.take(super::scripts::MAGIC.len() as u64).read_to_end(&mut begin));
    match read {
        Err(error) => Some(format!("it cannot be read: {error}")),
        Ok(_) if script && begin != super::scripts::MAGIC.as_bytes() => {
            Some(format!("it does not begin with {}", super::scripts::MAGIC))
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
