//! Tasks: how far work on a server is.

use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use headnode_model::task::Task;

use crate::api::App;
use crate::api::error::ApiError;
use crate::api::params::{Fields, Id};

/// How long a caller waits that does not say how long, in seconds; Triton's default.
const WAIT_SECONDS: u32 = 3600;

fn no_task() -> ApiError {
    ApiError::not_found("no such task found")
}

/// A task as it stands: `{id, req_id, server_uuid, task, status, progress, timestamp, history,
/// error}`.
#[utoipa::path(get, path = "/tasks/{uuid}", tag = "cnapi",
    params(("uuid" = String, Path, description = "The task's id")),
    responses((status = 200, description = "The task", body = Object), (status = 404, description = "No such task")))]
pub(crate) async fn get(State(app): State<App>, Id(id): Id) -> Result<Json<Task>, ApiError> {
    let record = app.fleet.store.get_task(id).await?;
    record.map(|record| Json(record.task)).ok_or_else(no_task)
}

/// A task once it is over, or as it stands when the time is up.
#[utoipa::path(get, path = "/tasks/{uuid}/wait", tag = "cnapi",
    params(("uuid" = String, Path, description = "The task's id"),
           ("timeout" = Option<u32>, Query, description = "Seconds to wait, 1 to 3600, default 3600")),
    responses((status = 200, description = "The task", body = Object), (status = 404, description = "No such task")))]
pub(crate) async fn wait(
    State(app): State<App>,
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<Json<Task>, ApiError> {
    let mut fields = Fields::from_query(query.as_deref());
    let seconds = fields.integer("timeout", 1, WAIT_SECONDS).unwrap_or(WAIT_SECONDS);
    fields.finish()?;
    let limit = Duration::from_secs(seconds.into());
    let record = app.jobs.wait(id, limit).await?;
    record.map(|record| Json(record.task)).ok_or_else(no_task)
}
