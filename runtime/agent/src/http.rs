//! The agent's HTTP interface (C§5.4).

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use headnode_model::api::{ErrorBody, REQUEST_ID_HEADER};
use headnode_model::task::TaskRequest;
use serde_json::json;
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::tasks::{Refusal, Tasks};

/// The longest request body in bytes.
const BODY_LIMIT: usize = 1 << 20;

#[derive(Clone)]
struct App {
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

/// The routes.
pub fn router(tasks: Tasks, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/tasks", post(post_task))
        .route("/tasks/{id}", get(get_task))
        .route("/history", get(history))
        .route("/pause", post(|app| set_paused(app, true)))
        .route("/resume", post(|app| set_paused(app, false)))
        .route("/ping", get(ping))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics_text))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "ResourceNotFound", "no such path") })
        .method_not_allowed_fallback(|| async {
            let code = StatusCode::METHOD_NOT_ALLOWED;
            error(code, "MethodNotAllowed", "this path has other methods")
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(App { tasks, metrics })
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let (code, message) = (code.to_owned(), message.to_owned());
    (status, Json(ErrorBody { code, message, errors: Vec::new() })).into_response()
}

async fn post_task(
    State(app): State<App>,
    headers: HeaderMap,
    body: Result<Json<TaskRequest>, JsonRejection>,
) -> Response {
    let mut request = match body {
        Ok(Json(request)) => request,
        Err(rejection) => {
            let status = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::CONFLICT,
            };
            return error(status, "InvalidParameters", &rejection.body_text());
        }
    };
    if request.req_id.is_none() {
        let id = headers.get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
        request.req_id = id.map(str::to_owned);
    }
    match app.tasks.submit(request) {
        Ok((task, _)) => (StatusCode::ACCEPTED, Json(task)).into_response(),
        Err(refusal) => {
            let (status, code) = match refusal {
                Refusal::Unknown(_) => (StatusCode::NOT_FOUND, "ResourceNotFound"),
                Refusal::Params { .. } | Refusal::Conflict(_) => {
                    (StatusCode::CONFLICT, "InvalidParameters")
                }
                Refusal::Full => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            };
            error(status, code, &refusal.to_string())
        }
    }
}

async fn get_task(State(app): State<App>, Path(id): Path<String>) -> Response {
    match id.parse::<Uuid>().ok().and_then(|id| app.tasks.get(id)) {
        Some(task) => Json(task).into_response(),
        None => error(StatusCode::NOT_FOUND, "ResourceNotFound", &format!("no task {id}")),
    }
}

async fn history(State(app): State<App>) -> Response {
    Json(app.tasks.history()).into_response()
}

async fn set_paused(State(app): State<App>, paused: bool) -> StatusCode {
    app.tasks.set_paused(paused);
    StatusCode::NO_CONTENT
}

async fn ping(State(app): State<App>) -> Response {
    let (waiting, paused) = app.tasks.waiting();
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({ "ready": true, "version": version, "queued": waiting, "paused": paused }))
        .into_response()
}

async fn metrics_text(State(app): State<App>) -> impl IntoResponse {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPENMETRICS)], app.metrics.text())
}
