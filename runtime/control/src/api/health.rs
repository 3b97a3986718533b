//! What monitors ask.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::App;
use super::error::ApiError;

/// Metrics in Prometheus' text form.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "Metrics in Prometheus' text form", body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let text = app.metrics.text(app.fleet.liveness.alive());
    let text = text.map_err(|error| ApiError::content(error.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], text))
}

/// Whether the service can do its work: the database answers.
#[utoipa::path(get, path = "/healthz", tag = "health",
    responses((status = 200, description = "Healthy", body = String),
              (status = 503, description = "The database does not answer")))]
pub(super) async fn healthz(State(app): State<App>) -> Result<&'static str, ApiError> {
    app.fleet.store.ping().await?;
    Ok("ok\n")
}
