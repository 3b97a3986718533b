//! What the agent needs of the machine that it runs on; tests answer in its place.

use headnode_model::event::Event;
use headnode_model::sysinfo::Sysinfo;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Parameters of the task `server_setup` (C§5.3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupRequest {
    /// Host name that the server gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Layout of the pool: `single` or `mirror`; absent or empty: by the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_layout: Option<String>,
    /// Use exactly these disks: serial numbers or device names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pool_disks: Vec<String>,
    /// These disks may be used although something is on them: it will be destroyed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wipe_disks: Vec<String>,
    /// Inputs that this agent does not use.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A machine. All calls block.
pub trait Machine: Send + Sync + 'static {
    /// The machine's identity.
    fn uuid(&self) -> Uuid;

    /// Collects what the machine tells of itself (C§5.5).
    fn sysinfo(&self) -> Sysinfo;

    /// Collects a status report (C§5.4), without the timestamp.
    fn status(&self) -> Value;

    /// What of the status makes a report urgent when it changes; cheap.
    fn status_key(&self) -> String;

    /// Sets the machine up: pool, datasets, configuration, state file. May be repeated; every
    /// event of its steps goes to `report`.
    ///
    /// # Errors
    /// Why a step failed, with what to do.
    fn set_up(
        &self,
        request: &SetupRequest,
        report: &(dyn Fn(Event) + Send + Sync),
    ) -> anyhow::Result<()>;

    /// Orders a reboot; returns before it happens.
    ///
    /// # Errors
    /// When the system refuses.
    fn reboot(&self) -> anyhow::Result<()>;
}
