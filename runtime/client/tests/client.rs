//! The client against servers that answer well, badly, late or not at all.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use headnode_client::{Agent, Cnapi, Error, ServerQuery, SetupParams, Timeouts, with_request_id};
use headnode_model::task::{TaskRequest, TaskStatus};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

type Seen = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A server that answers all calls the same; what it was asked, with the request ids.
async fn server(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> (String, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let router = Router::new().fallback(move |request: Request| {
        let id = request.headers().get("x-request-id").map(|id| id.to_str().unwrap().to_owned());
        noted.lock().unwrap().push((format!("{} {}", request.method(), request.uri()), id));
        let answer = answer();
        async move { answer }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, seen)
}

#[tokio::test]
async fn queries_and_request_ids_go_along() {
    let (url, seen) = server(|| Json(json!([])).into_response()).await;
    let cnapi = Cnapi::new(&format!("{url}/")).unwrap();
    assert_eq!(cnapi.base_url(), url);
    let query = ServerQuery {
        uuids: vec![Uuid::nil(), Uuid::max()],
        setup: Some(false),
        hostname: Some("a b&c".to_owned()),
        extras: vec!["agents".to_owned(), "vms".to_owned()],
        limit: Some(5),
        ..ServerQuery::default()
    };
    with_request_id("req-1".to_owned(), cnapi.list_servers(&query)).await.unwrap();
    let (call, id) = seen.lock().unwrap()[0].clone();
    assert_eq!(
        call,
        format!(
            "GET /servers?uuids={}%2C{}&setup=false&hostname=a+b%26c&extras=agents%2Cvms&limit=5",
            Uuid::nil(),
            Uuid::max()
        )
    );
    assert_eq!(id.as_deref(), Some("req-1"));
}

#[tokio::test]
async fn refusals_are_typed() {
    let (url, _) = server(|| {
        let errors = json!([{"field": "limit", "code": "InvalidParameter", "message": "too much"}]);
        let body = json!({"code": "InvalidParameters", "message": "no", "errors": errors});
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    })
    .await;
    let error = Cnapi::new(&url).unwrap().ping().await.unwrap_err();
    assert_eq!((error.status(), error.code()), (Some(400), Some("InvalidParameters")));
    assert_eq!(error.fields()[0].field, "limit");
    assert!(!error.is_temporary() && !error.is_not_found());
    assert_eq!(
        error.to_string(),
        format!("GET {url}/ping answered 400 InvalidParameters: no\n  limit: too much")
    );
    let (url, _) = server(|| (StatusCode::BAD_GATEWAY, "<html>").into_response()).await;
    let error = Cnapi::new(&url).unwrap().ping().await.unwrap_err();
    assert_eq!(error.code(), Some("BadGateway"));
    assert!(error.is_temporary());
}

#[tokio::test]
async fn not_found_is_none_only_when_the_service_says_so() {
    let (url, _) = server(|| {
        let body = json!({"code": "ResourceNotFound", "message": "no"});
        (StatusCode::NOT_FOUND, Json(body)).into_response()
    })
    .await;
    let cnapi = Cnapi::new(&url).unwrap();
    assert_eq!(cnapi.get_server(Uuid::nil()).await.unwrap(), None);
    assert_eq!(cnapi.boot_params(Uuid::nil()).await.unwrap(), None);
    assert!(cnapi.heartbeat(Uuid::nil()).await.unwrap_err().is_not_found());
    // Something else listens there.
    let (url, _) = server(|| StatusCode::NOT_FOUND.into_response()).await;
    assert!(Cnapi::new(&url).unwrap().get_server(Uuid::nil()).await.is_err());
}

#[tokio::test]
async fn answers_of_another_kind_are_told() {
    let (url, _) = server(|| "hello".into_response()).await;
    let error = Cnapi::new(&url).unwrap().ping().await.unwrap_err();
    assert!(matches!(error, Error::Decode { status: 200, .. }), "{error}");
}

#[tokio::test]
async fn jobs_go_by_either_name() {
    let id = Uuid::max();
    for body in [json!({"id": id}), json!({"job_uuid": id}), json!({"id": id, "job_uuid": id})] {
        let (url, _) =
            server(move || (StatusCode::ACCEPTED, Json(body.clone())).into_response()).await;
        let cnapi = Cnapi::new(&url).unwrap();
        assert_eq!(cnapi.reboot_server(id).await.unwrap(), id);
        assert_eq!(cnapi.setup_server(id, &SetupParams::default()).await.unwrap(), Some(id));
    }
    let (url, _) = server(|| StatusCode::NO_CONTENT.into_response()).await;
    let cnapi = Cnapi::new(&url).unwrap();
    assert_eq!(cnapi.setup_server(id, &SetupParams::default()).await.unwrap(), None);
}

#[tokio::test]
async fn agents_are_given_tasks() {
    let id = Uuid::max();
    let task =
        json!({"id": id, "server_uuid": id, "task": "nop", "status": "active", "timestamp": "t"});
    let (url, seen) =
        server(move || (StatusCode::ACCEPTED, Json(task.clone())).into_response()).await;
    let agent = Agent::new(&url).unwrap();
    let request =
        TaskRequest { task: "nop".to_owned(), params: json!({}), task_id: Some(id), req_id: None };
    assert_eq!(agent.post_task(&request).await.unwrap(), id);
    assert_eq!(agent.get_task(id).await.unwrap().unwrap().status, TaskStatus::Active);
    assert_eq!(seen.lock().unwrap()[1].0, format!("GET /tasks/{id}"));
}

#[tokio::test]
async fn who_is_not_there_is_named_with_a_hint() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Cnapi::new(&url).unwrap().ping().await.unwrap_err();
    assert!(error.is_unreachable() && error.is_temporary());
    let text = error.to_string();
    assert!(text.starts_with(&format!("reaching GET {url}/ping: Connection refused")), "{text}");
    assert!(text.contains("check that sdc-control (CNAPI) runs there"), "{text}");
}

#[tokio::test]
async fn who_says_nothing_is_left_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let timeouts = Timeouts { connect: Duration::from_secs(1), total: Duration::from_millis(200) };
    let cnapi = Cnapi::with_timeouts(&url, timeouts).unwrap();
    let error = cnapi.ping().await.unwrap_err();
    assert!(matches!(error, Error::Transport { timed_out: true, .. }), "{error}");
    drop(listener);
}

/// Only what can be repeated without harm is.
#[tokio::test]
async fn lost_connections_are_tried_again_for_gets_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            // Two are dropped, the third is answered.
            if counted.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
                let body = "{\"ready\":true}";
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    let cnapi = Cnapi::new(&url).unwrap();
    assert!(cnapi.ping().await.unwrap().ready);
    assert_eq!(count.load(Ordering::SeqCst), 3);
    assert!(cnapi.reboot_server(Uuid::nil()).await.unwrap_err().is_unreachable());
    assert_eq!(count.load(Ordering::SeqCst), 4);
}

#[test]
fn unusable_urls_are_refused() {
    for url in ["", "10.0.0.1:8010", "https://10.0.0.1", "http://", "http://a/?b", "ftp://a"] {
        assert!(matches!(Cnapi::new(url), Err(Error::BaseUrl { .. })), "{url}");
    }
}
