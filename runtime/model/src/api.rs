//! What all of Triton's HTTP APIs share: error bodies (C§6.2) and headers.

use serde::{Deserialize, Serialize};

/// Request header that carries the id of a request through every hop, and back in the answer.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// The body of every answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A fixed word that programs match on: `ResourceNotFound`, `InvalidParameters`, …
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// Which fields are wrong, when the request's content is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The field's name.
    pub field: String,
    /// `MissingParameter`, `InvalidParameter` or `Duplicate`.
    pub code: String,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
