//! Questions and answers that are no domain objects of their own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Filters of `GET /servers` (C§5.6); the default asks for all servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerQuery {
    /// Only these servers.
    pub uuids: Vec<Uuid>,
    /// Only servers whose setup is complete, or is not.
    pub setup: Option<bool>,
    /// Only headnodes, or only compute nodes.
    pub headnode: Option<bool>,
    /// Only servers that take no new instances, or that do.
    pub reserved: Option<bool>,
    /// Only servers held in reserve, or not.
    pub reservoir: Option<bool>,
    /// Only the servers of this host name.
    pub hostname: Option<String>,
    /// Costly parts that are left out otherwise: `agents`, `sysinfo`, `vms`, `memory`, `disk`,
    /// `capacity`, `all`.
    pub extras: Vec<String>,
    /// Only these fields of each server; for [`crate::Cnapi::list_servers_json`].
    pub fields: Vec<String>,
    /// At most this many servers, 1 to 1000.
    pub limit: Option<u32>,
    /// Leave out this many servers at the beginning.
    pub offset: Option<u32>,
}

impl ServerQuery {
    /// Names and values of the query part.
    pub(crate) fn pairs(&self) -> Vec<(&'static str, String)> {
        let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
        let flag = |flag: Option<bool>| flag.map(|f| f.to_string());
        let number = |number: Option<u32>| number.map(|n| n.to_string());
        let uuids: Vec<String> = self.uuids.iter().map(Uuid::to_string).collect();
        [
            ("uuids", list(&uuids)),
            ("setup", flag(self.setup)),
            ("headnode", flag(self.headnode)),
            ("reserved", flag(self.reserved)),
            ("reservoir", flag(self.reservoir)),
            ("hostname", self.hostname.clone()),
            ("extras", list(&self.extras)),
            ("fields", list(&self.fields)),
            ("limit", number(self.limit)),
            ("offset", number(self.offset)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// Body of `PUT /servers/:uuid/setup` (C§5.3); absent values are the server's choice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SetupParams {
    /// Host name that the server gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Layout of the pool: `single`, `mirror`, `raidz1`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_layout: Option<String>,
    /// Whether to use SSDs as cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_cache: Option<bool>,
    /// Number of hot spares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_spares: Option<u32>,
    /// Disks per vdev.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_width: Option<u32>,
    /// Whatever else the agent's task understands.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The answer to a call that began a task. Triton names the id `job_uuid` where a job runs, and
/// `id` elsewhere; ours give both, with the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    #[serde(default)]
    id: Option<Uuid>,
    #[serde(default)]
    job_uuid: Option<Uuid>,
}

impl Accepted {
    /// The task's id, for `GET /tasks/:id`.
    pub(crate) fn task(self) -> Option<Uuid> {
        self.id.or(self.job_uuid)
    }
}

/// The answer of `GET /ping`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ping {
    /// `true` when the service can do its work.
    pub ready: bool,
    /// Whatever else the service tells.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A platform image in the answer of `GET /platforms?os=true`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformInfo {
    /// `smartos` or `linux`; absent without `os=true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Whether nodes boot it that have no platform of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<bool>,
    /// Whatever else is told of it.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Platform images by stamp.
pub type Platforms = BTreeMap<String, PlatformInfo>;
