//! Boot parameters: from CNAPI and NAPI, else from the cache on disk, else the newest platform.
//!
//! A [`ParamSource`] is asked in the background ([`Lookup`]): one question per machine at a time, a
//! bounded number of them together, and what it answers refreshes the [`Cache`] also when nobody
//! waits any more.

mod cache;
mod directory;
mod lookup;
mod settings;

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::net::Ipv4Addr;
use std::sync::Arc;

use headnode_client::{Aggregation, Cnapi, Nic, NicTag, ServerQuery};
use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::admission::Known;

pub use cache::{Cache, Cached};
pub use directory::Directory;
pub use lookup::{Found, Lookup, Patience};
pub use settings::Settings;

/// Servers asked for at once, the most that CNAPI gives (C§5.6).
const PAGE: u32 = 1000;

/// Why a source has no answer.
pub type SourceError = Box<dyn StdError + Send + Sync>;

/// What NAPI has of a server's network (C§4.2 step 4).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nics {
    /// Its NICs.
    pub nics: Vec<Nic>,
    /// Its aggregations.
    pub aggregations: Vec<Aggregation>,
    /// The datacenter's NIC tags.
    pub nic_tags: Vec<NicTag>,
}

/// What a source knows of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// What it boots with.
    pub params: BootParams,
    /// The server that it is; `None` when the parameters are those of unknown servers.
    pub server: Option<Uuid>,
    /// Its network, when there is somebody who knows.
    pub nics: Option<Nics>,
    /// The one who knows the network could not be asked: what was known before still counts.
    pub nics_unknown: bool,
}

/// Where boot parameters come from.
#[async_trait::async_trait]
pub trait ParamSource: Send + Sync + 'static {
    /// A server's parameters; `None` when the server is not known.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn boot_params(&self, server: Uuid) -> Result<Option<BootParams>, SourceError>;

    /// The parameters of servers that are not known.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn default_boot_params(&self) -> Result<BootParams, SourceError>;

    /// The servers of the datacenter, and their NICs as far as they have told them.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn servers(&self) -> Result<Known, SourceError>;

    /// The IPv4 addresses that NICs on the networks with these tags have been given; `None` when the
    /// source is none that gives addresses.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn addresses(
        &self,
        nic_tags: &[Arc<str>],
    ) -> Result<Option<BTreeMap<MacAddr, Ipv4Addr>>, SourceError> {
        let _ = nic_tags;
        Ok(None)
    }

    /// All about the machine with the NIC `mac`, which may have told its UUID.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn machine(&self, mac: MacAddr, uuid: Option<Uuid>) -> Result<Answer, SourceError> {
        let _ = mac;
        of_server(self, uuid).await
    }
}

/// The parameters of a server, else those of unknown ones (C§4.2 step 3).
async fn of_server<S: ParamSource + ?Sized>(
    source: &S,
    server: Option<Uuid>,
) -> Result<Answer, SourceError> {
    let mut known = None;
    if let Some(uuid) = server
        && let Some(params) = source.boot_params(uuid).await?
    {
        known = server;
        if !params.is_empty() {
            return Ok(Answer { params, server: known, ..Answer::default() });
        }
    }
    let params = source.default_boot_params().await?;
    Ok(Answer { params, server: known, ..Answer::default() })
}

#[async_trait::async_trait]
impl ParamSource for Cnapi {
    async fn boot_params(&self, server: Uuid) -> Result<Option<BootParams>, SourceError> {
        Ok(Cnapi::boot_params(self, server).await?)
    }

    async fn default_boot_params(&self) -> Result<BootParams, SourceError> {
        Ok(Cnapi::default_boot_params(self).await?)
    }

    async fn servers(&self) -> Result<Known, SourceError> {
        let mut known = Known::default();
        for page in 0.. {
            let query = ServerQuery {
                extras: vec!["sysinfo".to_owned()],
                limit: Some(PAGE),
                offset: Some(page * PAGE),
                ..ServerQuery::default()
            };
            let servers = self.list_servers(&query).await?;
            for server in &servers {
                known.uuids.insert(server.uuid);
                let nics = server.sysinfo.iter().flat_map(|told| told.network_interfaces.values());
                known.macs.extend(nics.filter_map(|nic| nic.mac_address.parse::<MacAddr>().ok()));
            }
            if servers.len() < PAGE as usize {
                break;
            }
        }
        Ok(known)
    }
}

/// Where parameters were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// CNAPI's of this server.
    Server,
    /// CNAPI's of unknown servers.
    Default,
    /// CNAPI's at an earlier boot.
    Cache,
    /// Nowhere: the newest platform without extra parameters.
    Builtin,
}

impl Origin {
    /// One word for logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Default => "default",
            Self::Cache => "cache",
            Self::Builtin => "builtin",
        }
    }
}
