//! What agents tell between two sysinfos: that they live, and how their machine is (C§5.4).

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::api::App;
use crate::api::error::ApiError;
use crate::api::params::{Body, Fields, Id};

/// The server lives. Its body is not read; not found means that the server has to register.
#[utoipa::path(post, path = "/servers/{uuid}/events/heartbeat", tag = "cnapi",
    params(("uuid" = String, Path, description = "The server's UUID")),
    responses((status = 204, description = "Noted"), (status = 404, description = "Not registered")))]
pub(crate) async fn heartbeat(
    State(app): State<App>,
    Id(uuid): Id,
) -> Result<StatusCode, ApiError> {
    match app.fleet.heartbeat(uuid).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::no_server(uuid)),
    }
}

/// How the server is: `vms`, `zpoolStatus`, `meminfo`, `diskinfo`, `boot_time`, `timestamp`.
#[utoipa::path(post, path = "/servers/{uuid}/events/status", tag = "cnapi",
    params(("uuid" = String, Path, description = "The server's UUID")),
    request_body = Object,
    responses((status = 204, description = "Noted"), (status = 404, description = "Not registered")))]
pub(crate) async fn status(
    State(app): State<App>,
    Id(uuid): Id,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    let report = report(body)?;
    match app.fleet.report(uuid, &report).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::no_server(uuid)),
    }
}

/// The fields of the server object that a status report makes.
fn report(body: Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    let mut fields = Fields::new(body);
    let mut report = Map::new();
    if let Some(vms) = fields.object("vms") {
        report.insert("vms".to_owned(), Value::Object(vms));
    }
    let counters = |fields: &mut Fields, object: &str| {
        let counters = fields.object(object).unwrap_or_default();
        for (name, value) in &counters {
            if !value.is_u64() {
                fields.invalid(&format!("{object}.{name}"), "must be a count of bytes");
            }
        }
        counters
    };
    for (name, value) in counters(&mut fields, "meminfo") {
        let name = match name.as_str() {
            "availrmem_bytes" => "memory_available_bytes".to_owned(),
            "arcsize_bytes" => "memory_arc_bytes".to_owned(),
            other => format!("memory_{other}"),
        };
        report.insert(name, value);
    }
    for (name, value) in counters(&mut fields, "diskinfo") {
        let name = if name.starts_with("disk_") { name } else { format!("disk_{name}") };
        report.insert(name, value);
    }
    // Newer agents may tell more; what is not understood is not an error here, since the agents
    // of a datacenter are never all of one version.
    fields.ignore_rest();
    fields.finish()?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_get_the_names_of_the_server_object() {
        let body = json!({
            "vms": {}, "zpoolStatus": {}, "boot_time": "x", "timestamp": "y",
            "meminfo": {"availrmem_bytes": 1, "arcsize_bytes": 2, "total_bytes": 3},
            "diskinfo": {"pool_size_bytes": 4, "disk_pool_alloc_bytes": 5},
        });
        let report = report(body.as_object().unwrap().clone()).unwrap();
        assert_eq!(
            Value::Object(report),
            json!({
                "vms": {}, "memory_available_bytes": 1, "memory_arc_bytes": 2,
                "memory_total_bytes": 3, "disk_pool_size_bytes": 4, "disk_pool_alloc_bytes": 5,
            })
        );
    }

    #[test]
    fn wrong_types_are_refused() {
        let body = json!({"vms": [], "meminfo": {"total_bytes": "3"}});
        assert_eq!(
            report(body.as_object().unwrap().clone()).unwrap_err().code(),
            "InvalidParameters"
        );
    }
}
