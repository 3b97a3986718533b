//! The HTTP server: platform images and `/extra` from disk, a boot script per machine.

mod listener;

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{MatchedPath, Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use headnode_client::with_request_id;
use headnode_model::api::REQUEST_ID_HEADER;
use headnode_model::net::MacAddr;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::services::ServeDir;
use uuid::Uuid;

use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::params::Lookup;
use crate::script::Scripts;
use crate::settings::Settings;

/// Bytes read from disk at a time. 1 MiB would give a quarter more speed on one connection, but
/// costs its size in memory for each of the nodes that boot at the same time.
const CHUNK: usize = 256 << 10;
/// Name of a machine's script before its MAC: `01` is the hardware type Ethernet (C§4.1).
const SCRIPT: &str = "boot.ipxe.01";

/// What the handlers share.
pub struct App {
    /// Who has which address.
    pub leases: Arc<Mutex<Leases>>,
    /// Where parameters come from.
    pub lookup: Lookup,
    /// The scripts.
    pub scripts: Arc<Scripts>,
    /// The counters.
    pub metrics: Metrics,
}

/// Serves until `stop`, then lets running answers end.
///
/// # Errors
/// When the listener breaks.
pub async fn run(
    listener: TcpListener,
    settings: &Settings,
    app: Arc<App>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = listener::Listener::new(listener, app.metrics.clone());
    axum::serve(listener, router(settings, app))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn router(settings: &Settings, app: Arc<App>) -> Router {
    let folder = |name: &str| {
        ServeDir::new(settings.root.join(name))
            .append_index_html_on_directories(false)
            .with_buf_chunk_size(CHUNK)
    };
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .route("/{file}", get(script))
        .nest_service("/os", folder("os"))
        .nest_service("/extra", folder("extra"))
        .fallback(async || (StatusCode::NOT_FOUND, "no such file\n"))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}

/// Request id, log line and counter of each request.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID_HEADER).and_then(|id| id.to_str().ok());
    let id = match given {
        Some(id) if !id.is_empty() && id.len() <= 64 => id.to_owned(),
        _ => Uuid::new_v4().to_string(),
    };
    let method = request.method().clone();
    let path: String = request.uri().path().chars().take(200).collect();
    let quiet = request
        .extensions()
        .get::<MatchedPath>()
        .is_some_and(|matched| matches!(matched.as_str(), "/healthz" | "/metrics"));
    let mut response = with_request_id(id.clone(), next.run(request)).await;
    let status = response.status();
    let class = match status.as_u16() / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "other",
    };
    Metrics::count(&app.metrics.http_requests, class);
    if !quiet {
        tracing::info!(req_id = id, %method, path, status = status.as_u16(), "HTTP");
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.text()).into_response()
}

#[derive(Deserialize)]
struct Who {
    /// The machine's UUID, when it has not told it by DHCP.
    uuid: Option<Uuid>,
}

async fn script(
    State(app): State<Arc<App>>,
    Path(file): Path<String>,
    Query(who): Query<Who>,
) -> Response {
    let mac = file.strip_prefix(SCRIPT).map(str::parse::<MacAddr>);
    let rendered = match mac {
        None if file == "boot.ipxe" => app.scripts.chain(),
        Some(Ok(mac)) => boot_script(&app, mac, who.uuid).await,
        None | Some(Err(_)) => return (StatusCode::NOT_FOUND, "no such file\n").into_response(),
    };
    match rendered {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!("rendering a boot script: {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, "the boot script cannot be rendered\n")
                .into_response()
        }
    }
}

async fn boot_script(
    app: &Arc<App>,
    mac: MacAddr,
    uuid: Option<Uuid>,
) -> Result<String, tera::Error> {
    let lease = app.leases.lock().unwrap_or_else(PoisonError::into_inner).get(mac).cloned();
    // Nothing is looked up or cached for a MAC that never got an address: anybody can make them up.
    let Some(lease) = lease else {
        tracing::warn!(%mac, "a machine without a lease asked for its boot script");
        return app.scripts.message(mac, "it has no address from this headnode. Boot it by PXE");
    };
    let uuid = lease.uuid.or(uuid);
    let (params, origin) = app.lookup.find(mac, uuid).await;
    Metrics::count(&app.metrics.scripts, origin.word());
    tracing::info!(
        %mac, ip = %lease.ip, ?uuid, platform = params.platform, parameters = origin.word(),
        "boot script"
    );
    let scripts = Arc::clone(&app.scripts);
    let render = move || scripts.boot(mac, Some(&lease), &params);
    tokio::task::spawn_blocking(render).await.unwrap_or_else(|e| Err(tera::Error::message(e)))
}
