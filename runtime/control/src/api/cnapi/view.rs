//! The server object as CNAPI shows it (C§5.6), with the parts that were asked for.

use std::collections::BTreeMap;

use headnode_model::boot::BootModule;
use headnode_model::server::ServerStatus;
use headnode_model::sysinfo::SysinfoAgent;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::fleet::Fleet;
use crate::store::ServerRecord;

/// Parts of a server object that are left out of lists unless asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extras {
    pub agents: bool,
    pub capacity: bool,
    pub disk: bool,
    pub last_heartbeat: bool,
    pub memory: bool,
    pub sysinfo: bool,
    pub vms: bool,
}

impl Extras {
    /// All parts.
    pub const ALL: Self = Self {
        agents: true,
        capacity: true,
        disk: true,
        last_heartbeat: true,
        memory: true,
        sysinfo: true,
        vms: true,
    };

    /// The parts that `extras=…` asks for, or the words that mean none.
    pub fn parse(words: &[String]) -> Result<Self, Vec<String>> {
        // Whoever asks for any part gets the last heartbeat too, as from Triton.
        let mut extras = Self { last_heartbeat: !words.is_empty(), ..Self::default() };
        let mut unknown = Vec::new();
        for word in words {
            match word.as_str() {
                "all" => extras = Self::ALL,
                "agents" => extras.agents = true,
                "disk" => extras.disk = true,
                "last_heartbeat" | "status" => {}
                "memory" => extras.memory = true,
                "sysinfo" => extras.sysinfo = true,
                "vms" => extras.vms = true,
                // It is made of nearly all parts, which are shown along; again as from Triton.
                "capacity" => {
                    (extras.capacity, extras.agents) = (true, true);
                    (extras.disk, extras.memory) = (true, true);
                }
                other => unknown.push(other.to_owned()),
            }
        }
        if unknown.is_empty() { Ok(extras) } else { Err(unknown) }
    }
}

/// A server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServerView<'a> {
    uuid: Uuid,
    hostname: &'a str,
    datacenter: &'a str,
    headnode: bool,
    setup: bool,
    setting_up: bool,
    /// `running`, `unknown` or `rebooting`.
    #[schema(value_type = String)]
    status: ServerStatus,
    transitional_status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    agents: Option<&'a [SysinfoAgent]>,
    boot_platform: &'a str,
    current_platform: &'a str,
    #[schema(value_type = Object)]
    boot_params: &'a BTreeMap<String, Value>,
    #[schema(value_type = Object)]
    kernel_flags: &'a BTreeMap<String, Value>,
    #[schema(value_type = Vec<Object>)]
    boot_modules: &'a [BootModule],
    default_console: &'a str,
    serial: &'a str,
    comments: &'a str,
    created: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_boot: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heartbeat: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_reboot: Option<&'a str>,
    #[schema(value_type = Object)]
    overprovision_ratios: &'a BTreeMap<String, f64>,
    rack_identifier: &'a str,
    /// MiB.
    ram: u64,
    reservation_ratio: f64,
    reserved: bool,
    reservoir: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    sysinfo: Option<&'a Map<String, Value>>,
    system_type: &'a str,
    #[schema(value_type = Object)]
    traits: &'a BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    vms: Option<Value>,
    /// `memory_*` and `disk_*` counters of the last status report, in bytes.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    counters: Map<String, Value>,
    /// Percent of one processor that instances can still be promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreserved_cpu: Option<i64>,
    /// MiB of memory that instances can still be promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreserved_ram: Option<i64>,
    /// MiB of the pool that instances can still be promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreserved_disk: Option<i64>,
}

impl<'a> ServerView<'a> {
    /// A server with the parts asked for.
    pub fn new(fleet: &Fleet, server: &'a ServerRecord, extras: Extras) -> Self {
        let core = &server.core;
        let counters = server
            .report
            .iter()
            .filter(|(name, _)| {
                (extras.memory && name.starts_with("memory_"))
                    || (extras.disk && name.starts_with("disk_"))
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let vms = || server.report.get("vms").cloned().unwrap_or_else(|| Map::new().into());
        let unreserved = (extras.capacity && core.setup).then(|| Capacity::of(server));
        Self {
            uuid: server.uuid,
            hostname: core.wanted_hostname(),
            datacenter: &core.datacenter,
            headnode: core.headnode,
            setup: core.setup,
            setting_up: core.setting_up,
            status: fleet.status(server),
            transitional_status: &core.transitional_status,
            agents: extras.agents.then_some(&core.agents),
            boot_platform: &core.boot_platform,
            current_platform: &core.current_platform,
            boot_params: &core.boot_params,
            kernel_flags: &core.kernel_flags,
            boot_modules: &core.boot_modules,
            default_console: &core.default_console,
            serial: &core.serial,
            comments: &core.comments,
            created: &core.created,
            last_boot: core.last_boot.as_deref(),
            last_heartbeat: extras.last_heartbeat.then(|| fleet.last_heartbeat(server)).flatten(),
            next_reboot: core.next_reboot.as_deref(),
            overprovision_ratios: &core.overprovision_ratios,
            rack_identifier: &core.rack_identifier,
            ram: core.ram,
            reservation_ratio: core.reservation_ratio,
            reserved: core.reserved,
            reservoir: core.reservoir,
            sysinfo: extras.sysinfo.then_some(&server.sysinfo),
            system_type: &core.system_type,
            traits: &core.traits,
            vms: extras.vms.then(vms),
            counters,
            unreserved_cpu: unreserved.as_ref().map(|u| u.cpu),
            unreserved_ram: unreserved.as_ref().map(|u| u.ram),
            unreserved_disk: unreserved.as_ref().map(|u| u.disk),
        }
    }
}

/// What instances can still be promised (C§5.7).
struct Capacity {
    cpu: i64,
    ram: i64,
    disk: i64,
}

impl Capacity {
    fn of(server: &ServerRecord) -> Self {
        let core = &server.core;
        let ratio = |name: &str| {
            core.overprovision_ratios.get(name).copied().filter(|ratio| *ratio > 0.0).unwrap_or(1.0)
        };
        let number = |object: &Map<String, Value>, name: &str| {
            object.get(name).and_then(Value::as_f64).unwrap_or(0.0)
        };
        let vms = server.report.get("vms").and_then(Value::as_object);
        let sum = |field: &str| {
            let vms = vms.into_iter().flat_map(Map::values).filter_map(Value::as_object);
            vms.map(|vm| number(vm, field)).sum::<f64>()
        };
        const MIB: f64 = 1_048_576.0;
        let cores = number(&server.sysinfo, "CPU Total Cores");
        // `as` from f64 saturates, and the figures are far from the bounds of i64.
        Self {
            cpu: (cores * 100.0 - sum("cpu_cap") / ratio("cpu")) as i64,
            ram: (core.ram as f64 * (1.0 - core.reservation_ratio)
                - sum("max_physical_memory") / ratio("ram")) as i64,
            // Quotas of instances are in GiB.
            disk: (number(&server.report, "disk_pool_size_bytes") / MIB
                - sum("quota") * 1024.0 / ratio("disk")) as i64,
        }
    }
}
