//! What is not a file: the boot script of a machine and its small files, metrics, health.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};

use super::Peer;
use super::boot::Loader;
pub(super) use super::boot::Who;
use crate::admission::Gate;
use crate::dhcp;
use crate::leases::Leases;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::observe::Observer;
use crate::params::Lookup;
use crate::script::{Scripts, TemplateError};

/// Name of a machine's script before its MAC: `01` is the hardware type Ethernet (C§4.1).
pub(super) const SCRIPT: &str = "boot.ipxe.01";
/// Name of a machine's menu for GRUB legacy before its MAC (C§4.3).
pub(super) const MENU: &str = "menu.lst.01";

/// What the handlers share.
pub struct App {
    /// Who has which address.
    pub leases: Arc<Mutex<Leases>>,
    /// Who gives addresses: this booter, or another server.
    pub dhcp: Live<dhcp::Settings>,
    /// Where parameters come from.
    pub lookup: Lookup,
    /// The scripts.
    pub scripts: Arc<Scripts>,
    /// The counters.
    pub metrics: Metrics,
    /// Who may boot.
    pub gate: Arc<dyn Gate>,
    /// Hears of each script.
    pub observer: Arc<dyn Observer>,
}

/// The routes, for [`super::Site::dynamic`].
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .route("/{file}", get(script))
        .route("/bootfs/{mac}/{*name}", get(file))
        .fallback(async || not_found())
        .with_state(app)
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "no such file\n").into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.text()).into_response()
}

async fn script(
    State(app): State<Arc<App>>,
    Path(file): Path<String>,
    Extension(Peer(peer)): Extension<Peer>,
    who: Result<Query<Who>, QueryRejection>,
) -> Response {
    let who = who.map(|Query(who)| who).unwrap_or_default();
    let ip = peer.ip();
    let rendered = if file == "boot.ipxe" {
        app.chain().await.map(Some)
    } else if let Some(Ok(mac)) = file.strip_prefix(SCRIPT).map(str::parse) {
        app.script(Loader::Ipxe, mac, &who, ip).await
    } else if let Some(Ok(mac)) = file.strip_prefix(MENU).map(str::parse) {
        app.script(Loader::Grub, mac, &who, ip).await
    } else {
        Ok(None)
    };
    match rendered {
        Ok(Some(text)) => {
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
        }
        Ok(None) => not_found(),
        Err(error) => failed(&error),
    }
}

fn failed(error: &TemplateError) -> Response {
    tracing::error!("rendering a boot script: {error}");
    (StatusCode::INTERNAL_SERVER_ERROR, "the boot script cannot be rendered\n").into_response()
}

async fn file(
    State(app): State<Arc<App>>,
    Path((mac, name)): Path<(String, String)>,
    Extension(Peer(peer)): Extension<Peer>,
) -> Response {
    let Ok(mac) = mac.parse() else { return not_found() };
    match app.file(mac, &name, peer.ip()).await {
        Some(content) => {
            ([(header::CONTENT_TYPE, "application/octet-stream")], content).into_response()
        }
        None => not_found(),
    }
}

impl App {
    /// A file that is made for a machine, by the name under which TFTP clients ask for it:
    /// `menu.lst.01<MAC>`, `boot.ipxe.01<MAC>`, `boot.ipxe`, `bootfs/<mac>/<name>`. `None` for other
    /// names, and for machines that may not boot. May take as long as boot parameters do (C§4.1: 28 s);
    /// many may be asked for at the same time.
    pub async fn render_virtual(&self, name: &str, peer: std::net::IpAddr) -> Option<Bytes> {
        let name = name.trim_start_matches('/');
        let who = Who::default();
        if let Some(rest) = name.strip_prefix("bootfs/") {
            let (mac, name) = rest.split_once('/')?;
            return self.file(mac.parse().ok()?, name, peer).await;
        }
        let rendered = if name == "boot.ipxe" {
            self.chain().await.map(Some)
        } else if let Some(mac) = name.strip_prefix(MENU) {
            self.script(Loader::Grub, mac.parse().ok()?, &who, peer).await
        } else if let Some(mac) = name.strip_prefix(SCRIPT) {
            self.script(Loader::Ipxe, mac.parse().ok()?, &who, peer).await
        } else {
            return None;
        };
        match rendered {
            Ok(text) => text.map(Bytes::from),
            Err(error) => {
                tracing::error!("rendering a boot script: {error}");
                None
            }
        }
    }

    /// Whether [`App::render_virtual`] may have a file of this name: asked before anything is looked
    /// up.
    pub fn is_virtual(name: &str) -> bool {
        let name = name.trim_start_matches('/');
        name == "boot.ipxe"
            || ["bootfs/", MENU, SCRIPT].iter().any(|prefix| name.starts_with(prefix))
    }
}
