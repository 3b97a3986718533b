//! Servers: registering, listing, changing, setting up, rebooting.

use axum::extract::{Extension, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::update::Update;
use super::view::{Extras, ServerView};
use crate::api::App;
use crate::api::error::ApiError;
use crate::api::middleware::RequestId;
use crate::api::params::{Body, Fields, Id};
use crate::store::{ServerFilter, update_server};

/// The most servers that one list gives, as Triton's.
const LIST_LIMIT: u32 = 1000;
/// Layouts that a pool can be asked for, as Triton's.
const LAYOUTS: [&str; 5] = ["single", "mirror", "raidz1", "raidz2", "raidz3"];

/// The answer to a call that began a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Job {
    /// The job's id, for `GET /tasks/:id`.
    id: Uuid,
    /// The same, under Triton's name.
    job_uuid: Uuid,
}

fn job(id: Uuid) -> Response {
    (StatusCode::ACCEPTED, Json(Job { id, job_uuid: id })).into_response()
}

/// Servers that match all filters, sorted by UUID.
#[utoipa::path(get, path = "/servers", tag = "cnapi",
    params(
        ("uuids" = Option<String>, Query, description = "Comma-separated UUIDs"),
        ("setup" = Option<bool>, Query, description = "Set up, or not"),
        ("headnode" = Option<bool>, Query, description = "Headnodes, or compute nodes"),
        ("reserved" = Option<bool>, Query, description = "Takes no new instances, or does"),
        ("reservoir" = Option<bool>, Query, description = "Held in reserve, or not"),
        ("hostname" = Option<String>, Query, description = "Of this host name"),
        ("extras" = Option<String>, Query, description = "Comma-separated parts to show too: agents, sysinfo, vms, memory, disk, capacity, last_heartbeat, all"),
        ("fields" = Option<String>, Query, description = "Comma-separated fields to show only"),
        ("limit" = Option<u32>, Query, description = "At most this many, 1 to 1000"),
        ("offset" = Option<u32>, Query, description = "Leave out this many at the beginning"),
    ),
    responses((status = 200, body = Vec<ServerView>), (status = 400, description = "Wrong filters, all of them named")))]
pub(crate) async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (filter, extras, wanted) = read_query(query.as_deref())?;
    let servers = app.fleet.store.list(&filter).await?;
    let views = servers.iter().map(|server| ServerView::new(&app.fleet, server, extras));
    let Some(wanted) = wanted else {
        return Ok(response::Json(views.collect::<Vec<_>>()).into_response());
    };
    let mut narrow = Vec::with_capacity(servers.len());
    for view in views {
        if let Ok(Value::Object(object)) = serde_json::to_value(view) {
            let keep = object.into_iter().filter(|(name, _)| wanted.contains(name));
            narrow.push(keep.collect::<Map<_, _>>());
        }
    }
    Ok(response::Json(narrow).into_response())
}

type ListQuery = (ServerFilter, Extras, Option<Vec<String>>);

fn read_query(query: Option<&str>) -> Result<ListQuery, ApiError> {
    let mut fields = Fields::from_query(query);
    let uuids = fields.take("uuids", "UUIDs separated by commas", |value| {
        value.as_str()?.split(',').map(|uuid| uuid.trim().parse().ok()).collect()
    });
    let words = fields.words("extras").unwrap_or_default();
    let extras = Extras::parse(&words).unwrap_or_else(|unknown| {
        fields.invalid("extras", format!("there is no part {}", unknown.join(", ")));
        Extras::default()
    });
    let wanted = fields.words("fields");
    let filter = ServerFilter {
        uuids,
        setup: fields.flag("setup"),
        headnode: fields.flag("headnode"),
        reserved: fields.flag("reserved"),
        reservoir: fields.flag("reservoir"),
        hostname: fields.string("hostname"),
        limit: fields.integer("limit", 1, LIST_LIMIT),
        offset: fields.integer("offset", 0, u32::MAX),
        sysinfo: extras.sysinfo || extras.capacity,
        report: extras.vms || extras.memory || extras.disk || extras.capacity,
    };
    fields.finish()?;
    Ok((filter, extras, wanted))
}

/// One server with all its parts.
#[utoipa::path(get, path = "/servers/{uuid}", tag = "cnapi",
    params(("uuid" = String, Path, description = "The server's UUID")),
    responses((status = 200, body = ServerView), (status = 404, description = "No such server")))]
pub(crate) async fn get(State(app): State<App>, Id(uuid): Id) -> Result<Response, ApiError> {
    let server = app.fleet.store.get(uuid).await?.ok_or_else(|| ApiError::no_server(uuid))?;
    Ok(Json(ServerView::new(&app.fleet, &server, Extras::ALL)).into_response())
}

/// Changes fields of a server.
#[utoipa::path(post, path = "/servers/{uuid}", tag = "cnapi", request_body = Object,
    params(("uuid" = String, Path, description = "The server's UUID")),
    responses((status = 204, description = "Done"), (status = 404, description = "No such server"),
              (status = 400, description = "Wrong fields, all of them named")))]
pub(crate) async fn update(
    State(app): State<App>,
    Id(uuid): Id,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    let update = Update::read(&app, body).await?;
    let written = update_server(&*app.fleet.store, uuid, |server| {
        update.apply(&mut server.core);
        true
    });
    written.await?.ok_or_else(|| ApiError::no_server(uuid))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets a server. It comes back as a new one if it still sends its sysinfo.
#[utoipa::path(delete, path = "/servers/{uuid}", tag = "cnapi",
    params(("uuid" = String, Path, description = "The server's UUID")),
    responses((status = 204, description = "Done"), (status = 404, description = "No such server")))]
pub(crate) async fn delete(State(app): State<App>, Id(uuid): Id) -> Result<StatusCode, ApiError> {
    match app.fleet.delete(uuid).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::no_server(uuid)),
    }
}

/// Registers a server, or takes what is new about it: `{"sysinfo": {…}}` (C§5.5).
#[utoipa::path(post, path = "/servers/{uuid}/sysinfo", tag = "cnapi", request_body = Object,
    params(("uuid" = String, Path, description = "The server's UUID")),
    responses((status = 200, description = "Registered"),
              (status = 400, description = "Wrong fields, all of them named"),
              (status = 409, description = "Another living machine has this UUID (DuplicateServer)")))]
pub(crate) async fn sysinfo(
    State(app): State<App>,
    Id(uuid): Id,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    let mut fields = Fields::new(body);
    fields.ignore(&["origin", "creator_uuid"]);
    if !fields.has("sysinfo") {
        fields.error("sysinfo", "MissingParameter", "is missing".to_owned());
    }
    let sysinfo = fields.object("sysinfo").unwrap_or_default();
    fields.finish()?;
    app.fleet.register(uuid, sysinfo).await?;
    Ok(StatusCode::OK)
}

/// Sets a server up: pool, datasets, agent.
#[utoipa::path(put, path = "/servers/{uuid}/setup", tag = "cnapi", request_body = Object,
    params(("uuid" = String, Path, description = "The server's UUID")),
    responses((status = 202, body = Job), (status = 204, description = "Set up already"),
              (status = 404, description = "No such server"),
              (status = 409, description = "Another job runs on the server"),
              (status = 503, description = "The server does not run")))]
pub(crate) async fn setup(
    State(app): State<App>,
    Id(uuid): Id,
    Extension(RequestId(req_id)): Extension<RequestId>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let params = setup_params(body)?;
    match app.jobs.setup(uuid, Value::Object(params), Some(req_id)).await? {
        Some(id) => Ok(job(id)),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// The parameters of the agent's task.
fn setup_params(body: Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    let mut fields = Fields::new(body);
    fields.ignore(&["origin", "creator_uuid"]);
    let mut params = Map::new();
    let mut keep = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            params.insert(name.to_owned(), value);
        }
    };
    let hostname = fields.take("hostname", "a host name", |value| {
        value.as_str().filter(|name| is_hostname(name)).map(|name| json!(name))
    });
    keep("hostname", hostname);
    let layout = fields.take("disk_layout", &format!("one of {}", LAYOUTS.join(", ")), |value| {
        value.as_str().filter(|layout| LAYOUTS.contains(layout)).map(|layout| json!(layout))
    });
    keep("disk_layout", layout);
    for name in ["disk_cache", "encryption_enabled"] {
        keep(name, fields.flag(name).map(Value::Bool));
    }
    for name in ["disk_spares", "disk_width"] {
        keep(name, fields.integer(name, 0, 1000).map(Value::from));
    }
    for name in ["disk_exclude", "postsetup_script"] {
        keep(name, fields.string(name).map(Value::String));
    }
    keep("nics", fields.array("nics").map(Value::Array));
    fields.finish()?;
    Ok(params)
}

/// Whether a text is a DNS name (RFC 1123 §2.1).
fn is_hostname(name: &str) -> bool {
    let label = |label: &str| {
        let byte = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(byte)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Reboots a server. The job is over when the server is back.
#[utoipa::path(post, path = "/servers/{uuid}/reboot", tag = "cnapi", request_body = Object,
    params(("uuid" = String, Path, description = "The server's UUID")),
    responses((status = 202, body = Job), (status = 404, description = "No such server"),
              (status = 409, description = "Another job runs on the server"),
              (status = 503, description = "The server does not run")))]
pub(crate) async fn reboot(
    State(app): State<App>,
    Id(uuid): Id,
    Extension(RequestId(req_id)): Extension<RequestId>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let mut fields = Fields::new(body);
    fields.ignore(&["origin", "creator_uuid"]);
    // No other task of an agent is under way when a reboot is begun (one job per server), so
    // there is nothing to drain; `nojob` asks for the bare task, which ours is.
    let _ = (fields.flag("drain"), fields.flag("nojob"));
    fields.finish()?;
    Ok(job(app.jobs.reboot(uuid, Some(req_id)).await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn host_names() {
        for good in ["a", "node-1", "n1.example.com", "02-00-00-00-00-01"] {
            assert!(is_hostname(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a b", "ä", "a\n"] {
            assert!(!is_hostname(bad), "{bad}");
        }
    }

    #[test]
    fn all_wrong_filters_are_named() {
        let query = "setup=maybe&limit=0&uuids=1,2&extras=all,foo&hostnam=x&offset=-1";
        let error = read_query(Some(query)).unwrap_err();
        let body = format!("{error:?}");
        for field in ["setup", "limit", "uuids", "extras", "hostnam", "offset"] {
            assert!(body.contains(&format!("field: {field:?}")), "{field} {body}");
        }
    }

    proptest! {
        #[test]
        fn no_query_panics(query in "([a-z]{0,8}=[^&]{0,12}&?){0,5}|.*") {
            drop(read_query(Some(&query)));
        }

        #[test]
        fn good_queries_mean_what_they_say(
            setup: Option<bool>, headnode: Option<bool>, limit in proptest::option::of(1u32..=1000),
            uuids in proptest::collection::vec(any::<u128>(), 0..4), offset: Option<u32>,
        ) {
            let uuids: Vec<_> = uuids.into_iter().map(Uuid::from_u128).collect();
            let mut query = Vec::new();
            if let Some(setup) = setup { query.push(format!("setup={setup}")); }
            if let Some(headnode) = headnode { query.push(format!("headnode={}", headnode.to_string().to_uppercase())); }
            if let Some(limit) = limit { query.push(format!("limit={limit}")); }
            if let Some(offset) = offset { query.push(format!("offset={offset}")); }
            if !uuids.is_empty() {
                let list: Vec<_> = uuids.iter().map(Uuid::to_string).collect();
                query.push(format!("uuids={}", list.join("%2C")));
            }
            let (filter, extras, wanted) = read_query(Some(&query.join("&"))).unwrap();
            prop_assert_eq!(filter, ServerFilter {
                setup, headnode, limit, offset, uuids: (!uuids.is_empty()).then_some(uuids),
                ..ServerFilter::default()
            });
            prop_assert_eq!(extras, Extras::default());
            prop_assert_eq!(wanted, None);
        }
    }
}
