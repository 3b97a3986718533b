//! A stand-in for CNAPI: gives boot parameters and counts registrations.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

/// Machines that have registered.
#[derive(Debug, Clone, Default)]
pub struct Registered(Arc<Mutex<HashSet<Uuid>>>);

impl Registered {
    /// How many different ones.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Serves for ever: `GET /boot/default`, `GET /boot/:uuid` (404), `GET /servers` (none),
/// `POST /servers/:uuid/sysinfo`, `GET /registered` (how many).
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    platform: &str,
    registered: Registered,
) -> std::io::Result<()> {
    let params = json!({
        "platform": platform, "kernel_args": {}, "kernel_flags": {}, "boot_modules": [],
        "default_console": "serial", "serial": "ttyb",
    });
    let not_found = async || {
        let body = json!({ "code": "ResourceNotFound", "message": "no such server" });
        (StatusCode::NOT_FOUND, Json(body))
    };
    let app = Router::new()
        .route("/boot/default", get(async move || Json(params)))
        .route("/boot/{uuid}", get(not_found))
        .route("/servers", get(async || Json(json!([]))))
        .route("/servers/{uuid}/sysinfo", post(register))
        .route("/registered", get(async |State(all): State<Registered>| all.count().to_string()))
        .fallback(not_found)
        .with_state(registered);
    axum::serve(listener, app).await
}

async fn register(
    State(all): State<Registered>,
    Path(uuid): Path<Uuid>,
    Json(_): Json<Value>,
) -> Json<Value> {
    all.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uuid);
    Json(json!({}))
}

/// Takes connections and never answers, for ever.
///
/// # Errors
/// When the listener breaks.
pub async fn hang(listener: TcpListener) -> std::io::Result<()> {
    let mut held = Vec::new();
    loop {
        held.push(listener.accept().await?);
    }
}
