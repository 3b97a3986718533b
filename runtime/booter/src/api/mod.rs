//! The operator's interface, on a Unix socket that only root and the booter itself can open.
//!
//! It is never on the network: who reaches it may let machines boot.

mod socket;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use headnode_model::api::ErrorBody;
use headnode_model::booter::{Boot, BootDetail, BootEvents, BooterStatus, Decide, Stage};
use headnode_model::net::MacAddr;
use serde::Deserialize;
use serde_json::Value;

pub use socket::{Socket, SocketError};

use crate::admission::{Admission, DecisionError};
use crate::progress::Tracker;

/// Longest time that a question for events may wait.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// What the interface needs from the rest of the booter.
#[async_trait::async_trait]
pub trait Operator: Send + Sync + 'static {
    /// What the machine would boot with now, and where that comes from.
    ///
    /// # Errors
    /// A sentence why that cannot be told.
    async fn params(&self, mac: MacAddr, boot: Option<&Boot>) -> Result<Value, String>;

    /// Reads the configuration anew; gives lines that say what has changed.
    ///
    /// # Errors
    /// A sentence what is wrong; nothing has changed then.
    async fn reload(&self) -> Result<Vec<String>, String>;

    /// Version, start and more lines; what is counted here is filled in.
    fn status(&self) -> BooterStatus;
}

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    /// Who is how far.
    pub tracker: Arc<Tracker>,
    /// Who may boot.
    pub admission: Arc<Admission>,
    /// The rest of the booter.
    pub operator: Arc<dyn Operator>,
}

/// A refusal.
struct Refused(StatusCode, ErrorBody);

fn refuse(status: StatusCode, code: &str, message: impl Into<String>) -> Refused {
    let body = ErrorBody { code: code.to_owned(), message: message.into(), errors: Vec::new() };
    Refused(status, body)
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<DecisionError> for Refused {
    fn from(error: DecisionError) -> Self {
        let (status, code) = match &error {
            DecisionError::Full => (StatusCode::CONFLICT, "TooManyDecisions"),
            DecisionError::File { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        };
        refuse(status, code, error.to_string())
    }
}

type Answer<T> = Result<Json<T>, Refused>;

/// The routes.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/reload", post(reload))
        .route("/events", get(events))
        .route("/boots", get(boots))
        .route("/boots/{mac}", get(boot))
        .route("/boots/{mac}/params", get(params))
        .route("/boots/{mac}/{verb}", post(decide))
        .fallback(async || {
            refuse(StatusCode::NOT_FOUND, "ResourceNotFound", "there is no such path")
        })
        .with_state(api)
}

fn mac(text: &str) -> Result<MacAddr, Refused> {
    text.parse().map_err(|error: headnode_model::net::MacError| {
        refuse(StatusCode::CONFLICT, "InvalidArgument", error.to_string())
    })
}

fn query<T>(
    query: Result<Query<T>, axum::extract::rejection::QueryRejection>,
) -> Result<T, Refused> {
    let wrong = |error: axum::extract::rejection::QueryRejection| {
        refuse(StatusCode::CONFLICT, "InvalidArgument", error.body_text())
    };
    Ok(query.map_err(wrong)?.0)
}

impl Api {
    fn decided(&self, mut boot: Boot) -> Boot {
        let decisions = self.admission.decisions();
        if let Some(decision) = decisions.get(&boot.mac) {
            let word = if decision.approved { "approved" } else { "denied" };
            boot.decision = Some(word.to_owned());
        }
        boot
    }
}

/// Which machines to list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Filter {
    held: bool,
    stuck: bool,
    stage: Option<Stage>,
}

async fn boots(
    State(api): State<Api>,
    filter: Result<Query<Filter>, axum::extract::rejection::QueryRejection>,
) -> Answer<Vec<Boot>> {
    let filter = query(filter)?;
    let wanted = |boot: &Boot| {
        (!filter.held || boot.held)
            && (!filter.stuck || boot.stuck.is_some())
            && filter.stage.is_none_or(|stage| boot.stage == stage)
    };
    let boots = api.tracker.boots().into_iter().filter(wanted);
    Ok(Json(boots.map(|boot| api.decided(boot)).collect()))
}

fn unseen(mac: MacAddr) -> Refused {
    let message = format!("no machine with the NIC {mac} was seen since the booter's start");
    refuse(StatusCode::NOT_FOUND, "ResourceNotFound", message)
}

async fn boot(State(api): State<Api>, Path(text): Path<String>) -> Answer<BootDetail> {
    let mac = mac(&text)?;
    let mut detail = api.tracker.boot(mac).ok_or_else(|| unseen(mac))?;
    detail.boot = api.decided(detail.boot);
    Ok(Json(detail))
}

async fn params(State(api): State<Api>, Path(text): Path<String>) -> Answer<Value> {
    let mac = mac(&text)?;
    let boot = api.tracker.boot(mac).map(|detail| detail.boot);
    let found = api.operator.params(mac, boot.as_ref()).await;
    found.map(Json).map_err(|why| refuse(StatusCode::NOT_FOUND, "ResourceNotFound", why))
}

async fn decide(
    State(api): State<Api>,
    Path((text, verb)): Path<(String, String)>,
    body: Result<Json<Decide>, axum::extract::rejection::JsonRejection>,
) -> Result<StatusCode, Refused> {
    let mac = mac(&text)?;
    let Json(Decide { who, note }) =
        body.map_err(|error| refuse(StatusCode::CONFLICT, "InvalidArgument", error.body_text()))?;
    let work = move || {
        let admission = &api.admission;
        match verb.as_str() {
            // A machine may be decided about before it is ever seen.
            "approve" => admission.approve(&[mac], &who, &note).map_err(Refused::from),
            "deny" => admission.deny(&[mac], &who, &note).map_err(Refused::from),
            "forget" => {
                let decided = admission.forget(&[mac], &who, &note)? > 0;
                let seen = api.tracker.forget(mac);
                if decided || seen { Ok(()) } else { Err(unseen(mac)) }
            }
            _ => Err(refuse(StatusCode::NOT_FOUND, "ResourceNotFound", "there is no such path")),
        }
    };
    // It writes a file.
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", error.to_string())
    })??;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct After {
    after: u64,
    /// Seconds.
    wait: u64,
    mac: Option<MacAddr>,
}

async fn events(
    State(api): State<Api>,
    after: Result<Query<After>, axum::extract::rejection::QueryRejection>,
) -> Answer<BootEvents> {
    let After { after, wait, mac } = query(after)?;
    let wait = Duration::from_secs(wait).min(WAIT_LIMIT);
    Ok(Json(api.tracker.next_events(after, mac, wait).await))
}

async fn reload(State(api): State<Api>) -> Answer<Vec<String>> {
    let done = api.operator.reload().await;
    done.map(Json).map_err(|why| refuse(StatusCode::CONFLICT, "InvalidConfiguration", why))
}

async fn status(State(api): State<Api>) -> Json<BooterStatus> {
    let counts = api.tracker.counts();
    Json(BooterStatus {
        policy: api.admission.policy().word().to_owned(),
        machines: counts.machines,
        held: counts.held,
        stuck: counts.stuck,
        untracked: counts.untracked,
        ..api.operator.status()
    })
}
