//! A server as the store keeps it.

use std::collections::BTreeMap;

use headnode_model::boot::BootModule;
use headnode_model::net::MacAddr;
use headnode_model::server::ServerStatus;
use headnode_model::sysinfo::SysinfoAgent;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Console of a server that nobody chose one for (C§5.6).
pub const DEFAULT_CONSOLE: &str = "serial";
/// Serial device of a server that nobody chose one for (C§5.6).
pub const DEFAULT_SERIAL: &str = "ttyb";

/// A server: what we know and decide (`core`), what it told last of itself (`sysinfo`) and of its
/// state (`report`).
#[derive(Debug, Clone, PartialEq)]
pub struct ServerRecord {
    /// Identity.
    pub uuid: Uuid,
    /// Which write of `core` this is.
    pub version: i64,
    /// What we know and decide.
    pub core: Core,
    /// The last sysinfo as it came; empty when it was not asked for.
    pub sysinfo: Map<String, Value>,
    /// The last status report: `vms`, `memory_*` and `disk_*` counters; empty when it was not
    /// asked for.
    pub report: Map<String, Value>,
}

/// Fields of a server that CNAPI decides or takes from sysinfo; meanings as in
/// [`headnode_model::server::Server`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Core {
    /// Host name that the machine has.
    pub hostname: String,
    /// Host name that an operator gave it; wins over the machine's.
    #[serde(default)]
    pub assigned_hostname: Option<String>,
    /// Name of the datacenter.
    pub datacenter: String,
    /// Whether it carries the control services.
    pub headnode: bool,
    /// Whether its setup is complete.
    pub setup: bool,
    /// Whether its setup is running.
    pub setting_up: bool,
    /// `running` or `unknown`, as of the last change.
    pub status: ServerStatus,
    /// `rebooting` or empty.
    #[serde(default)]
    pub transitional_status: String,
    /// Installed agents.
    #[serde(default)]
    pub agents: Vec<SysinfoAgent>,
    /// Platform that it boots next.
    pub boot_platform: String,
    /// Platform that it runs.
    #[serde(default)]
    pub current_platform: String,
    /// Kernel parameters of its boot object.
    #[serde(default)]
    pub boot_params: BTreeMap<String, Value>,
    /// Kernel flags of its boot object.
    #[serde(default)]
    pub kernel_flags: BTreeMap<String, Value>,
    /// Boot modules of its boot object.
    #[serde(default)]
    pub boot_modules: Vec<BootModule>,
    /// `serial` or `vga`.
    pub default_console: String,
    /// Serial device of the console.
    pub serial: String,
    /// Notes of operators.
    #[serde(default)]
    pub comments: String,
    /// When it was seen first, RFC 3339.
    pub created: String,
    /// When it booted last, RFC 3339.
    #[serde(default)]
    pub last_boot: Option<String>,
    /// `Boot Time` of the last sysinfo: tells one boot from the next.
    #[serde(default)]
    pub boot_time: Option<String>,
    /// When its last heartbeat came, RFC 3339; fresh only when `status` changed.
    #[serde(default)]
    pub last_heartbeat: Option<String>,
    /// When it is planned to reboot, RFC 3339.
    #[serde(default)]
    pub next_reboot: Option<String>,
    /// Factors by which resources may be promised more than once.
    #[serde(default)]
    pub overprovision_ratios: BTreeMap<String, f64>,
    /// Rack that it stands in.
    #[serde(default)]
    pub rack_identifier: String,
    /// Memory in MiB.
    #[serde(default)]
    pub ram: u64,
    /// Part of memory that is kept for the system.
    pub reservation_ratio: f64,
    /// Whether it takes no new instances.
    pub reserved: bool,
    /// Whether it is held in reserve.
    pub reservoir: bool,
    /// `SunOS` or `Linux`.
    #[serde(default)]
    pub system_type: String,
    /// What it can do that others cannot.
    #[serde(default)]
    pub traits: BTreeMap<String, Value>,
    /// MACs of its physical NICs, sorted.
    #[serde(default)]
    pub macs: Vec<MacAddr>,
    /// Those of them that carry the admin network.
    #[serde(default)]
    pub admin_macs: Vec<MacAddr>,
    /// Base URL of its agent.
    #[serde(default)]
    pub agent_url: Option<String>,
}

impl Core {
    /// The name that it shall have.
    pub fn wanted_hostname(&self) -> &str {
        self.assigned_hostname.as_deref().unwrap_or(&self.hostname)
    }
}
