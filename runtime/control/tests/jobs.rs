//! Setup and reboot, with a machine's agent that does as it is told.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::*;
use headnode_client::SetupParams;
use headnode_model::server::ServerStatus;
use headnode_model::task::TaskStatus;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_setup_is_followed_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let agent = FakeAgent::start().await;
    register(&control, sysinfo(1, Some(agent.address))).await;
    let path = format!("/servers/{}/setup", uuid(1));
    let body = json!({"hostname": "node1", "disk_layout": "mirror", "disk_spares": 0, "disk_cache": "true"});
    let (status, answer) = control.call("PUT", &path, Some(body)).await;
    assert_eq!(status, 202);
    assert_eq!(answer["id"], answer["job_uuid"]);
    let id = agent.given(1).await;
    assert_eq!(answer, json!({"id": id, "job_uuid": id}));
    let request = &agent.requests()[0];
    assert_eq!(request["task"], "server_setup");
    assert_eq!(
        request["params"],
        json!({"hostname": "node1", "disk_layout": "mirror", "disk_cache": true, "disk_spares": 0})
    );
    let server = control.cnapi.get_server(uuid(1)).await.unwrap().unwrap();
    assert!(server.setting_up && !server.setup);

    // A second call, impatient: the same job. A reboot has to wait.
    assert_eq!(control.call("PUT", &path, Some(json!({}))).await, (202, answer));
    let (status, body) =
        control.call("POST", &format!("/servers/{}/reboot", uuid(1)), Some(json!({}))).await;
    assert_eq!((status, &body["code"]), (409, &json!("ServerBusy")));

    agent.set(id, "active", 2, None);
    eventually("the steps to show", async || {
        let task = control.cnapi.get_task(id).await.unwrap().unwrap();
        (task.history.len() == 2 && task.progress == 20 && task.status == TaskStatus::Active)
            .then_some(())
    })
    .await;
    // Nothing happens for a while: the wait ends when its time is up, and not before.
    let task = control.cnapi.wait_task(id, Duration::from_millis(300)).await.unwrap().unwrap();
    assert_eq!(task.status, TaskStatus::Active);
    let waiting = {
        let cnapi = control.cnapi.clone();
        tokio::spawn(async move { cnapi.wait_task(id, LONG).await })
    };
    agent.set(id, "complete", 3, None);
    let task = waiting.await.unwrap().unwrap().unwrap();
    assert_eq!((task.status, task.progress, task.history.len()), (TaskStatus::Complete, 100, 3));
    let server = control.cnapi.get_server(uuid(1)).await.unwrap().unwrap();
    assert!(server.setup && !server.setting_up);
    assert_eq!(server.hostname, "node1");
    let boot = control.cnapi.boot_params(uuid(1)).await.unwrap().unwrap();
    assert_eq!(boot.kernel_args["hostname"], "node1");
    assert_eq!(control.call("PUT", &path, Some(json!({}))).await, (204, Value::Null));
    let again = control.cnapi.setup_server(uuid(1), &SetupParams::default()).await;
    assert_eq!(again.unwrap(), None);
    control.stop().await;
}

#[tokio::test]
async fn a_failed_setup_tells_why_and_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let agent = FakeAgent::start().await;
    register(&control, sysinfo(1, Some(agent.address))).await;
    let setup = async || {
        control.cnapi.setup_server(uuid(1), &SetupParams::default()).await.unwrap().unwrap()
    };
    let id = setup().await;
    agent.given(1).await;
    agent.set(id, "failure", 1, Some("no usable disk"));
    let task = control.cnapi.wait_task(id, LONG).await.unwrap().unwrap();
    assert_eq!(task.status, TaskStatus::Failure);
    assert_eq!(task.error.as_deref(), Some("no usable disk"));
    assert_eq!(task.history.last().unwrap().name, "error");
    let server = control.cnapi.get_server(uuid(1)).await.unwrap().unwrap();
    assert!(!server.setup && !server.setting_up);
    let second = setup().await;
    assert_ne!(second, id);
    agent.given(2).await;
    agent.set(second, "complete", 1, None);
    let task = control.cnapi.wait_task(second, LONG).await.unwrap().unwrap();
    assert_eq!(task.status, TaskStatus::Complete);
    control.stop().await;
}

#[tokio::test]
async fn wrong_setups_are_refused_before_they_begin() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let agent = FakeAgent::start().await;
    register(&control, sysinfo(1, Some(agent.address))).await;
    let path = format!("/servers/{}/setup", uuid(1));
    let wrong = json!({"hostname": "a b", "disk_layout": "raid0", "disk_spares": -1, "disks": 3});
    let (status, body) = control.call("PUT", &path, Some(wrong)).await;
    assert_eq!((status, body["errors"].as_array().unwrap().len()), (400, 4), "{body}");
    // An agent that says it is elsewhere is not called.
    let mut elsewhere = sysinfo(2, Some(agent.address));
    elsewhere["CN Agent IP"] = "192.0.2.1".into();
    register(&control, elsewhere).await;
    let (status, body) =
        control.call("PUT", &format!("/servers/{}/setup", uuid(2)), Some(json!({}))).await;
    assert_eq!((status, &body["code"]), (503, &json!("ServiceUnavailable")));
    assert!(body["message"].as_str().unwrap().contains("127.0.0.0/8"), "{body}");
    assert_eq!(agent.requests().len(), 0);
    control.stop().await;
}

#[tokio::test]
async fn an_agent_that_vanishes_fails_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let agent = FakeAgent::start().await;
    register(&control, sysinfo(1, Some(agent.address))).await;
    let id = control.cnapi.setup_server(uuid(1), &SetupParams::default()).await.unwrap().unwrap();
    agent.given(1).await;
    drop(agent);
    let task = control.cnapi.wait_task(id, LONG).await.unwrap().unwrap();
    assert_eq!(task.status, TaskStatus::Failure);
    assert!(task.error.unwrap().contains("no answer from the agent"));
    control.stop().await;
}

#[tokio::test]
async fn a_restarted_agent_is_given_the_task_again() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let agent = FakeAgent::start().await;
    register(&control, sysinfo(1, Some(agent.address))).await;
    let id = control.cnapi.setup_server(uuid(1), &SetupParams::default()).await.unwrap().unwrap();
    agent.given(1).await;
    agent.forget();
    assert_eq!(agent.given(2).await, id);
    agent.set(id, "complete", 1, None);
    let task = control.cnapi.wait_task(id, LONG).await.unwrap().unwrap();
    assert_eq!(task.status, TaskStatus::Complete);
    control.stop().await;
}

#[tokio::test]
async fn a_setup_survives_our_restart() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let agent = FakeAgent::start().await;
    register(&control, sysinfo(1, Some(agent.address))).await;
    let id = control.cnapi.setup_server(uuid(1), &SetupParams::default()).await.unwrap().unwrap();
    agent.given(1).await;
    control.stop().await;
    agent.set(id, "complete", 4, None);
    let control = Control::start(folder.path()).await;
    let task = control.cnapi.wait_task(id, LONG).await.unwrap().unwrap();
    assert_eq!((task.status, task.history.len()), (TaskStatus::Complete, 4));
    assert!(control.cnapi.get_server(uuid(1)).await.unwrap().unwrap().setup);
    control.stop().await;
}

#[tokio::test]
async fn a_reboot_is_over_when_the_machine_is_back_and_is_sent_once() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let agent = FakeAgent::start().await;
    register(&control, sysinfo(1, Some(agent.address))).await;
    let id = control.cnapi.reboot_server(uuid(1)).await.unwrap();
    assert_eq!(agent.given(1).await, id);
    let server = control.cnapi.get_server(uuid(1)).await.unwrap().unwrap();
    assert_eq!(server.status, ServerStatus::Rebooting);
    // The old system's last words change nothing.
    register(&control, sysinfo(1, Some(agent.address))).await;
    control.cnapi.heartbeat(uuid(1)).await.unwrap();
    let server = control.cnapi.get_server(uuid(1)).await.unwrap().unwrap();
    assert_eq!(server.status, ServerStatus::Rebooting);
    // The headnode's own reboot ends us too; the new agent knows no task.
    control.stop().await;
    agent.forget();
    let control = Control::start(folder.path()).await;
    let task = control.cnapi.wait_task(id, Duration::from_millis(500)).await.unwrap().unwrap();
    assert_eq!(task.status, TaskStatus::Active);
    let mut booted = sysinfo(1, Some(agent.address));
    booted["Boot Time"] = "1767229200".into();
    register(&control, booted).await;
    let task = control.cnapi.wait_task(id, LONG).await.unwrap().unwrap();
    assert_eq!(task.status, TaskStatus::Complete);
    let server = control.cnapi.get_server(uuid(1)).await.unwrap().unwrap();
    assert_eq!(server.status, ServerStatus::Running);
    assert_eq!(agent.requests().len(), 1, "the machine was rebooted once");
    control.stop().await;
}
