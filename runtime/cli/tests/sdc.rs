//! The command as an operator types it, against a CNAPI that answers from a script.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};

/// Answers by `METHOD PATH`, several one after the other; the last one stays.
type Script = Arc<Mutex<HashMap<String, Vec<(u16, Value)>>>>;

struct Fake {
    url: String,
    script: Script,
    /// Keeps the server running.
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let script = Script::default();
        let shared = Arc::clone(&script);
        let router = Router::new().fallback(move |request: Request| {
            let answer = answer(&shared, &request);
            async move { answer }
        });
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, script, _runtime: runtime }
    }

    fn on(&self, call: &str, status: u16, body: Value) -> &Self {
        self.script.lock().unwrap().entry(call.to_owned()).or_default().push((status, body));
        self
    }

    /// Exit code, standard output and error of `sdc ARGS`.
    fn sdc(&self, args: &[&str]) -> (i32, String, String) {
        sdc(&self.url, args)
    }
}

fn answer(script: &Script, request: &Request) -> Response {
    let call = format!("{} {}", request.method(), request.uri().path());
    let mut script = script.lock().unwrap();
    match script.get_mut(&call) {
        Some(answers) => {
            let (status, body) =
                if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
            (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
        }
        None => {
            let body = json!({"code": "ResourceNotFound", "message": format!("{call} is not in the script")});
            (StatusCode::NOT_FOUND, Json(body)).into_response()
        }
    }
}

fn sdc(url: &str, args: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("sdc")
        .unwrap()
        .args(["--cnapi-url", url])
        .args(args)
        .timeout(std::time::Duration::from_secs(30))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const HEADNODE: &str = "10000000-0000-4000-8000-000000000001";
const NODE: &str = "20000000-0000-4000-8000-000000000002";
const OTHER: &str = "20000000-0000-4000-8000-000000000003";
const TASK: &str = "30000000-0000-4000-8000-000000000001";

fn server(uuid: &str, hostname: &str, headnode: bool, setup: bool) -> Value {
    json!({
        "uuid": uuid, "hostname": hostname, "datacenter": "coal", "headnode": headnode,
        "setup": setup, "setting_up": false, "status": "running", "boot_platform": "20260101T000000Z",
        "current_platform": "20260101T000000Z", "default_console": "serial", "serial": "ttyb",
        "created": "2026-01-01T00:00:00.000Z", "ram": 2048, "reservation_ratio": 0.15,
        "reserved": false, "reservoir": false, "system_type": "Linux",
        "sysinfo": {"UUID": uuid, "Hostname": hostname, "Admin IP": "10.99.99.7"},
    })
}

fn room(fake: &Fake) {
    let servers = json!([
        server(NODE, "node1", false, false),
        server(OTHER, "node2", false, false),
        server(HEADNODE, "headnode", true, true),
    ]);
    fake.on("GET /servers", 200, servers);
}

fn step(index: usize, step: &str, what: Value) -> Value {
    let mut event =
        json!({"time": "2026-01-01T00:00:00Z", "step": step, "index": index, "count": 2});
    event.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
    json!({"name": "event", "timestamp": "2026-01-01T00:00:00Z", "event": event})
}

fn task(status: &str, history: Vec<Value>, error: Option<&str>) -> Value {
    json!({"id": TASK, "server_uuid": NODE, "task": "server_setup", "status": status,
        "progress": 50, "timestamp": "2026-01-01T00:00:00.000Z", "history": history, "error": error})
}

#[test]
fn servers_are_listed_headnode_first() {
    let fake = Fake::start();
    room(&fake);
    let (code, out, err) = fake.sdc(&["server", "list"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = "\
HOSTNAME  UUID                                  STATUS   SETUP  HEADNODE  RAM   CURRENT_PLATFORM  ADMIN_IP
headnode  10000000-0000-4000-8000-000000000001  running  yes    yes       2048  20260101T000000Z  10.99.99.7
node1     20000000-0000-4000-8000-000000000002  running  no     no        2048  20260101T000000Z  10.99.99.7
node2     20000000-0000-4000-8000-000000000003  running  no     no        2048  20260101T000000Z  10.99.99.7
";
    assert_eq!(out, expected);
    let (_, out, _) = fake.sdc(&["server", "list", "-H", "-o", "hostname,sysinfo.Hostname"]);
    assert_eq!(out, "headnode  headnode\nnode1     node1\nnode2     node2\n");
    let (_, out, _) = fake.sdc(&["server", "list", "--json"]);
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list[0]["hostname"], "headnode");
    let (code, _, err) = fake.sdc(&["server", "list", "-o", "hostnam"]);
    assert_eq!(code, 2);
    assert!(err.contains("no server has a field \"hostnam\""), "{err}");
}

#[test]
fn a_server_is_named_in_three_ways() {
    let fake = Fake::start();
    room(&fake);
    fake.on(&format!("GET /servers/{NODE}"), 200, server(NODE, "node1", false, false));
    fake.on(&format!("GET /servers/{HEADNODE}"), 200, server(HEADNODE, "headnode", true, true));
    for name in [HEADNODE, "headnode", "1000", "10000000-0000"] {
        assert_eq!(fake.sdc(&["server", "get", name, "-o", "hostname"]).1, "headnode\n", "{name}");
    }
    let (_, out, _) = fake.sdc(&["server", "get", "node1"]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["uuid"], NODE);
    let (_, out, _) = fake.sdc(&["server", "get", "node1", "-o", "sysinfo.Admin IP"]);
    assert_eq!(out, "10.99.99.7\n");
    let (code, _, err) = fake.sdc(&["server", "get", "2000"]);
    assert_eq!(code, 2);
    assert!(err.contains(&format!("  {NODE} node1")) && err.contains(OTHER), "{err}");
    let (code, _, err) = fake.sdc(&["server", "get", "nobody"]);
    assert_eq!(code, 3);
    assert!(err.starts_with("sdc: there is no server \"nobody\""), "{err}");
    assert_eq!(fake.sdc(&["server", "get", OTHER]).0, 3);
}

#[test]
fn a_setup_shows_its_steps() {
    let fake = Fake::start();
    room(&fake);
    fake.on(&format!("PUT /servers/{NODE}/setup"), 202, json!({"id": TASK, "job_uuid": TASK}));
    let started = step(1, "pool_created", json!({"event": "started"}));
    let done = step(
        1,
        "pool_created",
        json!({"event": "done", "result": "zones, mirror of 2 disks", "elapsed_ms": 1200}),
    );
    fake.on(&format!("GET /tasks/{TASK}"), 200, task("active", vec![started.clone()], None))
        .on(
            &format!("GET /tasks/{TASK}"),
            200,
            task("active", vec![started.clone(), done.clone()], None),
        )
        .on(&format!("GET /tasks/{TASK}"), 200, task("complete", vec![started, done], None));
    let (code, out, err) = fake.sdc(&["server", "setup", "node1", "--wait"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "[ 1/2] pool_created: started\n\
         [ 1/2] pool_created: done in 1.2 s: zones, mirror of 2 disks\n\
         setup of node1: done\n"
    );
    let (code, out, _) = fake.sdc(&["server", "setup", "node1"]);
    assert_eq!((code, out), (0, format!("setup of node1 begins; sdc task watch {TASK}\n")));
}

#[test]
fn a_room_is_set_up_at_once_and_failures_are_counted() {
    let fake = Fake::start();
    let mut servers =
        vec![server(NODE, "node1", false, false), server(OTHER, "node2", false, false)];
    let mut asleep = server(HEADNODE, "node3", false, false);
    asleep["status"] = "unknown".into();
    servers.push(asleep);
    fake.on("GET /servers", 200, servers.into());
    fake.on(&format!("PUT /servers/{NODE}/setup"), 202, json!({"id": TASK}));
    let busy = json!({"code": "ServerBusy", "message": "task 1 runs on node2"});
    fake.on(&format!("PUT /servers/{OTHER}/setup"), 409, busy);
    fake.on(&format!("GET /tasks/{TASK}"), 200, task("complete", vec![], None));
    let (code, out, err) = fake.sdc(&["server", "setup", "--all", "--wait"]);
    assert_eq!(code, 1);
    assert!(err.contains("node3") && err.contains("is left out"), "{err}");
    assert!(err.ends_with("sdc: 1 of 2 setups failed\n"), "{err}");
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("HOSTNAME"), "{out}");
    assert!(
        lines[1].starts_with("node1") && lines[1].ends_with("ok      setup of node1: done"),
        "{out}"
    );
    assert!(lines[2].starts_with("node2") && lines[2].contains("FAILED"), "{out}");
}

#[test]
fn a_failed_task_tells_why() {
    let fake = Fake::start();
    let error = Some("no usable disk");
    fake.on(&format!("GET /tasks/{TASK}"), 200, task("failure", vec![], error));
    let (code, _, err) = fake.sdc(&["task", "watch", TASK]);
    assert_eq!(code, 1);
    assert!(err.starts_with("sdc: server_setup failed: no usable disk"), "{err}");
    let (code, out, _) = fake.sdc(&["task", "get", TASK]);
    assert_eq!(code, 0);
    assert!(out.contains("failure, 50 %") && out.contains("error: no usable disk"), "{out}");
    assert_eq!(fake.sdc(&["task", "get", NODE]).0, 3);
}

#[test]
fn platforms_and_boot_parameters() {
    let fake = Fake::start();
    room(&fake);
    let boot = json!({"platform": "20260101T000000Z", "kernel_args": {"a": "1"}});
    fake.on("GET /platforms", 200, json!({"20260101T000000Z": {"os": "linux", "latest": true}}))
        .on("GET /boot/default", 200, boot)
        .on("POST /boot/default", 204, Value::Null);
    let (code, out, _) = fake.sdc(&["platform", "list"]);
    assert_eq!(code, 0);
    assert_eq!(
        out,
        "PLATFORM          OS     LATEST  DEFAULT  RUNNING  NEXT BOOT\n\
         20260101T000000Z  linux  yes     yes      3        3\n"
    );
    let (code, out, _) = fake.sdc(&["boot", "set", "default", "--arg", "a=1", "--remove-arg", "b"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["kernel_args"]["a"], "1");
    assert_eq!(fake.sdc(&["boot", "set", "default"]).0, 2);
    assert_eq!(fake.sdc(&["boot", "set", "default", "--arg", "a"]).0, 2);
}

#[test]
fn who_is_not_there_is_told_with_its_own_exit_code() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (code, _, err) = sdc(&url, &["server", "list"]);
    assert_eq!(code, 4);
    assert!(err.contains(&url) && err.contains("systemctl status sdc-control"), "{err}");
    assert_eq!(sdc("nonsense", &["server", "list"]).0, 2);
}

#[test]
fn help_teaches_and_completion_is_made() {
    let (code, out, _) = sdc("http://x", &["server", "setup", "--help"]);
    assert_eq!(code, 0);
    for part in [
        "--all",
        "--wait",
        "Exit codes:",
        "4  CNAPI, or the booter, does not answer",
        "SDC_CNAPI_URL",
    ] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    let (code, out, _) = sdc("http://x", &["completion", "bash"]);
    assert_eq!(code, 0);
    assert!(out.contains("complete"));
}

#[test]
fn a_booter_that_is_not_there_is_told_without_cnapi() {
    let socket = std::env::temp_dir().join(format!("sdc-no-booter-{}", std::process::id()));
    let socket = socket.to_str().unwrap();
    let (code, _, err) = sdc("http://x", &["boot", "list", "--booter-socket", socket]);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("systemctl status sdc-booter") && !err.contains("sdc-control"), "{err}");
    assert_eq!(sdc("http://x", &["boot", "approve"]).0, 2);
    assert_eq!(sdc("http://x", &["boot", "deny"]).0, 2);
    let both = ["boot", "approve", "--all-held", "90:b8:d0:01:02:03"];
    assert_eq!(sdc("http://x", &both).0, 2);
}

/// A booter that answers from a script on a Unix socket.
fn fake_booter(path: &std::path::Path, script: &Script) -> tokio::runtime::Runtime {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let shared = Arc::clone(script);
    let router = Router::new().fallback(move |request: Request| {
        let answer = answer(&shared, &request);
        async move { answer }
    });
    let _enter = runtime.enter();
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
    drop(_enter);
    runtime
}

#[test]
fn machines_that_boot_are_shown_and_approved_by_any_name() {
    let path = std::env::temp_dir().join(format!("sdc-booter-{}.sock", std::process::id()));
    drop(std::fs::remove_file(&path));
    let mac = "90:b8:d0:01:02:03";
    let boot = json!({
        "mac": mac, "ip": "10.99.99.40", "uuid": NODE, "arch": "BIOS", "client": "ipxe",
        "rack": null, "stage": "script", "script": "hold", "origin": "builtin",
        "platform": "p\u{1b}[2J", "decision": null, "held": true, "attempts": 1, "seen": 0,
        "began": 0, "last": 0, "steps": [], "problem": null, "stuck": null,
    });
    let script = Script::default();
    let on = |call: &str, status: u16, body: Value| {
        script.lock().unwrap().entry(call.to_owned()).or_default().push((status, body));
    };
    on("GET /boots", 200, json!([boot]));
    on(&format!("POST /boots/{mac}/approve"), 204, Value::Null);
    on(
        &format!("POST /boots/{mac}/deny"),
        500,
        json!({"code": "InternalError", "message": "disk"}),
    );
    let _runtime = fake_booter(&path, &script);
    let socket = path.to_str().unwrap();
    let run =
        |args: &[&str]| sdc("http://x", &[&["boot"], args, &["--booter-socket", socket]].concat());
    let (code, out, err) = run(&["list"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(mac) && out.contains("held") && !out.contains('\u{1b}'), "{out}");
    let (_, out, _) = run(&["list", "--stuck", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), json!([]));
    let approved = format!("{mac}: approved\n");
    for name in ["90-B8-D0-01-02-03", "90b8d0010203", "10.99.99.40", NODE, "--all-held"] {
        let (code, out, err) = run(&["approve", name]);
        assert_eq!((code, out.as_str()), (0, approved.as_str()), "{name}: {err}");
    }
    assert_eq!(run(&["approve", "10.99.99.41"]).0, 3);
    let (code, _, err) = run(&["deny", mac]);
    assert_eq!(code, 1);
    assert!(err.contains("disk"), "{err}");
    assert_eq!(run(&["show", mac]).0, 3);
    std::fs::remove_file(&path).unwrap();
}
