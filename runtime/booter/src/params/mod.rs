//! Boot parameters: from CNAPI, else from the cache on disk, else the newest platform.

mod cache;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use headnode_client::Cnapi;
use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use uuid::Uuid;

pub use cache::Cache;

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
}

#[async_trait::async_trait]
impl ParamSource for Cnapi {
    async fn boot_params(&self, server: Uuid) -> Result<Option<BootParams>, SourceError> {
        Ok(Cnapi::boot_params(self, server).await?)
    }

    async fn default_boot_params(&self) -> Result<BootParams, SourceError> {
        Ok(Cnapi::default_boot_params(self).await?)
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

    /// The parameters of the machine with the NIC `mac`.
    pub async fn find(&self, mac: MacAddr, uuid: Option<Uuid>) -> (BootParams, Origin) {
        let cached = self.cache.get(mac).await;
        let budget = if cached.is_some() { self.cached_budget } else { self.budget };
        let problem = match tokio::time::timeout(budget, self.ask(uuid)).await {
            Ok(Ok((params, origin))) => {
                if cached.as_ref() != Some(&params) {
                    self.cache.put(mac, params.clone()).await;
                }
                return (params, origin);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", budget.as_secs_f32()),
        };
        match cached {
            Some(params) => {
                tracing::warn!(%mac, "CNAPI gave no boot parameters, the cached ones are used: {problem}");
                (params, Origin::Cache)
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
                (params, Origin::Builtin)
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
