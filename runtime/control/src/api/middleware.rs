//! Around every call: request id, log, metrics.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use headnode_model::api::REQUEST_ID_HEADER;
use tracing::Instrument;
use uuid::Uuid;

use super::App;

/// The request id of a call, for handlers.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub String);

/// A request id of a caller is taken over if it is short and plain: it goes into logs and headers.
fn given(request: &Request) -> Option<String> {
    let text = request.headers().get(REQUEST_ID_HEADER)?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b);
    (!text.is_empty() && text.len() <= 128 && text.bytes().all(plain)).then(|| text.to_owned())
}

pub(super) async fn around(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = given(&request).unwrap_or_else(|| Uuid::new_v4().to_string());
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("call", req_id = id);
    request.extensions_mut().insert(RequestId(id.clone()));
    let work = headnode_client::with_request_id(id.clone(), next.run(request));
    let mut response = work.instrument(span.clone()).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    let (status, took) = (response.status(), began.elapsed());
    // Callers can invent methods; labels must stay few.
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE"].contains(&method.as_str());
    let label = if known { &method } else { "other" };
    app.metrics.call(label, &route, status.as_u16(), took);
    let ms = took.as_secs_f64() * 1e3;
    let _entered = span.enter();
    // Heartbeats come by the dozen; what went well is told only to those who ask for it.
    if status.is_success() && (method == "GET" || method == "HEAD" || route.contains("/events/")) {
        tracing::debug!(method, path, status = status.as_u16(), ms, "answered");
    } else {
        tracing::info!(method, path, status = status.as_u16(), ms, "answered");
    }
    response
}
