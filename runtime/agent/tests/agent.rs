//! The agent around a made-up machine, against a made-up CNAPI on the loopback.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use headnode_client::{Agent, Cnapi};
use headnode_model::event::Event;
use headnode_model::sysinfo::Sysinfo;
use headnode_model::task::{Task, TaskRequest, TaskStatus};
use sdc_agent::daemon::Service;
use sdc_agent::machine::{Machine, SetupRequest};
use sdc_agent::steps::{Ended, Steps};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use uuid::Uuid;

const SERVER: Uuid = Uuid::from_u128(0x564d_0001);

/// A machine whose setup takes as long as the test wants.
#[derive(Default)]
struct Fake {
    setups: AtomicUsize,
    reboots: AtomicUsize,
    is_setup: std::sync::atomic::AtomicBool,
    /// While locked, setups hang.
    gate: Mutex<()>,
    key: AtomicU32,
}

impl Machine for Fake {
    fn uuid(&self) -> Uuid {
        SERVER
    }

    fn sysinfo(&self) -> Sysinfo {
        let setup = self.is_setup.load(Ordering::SeqCst).to_string();
        Sysinfo { uuid: SERVER, setup: Some(setup), ..Sysinfo::default() }
    }

    fn status(&self) -> Value {
        json!({ "vms": {}, "zpoolStatus": {} })
    }

    fn status_key(&self) -> String {
        self.key.load(Ordering::SeqCst).to_string()
    }

    fn set_up(
        &self,
        request: &SetupRequest,
        report: &(dyn Fn(Event) + Send + Sync),
    ) -> anyhow::Result<()> {
        drop(self.gate.lock().unwrap());
        self.setups.fetch_add(1, Ordering::SeqCst);
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let steps = Steps::new(&["zpool_created"], Arc::new(move |e| sink.lock().unwrap().push(e)));
        let step = steps.begin("zpool_created");
        let result = match request.disk_layout.as_deref() {
            Some("broken") => Err(anyhow::anyhow!("no blank disk for the pool")),
            _ => Ok(Ended::Done("zones".to_owned())),
        };
        let result = step.end(result);
        std::mem::take(&mut *events.lock().unwrap()).into_iter().for_each(report);
        result?;
        self.is_setup.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn reboot(&self) -> anyhow::Result<()> {
        self.reboots.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// What the made-up CNAPI heard, and the status that it answers.
#[derive(Clone)]
struct Heard {
    calls: Arc<Mutex<Vec<(String, Value, tokio::time::Instant)>>>,
    answer: Arc<AtomicU16>,
}

impl Heard {
    fn new() -> Self {
        Self { calls: Arc::default(), answer: Arc::new(AtomicU16::new(204)) }
    }

    fn of(&self, kind: &str) -> Vec<(Value, tokio::time::Instant)> {
        let calls = self.calls.lock().unwrap();
        let of_kind = calls.iter().filter(|call| call.0 == kind);
        of_kind.map(|call| (call.1.clone(), call.2)).collect()
    }

    async fn until(&self, kind: &str, count: usize) {
        until(&format!("{count} calls of {kind}"), || self.of(kind).len() >= count).await;
    }
}

/// Polls until a condition holds; the deadline is by the real clock, as paused time jumps.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waiting for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn cnapi(heard: Heard, listener: TcpListener) {
    async fn note(
        State(heard): State<Heard>,
        UrlPath((uuid, kind)): UrlPath<(Uuid, String)>,
        Json(body): Json<Value>,
    ) -> (StatusCode, Json<Value>) {
        assert_eq!(uuid, SERVER);
        let now = tokio::time::Instant::now();
        heard.calls.lock().unwrap().push((kind, body, now));
        let status = StatusCode::from_u16(heard.answer.load(Ordering::SeqCst)).unwrap();
        (status, Json(json!({ "code": "DuplicateServer", "message": "another server has it" })))
    }
    let app = Router::new()
        .route("/servers/{uuid}/{kind}", post(note))
        .route("/servers/{uuid}/events/{kind}", post(note))
        .with_state(heard);
    axum::serve(listener, app).await.unwrap();
}

struct Running {
    agent: Agent,
    machine: Arc<Fake>,
    heard: Heard,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<anyhow::Result<()>>,
}

async fn start(tasks: &Path, machine: Arc<Fake>) -> Running {
    let heard = Heard::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(cnapi(heard.clone(), listener));
    start_with(tasks, machine, heard, &url).await
}

async fn start_with(tasks: &Path, machine: Arc<Fake>, heard: Heard, url: &str) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = Agent::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let service = Service {
        machine: machine.clone(),
        cnapi: Cnapi::new(url).unwrap(),
        listener,
        tasks: tasks.to_owned(),
    };
    let ended = tokio::spawn(service.run(async move { drop(stopped.await) }, drop));
    Running { agent, machine, heard, stop, ended }
}

impl Running {
    async fn post(
        &self,
        task: &str,
        params: Value,
        id: Uuid,
    ) -> Result<Uuid, headnode_client::Error> {
        let request =
            TaskRequest { task: task.to_owned(), params, task_id: Some(id), req_id: None };
        self.agent.post_task(&request).await
    }

    async fn wait_over(&self, id: Uuid) -> Task {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let task = self.agent.get_task(id).await.unwrap().unwrap();
            if task.status.is_over() {
                return task;
            }
            assert!(std::time::Instant::now() < deadline, "task is {:?}", task.status);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        drop(self.stop);
        self.ended.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn it_registers_then_beats_and_reports_its_status() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), Arc::default()).await;
    running.heard.until("heartbeat", 1).await;
    running.heard.until("status", 1).await;
    let sysinfo = &running.heard.of("sysinfo")[0].0["sysinfo"];
    assert_eq!(sysinfo["UUID"], SERVER.to_string());
    assert!(running.heard.of("status")[0].0["timestamp"].is_string());
    running.end().await;
}

#[tokio::test]
async fn an_absent_cnapi_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    // A port that nobody listens on yet, and that nobody else can take.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.local_addr().unwrap();
    let heard = Heard::new();
    let url = format!("http://{address}");
    let running = start_with(folder.path(), Arc::default(), heard.clone(), &url).await;
    // It serves while CNAPI is away.
    let id = Uuid::from_u128(1);
    running.post("nop", Value::Null, id).await.unwrap();
    assert_eq!(running.wait_over(id).await.status, TaskStatus::Complete);
    let listener = taken.listen(16).unwrap();
    tokio::spawn(cnapi(heard.clone(), listener));
    heard.until("heartbeat", 1).await;
    running.end().await;
}

#[tokio::test]
async fn a_refused_server_does_not_beat_and_a_forgotten_one_registers_again() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), Arc::default()).await;
    running.heard.until("heartbeat", 1).await;
    running.heard.answer.store(404, Ordering::SeqCst);
    running.heard.until("sysinfo", 3).await;
    running.heard.answer.store(409, Ordering::SeqCst);
    let sent = running.heard.of("sysinfo").len();
    running.heard.until("sysinfo", sent + 1).await;
    let beats = running.heard.of("heartbeat").len();
    let sent = running.heard.of("sysinfo").len();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(running.heard.of("heartbeat").len(), beats);
    assert!(running.heard.of("sysinfo").len() <= sent + 1, "a refused server asks slowly");
    running.end().await;
}

#[tokio::test]
async fn a_task_is_run_once_and_setup_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), Arc::default()).await;
    running.heard.until("sysinfo", 1).await;
    let id = Uuid::from_u128(2);
    for _ in 0..3 {
        assert_eq!(
            running.post("server_setup", json!({ "disk_layout": null }), id).await.unwrap(),
            id
        );
    }
    let task = running.wait_over(id).await;
    assert_eq!((task.status, task.progress), (TaskStatus::Complete, 100));
    assert_eq!(running.machine.setups.load(Ordering::SeqCst), 1);
    let names: Vec<_> = task.history.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["start", "event", "event", "finish"]);
    assert_eq!(task.history[2].event["step"], "zpool_created");
    // Long before the minute is over.
    running.heard.until("sysinfo", 2).await;
    assert_eq!(running.heard.of("sysinfo")[1].0["sysinfo"]["Setup"], "true");
    let conflict = running.post("nop", Value::Null, id).await.unwrap_err();
    assert_eq!(conflict.status(), Some(409));
    running.end().await;
}

#[tokio::test]
async fn failures_and_wrong_requests_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), Arc::default()).await;
    let id = Uuid::from_u128(3);
    running.post("server_setup", json!({ "disk_layout": "broken" }), id).await.unwrap();
    let task = running.wait_over(id).await;
    assert_eq!(task.status, TaskStatus::Failure);
    assert_eq!(task.error.as_deref(), Some("no blank disk for the pool"));
    let unknown = running.post("make_coffee", Value::Null, Uuid::from_u128(4)).await.unwrap_err();
    assert_eq!((unknown.status(), unknown.code()), (Some(404), Some("ResourceNotFound")));
    let params = json!({ "pool_disks": "sda" });
    let wrong = running.post("server_setup", params, Uuid::from_u128(5)).await.unwrap_err();
    assert_eq!(wrong.code(), Some("InvalidParameters"));
    assert_eq!(running.agent.get_task(Uuid::from_u128(6)).await.unwrap(), None);
    running.end().await;
}

#[tokio::test]
async fn a_reboot_is_answered_before_it_happens() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), Arc::default()).await;
    let http = reqwest::Client::new();
    let pause = format!("{}/pause", running.agent.base_url());
    assert_eq!(http.post(&pause).send().await.unwrap().status(), 204);
    let nop = Uuid::from_u128(7);
    running.post("server_setup", Value::Null, nop).await.unwrap();
    let id = Uuid::from_u128(8);
    running.post("server_reboot", Value::Null, id).await.unwrap();
    assert_eq!(running.wait_over(id).await.status, TaskStatus::Complete);
    let machine = Arc::clone(&running.machine);
    until("the reboot", || machine.reboots.load(Ordering::SeqCst) == 1).await;
    // The paused queue holds everything else.
    let held = running.agent.get_task(nop).await.unwrap().unwrap();
    assert_eq!(held.status, TaskStatus::Queued);
    let resume = format!("{}/resume", running.agent.base_url());
    http.post(&resume).send().await.unwrap();
    assert_eq!(running.wait_over(nop).await.status, TaskStatus::Complete);
    let history: Vec<Task> = http
        .get(format!("{}/history", running.agent.base_url()))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(history.iter().map(|t| t.id).collect::<Vec<_>>(), [id, nop]);
    let metrics = http.get(format!("{}/metrics", running.agent.base_url()));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("sdc_agent_tasks_complete_total 2"), "{metrics}");
    running.end().await;
}

/// The agent ends while a setup runs; the next one takes it up again, and remembers what was done.
#[test]
fn tasks_survive_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let (done, cut) = (Uuid::from_u128(9), Uuid::from_u128(10));
    let machine = Arc::new(Fake::default());
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    };
    let first = runtime();
    let held = machine.gate.lock().unwrap();
    first.block_on(async {
        let running = start(folder.path(), Arc::clone(&machine)).await;
        running.post("nop", Value::Null, done).await.unwrap();
        running.wait_over(done).await;
        running.post("server_setup", Value::Null, cut).await.unwrap();
        let agent = running.agent.clone();
        loop {
            let task = agent.get_task(cut).await.unwrap().unwrap();
            if task.status == TaskStatus::Active {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // As a power cut: nothing is told.
        running.ended.abort();
    });
    // A power cut leaves this on disk, whatever the old process does later.
    let survivor = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, survivor.path().join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(survivor.path().join("torn.json"), "{\"request\":").unwrap();
    first.shutdown_background();
    drop(held);
    let fresh = Arc::new(Fake::default());
    runtime().block_on(async {
        let running = start(survivor.path(), fresh).await;
        let task = running.agent.get_task(done).await.unwrap().unwrap();
        assert_eq!(task.status, TaskStatus::Complete);
        assert_eq!(running.wait_over(cut).await.status, TaskStatus::Complete);
        assert_eq!(running.machine.setups.load(Ordering::SeqCst), 1);
        running.end().await;
    });
}

/// Cadence under tokio's own clock: no call is real, so a minute passes at once.
#[tokio::test(start_paused = true)]
async fn heartbeats_come_every_five_seconds_and_status_once_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Arc::new(Fake::default());
    let running = start(folder.path(), Arc::clone(&machine)).await;
    let begun = tokio::time::Instant::now();
    // The loopback is real while the clock is not, so the clock runs ahead by what calls take;
    // only lower bounds are exact.
    while begun.elapsed() < Duration::from_secs(180) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let gaps = |kind: &str| {
        let calls = running.heard.of(kind);
        calls.windows(2).map(|pair| pair[1].1 - pair[0].1).collect::<Vec<_>>()
    };
    let beats = gaps("heartbeat");
    assert!(beats.len() >= 12, "{beats:?}");
    assert!(beats.iter().all(|gap| *gap >= Duration::from_millis(4900)), "{beats:?}");
    assert!(gaps("status").iter().all(|gap| *gap >= Duration::from_secs(50)));
    assert!(gaps("sysinfo").iter().all(|gap| *gap >= Duration::from_secs(55)));
    assert!((2..=4).contains(&running.heard.of("sysinfo").len()));
    let before = running.heard.of("status").len();
    machine.key.store(1, Ordering::SeqCst);
    let changed = tokio::time::Instant::now();
    while running.heard.of("status").len() == before {
        assert!(changed.elapsed() < Duration::from_secs(30), "a change is told soon");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    running.end().await;
}
