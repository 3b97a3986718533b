//! Intervals and limits that two parts must agree on.

use std::time::Duration;

/// How often an agent tells that it lives (C§5.4).
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// After this long without a heartbeat a server's status is `unknown` (C§5.4).
pub const HEARTBEAT_STALE: Duration = Duration::from_secs(11);
/// How often CNAPI looks for stale servers (C§5.4).
pub const HEARTBEAT_RECONCILE: Duration = Duration::from_secs(5);
/// The longest time between two status reports of an agent (C§5.4).
pub const STATUS_INTERVAL: Duration = Duration::from_secs(60);
/// The shortest time between two status reports of an agent (C§5.4).
pub const STATUS_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// How often an agent sends its sysinfo (C§5.1).
pub const SYSINFO_INTERVAL: Duration = Duration::from_secs(60);
/// How long the booter waits for CNAPI before it answers from its cache (C§4.1).
pub const BOOT_PARAMS_BUDGET: Duration = Duration::from_secs(28);
/// How long a node's setup may take (C§5.3).
pub const SERVER_SETUP_LIMIT: Duration = Duration::from_secs(3600);
/// Default of the config key `dhcp_lease_time`, in seconds: 30 days (C§2.4).
pub const DHCP_LEASE_SECONDS: u32 = 2_592_000;
