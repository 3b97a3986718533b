//! Boot parameters and platforms.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use headnode_client::BootTarget;
use serde_json::{Value, json};

async fn control_with_platforms(folder: &std::path::Path) -> Control {
    platform(folder, "20260101T000000Z", "x86_64/vmlinuz");
    platform(folder, "20260201T000000Z", "x86_64/vmlinuz");
    platform(folder, "20250101T000000Z", "i86pc/kernel/amd64/unix");
    Control::start(folder).await
}

#[tokio::test]
async fn platforms_have_tritons_form() {
    let folder = tempfile::tempdir().unwrap();
    let control = control_with_platforms(folder.path()).await;
    assert_eq!(
        control.get("/platforms").await,
        (
            200,
            json!({"20250101T000000Z": {}, "20260101T000000Z": {}, "20260201T000000Z": {"latest": true}})
        )
    );
    assert_eq!(
        control.get("/platforms?os=true").await.1,
        json!({
            "20250101T000000Z": {"os": "smartos", "latest": true},
            "20260101T000000Z": {"os": "linux"},
            "20260201T000000Z": {"os": "linux", "latest": true},
        })
    );
    assert_eq!(control.cnapi.list_platforms().await.unwrap().len(), 3);
    control.stop().await;
}

#[tokio::test]
async fn post_merges_and_put_replaces() {
    let folder = tempfile::tempdir().unwrap();
    let control = control_with_platforms(folder.path()).await;
    let fresh = json!({"platform": "20260201T000000Z", "kernel_args": {}, "kernel_flags": {},
        "boot_modules": [], "default_console": "serial", "serial": "ttyb"});
    assert_eq!(control.get("/boot/default").await, (200, fresh.clone()));
    let change = json!({"platform": "20260101T000000Z", "kernel_args": {"a": "1", "b": true},
        "serial": "ttya"});
    assert_eq!(control.call("POST", "/boot/default", Some(change)).await, (204, Value::Null));
    let change = json!({"kernel_args": {"a": null, "c": 3}, "kernel_flags": {"-k": true}});
    assert_eq!(control.call("POST", "/boot/default", Some(change)).await.0, 204);
    let merged = json!({"platform": "20260101T000000Z", "kernel_args": {"b": true, "c": 3},
        "kernel_flags": {"-k": true}, "boot_modules": [], "default_console": "serial", "serial": "ttya"});
    assert_eq!(control.get("/boot/default").await.1, merged);

    // A new server takes the defaults of its day.
    register(&control, sysinfo(1, None)).await;
    let path = format!("/boot/{}", uuid(1));
    let mut of_server = merged.clone();
    of_server["kernel_args"]["hostname"] = "02-00-00-00-01-01".into();
    assert_eq!(control.get(&path).await, (200, of_server));

    assert_eq!(control.call("PUT", "/boot/default", Some(json!({}))).await, (204, Value::Null));
    assert_eq!(control.get("/boot/default").await.1, fresh);

    let replace = json!({"kernel_args": {"hostname": "mine"}, "default_console": "vga",
        "boot_modules": [{"path": "etc/x", "content": "aGk="}]});
    assert_eq!(control.call("PUT", &path, Some(replace)).await, (202, Value::Null));
    assert_eq!(
        control.get(&path).await.1,
        json!({"platform": "20260201T000000Z", "kernel_args": {"hostname": "mine"},
            "kernel_flags": {}, "boot_modules": [{"path": "etc/x", "type": "base64", "content": "aGk="}],
            "default_console": "vga", "serial": "ttyb"})
    );
    let params = control.cnapi.boot_params(uuid(1)).await.unwrap().unwrap();
    assert_eq!(params.platform, "20260201T000000Z");
    assert_eq!(control.cnapi.boot_params(uuid(2)).await.unwrap(), None);
    let target = BootTarget::Server(uuid(1));
    let change = json!({"platform": "20250101T000000Z"});
    control.cnapi.update_boot_params(target, &change).await.unwrap();
    let server = control.cnapi.get_server(uuid(1)).await.unwrap().unwrap();
    assert_eq!(server.boot_platform, "20250101T000000Z");
    assert_eq!(server.boot_params.len(), 1);
    control.cnapi.set_boot_params(target, &params).await.unwrap();
    assert_eq!(control.cnapi.boot_params(uuid(1)).await.unwrap(), Some(params));
    control.stop().await;
}

#[tokio::test]
async fn wrong_parameters_change_nothing_and_are_all_named() {
    let folder = tempfile::tempdir().unwrap();
    let control = control_with_platforms(folder.path()).await;
    let before = control.get("/boot/default").await.1;
    let wrong = json!({
        "platform": "20300101T000000Z", "kernel_args": {"a b": "x", "c": {"d": 1}, "e": "x\ny"},
        "kernel_flags": 5, "default_console": "tty", "serial": "ttyS0", "bootmodules": [],
        "boot_modules": [
            {"path": "../../etc/passwd", "content": "aGk="},
            {"path": "x", "content": "a"},
            {"path": "y", "content": "A".repeat(6000)},
            {"content": "aGk="},
        ],
    });
    for method in ["POST", "PUT"] {
        let (status, body) = control.call(method, "/boot/default", Some(wrong.clone())).await;
        assert_eq!((status, &body["code"]), (400, &json!("InvalidParameters")));
        let fields: Vec<_> = body["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["field"].as_str().unwrap())
            .collect();
        assert_eq!(
            fields,
            [
                "kernel_args.a b",
                "kernel_args.c",
                "kernel_args.e",
                "kernel_flags",
                "boot_modules[0].path",
                "boot_modules[1].content",
                "boot_modules[2].content",
                "boot_modules[3]",
                "default_console",
                "serial",
                "platform",
                "bootmodules"
            ]
        );
    }
    assert_eq!(control.get("/boot/default").await.1, before);
    control.stop().await;
}

#[tokio::test]
async fn a_headnode_boots_what_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let control = control_with_platforms(folder.path()).await;
    let mut headnode = sysinfo(1, None);
    headnode["Boot Parameters"] = json!({"headnode": "true"});
    register(&control, headnode).await;
    let server = control.cnapi.get_server(uuid(1)).await.unwrap().unwrap();
    assert!(server.headnode);
    assert_eq!(server.boot_platform, "20260101T000000Z");
    control.stop().await;
}
