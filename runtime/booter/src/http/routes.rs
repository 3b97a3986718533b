//! What is not a file: the boot script of a machine, metrics, health.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use headnode_model::net::MacAddr;
use serde::Deserialize;
use uuid::Uuid;

use super::{Peer, own};
use crate::admission::{Gate, Machine, Verdict};
use crate::alone::ScriptSource;
use crate::dhcp::{self, Mode};
use crate::leases::{Lease, Leases};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::networks::{Network, Place};
use crate::observe::{Event, Observer};
use crate::params::Lookup;
use crate::script::Scripts;

/// Name of a machine's script before its MAC: `01` is the hardware type Ethernet (C§4.1).
const SCRIPT: &str = "boot.ipxe.01";

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
    /// Says what machines boot instead of `lookup` and `scripts`, when there is no CNAPI to ask.
    pub own: Option<Arc<dyn ScriptSource>>,
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

/// What a machine tells in its script's URL beside its MAC. Whatever it writes, it gets a script.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Who {
    uuid: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) manufacturer: Option<String>,
}

impl Who {
    pub(super) fn uuid(&self) -> Option<Uuid> {
        self.uuid.as_deref()?.parse().ok()
    }

    /// Whether it was asked to say who it is: firmware without the values sends empty ones.
    pub(super) fn identified(&self) -> bool {
        self.serial.is_some() && self.manufacturer.is_some()
    }
}

async fn script(
    State(app): State<Arc<App>>,
    Path(file): Path<String>,
    Extension(Peer(peer)): Extension<Peer>,
    who: Result<Query<Who>, QueryRejection>,
) -> Response {
    let who = who.map(|Query(who)| who).unwrap_or_default();
    let mac = file.strip_prefix(SCRIPT).map(str::parse::<MacAddr>);
    let rendered = match mac {
        None if file == "boot.ipxe" => match &app.own {
            Some(own) => Ok(Some(own.chain())),
            None => app.scripts.chain().map(Some),
        },
        Some(Ok(mac)) if let Some(source) = &app.own => {
            Ok(own::script(&app, source, mac, &who, peer.ip()).await)
        }
        Some(Ok(mac)) => boot_script(&app, mac, &who, peer.ip()).await,
        None | Some(Err(_)) => Ok(None),
    };
    match rendered {
        Ok(Some(text)) => {
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
        }
        Ok(None) => (StatusCode::NOT_FOUND, "no such file\n").into_response(),
        Err(error) => {
            tracing::error!("rendering a boot script: {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, "the boot script cannot be rendered\n")
                .into_response()
        }
    }
}

/// The machine's address and network. Beside another DHCP server that is the address it comes from.
pub(super) fn lease(app: &App, mac: MacAddr, peer: IpAddr) -> Option<(Lease, Arc<Network>)> {
    let leases = app.leases.lock().unwrap_or_else(PoisonError::into_inner);
    let lease = match (app.dhcp.get().mode, peer.to_canonical()) {
        (Mode::Server, _) => leases.get(mac)?.clone(),
        (_, IpAddr::V4(ip)) => Lease { mac, ip, uuid: None, seen: 0, until: 0, tag: None },
        (_, IpAddr::V6(_)) => return None,
    };
    let (circuit, link, giaddr) = (None, None, Ipv4Addr::UNSPECIFIED);
    let at = leases.place(&Place { circuit, link, giaddr, ciaddr: lease.ip })?;
    let network = Arc::clone(leases.network(at)?);
    Some((lease, network))
}

/// The machine's script; none for a machine that may not boot.
async fn boot_script(
    app: &Arc<App>,
    mac: MacAddr,
    who: &Who,
    peer: IpAddr,
) -> Result<Option<String>, tera::Error> {
    // Nothing is looked up or cached for a MAC that never got an address: anybody can make them up.
    let Some((lease, network)) = lease(app, mac, peer) else {
        tracing::warn!(%mac, "a machine without a lease asked for its boot script");
        let message = "it has no address from this headnode. Boot it by PXE";
        return app.scripts.message(mac, message).map(Some);
    };
    if app.gate.needs_identity(mac) && !who.identified() {
        return app.scripts.identify(mac).map(Some);
    }
    let uuid = lease.uuid.or(who.uuid());
    let asked = Instant::now();
    let found = app.lookup.find(mac, uuid).await;
    app.metrics.lookup_seconds.observe(asked.elapsed().as_secs_f64());
    let origin = found.origin.word();
    Metrics::count(&app.metrics.scripts, origin);
    let machine = Machine {
        mac,
        uuid,
        serial: who.serial.as_deref(),
        vendor: who.manufacturer.as_deref(),
        rack: lease.tag.as_deref(),
    };
    let platform = found.params.platform.clone();
    let told = |kind, problem: Option<&str>| {
        let platform = platform.as_str();
        app.observer.event(&Event::Script { mac, uuid, kind, origin, platform, problem });
    };
    match app.gate.at_script(&machine, found.known) {
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
    app.lookup.keep(mac, &found).await;
    tracing::info!(%mac, ip = %lease.ip, ?uuid, platform, parameters = origin, "boot script");
    let begun = Instant::now();
    let scripts = Arc::clone(&app.scripts);
    let render = move || scripts.boot(mac, (&lease, &network), &found.params);
    let script = tokio::task::spawn_blocking(render).await;
    let script = script.unwrap_or_else(|e| Err(tera::Error::message(e)))?;
    app.metrics.script_seconds.observe(begun.elapsed().as_secs_f64());
    let kind = if script.problem.is_some() { "message" } else { "boot" };
    told(kind, script.problem.as_deref());
    Ok(Some(script.text))
}
