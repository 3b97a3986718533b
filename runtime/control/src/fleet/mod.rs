//! The machines: how they register, whether they live, what platforms they can boot.

mod boot_object;
mod duplicate;
mod liveness;
pub mod platforms;
mod register;

use std::path::PathBuf;
use std::sync::Arc;

use headnode_model::config::Headnode;
use headnode_model::server::ServerStatus;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};
use tokio::sync::watch;
use uuid::Uuid;

use crate::store::{ServerFilter, ServerRecord, SharedStore, StoreError, update_server};
pub use liveness::Liveness;
pub(crate) use register::same_boot;
pub use register::{RegisterError, Registered};

/// The form of times in Triton's objects: JavaScript's `toISOString`, `2026-01-01T00:00:00.000Z`.
const TIME: EncodedConfig = Config::DEFAULT
    .set_time_precision(TimePrecision::Second { decimal_digits: std::num::NonZeroU8::new(3) })
    .encode();

/// A time in the form of Triton's objects.
pub fn timestamp(at: OffsetDateTime) -> String {
    at.format(&Iso8601::<TIME>).unwrap_or_default()
}

/// Now, in the form of Triton's objects.
pub fn now() -> String {
    timestamp(OffsetDateTime::now_utc())
}

/// All machines of the datacenter.
pub struct Fleet {
    /// Where they are remembered.
    pub store: SharedStore,
    /// Which of them live.
    pub liveness: Liveness,
    /// The datacenter's configuration.
    pub site: Headnode,
    /// Folder of platform images.
    pub platforms: PathBuf,
    /// Grows whenever a machine has come back from a boot.
    boots: watch::Sender<u64>,
}

impl Fleet {
    /// The machines that `store` remembers.
    pub fn new(store: SharedStore, site: Headnode, platforms: PathBuf) -> Arc<Self> {
        let liveness = Liveness::default();
        Arc::new(Self { store, liveness, site, platforms, boots: watch::Sender::new(0) })
    }

    /// Tells of each boot of a machine that registers.
    pub fn boots(&self) -> watch::Receiver<u64> {
        self.boots.subscribe()
    }

    /// What a server's `status` shows.
    pub fn status(&self, server: &ServerRecord) -> ServerStatus {
        if !server.core.transitional_status.is_empty() {
            ServerStatus::Rebooting
        } else if self.liveness.is_alive(server.uuid) {
            ServerStatus::Running
        } else {
            ServerStatus::Unknown
        }
    }

    /// When a server's last heartbeat came.
    pub fn last_heartbeat(&self, server: &ServerRecord) -> Option<String> {
        let fresh = self.liveness.last(server.uuid).map(timestamp);
        fresh.or_else(|| server.core.last_heartbeat.clone())
    }

    /// Takes a heartbeat; `false` when the server is not registered.
    ///
    /// # Errors
    /// When the database fails. Fresh heartbeats of living servers touch no database.
    pub async fn heartbeat(&self, uuid: Uuid) -> Result<bool, StoreError> {
        if self.liveness.beat_known(uuid) {
            return Ok(true);
        }
        let at = now();
        let found = update_server(&*self.store, uuid, |server| {
            server.core.status = ServerStatus::Running;
            server.core.last_heartbeat = Some(at.clone());
            true
        })
        .await?
        .is_some();
        if found {
            self.liveness.beat(uuid);
            tracing::info!(server = %uuid, "server lives");
        }
        Ok(found)
    }

    /// Takes a status report (C§5.4); `false` when the server is not registered.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn report(
        &self,
        uuid: Uuid,
        report: &Map<String, Value>,
    ) -> Result<bool, StoreError> {
        Ok(self.store.put_report(uuid, report).await? && self.heartbeat(uuid).await?)
    }

    /// Forgets a server; `false` when it is not registered.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete(&self, uuid: Uuid) -> Result<bool, StoreError> {
        let found = self.store.delete(uuid).await?;
        self.liveness.forget(uuid);
        Ok(found)
    }

    /// After a start: servers that lived when we stopped are taken to live until they have had
    /// the time to say so.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn resume(&self) -> Result<(), StoreError> {
        for server in self.store.list(&ServerFilter::default()).await? {
            if server.core.status == ServerStatus::Running {
                self.liveness.beat(server.uuid);
            }
        }
        Ok(())
    }

    /// Writes down which servers have fallen silent; to be called each
    /// [`headnode_model::timing::HEARTBEAT_RECONCILE`].
    ///
    /// # Errors
    /// When the database fails. It then keeps a stale `running`, which the next start corrects;
    /// what callers see comes from memory.
    pub async fn reconcile(&self) -> Result<(), StoreError> {
        for (uuid, last) in self.liveness.fallen_silent() {
            let last = timestamp(last);
            update_server(&*self.store, uuid, |server| {
                server.core.status = ServerStatus::Unknown;
                server.core.last_heartbeat = Some(last.clone());
                true
            })
            .await?;
            tracing::warn!(server = %uuid, last_heartbeat = last, "server is silent");
        }
        Ok(())
    }
}
