//! What a machine tells of itself (C§5.5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// The `sysinfo` object. Names and types of the fields are Triton's: numbers are numbers only
/// where `sysinfo` on SmartOS prints them so. Fields that we do not know are kept in `other`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sysinfo {
    /// Stamp of the running platform image.
    #[serde(rename = "Live Image", default, skip_serializing_if = "Option::is_none")]
    pub live_image: Option<String>,
    /// Operating system: `SunOS` or `Linux`.
    #[serde(rename = "System Type", default, skip_serializing_if = "Option::is_none")]
    pub system_type: Option<String>,
    /// Seconds since 1970, as a text.
    #[serde(rename = "Boot Time", default, skip_serializing_if = "Option::is_none")]
    pub boot_time: Option<String>,
    /// The datacenter that the machine was set up for.
    #[serde(rename = "Datacenter Name", default, skip_serializing_if = "Option::is_none")]
    pub datacenter_name: Option<String>,
    /// Version of this software.
    #[serde(rename = "SDC Version", default, skip_serializing_if = "Option::is_none")]
    pub sdc_version: Option<String>,
    /// Maker of the machine, from SMBIOS.
    #[serde(rename = "Manufacturer", default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Model of the machine, from SMBIOS.
    #[serde(rename = "Product", default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Serial number of the machine, from SMBIOS.
    #[serde(rename = "Serial Number", default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// SKU, from SMBIOS.
    #[serde(rename = "SKU Number", default, skip_serializing_if = "Option::is_none")]
    pub sku_number: Option<String>,
    /// Hardware version, from SMBIOS.
    #[serde(rename = "HW Version", default, skip_serializing_if = "Option::is_none")]
    pub hw_version: Option<String>,
    /// Hardware family, from SMBIOS.
    #[serde(rename = "HW Family", default, skip_serializing_if = "Option::is_none")]
    pub hw_family: Option<String>,
    /// `"true"` once the machine's setup is complete.
    #[serde(rename = "Setup", default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<String>,
    /// Whether the processor can run hardware virtual machines.
    #[serde(rename = "VM Capable", default, skip_serializing_if = "Option::is_none")]
    pub vm_capable: Option<bool>,
    /// `vmx`, `svm` or `none`.
    #[serde(rename = "CPU Virtualization", default, skip_serializing_if = "Option::is_none")]
    pub cpu_virtualization: Option<String>,
    /// Model name of the processor.
    #[serde(rename = "CPU Type", default, skip_serializing_if = "Option::is_none")]
    pub cpu_type: Option<String>,
    /// Number of sockets.
    #[serde(rename = "CPU Physical Cores", default, skip_serializing_if = "Option::is_none")]
    pub cpu_physical_cores: Option<u32>,
    /// Number of cores in all sockets.
    #[serde(rename = "CPU Core Count", default, skip_serializing_if = "Option::is_none")]
    pub cpu_core_count: Option<u32>,
    /// Number of hardware threads.
    #[serde(rename = "CPU Total Cores", default, skip_serializing_if = "Option::is_none")]
    pub cpu_total_cores: Option<u32>,
    /// Number of hardware threads that are on line.
    #[serde(rename = "CPU Online Count", default, skip_serializing_if = "Option::is_none")]
    pub cpu_online_count: Option<u32>,
    /// Name of the network tag that the admin NIC carries: `admin`.
    #[serde(rename = "Admin NIC Tag", default, skip_serializing_if = "Option::is_none")]
    pub admin_nic_tag: Option<String>,
    /// Address on the admin network.
    #[serde(rename = "Admin IP", default, skip_serializing_if = "Option::is_none")]
    pub admin_ip: Option<String>,
    /// Address that the agent listens on.
    #[serde(rename = "CN Agent IP", default, skip_serializing_if = "Option::is_none")]
    pub cn_agent_ip: Option<String>,
    /// Port that the agent listens on.
    #[serde(rename = "CN Agent Port", default, skip_serializing_if = "Option::is_none")]
    pub cn_agent_port: Option<u16>,
    /// The machine's identity.
    #[serde(rename = "UUID")]
    pub uuid: Uuid,
    /// Host name.
    #[serde(rename = "Hostname", default)]
    pub hostname: String,
    /// Memory in MiB, as a text.
    #[serde(rename = "MiB of Memory", default, skip_serializing_if = "Option::is_none")]
    pub mib_of_memory: Option<String>,
    /// Name of the system pool, when there is one.
    #[serde(rename = "Zpool", default, skip_serializing_if = "Option::is_none")]
    pub zpool: Option<String>,
    /// Comma-separated names of the pool's disks.
    #[serde(rename = "Zpool Disks", default, skip_serializing_if = "Option::is_none")]
    pub zpool_disks: Option<String>,
    /// Layout of the pool: `single`, `mirror`, `raidz1`, …
    #[serde(rename = "Zpool Profile", default, skip_serializing_if = "Option::is_none")]
    pub zpool_profile: Option<String>,
    /// Seconds since 1970 when the pool was made.
    #[serde(rename = "Zpool Creation", default, skip_serializing_if = "Option::is_none")]
    pub zpool_creation: Option<u64>,
    /// Usable size of the pool in GiB.
    #[serde(rename = "Zpool Size in GiB", default, skip_serializing_if = "Option::is_none")]
    pub zpool_size_gib: Option<u64>,
    /// The machine's disks by device name.
    #[serde(rename = "Disks", default)]
    pub disks: BTreeMap<String, SysinfoDisk>,
    /// The kernel's parameters.
    #[serde(rename = "Boot Parameters", default)]
    pub boot_parameters: BTreeMap<String, String>,
    /// Installed agents.
    #[serde(rename = "SDC Agents", default)]
    pub sdc_agents: Vec<SysinfoAgent>,
    /// Physical NICs by link name.
    #[serde(rename = "Network Interfaces", default)]
    pub network_interfaces: BTreeMap<String, SysinfoNic>,
    /// Virtual NICs by link name.
    #[serde(rename = "Virtual Network Interfaces", default)]
    pub virtual_network_interfaces: BTreeMap<String, Value>,
    /// Link aggregations by name.
    #[serde(rename = "Link Aggregations", default)]
    pub link_aggregations: BTreeMap<String, Value>,
    /// Whatever else the machine sent.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Sysinfo {
    /// Whether the machine says that its setup is complete.
    pub fn is_setup(&self) -> bool {
        self.setup.as_deref() == Some("true")
    }
}

/// A disk in [`Sysinfo`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SysinfoDisk {
    /// Size in units of 10⁹ bytes.
    #[serde(rename = "Size in GB")]
    pub size_gb: u64,
    /// Whatever else the machine sent.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An installed agent in [`Sysinfo`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SysinfoAgent {
    /// The agent's name.
    pub name: String,
    /// The agent's version.
    pub version: String,
}

/// A physical NIC in [`Sysinfo`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SysinfoNic {
    /// The MAC, lower-case with colons.
    #[serde(rename = "MAC Address")]
    pub mac_address: String,
    /// IPv4 address, or an empty text.
    #[serde(rename = "ip4addr", default)]
    pub ip4addr: String,
    /// `up` or `down`.
    #[serde(rename = "Link Status", default)]
    pub link_status: String,
    /// Network tags that this NIC carries.
    #[serde(rename = "NIC Names", default)]
    pub nic_names: Vec<String>,
    /// Whatever else the machine sent.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
