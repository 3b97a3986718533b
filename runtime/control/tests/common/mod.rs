//! A control plane on an ephemeral loopback port, and a machine with an agent to go with it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod process;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use headnode_client::Cnapi;
use headnode_model::config::{Config, Headnode};
use sdc_control::jobs::Limits;
use sdc_control::service::Service;
use sdc_control::store;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const CONFIG: &str = "datacenter_name=test-dc\ndns_domain=example.com\n\
    admin_nic=02:00:00:00:00:01\nadmin_ip=127.0.0.1\nadmin_netmask=255.0.0.0\n\
    dhcp_range_start=127.0.0.10\ndhcp_range_end=127.0.0.20\n";

pub fn site() -> Headnode {
    Config::parse(CONFIG).unwrap().headnode().unwrap()
}

pub struct Control {
    pub url: String,
    pub cnapi: Cnapi,
    pub http: reqwest::Client,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Control {
    /// On the database and platforms in `folder`.
    pub async fn start(folder: &Path) -> Self {
        let limits = Limits {
            poll: Duration::from_millis(20),
            contact: Duration::from_millis(1500),
            setup: Duration::from_secs(20),
            reboot: Duration::from_secs(20),
        };
        Self::start_with(folder, limits).await
    }

    pub async fn start_with(folder: &Path, limits: Limits) -> Self {
        let store = store::open(folder.join("control.db").to_str().unwrap()).await.unwrap();
        let service = Service { store, site: site(), platforms: folder.join("os"), limits };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            service.run(listener, stopped, || {}).await.unwrap();
        });
        let cnapi = Cnapi::new(&url).unwrap();
        Self { url, cnapi, http: reqwest::Client::new(), stop, running }
    }

    pub async fn stop(self) {
        drop((self.cnapi, self.http));
        self.stop.cancel();
        self.running.await.unwrap();
    }

    /// Status and body of a call.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        (status, body)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, None).await
    }
}

/// What the agent knows of a task, and how its machine behaves.
#[derive(Default)]
pub struct AgentState {
    pub tasks: HashMap<Uuid, Value>,
    pub requests: Vec<Value>,
}

/// A machine's agent.
pub struct FakeAgent {
    pub address: SocketAddr,
    pub state: Arc<Mutex<AgentState>>,
    running: JoinHandle<()>,
}

impl FakeAgent {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(AgentState::default()));
        let router = Router::new()
            .route("/tasks", post(accept))
            .route("/tasks/{id}", get(show))
            .with_state(Arc::clone(&state));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state, running }
    }

    pub fn requests(&self) -> Vec<Value> {
        self.state.lock().unwrap().requests.clone()
    }

    /// Sets status, progress, history and error of a task.
    pub fn set(&self, id: Uuid, status: &str, events: usize, error: Option<&str>) {
        let history: Vec<_> = (0..events)
            .map(|i| json!({"name": "event", "timestamp": "2026-01-01T00:00:00Z", "event": {"i": i}}))
            .collect();
        let mut state = self.state.lock().unwrap();
        let task = state.tasks.get_mut(&id).unwrap();
        task["status"] = status.into();
        task["progress"] = json!(events * 10);
        task["history"] = history.into();
        if let Some(error) = error {
            task["error"] = error.into();
        }
    }

    pub fn forget(&self) {
        self.state.lock().unwrap().tasks.clear();
    }

    pub async fn given(&self, count: usize) -> Uuid {
        eventually("the agent to be given the task", async || {
            let requests = self.requests();
            (requests.len() >= count)
                .then(|| requests[count - 1]["task_id"].as_str().unwrap().parse().unwrap())
        })
        .await
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.running.abort();
    }
}

type Shared = State<Arc<Mutex<AgentState>>>;

async fn accept(State(state): Shared, Json(request): Json<Value>) -> (StatusCode, Json<Value>) {
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let id: Uuid = request["task_id"].as_str().unwrap().parse().unwrap();
    let task = json!({
        "id": id, "server_uuid": Uuid::nil(), "task": request["task"], "status": "queued",
        "progress": 0, "timestamp": "2026-01-01T00:00:00Z", "history": [],
    });
    let task = state.tasks.entry(id).or_insert(task).clone();
    (StatusCode::ACCEPTED, Json(task))
}

async fn show(
    State(state): Shared,
    UrlPath(id): UrlPath<Uuid>,
) -> Result<Json<Value>, (StatusCode, Json<Value>)> {
    match state.lock().unwrap().tasks.get(&id) {
        Some(task) => Ok(Json(task.clone())),
        None => {
            let body = json!({"code": "ResourceNotFound", "message": "no such task"});
            Err((StatusCode::NOT_FOUND, Json(body)))
        }
    }
}

/// Looks until there is something, for at most ten seconds.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(Duration::from_secs(10), what, &mut look).await
}

pub async fn eventually_within<T>(
    limit: Duration,
    what: &str,
    look: &mut impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn uuid(n: u8) -> Uuid {
    Uuid::from_bytes([0x5f, 0x3a, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, n])
}

/// A machine's sysinfo.
pub fn sysinfo(n: u8, agent: Option<SocketAddr>) -> Value {
    let mut sysinfo = json!({
        "UUID": uuid(n),
        "Hostname": format!("02-00-00-00-01-{n:02x}"),
        "Live Image": "20260101T000000Z",
        "System Type": "Linux",
        "Boot Time": "1767225600",
        "Setup": "false",
        "MiB of Memory": "2048",
        "CPU Total Cores": 4,
        "Admin IP": "127.0.0.30",
        "SDC Agents": [{"name": "sdc-agent", "version": "0.1.0"}],
        "Boot Parameters": {"hostname": "x"},
        "Network Interfaces": {
            "eth0": {"MAC Address": format!("02:00:00:00:01:{n:02x}"), "ip4addr": "127.0.0.30",
                     "Link Status": "up", "NIC Names": ["admin"]},
            "eth1": {"MAC Address": format!("02:00:00:00:02:{n:02x}"), "ip4addr": "",
                     "Link Status": "down", "NIC Names": []},
        },
    });
    if let Some(agent) = agent {
        sysinfo["CN Agent IP"] = agent.ip().to_string().into();
        sysinfo["CN Agent Port"] = agent.port().into();
    }
    sysinfo
}

pub async fn register(control: &Control, sysinfo: Value) -> (u16, Value) {
    let path = format!("/servers/{}/sysinfo", sysinfo["UUID"].as_str().unwrap());
    control.call("POST", &path, Some(json!({ "sysinfo": sysinfo }))).await
}

pub fn platform(folder: &Path, stamp: &str, kernel: &str) {
    let kernel = folder.join("os").join(stamp).join("platform").join(kernel);
    std::fs::create_dir_all(kernel.parent().unwrap()).unwrap();
    std::fs::write(kernel, "").unwrap();
}
