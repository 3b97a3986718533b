//! Whether CNAPI is there.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::App;
use crate::api::error::ApiError;

/// The answer of a CNAPI that works.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pong {
    /// Always true: a CNAPI that is not ready answers with an error.
    ready: bool,
    /// `OK`.
    status: &'static str,
    /// Version of this software.
    version: &'static str,
}

/// Whether CNAPI can do its work.
#[utoipa::path(get, path = "/ping", tag = "cnapi", responses((status = 200, body = Pong)))]
pub(crate) async fn ping(State(app): State<App>) -> Result<Json<Pong>, ApiError> {
    app.fleet.store.ping().await?;
    Ok(Json(Pong { ready: true, status: "OK", version: env!("CARGO_PKG_VERSION") }))
}
