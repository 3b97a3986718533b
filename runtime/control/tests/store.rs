//! The store's promises, on SQLite and on PostgreSQL (Debian's package `postgresql`).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod postgres;

use headnode_model::task::{Task, TaskStatus};
use sdc_control::fleet::Fleet;
use sdc_control::store::{ServerFilter, SharedStore, TaskRecord, open, update_server};
use serde_json::{Map, json};
use uuid::Uuid;

use common::{site, sysinfo, uuid};

fn task(n: u8, status: TaskStatus) -> TaskRecord {
    let task = Task {
        id: uuid(n),
        req_id: None,
        server_uuid: Uuid::nil(),
        task: "nop".to_owned(),
        status,
        progress: 0,
        timestamp: format!("2026-01-01T00:00:{n:02}.000Z"),
        history: vec![],
        error: None,
    };
    TaskRecord { task, params: json!({"n": n}) }
}

async fn keeps_its_promises(store: SharedStore) {
    let fleet = Fleet::new(store.clone(), site(), "/nonexistent".into());
    for n in [3, 1, 2] {
        let sysinfo = sysinfo(n, None).as_object().unwrap().clone();
        fleet.register(uuid(n), sysinfo).await.unwrap();
    }
    // Sorted, filtered, paged.
    let uuids = async |filter: ServerFilter| {
        store.list(&filter).await.unwrap().iter().map(|s| s.uuid).collect::<Vec<_>>()
    };
    assert_eq!(uuids(ServerFilter::default()).await, [uuid(1), uuid(2), uuid(3)]);
    let filter = ServerFilter { limit: Some(1), offset: Some(1), ..ServerFilter::default() };
    assert_eq!(uuids(filter).await, [uuid(2)]);
    let filter = ServerFilter {
        uuids: Some(vec![uuid(3), uuid(9)]),
        setup: Some(false),
        headnode: Some(false),
        reserved: Some(false),
        reservoir: Some(false),
        hostname: Some("02-00-00-00-01-03".to_owned()),
        ..ServerFilter::default()
    };
    assert_eq!(uuids(filter).await, [uuid(3)]);
    let none = ServerFilter { uuids: Some(vec![]), ..ServerFilter::default() };
    assert_eq!(uuids(none).await, Vec::<Uuid>::new());
    // Costly parts only when asked for.
    let listed = store.list(&ServerFilter::default()).await.unwrap();
    assert!(listed[0].sysinfo.is_empty());
    // A stale writer loses, an update loop wins.
    let stale = store.get(uuid(1)).await.unwrap().unwrap();
    assert!(store.replace(&stale).await.unwrap());
    assert!(!store.replace(&stale).await.unwrap());
    let writers = (0..10).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            update_server(&*store, uuid(1), |server| {
                server.core.comments.push('x');
                true
            })
            .await
            .unwrap()
            .unwrap()
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(store.get(uuid(1)).await.unwrap().unwrap().core.comments, "x".repeat(10));
    let mut report = Map::new();
    report.insert("vms".to_owned(), json!({"a": {"b": 1}}));
    assert!(store.put_report(uuid(1), &report).await.unwrap());
    assert!(!store.put_report(uuid(9), &report).await.unwrap());
    assert_eq!(store.get(uuid(1)).await.unwrap().unwrap().report, report);
    assert!(!store.insert(&stale).await.unwrap());
    assert!(store.delete(uuid(1)).await.unwrap());
    assert!(!store.delete(uuid(1)).await.unwrap());
    // Tasks.
    for n in 1..=5 {
        store.put_task(&task(n, TaskStatus::Queued)).await.unwrap();
    }
    for n in 2..=5 {
        store.put_task(&task(n, TaskStatus::Complete)).await.unwrap();
    }
    assert_eq!(store.unfinished().await.unwrap(), [task(1, TaskStatus::Queued)]);
    assert_eq!(store.prune(2).await.unwrap(), 2);
    assert_eq!(store.get_task(uuid(2)).await.unwrap(), None);
    assert_eq!(store.get_task(uuid(5)).await.unwrap(), Some(task(5, TaskStatus::Complete)));
    // Settings.
    assert_eq!(store.get_setting("x").await.unwrap(), None);
    store.put_setting("x", &json!(1)).await.unwrap();
    store.put_setting("x", &json!({"y": 2})).await.unwrap();
    assert_eq!(store.get_setting("x").await.unwrap(), Some(json!({"y": 2})));
    store.ping().await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("below/control.db");
    keeps_its_promises(open(path.to_str().unwrap()).await.unwrap()).await;
    // The migrations are there already, and so is what was written.
    let store = open(&format!("sqlite:{}", path.display())).await.unwrap();
    assert_eq!(store.list(&ServerFilter::default()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn postgres() {
    let server = postgres::Server::start();
    keeps_its_promises(open(&server.url()).await.unwrap()).await;
}
