//! What is not a file: the boot script of a machine, metrics, health.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use headnode_model::net::MacAddr;
use serde::Deserialize;
use uuid::Uuid;

use crate::admission::{Gate, Machine, Verdict};
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::networks::Place;
use crate::observe::{Event, Observer};
use crate::params::{Lookup, Origin};
use crate::script::Scripts;

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
        .fallback(async || (StatusCode::NOT_FOUND, "no such file\n"))
        .with_state(app)
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
        Some(Ok(mac)) => match boot_script(&app, mac, who.uuid).await {
            Ok(Some(text)) => Ok(text),
            Ok(None) => return (StatusCode::NOT_FOUND, "no such file\n").into_response(),
            Err(error) => Err(error),
        },
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
) -> Result<Option<String>, tera::Error> {
    let (lease, network) = {
        let leases = app.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = leases.get(mac).cloned();
        let ip = lease.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |lease| lease.ip);
        let (circuit, link, giaddr) = (None, None, Ipv4Addr::UNSPECIFIED);
        let place = leases.place(&Place { circuit, link, giaddr, ciaddr: ip });
        let network = place.and_then(|at| leases.network(at)).cloned();
        (lease, network)
    };
    // Nothing is looked up or cached for a MAC that never got an address: anybody can make them up.
    let (Some(lease), Some(network)) = (lease, network) else {
        tracing::warn!(%mac, "a machine without a lease asked for its boot script");
        let message = "it has no address from this headnode. Boot it by PXE";
        return app.scripts.message(mac, message).map(Some);
    };
    let uuid = lease.uuid.or(uuid);
    let (params, origin) = app.lookup.find(mac, uuid).await;
    Metrics::count(&app.metrics.scripts, origin.word());
    let rack = lease.tag.clone();
    let machine = Machine { mac, uuid, serial: None, vendor: None, rack: rack.as_deref() };
    let told = |kind, problem: Option<&str>| {
        let (origin, platform) = (origin.word(), params.platform.as_str());
        app.observer.event(&Event::Script { mac, uuid, kind, origin, platform, problem });
    };
    match app.gate.at_script(&machine, origin == Origin::Server) {
        Verdict::Admit => {}
        Verdict::Hold => {
            told("hold", Some("it waits for an operator"));
            let message =
                format!("an operator has to let it in. On the headnode: sdc boot approve {mac}");
            return app.scripts.message(mac, &message).map(Some);
        }
        Verdict::Ignore => {
            told("message", Some("it may not boot"));
            return Ok(None);
        }
    }
    tracing::info!(
        %mac, ip = %lease.ip, ?uuid, platform = params.platform, parameters = origin.word(),
        "boot script"
    );
    told("boot", None);
    let scripts = Arc::clone(&app.scripts);
    let render = move || scripts.boot(mac, Some((&lease, &network)), &params);
    let text = tokio::task::spawn_blocking(render).await;
    text.unwrap_or_else(|e| Err(tera::Error::message(e))).map(Some)
}
