//! What the control plane remembers: servers, tasks, settings. The traits are what the rest of the
//! crate knows; [`open`] gives them on SQLite or PostgreSQL.

mod open;
mod record;
mod sql;

use std::sync::Arc;

use async_trait::async_trait;
use headnode_model::task::Task;
use serde_json::{Map, Value};
use uuid::Uuid;

pub use open::open;
pub use record::{Core, DEFAULT_CONSOLE, DEFAULT_SERIAL, ServerRecord};

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be opened or is of another kind or version.
    #[error("opening database {place}: {reason}")]
    Open {
        /// File or URL without its password.
        place: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The database refused, is damaged, read-only or full.
    #[error("{doing}: {reason}")]
    Query {
        /// What was tried.
        doing: &'static str,
        /// What is wrong and what to do.
        reason: String,
        /// The database's own error.
        source: sqlx::Error,
    },
    /// A document in the database is not understood.
    #[error("reading {what} {id} from the database: {reason}")]
    Document {
        /// `server`, `task` or `setting`.
        what: &'static str,
        /// Its key.
        id: String,
        /// What does not fit.
        reason: String,
    },
    /// Another writer was faster, again and again.
    #[error("changing server {0}: others keep changing it; try again")]
    Contended(Uuid),
}

/// What a list of servers is filtered by, and which of its costly parts are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFilter {
    /// Only these; `None` for all.
    pub uuids: Option<Vec<Uuid>>,
    /// Only with this value.
    pub setup: Option<bool>,
    /// Only with this value.
    pub headnode: Option<bool>,
    /// Only with this value.
    pub reserved: Option<bool>,
    /// Only with this value.
    pub reservoir: Option<bool>,
    /// Only with this host name.
    pub hostname: Option<String>,
    /// At most this many.
    pub limit: Option<u32>,
    /// Leave out this many at the beginning.
    pub offset: Option<u32>,
    /// Read the sysinfo too.
    pub sysinfo: bool,
    /// Read the last status report too.
    pub report: bool,
}

/// Servers.
#[async_trait]
pub trait Servers: Send + Sync {
    /// Servers that match, by UUID.
    async fn list(&self, filter: &ServerFilter) -> Result<Vec<ServerRecord>, StoreError>;
    /// One server with all its parts.
    async fn get(&self, uuid: Uuid) -> Result<Option<ServerRecord>, StoreError>;
    /// Adds a server; `false` when its UUID is there already.
    async fn insert(&self, server: &ServerRecord) -> Result<bool, StoreError>;
    /// Writes `core` and `sysinfo` of a server; `false` when another writer was faster or the
    /// server is gone.
    async fn replace(&self, server: &ServerRecord) -> Result<bool, StoreError>;
    /// Writes a server's last status report; `false` when the server is not there.
    async fn put_report(&self, uuid: Uuid, report: &Map<String, Value>)
    -> Result<bool, StoreError>;
    /// Forgets a server; `false` when it is not there.
    async fn delete(&self, uuid: Uuid) -> Result<bool, StoreError>;
}

/// A task and what it was started with.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// The task as it is shown.
    pub task: Task,
    /// What its job needs to know.
    pub params: Value,
}

/// Tasks.
#[async_trait]
pub trait Tasks: Send + Sync {
    /// One task.
    async fn get_task(&self, id: Uuid) -> Result<Option<TaskRecord>, StoreError>;
    /// Adds a task or writes its new state.
    async fn put_task(&self, record: &TaskRecord) -> Result<(), StoreError>;
    /// Tasks that are not over, oldest first.
    async fn unfinished(&self) -> Result<Vec<TaskRecord>, StoreError>;
    /// Forgets finished tasks but the newest `keep`; returns how many went.
    async fn prune(&self, keep: u32) -> Result<u64, StoreError>;
}

/// Settings: JSON values by name.
#[async_trait]
pub trait Settings: Send + Sync {
    /// A setting.
    async fn get_setting(&self, name: &str) -> Result<Option<Value>, StoreError>;
    /// Writes a setting.
    async fn put_setting(&self, name: &str, value: &Value) -> Result<(), StoreError>;
}

/// All that is remembered.
#[async_trait]
pub trait Store: Servers + Tasks + Settings {
    /// Whether the database answers.
    async fn ping(&self) -> Result<(), StoreError>;
    /// Finishes what is under way and closes the database.
    async fn close(&self);
}

/// The store as the other parts hold it.
pub type SharedStore = Arc<dyn Store>;

/// How often a change is tried when others change the same server.
const TRIES: u32 = 20;

/// Changes a server, whoever else changes it at the same time; `None` when it is not there.
/// `change` may run several times; it returns `false` when there is nothing to write.
///
/// # Errors
/// See [`StoreError`].
pub async fn update_server<F>(
    store: &dyn Store,
    uuid: Uuid,
    change: F,
) -> Result<Option<ServerRecord>, StoreError>
where
    F: Fn(&mut ServerRecord) -> bool + Send + Sync,
{
    for _ in 0..TRIES {
        let Some(mut server) = store.get(uuid).await? else { return Ok(None) };
        if !change(&mut server) || store.replace(&server).await? {
            return Ok(Some(server));
        }
    }
    Err(StoreError::Contended(uuid))
}
