//! What a Linux machine tells of itself: the `sysinfo` object (C§5.5).
//!
//! Everything is read from `/proc` and `/sys` below a root that tests replace; only the pool is
//! asked for by commands. One collection takes a few milliseconds plus that.

pub mod cpu;
pub mod links;
pub mod zpool;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use headnode_model::boot::KernelParams;
use headnode_model::config::Config;
use headnode_model::net::MacAddr;
use headnode_model::setup_state::SetupState;
use headnode_model::sysinfo::{Sysinfo, SysinfoAgent};
use headnode_model::{paths, ports};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::smbios::Smbios;
use cpu::Cpus;
use zpool::PoolFacts;

/// Where platform images keep their stamp, the first that is there counts.
const STAMP_FILES: [&str; 3] =
    ["etc/version/platform", "platform/etc/version/platform", "usr/share/headnode/platform"];

/// Kernel parameters that sysinfo does not repeat: they are secrets.
const SECRET_PARAMS: [&str; 2] = ["root_shadow", "rabbitmq"];

/// What a collection cannot find out from `/proc` and `/sys`.
#[derive(Debug, Clone)]
pub struct Sources<'a> {
    /// Root of the machine's file system; `/` but in tests.
    pub root: PathBuf,
    /// The machine's identity, see [`crate::smbios::UuidSources::decide`].
    pub uuid: Uuid,
    /// The configuration, as far as it is known.
    pub config: Option<&'a Config>,
    /// MAC of the admin NIC.
    pub admin_mac: Option<MacAddr>,
    /// The first IPv4 address of each link, see [`links::addresses`].
    pub addresses: BTreeMap<String, Ipv4Addr>,
    /// The system pool, when it is imported.
    pub pool: Option<PoolFacts>,
    /// Installed agents.
    pub agents: Vec<SysinfoAgent>,
    /// Version of this software.
    pub version: &'a str,
}

/// Collects a machine's sysinfo.
pub fn collect(sources: Sources<'_>) -> Sysinfo {
    let root = sources.root.as_path();
    let params = kernel_params(root);
    let smbios = Smbios::read(root);
    let cpus = Cpus::read(root);
    let links = links::links(root, &sources.addresses, sources.admin_mac);
    let admin = links.physical.values().find(|nic| nic.nic_names.iter().any(|n| n == "admin"));
    let admin_ip = admin.map(|nic| nic.ip4addr.clone()).filter(|ip| !ip.is_empty());
    // An address on a link above the admin NIC (a bond, a VLAN) is known from the parameters only.
    let admin_ip = admin_ip.or_else(|| params.ip().map(|(ip, _)| ip.to_string()));
    let config = |key: &str| Some(sources.config?.get(key)?.to_owned());
    let admin_ip = admin_ip.or_else(|| config("admin_ip"));
    let virtual_machines = cpus.virtualization != "none";
    let mut boot_parameters = params.0;
    boot_parameters.retain(|name, _| !SECRET_PARAMS.contains(&name.as_str()));

    let mut other = Map::new();
    other.insert("CPU Socket Count".to_owned(), Value::from(cpus.sockets));
    other.insert("CPU Count".to_owned(), Value::from(cpus.online));
    other.insert("Bhyve Capable".to_owned(), Value::from(false));
    let kvm = virtual_machines && root.join("dev/kvm").exists();
    other.insert("HVM API".to_owned(), Value::from(kvm));
    if let Some(pool) = &sources.pool {
        other.insert("Zpool Encrypted".to_owned(), Value::from(pool.encrypted));
    }

    let pool = sources.pool.as_ref();
    Sysinfo {
        live_image: live_image(root),
        system_type: Some("Linux".to_owned()),
        boot_time: boot_time(root).map(|seconds| seconds.to_string()),
        datacenter_name: config("datacenter_name"),
        sdc_version: Some(sources.version.to_owned()),
        manufacturer: Some(smbios.manufacturer),
        product: Some(smbios.product),
        serial_number: Some(smbios.serial),
        sku_number: Some(smbios.sku),
        hw_version: Some(smbios.version),
        hw_family: Some(smbios.family),
        setup: Some(is_set_up(root).to_string()),
        vm_capable: Some(virtual_machines),
        cpu_virtualization: Some(cpus.virtualization.to_owned()),
        cpu_type: Some(cpus.model),
        cpu_physical_cores: Some(cpus.sockets),
        cpu_core_count: Some(cpus.cores),
        cpu_total_cores: Some(cpus.threads),
        cpu_online_count: Some(cpus.online),
        admin_nic_tag: Some("admin".to_owned()),
        cn_agent_ip: admin_ip.clone(),
        cn_agent_port: Some(ports::AGENT),
        admin_ip,
        uuid: sources.uuid,
        hostname: read(root, "proc/sys/kernel/hostname").trim().to_owned(),
        mib_of_memory: Some((memory(root).total / (1 << 20)).to_string()),
        zpool: pool.map(|pool| pool.name.clone()),
        zpool_disks: pool.map(|pool| pool.disks.join(",")),
        zpool_profile: pool.map(|pool| pool.profile.clone()),
        zpool_creation: pool.map(|pool| pool.creation),
        zpool_size_gib: pool.map(PoolFacts::size_gib),
        disks: links::disks(root),
        boot_parameters,
        sdc_agents: sources.agents,
        network_interfaces: links.physical,
        virtual_network_interfaces: links.virtual_links,
        link_aggregations: links.aggregations,
        other,
    }
}

/// The parameters of the running kernel.
pub fn kernel_params(root: &Path) -> KernelParams {
    KernelParams::parse(&read(root, "proc/cmdline"))
}

/// The stamp of the running platform image.
pub fn live_image(root: &Path) -> Option<String> {
    let stamps = STAMP_FILES.iter().map(|file| read(root, file).trim().to_owned());
    stamps.into_iter().find(|stamp| !stamp.is_empty())
}

/// When the machine booted, in seconds since 1970.
pub fn boot_time(root: &Path) -> Option<u64> {
    let stat = read(root, "proc/stat");
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Whether the state file says that the machine's setup is complete (C§3.1).
pub fn is_set_up(root: &Path) -> bool {
    let state = read(root, paths::SETUP_STATE);
    serde_json::from_str::<SetupState>(&state).is_ok_and(|state| state.complete)
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// What the kernel manages.
    pub total: u64,
    /// What new programs could get.
    pub available: u64,
    /// ZFS' cache.
    pub arc: u64,
}

/// Reads `/proc/meminfo` and ZFS' statistics.
pub fn memory(root: &Path) -> Memory {
    let meminfo = read(root, "proc/meminfo");
    let kib = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let value = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        value.unwrap_or(0).saturating_mul(1024)
    };
    let arcstats = read(root, "proc/spl/kstat/zfs/arcstats");
    let arc = arcstats.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next()? == "size").then_some(())?;
        fields.nth(1)?.parse().ok()
    });
    Memory { total: kib("MemTotal"), available: kib("MemAvailable"), arc: arc.unwrap_or(0) }
}

/// The text of a file below `root`; empty when it cannot be read. A leading slash is dropped.
pub(crate) fn read(root: &Path, path: &str) -> String {
    let bytes = std::fs::read(root.join(path.trim_start_matches('/'))).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn sources(root: &Path) -> Sources<'static> {
        Sources {
            root: root.to_owned(),
            uuid: Uuid::from_u128(1),
            config: None,
            admin_mac: None,
            addresses: BTreeMap::new(),
            pool: None,
            agents: Vec::new(),
            version: "0.1.0",
        }
    }

    #[test]
    fn a_whole_machine_is_told() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(
            root,
            "proc/cmdline",
            "console=ttyS0 ip=10.0.0.5:::255.255.255.0:: root_shadow=$6$x y\n",
        );
        put(root, "proc/meminfo", "MemTotal:        2015264 kB\nMemAvailable: 1015264 kB\n");
        put(root, "proc/stat", "cpu 1 2\nbtime 1761000000\n");
        put(root, "proc/sys/kernel/hostname", "52-54-00-00-00-01\n");
        put(
            root,
            "proc/spl/kstat/zfs/arcstats",
            "name type data\nsize                            4    1234\n",
        );
        put(root, "etc/version/platform", "20260101T000000Z\n");
        put(root, "sys/class/dmi/id/sys_vendor", "QEMU\n");
        let mut state = SetupState::new(
            headnode_model::setup_state::NodeType::Computenode,
            "2026-01-01T00:00:00Z",
        );
        let config = Config::parse("datacenter_name=coal\n").unwrap();
        let pool = PoolFacts {
            name: "zones".to_owned(),
            disks: vec!["vda".to_owned(), "vdb".to_owned()],
            profile: "mirror".to_owned(),
            available: 8 << 30,
            ..PoolFacts::default()
        };
        let all = Sources { config: Some(&config), pool: Some(pool), ..sources(root) };
        let json = serde_json::to_value(collect(all.clone())).unwrap();
        for (key, value) in [
            ("Live Image", "20260101T000000Z"),
            ("System Type", "Linux"),
            ("Boot Time", "1761000000"),
            ("Datacenter Name", "coal"),
            ("Manufacturer", "QEMU"),
            ("Setup", "false"),
            ("MiB of Memory", "1968"),
            ("Hostname", "52-54-00-00-00-01"),
            ("Admin IP", "10.0.0.5"),
            ("Zpool Disks", "vda,vdb"),
            ("Zpool Profile", "mirror"),
        ] {
            assert_eq!(json[key], value, "{key}");
        }
        assert_eq!(json["Zpool Size in GiB"], 8);
        assert_eq!(json["Boot Parameters"]["y"], "");
        assert_eq!(json["Boot Parameters"].get("root_shadow"), None);
        assert_eq!(memory(root).arc, 1234);
        state.complete = true;
        put(root, "var/lib/setup.json", &serde_json::to_string(&state).unwrap());
        assert!(collect(all).is_setup());
    }

    #[test]
    fn an_empty_machine_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        let sysinfo = collect(sources(root.path()));
        assert_eq!(sysinfo.live_image, None);
        assert_eq!(sysinfo.cpu_total_cores, Some(1));
        assert!(!sysinfo.is_setup());
    }
}
