//! Registration, lists, changes, events: exact bodies and status codes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::*;
use headnode_client::ServerQuery;
use headnode_model::server::ServerStatus;
use serde_json::{Value, json};

#[tokio::test]
async fn a_new_machine_gets_the_defaults_and_all_its_parts_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    platform(folder.path(), "20260101T000000Z", "x86_64/vmlinuz");
    let control = Control::start(folder.path()).await;
    assert_eq!(register(&control, sysinfo(1, None)).await, (200, Value::Null));
    let (status, mut server) = control.get(&format!("/servers/{}", uuid(1))).await;
    assert_eq!(status, 200);
    let object = server.as_object_mut().unwrap();
    let created = object.shift_remove("created").unwrap();
    assert_eq!(created.as_str().unwrap().len(), "2026-01-01T00:00:00.000Z".len());
    assert!(object.shift_remove("last_heartbeat").unwrap().as_str().unwrap().ends_with('Z'));
    assert_eq!(
        server,
        json!({
            "uuid": uuid(1), "hostname": "02-00-00-00-01-01", "datacenter": "test-dc",
            "headnode": false, "setup": false, "setting_up": false, "status": "running",
            "transitional_status": "",
            "agents": [{"name": "sdc-agent", "version": "0.1.0"}],
            "boot_platform": "20260101T000000Z", "current_platform": "20260101T000000Z",
            "boot_params": {}, "kernel_flags": {}, "boot_modules": [],
            "default_console": "serial", "serial": "ttyb", "comments": "",
            "last_boot": "2026-01-01T00:00:00.000Z",
            "overprovision_ratios": {"cpu": 4.0, "disk": 1.0, "ram": 1.0},
            "rack_identifier": "", "ram": 2048, "reservation_ratio": 0.15,
            "reserved": false, "reservoir": false,
            "sysinfo": sysinfo(1, None), "system_type": "Linux", "traits": {}, "vms": {},
        })
    );
    // Our own client reads the same.
    let server = control.cnapi.get_server(uuid(1)).await.unwrap().unwrap();
    assert_eq!(server.status, ServerStatus::Running);
    assert_eq!(server.sysinfo.unwrap().cpu_total_cores, Some(4));
    control.stop().await;
}

#[tokio::test]
async fn lists_leave_out_what_is_not_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let mut headnode = sysinfo(1, None);
    headnode["Boot Parameters"] = json!({"headnode": "true"});
    headnode["Setup"] = "true".into();
    headnode["Hostname"] = "headnode".into();
    register(&control, headnode).await;
    for n in 2..=4 {
        register(&control, sysinfo(n, None)).await;
    }
    let status = json!({"vms": {"v": {"max_physical_memory": 1024}},
        "meminfo": {"availrmem_bytes": 7, "arcsize_bytes": 8, "total_bytes": 9},
        "diskinfo": {"pool_size_bytes": 10_737_418_240u64}});
    let path = format!("/servers/{}/events/status", uuid(1));
    assert_eq!(control.call("POST", &path, Some(status)).await.0, 204);

    let keys = async |query: &str| {
        let (status, list) = control.get(&format!("/servers?{query}")).await;
        assert_eq!(status, 200, "{list}");
        let first = list.as_array().unwrap().first().cloned().unwrap_or_default();
        (list.as_array().unwrap().len(), first)
    };
    let (count, first) = keys("").await;
    assert_eq!(count, 4);
    for absent in
        ["sysinfo", "agents", "vms", "last_heartbeat", "memory_total_bytes", "unreserved_ram"]
    {
        assert!(first.get(absent).is_none(), "{absent}");
    }
    assert_eq!(first["status"], "running");
    let (_, first) = keys("extras=agents,memory").await;
    assert!(first.get("agents").is_some() && first.get("last_heartbeat").is_some());
    assert_eq!(first["memory_available_bytes"], 7);
    assert!(first.get("disk_pool_size_bytes").is_none());
    let (_, first) = keys("extras=capacity").await;
    assert_eq!(first["unreserved_cpu"], 400);
    assert_eq!(first["unreserved_ram"], 716);
    assert_eq!(first["unreserved_disk"], 10240);
    assert!(first.get("sysinfo").is_none() && first.get("vms").is_none());
    let (_, first) = keys("extras=all").await;
    assert!(first.get("sysinfo").is_some() && first.get("vms").is_some());
    assert_eq!(keys("headnode=true").await.0, 1);
    assert_eq!(keys("setup=false").await.0, 3);
    assert_eq!(keys("hostname=headnode").await.0, 1);
    assert_eq!(keys(&format!("uuids={},{}", uuid(2), uuid(9))).await.0, 1);
    assert_eq!(keys("reserved=true").await.0, 0);
    let (count, first) = keys("limit=2&offset=3").await;
    assert_eq!((count, &first["uuid"]), (1, &json!(uuid(4))));
    let (_, first) = keys("fields=uuid,hostname").await;
    assert_eq!(first, json!({"uuid": uuid(1), "hostname": "headnode"}));
    let all = control.cnapi.list_servers(&ServerQuery::default()).await.unwrap();
    assert_eq!(all.len(), 4);
    control.stop().await;
}

#[tokio::test]
async fn errors_have_tritons_form() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let server = format!("/servers/{}", uuid(9));
    assert_eq!(
        control.get("/nope").await,
        (404, json!({"code": "ResourceNotFound", "message": "/nope does not exist"}))
    );
    assert_eq!(
        control.call("PATCH", "/servers", None).await,
        (405, json!({"code": "MethodNotAllowed", "message": "/servers does not allow PATCH"}))
    );
    let message = format!("Server {} not found", uuid(9));
    let not_found = (404, json!({"code": "ResourceNotFound", "message": message}));
    for (method, path) in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", ""),
        ("PUT", "/setup"),
        ("POST", "/reboot"),
        ("POST", "/events/heartbeat"),
        ("POST", "/events/status"),
    ] {
        let body = (method != "GET").then(|| json!({}));
        assert_eq!(
            control.call(method, &format!("{server}{path}"), body).await,
            not_found,
            "{path}"
        );
    }
    assert_eq!(control.get(&format!("/boot/{}", uuid(9))).await, not_found);
    assert_eq!(
        control.get(&format!("/tasks/{}", uuid(9))).await,
        (404, json!({"code": "ResourceNotFound", "message": "no such task found"}))
    );
    assert_eq!(
        control.get("/servers?limit=1001&setup=perhaps").await,
        (
            400,
            json!({"code": "InvalidParameters", "message": "Request parameters failed validation",
            "errors": [
                {"field": "setup", "code": "InvalidParameter",
                 "message": "must be true or false, but is \"perhaps\""},
                {"field": "limit", "code": "InvalidParameter",
                 "message": "must be a whole number from 1 to 1000, but is \"1001\""},
            ]})
        )
    );
    let (status, body) = control.get("/servers/not-a-uuid").await;
    assert_eq!((status, &body["code"]), (400, &json!("InvalidParameters")));

    let raw = |text: &'static str| {
        let request = control.http.post(format!("{}{server}", control.url));
        async move { request.body(text).send().await.unwrap() }
    };
    let response = raw("{\"comments\": ").await;
    assert_eq!(response.status(), 400);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["code"], "InvalidContent");
    assert!(body["message"].as_str().unwrap().starts_with("Invalid JSON: "), "{body}");
    assert_eq!(raw("[1]").await.json::<Value>().await.unwrap()["code"], "InvalidContent");
    let big = "x".repeat(3 << 20).leak();
    let response = raw(big).await;
    assert_eq!(response.status(), 413);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["code"], "RequestEntityTooLarge");
    control.stop().await;
}

#[tokio::test]
async fn wrong_changes_are_all_named_and_good_ones_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    register(&control, sysinfo(1, None)).await;
    let path = format!("/servers/{}", uuid(1));
    let wrong = json!({"reserved": "yes", "reservation_ratio": 2, "traits": [], "coments": "x",
        "overprovision_ratios": {"cpu": -1.0, "gpu": 1.0}, "next_reboot": "soon",
        "boot_platform": "20300101T000000Z", "transitional_status": "dancing"});
    let (status, body) = control.call("POST", &path, Some(wrong)).await;
    assert_eq!(status, 400);
    let fields: Vec<_> =
        body["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "next_reboot",
            "reservation_ratio",
            "reserved",
            "traits",
            "transitional_status",
            "overprovision_ratios.cpu",
            "overprovision_ratios.gpu",
            "boot_platform",
            "coments"
        ]
    );
    let good = json!({"reserved": true, "comments": "left rack", "traits": {"ssd": true},
        "next_reboot": "2027-01-01T00:00:00Z", "overprovision_ratios": {"cpu": 2}});
    assert_eq!(control.call("POST", &path, Some(good)).await, (204, Value::Null));
    // A sysinfo does not undo what an operator has set.
    register(&control, sysinfo(1, None)).await;
    let server = control.get(&path).await.1;
    assert_eq!(server["reserved"], true);
    assert_eq!(server["comments"], "left rack");
    assert_eq!(server["next_reboot"], "2027-01-01T00:00:00.000Z");
    assert_eq!(server["overprovision_ratios"], json!({"cpu": 2.0}));
    assert_eq!(control.get("/servers?reserved=true").await.1.as_array().unwrap().len(), 1);
    assert_eq!(control.call("DELETE", &path, None).await, (204, Value::Null));
    assert_eq!(control.get("/servers").await.1, json!([]));
    control.stop().await;
}

#[tokio::test]
async fn a_wrong_sysinfo_registers_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let path = format!("/servers/{}/sysinfo", uuid(1));
    let (status, body) = control.call("POST", &path, Some(json!({}))).await;
    assert_eq!(status, 400);
    assert_eq!(
        body["errors"],
        json!([{"field": "sysinfo", "code": "MissingParameter", "message": "is missing"}])
    );
    let mut wrong = sysinfo(2, None);
    wrong["Boot Time"] = 5.into();
    wrong["Network Interfaces"]["eth1"]["MAC Address"] = "x".into();
    let (status, body) = control.call("POST", &path, Some(json!({"sysinfo": wrong}))).await;
    assert_eq!((status, body["errors"].as_array().unwrap().len()), (400, 3), "{body}");
    assert_eq!(control.get("/servers").await.1, json!([]));
    control.stop().await;
}

#[tokio::test]
async fn a_second_machine_with_a_living_ones_uuid_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    register(&control, sysinfo(1, None)).await;
    let before = control.get(&format!("/servers/{}", uuid(1))).await.1;
    let mut twin = sysinfo(7, None);
    twin["UUID"] = uuid(1).to_string().into();
    let (status, body) = register(&control, twin.clone()).await;
    assert_eq!((status, &body["code"]), (409, &json!("DuplicateServer")));
    let message = body["message"].as_str().unwrap();
    for part in ["02:00:00:00:01:01", "02:00:00:00:01:07", "override_uuid="] {
        assert!(message.contains(part), "{message}");
    }
    let after = control.get(&format!("/servers/{}", uuid(1))).await.1;
    assert_eq!(after["sysinfo"], before["sysinfo"]);
    assert_eq!(after["hostname"], before["hostname"]);
    // One NIC in common: a card was added or moved.
    let mut moved = sysinfo(1, None);
    moved["Network Interfaces"]["eth0"]["MAC Address"] = "02:00:00:00:09:09".into();
    assert_eq!(register(&control, moved).await.0, 200);
    control.stop().await;
    // The first machine falls silent: the board was changed.
    let control = Control::start(folder.path()).await;
    let path = format!("/servers/{}", uuid(1));
    assert_eq!(register(&control, twin.clone()).await.0, 409, "it has had no time to speak yet");
    eventually_within(Duration::from_secs(25), "status unknown", &mut async || {
        (control.get(&path).await.1["status"] == "unknown").then_some(())
    })
    .await;
    assert_eq!(register(&control, twin).await.0, 200);
    let server = control.get(&path).await.1;
    assert_eq!(
        (&server["hostname"], &server["status"]),
        (&json!("02-00-00-00-01-07"), &json!("running"))
    );
    control.stop().await;
}

#[tokio::test]
async fn silence_and_heartbeats_change_the_status() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    register(&control, sysinfo(1, None)).await;
    let path = format!("/servers/{}", uuid(1));
    eventually_within(Duration::from_secs(25), "status unknown", &mut async || {
        (control.get(&path).await.1["status"] == "unknown").then_some(())
    })
    .await;
    control.cnapi.heartbeat(uuid(1)).await.unwrap();
    assert_eq!(control.get(&path).await.1["status"], "running");
    control.stop().await;
}

#[tokio::test]
async fn setup_is_not_undone_by_a_late_sysinfo_but_by_a_boot() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let path = format!("/servers/{}", uuid(1));
    let mut told = sysinfo(1, None);
    told["Setup"] = "true".into();
    register(&control, told).await;
    register(&control, sysinfo(1, None)).await;
    assert_eq!(control.get(&path).await.1["setup"], true);
    let mut booted = sysinfo(1, None);
    booted["Boot Time"] = "1767229200".into();
    register(&control, booted).await;
    let server = control.get(&path).await.1;
    assert_eq!(server["setup"], false);
    assert_eq!(server["last_boot"], "2026-01-01T01:00:00.000Z");
    control.stop().await;
}

#[tokio::test]
async fn head_request_ids_health_metrics_and_description() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let url = |path: &str| format!("{}{path}", control.url);
    let response = control.http.head(url("/servers")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.unwrap(), "");
    let response =
        control.http.get(url("/ping")).header("x-request-id", "abc-1").send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "abc-1");
    assert_eq!(response.headers()["content-type"], "application/json");
    let response =
        control.http.get(url("/ping")).header("x-request-id", "a b\"c").send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"].len(), 36);
    assert!(control.cnapi.ping().await.unwrap().ready);
    assert_eq!(
        control.http.get(url("/healthz")).send().await.unwrap().text().await.unwrap(),
        "ok\n"
    );
    register(&control, sysinfo(1, None)).await;
    let metrics = control.http.get(url("/metrics")).send().await.unwrap().text().await.unwrap();
    for line in [
        "sdc_control_servers_alive 1",
        "sdc_control_http_requests_total{method=\"HEAD\",route=\"/servers\",status=\"200\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    let (status, description) = control.get("/openapi.json").await;
    assert_eq!(status, 200);
    // Every described call exists: it does not answer that path or method are unknown.
    let mut calls = 0;
    for (path, methods) in description["paths"].as_object().unwrap() {
        let path = path.replace("{uuid}", &uuid(9).to_string());
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let request = control.http.request(method.parse().unwrap(), url(&path));
            let response = request.send().await.unwrap();
            let status = response.status();
            let text = response.text().await.unwrap();
            assert!(status != 405 && !text.contains("does not exist"), "{method} {path}: {text}");
            calls += 1;
        }
    }
    assert_eq!(calls, 21);
    control.stop().await;
}
