//! CNAPI's server object (C§5.6).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::sysinfo::{Sysinfo, SysinfoAgent};

/// Whether a server lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerStatus {
    /// Its heartbeat is fresh.
    Running,
    /// Nothing was heard of it lately.
    Unknown,
    /// It was told to reboot and has not come back yet.
    Rebooting,
}

/// A server: the headnode or a compute node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Identity, from SMBIOS.
    pub uuid: Uuid,
    /// Host name.
    pub hostname: String,
    /// Name of the datacenter.
    pub datacenter: String,
    /// Whether it carries the control services.
    pub headnode: bool,
    /// Whether its setup is complete.
    pub setup: bool,
    /// Whether its setup is running.
    pub setting_up: bool,
    /// Whether it lives.
    pub status: ServerStatus,
    /// What it is on the way to: `rebooting`, or an empty text.
    #[serde(default)]
    pub transitional_status: String,
    /// Installed agents.
    #[serde(default)]
    pub agents: Vec<SysinfoAgent>,
    /// Platform that it boots next.
    pub boot_platform: String,
    /// Platform that it runs.
    pub current_platform: String,
    /// Kernel parameters of its boot object.
    #[serde(default)]
    pub boot_params: BTreeMap<String, Value>,
    /// Kernel flags of its boot object.
    #[serde(default)]
    pub kernel_flags: BTreeMap<String, Value>,
    /// Boot modules of its boot object.
    #[serde(default)]
    pub boot_modules: Vec<Value>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_boot: Option<String>,
    /// When its last heartbeat came, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<String>,
    /// When it is planned to reboot, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_reboot: Option<String>,
    /// Factors by which resources may be promised more than once.
    #[serde(default)]
    pub overprovision_ratios: BTreeMap<String, f64>,
    /// Rack that it stands in.
    #[serde(default)]
    pub rack_identifier: String,
    /// Memory in MiB.
    pub ram: u64,
    /// Part of memory that is kept for the system, 0 to 1.
    pub reservation_ratio: f64,
    /// Whether it takes no new instances.
    pub reserved: bool,
    /// Whether it is held in reserve.
    pub reservoir: bool,
    /// What its last sysinfo said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sysinfo: Option<Sysinfo>,
    /// Operating system: `SunOS` or `Linux`.
    pub system_type: String,
    /// What it can do that others cannot.
    #[serde(default)]
    pub traits: BTreeMap<String, Value>,
    /// Its instances by UUID.
    #[serde(default)]
    pub vms: BTreeMap<String, Value>,
    /// Size of memory in bytes.
    #[serde(default)]
    pub memory_total_bytes: u64,
    /// Free memory in bytes.
    #[serde(default)]
    pub memory_available_bytes: u64,
    /// Memory of the ZFS cache in bytes.
    #[serde(default)]
    pub memory_arc_bytes: u64,
    /// Size of the pool in bytes.
    #[serde(default)]
    pub disk_pool_size_bytes: u64,
    /// Part of the pool that holds data, in bytes.
    #[serde(default)]
    pub disk_pool_alloc_bytes: u64,
    /// Counters and fields that other parts keep here.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}
