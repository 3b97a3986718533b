//! The task engine: accepts tasks from CNAPI, runs them, remembers them (C§5.4).
//!
//! A task's id is run once, however often it is posted. Tasks that change the machine run one
//! after the other; those that only look run beside them. What was running when the agent ended
//! is taken up again when its steps can be repeated, and is a failure otherwise.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headnode_model::event::{Event, StepEvent};
use headnode_model::task::{Task, TaskEvent, TaskRequest, TaskStatus};
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::clock;
use crate::machine::{Machine, SetupRequest};
use crate::metrics::Metrics;
use crate::store::{Record, Store};

/// At most this many tasks wait in each lane; more are refused with 503.
pub const QUEUE_LIMIT: usize = 64;
/// So many finished tasks are remembered.
pub const HISTORY_LIMIT: usize = 200;
/// So many events of one task are kept; progress beyond that only moves its percentage.
pub const EVENTS_LIMIT: usize = 500;
/// How long a finished `server_reboot` waits to be fetched before the machine goes down.
const REBOOT_GRACE: Duration = Duration::from_secs(3);

/// The kinds of tasks that this agent knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nop,
    Sysinfo,
    Setup,
    Reboot,
}

impl Kind {
    const NAMES: [(&'static str, Self); 4] = [
        ("nop", Self::Nop),
        ("server_sysinfo", Self::Sysinfo),
        ("server_setup", Self::Setup),
        ("server_reboot", Self::Reboot),
    ];

    fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Whether it changes the machine, so that it must not run beside another such task.
    fn changes(self) -> bool {
        matches!(self, Self::Setup | Self::Reboot)
    }
}

/// Why a task was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The kind is unknown.
    #[error(
        "there is no task {0:?}; this agent has nop, server_reboot, server_setup and server_sysinfo"
    )]
    Unknown(String),
    /// The parameters do not fit the kind.
    #[error("the parameters of {task} are not usable: {reason}")]
    Params {
        /// The kind.
        task: String,
        /// What does not fit.
        reason: String,
    },
    /// The id belongs to a task of another kind.
    #[error("task id {0} was used before for another task: choose a new one")]
    Conflict(Uuid),
    /// Too many tasks wait.
    #[error("{QUEUE_LIMIT} tasks wait already: try again later")]
    Full,
}

#[derive(Default)]
struct State {
    records: HashMap<Uuid, Record>,
    /// Ids by time of acceptance.
    order: VecDeque<Uuid>,
    /// Waiting ids: of tasks that change the machine, and of others.
    lanes: [VecDeque<Uuid>; 2],
    paused: bool,
}

/// The engine. Cheap to clone; clones share the tasks.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    store: Store,
    machine: Arc<dyn Machine>,
    metrics: Arc<Metrics>,
    /// One per lane: something may be run.
    wake: [Notify; 2],
    /// A finished task was fetched.
    fetched: Notify,
    /// The machine has changed: send sysinfo.
    changed: Arc<Notify>,
}

impl Tasks {
    /// Takes up the stored tasks. `changed` is notified when a task has changed what sysinfo says.
    pub fn new(
        machine: Arc<dyn Machine>,
        store: Store,
        metrics: Arc<Metrics>,
        changed: Arc<Notify>,
    ) -> Self {
        let mut state = State::default();
        for mut record in store.load() {
            let id = record.task.id;
            let kind = Kind::parse(&record.task.task);
            match record.task.status {
                // Its steps can be repeated: it goes on.
                TaskStatus::Active if kind == Some(Kind::Setup) => {
                    record.task.status = TaskStatus::Queued;
                    state.lanes[0].push_back(id);
                }
                TaskStatus::Queued if kind.is_some() => {
                    state.lanes[usize::from(kind.is_some_and(|k| !k.changes()))].push_back(id);
                }
                TaskStatus::Queued | TaskStatus::Active => {
                    fail(&mut record.task, "agent restarted while the task ran; run it again");
                    store.save(&record);
                }
                TaskStatus::Complete | TaskStatus::Failure => {}
            }
            state.order.push_back(id);
            state.records.insert(id, record);
        }
        let tasks = Self(Arc::new(Inner {
            state: Mutex::new(state),
            store,
            machine,
            metrics,
            wake: [Notify::new(), Notify::new()],
            fetched: Notify::new(),
            changed,
        }));
        tasks.forget_old();
        tasks
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a task, or returns the one that has its id already; the flag tells which.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn submit(&self, request: TaskRequest) -> Result<(Task, bool), Refusal> {
        let kind =
            Kind::parse(&request.task).ok_or_else(|| Refusal::Unknown(request.task.clone()))?;
        if kind == Kind::Setup {
            setup_request(&request.params).map_err(|error| Refusal::Params {
                task: request.task.clone(),
                reason: error.to_string(),
            })?;
        }
        let id = request.task_id.unwrap_or_else(Uuid::new_v4);
        let mut state = self.state();
        if let Some(known) = state.records.get(&id) {
            return if known.request.task == request.task {
                Ok((known.task.clone(), false))
            } else {
                Err(Refusal::Conflict(id))
            };
        }
        let lane = usize::from(!kind.changes());
        if state.lanes[lane].len() >= QUEUE_LIMIT {
            return Err(Refusal::Full);
        }
        let task = Task {
            id,
            req_id: request.req_id.clone(),
            server_uuid: self.0.machine.uuid(),
            task: request.task.clone(),
            status: TaskStatus::Queued,
            progress: 0,
            timestamp: clock::now(),
            history: Vec::new(),
            error: None,
        };
        tracing::info!(%id, task = request.task, req_id = request.req_id, "task accepted");
        let record = Record { request, task: task.clone() };
        self.0.store.save(&record);
        state.records.insert(id, record);
        state.order.push_back(id);
        state.lanes[lane].push_back(id);
        drop(state);
        self.0.metrics.tasks_accepted.inc();
        self.0.wake[lane].notify_one();
        Ok((task, true))
    }

    /// A task.
    pub fn get(&self, id: Uuid) -> Option<Task> {
        let task = self.state().records.get(&id).map(|record| record.task.clone());
        if task.as_ref().is_some_and(|task| task.status.is_over()) {
            self.0.fetched.notify_waiters();
        }
        task
    }

    /// All remembered tasks, newest first.
    pub fn history(&self) -> Vec<Task> {
        let state = self.state();
        let newest = state.order.iter().rev();
        newest.filter_map(|id| Some(state.records.get(id)?.task.clone())).collect()
    }

    /// Stops or goes on taking tasks from the queue; a running one runs on. A reboot is done
    /// even so: pausing is what CNAPI does before it reboots a server (C§5.1).
    pub fn set_paused(&self, paused: bool) {
        self.state().paused = paused;
        tracing::info!(paused, "queue");
        self.0.wake.iter().for_each(Notify::notify_one);
    }

    /// How many tasks wait, and whether the queue is paused.
    pub fn waiting(&self) -> (usize, bool) {
        let state = self.state();
        (state.lanes.iter().map(VecDeque::len).sum(), state.paused)
    }

    /// Runs tasks for ever.
    pub async fn run(self) {
        tokio::join!(self.run_lane(0), self.run_lane(1));
    }

    async fn run_lane(&self, lane: usize) {
        loop {
            let Some(id) = self.take(lane) else {
                self.0.wake[lane].notified().await;
                continue;
            };
            self.perform(id).await;
        }
    }

    /// The next task that may run.
    fn take(&self, lane: usize) -> Option<Uuid> {
        let mut state = self.state();
        let paused = state.paused;
        let may_run = |id: &Uuid, state: &State| {
            let reboot = || state.records.get(id).is_some_and(|r| r.task.task == "server_reboot");
            !paused || reboot()
        };
        let place = state.lanes[lane].iter().position(|id| may_run(id, &state))?;
        state.lanes[lane].remove(place)
    }

    async fn perform(&self, id: Uuid) {
        let Some(request) = self.state().records.get(&id).map(|r| r.request.clone()) else {
            return;
        };
        let Some(kind) = Kind::parse(&request.task) else { return };
        self.update(id, |task| {
            task.status = TaskStatus::Active;
            push(task, "start", Value::Null);
        });
        if kind == Kind::Reboot {
            return self.reboot(id).await;
        }
        let engine = self.clone();
        let work = tokio::task::spawn_blocking(move || engine.work(id, kind, &request.params));
        let result =
            work.await.unwrap_or_else(|error| Err(anyhow::anyhow!("the task crashed: {error}")));
        self.finish(id, result);
        if kind == Kind::Setup {
            self.0.changed.notify_one();
        }
    }

    /// The blocking part of a task; gives what its last event tells.
    fn work(&self, id: Uuid, kind: Kind, params: &Value) -> anyhow::Result<Value> {
        match kind {
            Kind::Nop | Kind::Reboot => Ok(Value::Null),
            Kind::Sysinfo => {
                self.0.changed.notify_one();
                Ok(json!({ "sysinfo": self.0.machine.sysinfo() }))
            }
            Kind::Setup => {
                let request = setup_request(params)?;
                let report = |event: Event| self.report(id, event);
                self.0.machine.set_up(&request, &report)?;
                Ok(Value::Null)
            }
        }
    }

    /// Notes an event of a task's step.
    fn report(&self, id: Uuid, event: Event) {
        crate::steps::say(&event);
        self.update(id, |task| {
            let over = matches!(event.what, StepEvent::Done { .. } | StepEvent::Skipped { .. });
            let done = event.index.saturating_sub(usize::from(!over));
            let percent = done.saturating_mul(100) / event.count.max(1);
            // 100 is for a task that is over.
            task.progress = task.progress.max(u8::try_from(percent.min(99)).unwrap_or(99));
            let event = serde_json::to_value(&event).unwrap_or(Value::Null);
            push(task, "event", event);
        });
    }

    /// The answer first, then the reboot: whoever posted the task shall be able to see it end.
    async fn reboot(&self, id: Uuid) {
        let fetched = self.0.fetched.notified();
        self.finish(id, Ok(Value::Null));
        let _ = tokio::time::timeout(REBOOT_GRACE, fetched).await;
        crate::steps::say(&"rebooting, as CNAPI asked");
        let machine = Arc::clone(&self.0.machine);
        let ordered = tokio::task::spawn_blocking(move || machine.reboot()).await;
        let ordered = ordered.unwrap_or_else(|error| Err(anyhow::anyhow!("{error}")));
        if let Err(error) = ordered {
            self.finish(id, Err(error.context("ordering the reboot")));
        }
    }

    fn finish(&self, id: Uuid, result: anyhow::Result<Value>) {
        match &result {
            Ok(_) => self.0.metrics.tasks_complete.inc(),
            Err(_) => self.0.metrics.tasks_failed.inc(),
        };
        self.update(id, |task| match result {
            Ok(event) => {
                task.status = TaskStatus::Complete;
                task.progress = 100;
                push(task, "finish", event);
                tracing::info!(%id, task = task.task, "task complete");
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(%id, task = task.task, error, "task failed");
                fail(task, &error);
            }
        });
        self.forget_old();
    }

    fn update(&self, id: Uuid, change: impl FnOnce(&mut Task)) {
        let mut state = self.state();
        if let Some(record) = state.records.get_mut(&id) {
            change(&mut record.task);
            let record = record.clone();
            // Written without the lock: a slow disk must not hold up answers.
            drop(state);
            self.0.store.save(&record);
        }
    }

    fn forget_old(&self) {
        let mut state = self.state();
        let over = |state: &State, id: &Uuid| {
            state.records.get(id).is_none_or(|record| record.task.status.is_over())
        };
        let count = state.order.iter().filter(|id| over(&state, id)).count();
        for _ in HISTORY_LIMIT..count {
            let Some(place) = state.order.iter().position(|id| over(&state, id)) else { return };
            if let Some(id) = state.order.remove(place) {
                state.records.remove(&id);
                self.0.store.remove(id);
            }
        }
    }
}

/// Reads the parameters of `server_setup`; absent and null ones are the defaults.
///
/// # Errors
/// When a parameter has a wrong type.
pub fn setup_request(params: &Value) -> Result<SetupRequest, serde_json::Error> {
    if params.is_null() {
        return Ok(SetupRequest::default());
    }
    // Null means absent, whatever the parameter.
    let mut params = params.clone();
    if let Value::Object(map) = &mut params {
        map.retain(|_, value| !value.is_null());
    }
    serde_json::from_value(params)
}

fn push(task: &mut Task, name: &str, event: Value) {
    // The last events tell how it ended: one place is kept for them.
    if task.history.len() >= EVENTS_LIMIT && name == "event" {
        return;
    }
    task.history.push(TaskEvent { name: name.to_owned(), timestamp: clock::now(), event });
}

fn fail(task: &mut Task, error: &str) {
    task.status = TaskStatus::Failure;
    task.error = Some(error.to_owned());
    push(task, "error", json!({ "error": error }));
}
