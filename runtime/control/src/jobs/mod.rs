//! Jobs: work on a server that outlives a request. A job is a task of the server's agent with the
//! same id; its state is in the store, so a restart of ours continues it.

mod reboot;
mod setup;

use std::sync::Arc;
use std::time::Duration;

use headnode_client::{Agent, Timeouts};
use headnode_model::server::ServerStatus;
use headnode_model::task::{Task, TaskEvent, TaskStatus};
use headnode_model::timing;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::fleet::{Fleet, now};
use crate::store::{ServerFilter, ServerRecord, StoreError, TaskRecord, update_server};

/// Kind of the job that sets a server up.
pub const SERVER_SETUP: &str = "server_setup";
/// Kind of the job that reboots a server.
pub const SERVER_REBOOT: &str = "server_reboot";
/// Finished tasks that are kept.
const KEEP_TASKS: u32 = 1000;

/// How patient jobs are.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Pause between two looks at an agent's task.
    pub poll: Duration,
    /// How long an agent may be silent while it runs a task.
    pub contact: Duration,
    /// How long a setup may take.
    pub setup: Duration,
    /// How long a machine may take to come back: servers with much memory test it for minutes.
    pub reboot: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(500),
            contact: Duration::from_secs(120),
            setup: timing::SERVER_SETUP_LIMIT,
            reboot: Duration::from_secs(1800),
        }
    }
}

/// Why a job was not begun.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No such server.
    #[error("server {0} is not registered")]
    NotFound(Uuid),
    /// Something else goes on with the server.
    #[error("{0}")]
    Busy(String),
    /// The server cannot be reached.
    #[error("{0}")]
    Unavailable(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs jobs. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    fleet: Arc<Fleet>,
    limits: Limits,
    /// Grows with each change of a task.
    changed: watch::Sender<u64>,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Held while a job is begun, so that a server never has two.
    starting: Mutex<()>,
}

impl Jobs {
    /// A runner that works until `stop`.
    pub fn new(fleet: Arc<Fleet>, limits: Limits, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            fleet,
            limits,
            changed: watch::Sender::new(0),
            tracker: TaskTracker::new(),
            stop,
            starting: Mutex::new(()),
        }))
    }

    /// Continues the jobs that a stop has interrupted, and frees servers whose job was never
    /// written down.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn resume(&self) -> Result<(), StoreError> {
        let store = &self.0.fleet.store;
        store.prune(KEEP_TASKS).await?;
        let unfinished = store.unfinished().await?;
        for server in store.list(&ServerFilter::default()).await? {
            let runs = |kind| {
                unfinished.iter().any(|r| r.task.server_uuid == server.uuid && r.task.task == kind)
            };
            let (setup, reboot) = (runs(SERVER_SETUP), runs(SERVER_REBOOT));
            if (server.core.setting_up && !setup)
                || (!server.core.transitional_status.is_empty() && !reboot)
            {
                update_server(&**store, server.uuid, |server| {
                    server.core.setting_up &= setup;
                    if !reboot {
                        server.core.transitional_status.clear();
                    }
                    true
                })
                .await?;
            }
        }
        for record in unfinished {
            tracing::info!(task = %record.task.id, kind = record.task.task, "resuming job");
            self.spawn(record);
        }
        Ok(())
    }

    /// Waits until the running jobs have stopped where they can be continued.
    pub async fn stopped(&self) {
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }

    /// Begins a setup and returns the job's id; that of the running job when there is one. `None`
    /// when the server is set up already.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn setup(
        &self,
        uuid: Uuid,
        params: Value,
        req_id: Option<String>,
    ) -> Result<Option<Uuid>, StartError> {
        let _starting = self.0.starting.lock().await;
        let server = self.reachable(uuid).await?;
        if server.core.setup {
            return Ok(None);
        }
        if let Some(id) = self.running(&server, SERVER_SETUP).await? {
            return Ok(Some(id));
        }
        self.begin(&server, SERVER_SETUP, params, req_id, |server| server.core.setting_up = true)
            .await
            .map(Some)
    }

    /// Begins a reboot and returns the job's id; that of the running job when there is one.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn reboot(&self, uuid: Uuid, req_id: Option<String>) -> Result<Uuid, StartError> {
        let _starting = self.0.starting.lock().await;
        let server = self.reachable(uuid).await?;
        if let Some(id) = self.running(&server, SERVER_REBOOT).await? {
            return Ok(id);
        }
        let params = json!({ "boot_time": server.core.boot_time, "sent": false });
        self.begin(&server, SERVER_REBOOT, params, req_id, |server| {
            server.core.transitional_status = "rebooting".to_owned();
        })
        .await
    }

    /// A task once it is over, or as it is after `limit`; `None` when there is no such task.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn wait(&self, id: Uuid, limit: Duration) -> Result<Option<TaskRecord>, StoreError> {
        let mut changed = self.0.changed.subscribe();
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let record = self.0.fleet.store.get_task(id).await?;
            if record.as_ref().is_none_or(|record| record.task.status.is_over()) {
                return Ok(record);
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(record),
                () = self.0.stop.cancelled() => return Ok(record),
            }
        }
    }

    async fn reachable(&self, uuid: Uuid) -> Result<ServerRecord, StartError> {
        let server = self.0.fleet.store.get(uuid).await?.ok_or(StartError::NotFound(uuid))?;
        let name = server.core.wanted_hostname();
        if server.core.agent_url.is_none() {
            return Err(StartError::Unavailable(format!(
                "the agent of {name} has told no address on the admin network {}: look at \
                 `journalctl -u sdc-agent` on that machine",
                self.0.fleet.site.admin_net.trunc()
            )));
        }
        if self.0.fleet.status(&server) == ServerStatus::Unknown {
            let last = self.0.fleet.last_heartbeat(&server);
            return Err(StartError::Unavailable(format!(
                "{name} is not running: its last heartbeat came {}",
                last.as_deref().unwrap_or("never")
            )));
        }
        Ok(server)
    }

    /// The id of the server's running job when it is of this kind.
    async fn running(&self, server: &ServerRecord, kind: &str) -> Result<Option<Uuid>, StartError> {
        let unfinished = self.0.fleet.store.unfinished().await?;
        match unfinished.into_iter().find(|record| record.task.server_uuid == server.uuid) {
            None => Ok(None),
            Some(record) if record.task.task == kind => Ok(Some(record.task.id)),
            Some(record) => Err(StartError::Busy(format!(
                "task {} ({}) runs on {}: wait until it is over",
                record.task.id,
                record.task.task,
                server.core.wanted_hostname()
            ))),
        }
    }

    async fn begin(
        &self,
        server: &ServerRecord,
        kind: &str,
        params: Value,
        req_id: Option<String>,
        mark: fn(&mut ServerRecord),
    ) -> Result<Uuid, StartError> {
        let task = Task {
            id: Uuid::new_v4(),
            req_id,
            server_uuid: server.uuid,
            task: kind.to_owned(),
            status: TaskStatus::Queued,
            progress: 0,
            timestamp: now(),
            history: vec![],
            error: None,
        };
        let record = TaskRecord { task, params };
        let id = record.task.id;
        let store = &*self.0.fleet.store;
        // The task first: a mark without a task is taken away at the next start.
        store.put_task(&record).await?;
        update_server(store, server.uuid, |server| {
            mark(server);
            true
        })
        .await?;
        tracing::info!(task = %id, kind, server = %server.uuid, "job begins");
        self.spawn(record);
        Ok(id)
    }

    fn spawn(&self, record: TaskRecord) {
        let jobs = self.clone();
        self.0.tracker.spawn(async move {
            let stop = jobs.0.stop.clone();
            stop.run_until_cancelled(jobs.run(record)).await;
        });
    }

    async fn run(&self, record: TaskRecord) {
        let mut job = Job { inner: &self.0, record };
        let req_id =
            job.record.task.req_id.clone().unwrap_or_else(|| job.record.task.id.to_string());
        headnode_client::with_request_id(req_id, async {
            let result = match job.record.task.task.as_str() {
                SERVER_SETUP => setup::run(&mut job).await,
                SERVER_REBOOT => reboot::run(&mut job).await,
                other => Err(format!("this version knows no job {other:?}").into()),
            };
            let id = job.record.task.id;
            if let Err(error) = job.finish(result.map_err(|Failure(reason)| reason)).await {
                // The task stays unfinished in the store and is continued at the next start.
                tracing::error!(task = %id, %error, "writing a job's end");
            }
        })
        .await;
    }
}

/// Why a job failed, for people.
struct Failure(String);

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self(reason)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

impl From<headnode_client::Error> for Failure {
    fn from(error: headnode_client::Error) -> Self {
        Self(error.to_string())
    }
}

/// A job that runs.
struct Job<'a> {
    inner: &'a Inner,
    record: TaskRecord,
}

impl Job<'_> {
    /// The server, with its present agent address.
    async fn server(&self) -> Result<ServerRecord, Failure> {
        let uuid = self.record.task.server_uuid;
        let server = self.inner.fleet.store.get(uuid).await?;
        server.ok_or_else(|| format!("server {uuid} was deleted meanwhile").into())
    }

    async fn agent(&self) -> Result<Agent, Failure> {
        let server = self.server().await?;
        let url = server.core.agent_url.ok_or_else(|| {
            let name = server.core.hostname;
            Failure(format!("the agent of {name} has told no address on the admin network"))
        })?;
        let timeouts = Timeouts { connect: Duration::from_secs(3), total: Duration::from_secs(10) };
        Ok(Agent::with_timeouts(&url, timeouts)?)
    }

    /// Writes the task's state and wakes those who wait for it.
    async fn save(&self) -> Result<(), StoreError> {
        self.inner.fleet.store.put_task(&self.record).await?;
        self.inner.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Takes over the state of the agent's task; returns whether something is new.
    fn take(&mut self, theirs: Task) -> bool {
        let ours = &mut self.record.task;
        // The end is ours to tell, after the server's record is written.
        let status = if theirs.status.is_over() { TaskStatus::Active } else { theirs.status };
        let new = (status, theirs.progress, theirs.history.len())
            != (ours.status, ours.progress, ours.history.len());
        (ours.status, ours.progress, ours.history) = (status, theirs.progress, theirs.history);
        new
    }

    async fn finish(&mut self, result: Result<(), String>) -> Result<(), StoreError> {
        let (uuid, kind) = (self.record.task.server_uuid, self.record.task.task.clone());
        let ok = result.is_ok();
        let hostname = self.record.params.get("hostname").and_then(Value::as_str);
        update_server(&*self.inner.fleet.store, uuid, |server| {
            if kind == SERVER_SETUP {
                server.core.setting_up = false;
                server.core.setup |= ok;
                if let (true, Some(hostname)) = (ok, hostname) {
                    server.core.assigned_hostname = Some(hostname.to_owned());
                }
            } else {
                server.core.transitional_status.clear();
            }
            true
        })
        .await?;
        let task = &mut self.record.task;
        match result {
            Ok(()) => {
                task.status = TaskStatus::Complete;
                task.progress = 100;
                tracing::info!(task = %task.id, kind, server = %uuid, "job done");
            }
            Err(reason) => {
                tracing::error!(task = %task.id, kind, server = %uuid, reason, "job failed");
                task.status = TaskStatus::Failure;
                let event = json!({ "error": reason });
                task.history.push(TaskEvent { name: "error".to_owned(), timestamp: now(), event });
                task.error = Some(reason);
            }
        }
        self.save().await?;
        self.inner.fleet.store.prune(KEEP_TASKS).await?;
        Ok(())
    }
}
