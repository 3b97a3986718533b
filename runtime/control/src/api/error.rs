//! Errors in Triton's form: status, and a body `{code, message, errors}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use headnode_model::api::{ErrorBody, FieldError};
use uuid::Uuid;

use crate::fleet::RegisterError;
use crate::jobs::StartError;
use crate::store::StoreError;

/// An answer that is an error.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

impl ApiError {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let (code, message) = (code.to_owned(), message.into());
        Self { status, body: ErrorBody { code, message, errors: vec![] } }
    }

    /// What was asked for is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "ResourceNotFound", message)
    }

    /// There is no such server.
    pub fn no_server(uuid: Uuid) -> Self {
        Self::not_found(format!("Server {uuid} not found"))
    }

    /// The path is there, the method is not.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// The request's body is no JSON object.
    pub fn content(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidContent", message)
    }

    /// The request's body is too long.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the body is longer than {} KiB", limit >> 10);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// Fields are wrong: all of them at once.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let message = "Request parameters failed validation";
        let mut error = Self::new(StatusCode::BAD_REQUEST, "InvalidParameters", message);
        error.body.errors = errors;
        error
    }

    /// One field is wrong.
    pub fn invalid_field(field: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError {
            field: field.to_owned(),
            code: "InvalidParameter".to_owned(),
            message: Some(message.into()),
        }])
    }

    /// The server object's code.
    pub fn code(&self) -> &str {
        &self.body.code
    }

    fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "database");
        match &error {
            StoreError::Query { .. } | StoreError::Contended(_) => {
                Self::unavailable(error.to_string())
            }
            StoreError::Open { .. } | StoreError::Document { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", error.to_string())
            }
        }
    }
}

impl From<RegisterError> for ApiError {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Invalid(errors) => Self::invalid(errors),
            RegisterError::Duplicate(message) => {
                Self::new(StatusCode::CONFLICT, "DuplicateServer", message)
            }
            RegisterError::Store(error) => error.into(),
        }
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::NotFound(uuid) => Self::no_server(uuid),
            StartError::Busy(message) => Self::new(StatusCode::CONFLICT, "ServerBusy", message),
            StartError::Unavailable(message) => Self::unavailable(message),
            StartError::Store(error) => error.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
