//! The HTTP server: one module per API, and what they share.

pub mod cnapi;
pub mod error;
mod health;
mod metrics;
mod middleware;
pub mod openapi;
mod params;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::get;

use crate::fleet::Fleet;
use crate::jobs::Jobs;
use error::ApiError;
use metrics::Metrics;

/// What all handlers know.
#[derive(Clone)]
pub struct App {
    /// The machines.
    pub fleet: Arc<Fleet>,
    /// Work on them.
    pub jobs: Jobs,
    metrics: Arc<Metrics>,
}

impl App {
    /// An application on these machines and jobs.
    pub fn new(fleet: Arc<Fleet>, jobs: Jobs) -> Self {
        Self { fleet, jobs, metrics: Arc::default() }
    }

    /// All routes.
    pub fn router(self) -> Router {
        Router::new()
            .merge(cnapi::router())
            .route("/metrics", get(health::metrics))
            .route("/healthz", get(health::healthz))
            .route("/openapi.json", get(openapi::serve))
            .fallback(unknown_path)
            .method_not_allowed_fallback(unknown_method)
            .layer(axum::middleware::from_fn_with_state(self.clone(), middleware::around))
            .with_state(self)
    }
}

async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::not_found(format!("{} does not exist", uri.path()))
}

async fn unknown_method(method: Method, uri: Uri) -> ApiError {
    ApiError::method_not_allowed(format!("{} does not allow {method}", uri.path()))
}
