//! Boot parameters: from CNAPI, else from the cache on disk, else the newest platform.

mod cache;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use headnode_client::{Cnapi, ServerQuery};
use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use uuid::Uuid;

use crate::admission::Known;

pub use cache::{Cache, Cached};

/// Servers asked for at once, the most that CNAPI gives (C§5.6).
const PAGE: u32 = 1000;

/// Why a source has no answer.
pub type SourceError = Box<dyn StdError + Send + Sync>;

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

/// What was found for a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it boots with.
    pub params: BootParams,
    /// Where that came from.
    pub origin: Origin,
    /// Whether the machine is a server of the datacenter, as CNAPI says or said when it last could.
    pub known: bool,
    /// What is not in the cache yet.
    news: Option<Cached>,
}

/// Finds boot parameters, whatever else is down.
pub struct Lookup {
    source: Arc<dyn ParamSource>,
    cache: Cache,
    budget: Duration,
    cached_budget: Duration,
}

impl Lookup {
    /// Asks `source` for at most `budget`, or `cached_budget` when the cache could answer instead.
    pub fn new(
        source: Arc<dyn ParamSource>,
        cache: Cache,
        budget: Duration,
        cached_budget: Duration,
    ) -> Self {
        Self { source, cache, budget, cached_budget: cached_budget.min(budget) }
    }

    /// Keeps what was found for later. Not done by [`Lookup::find`], so that machines that may not
    /// boot fill no disk.
    pub async fn keep(&self, mac: MacAddr, found: &Found) {
        if let Some(news) = &found.news {
            self.cache.put(mac, news.clone()).await;
        }
    }

    /// The parameters of the machine with the NIC `mac`.
    pub async fn find(&self, mac: MacAddr, uuid: Option<Uuid>) -> Found {
        let cached = self.cache.get(mac).await;
        let budget = if cached.is_some() { self.cached_budget } else { self.budget };
        let problem = match tokio::time::timeout(budget, self.ask(uuid)).await {
            Ok(Ok((params, origin))) => {
                let known = origin == Origin::Server;
                let now = Cached { params: params.clone(), known_server: known };
                let news = (cached.as_ref() != Some(&now)).then_some(now);
                return Found { params, origin, known, news };
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", budget.as_secs_f32()),
        };
        match cached {
            Some(Cached { params, known_server: known }) => {
                tracing::warn!(%mac, "CNAPI gave no boot parameters, the cached ones are used: {problem}");
                Found { params, origin: Origin::Cache, known, news: None }
            }
            None => {
                tracing::warn!(
                    %mac,
                    "CNAPI gave no boot parameters and none are cached, the newest platform is used: {problem}"
                );
                let params = BootParams {
                    default_console: "serial".to_owned(),
                    serial: "ttyb".to_owned(),
                    ..BootParams::default()
                };
                Found { params, origin: Origin::Builtin, known: false, news: None }
            }
        }
    }

    async fn ask(&self, uuid: Option<Uuid>) -> Result<(BootParams, Origin), SourceError> {
        if let Some(uuid) = uuid
            && let Some(params) = self.source.boot_params(uuid).await?
        {
            return Ok((params, Origin::Server));
        }
        Ok((self.source.default_boot_params().await?, Origin::Default))
    }
}
