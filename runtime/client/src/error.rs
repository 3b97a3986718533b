//! What can go wrong with a call.

use std::fmt;

use headnode_model::api::{ErrorBody, FieldError};

/// Why a call gave no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The base URL is not one that we can call.
    #[error(
        "{url:?} is not a usable base URL: {reason}; expected a form like http://10.99.99.7:8010"
    )]
    BaseUrl {
        /// The text that was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer came: nobody listens, the network is down, or it took too long.
    #[error("reaching {method} {url}: {reason}; {hint}")]
    Transport {
        /// Method of the call.
        method: &'static str,
        /// URL of the call.
        url: String,
        /// What happened.
        reason: String,
        /// What to do about it.
        hint: String,
        /// Whether the time was up, so that the other side may have acted all the same.
        timed_out: bool,
    },
    /// The other side refused.
    #[error("{method} {url} answered {status} {}", Refusal(.body))]
    Api {
        /// Method of the call.
        method: &'static str,
        /// URL of the call.
        url: String,
        /// HTTP status.
        status: u16,
        /// Code, message and wrong fields.
        body: Box<ErrorBody>,
        /// Request id under which the other side logged the call.
        request_id: Option<Box<str>>,
    },
    /// The answer is not what it should be: another service or version listens there.
    #[error("{method} {url} answered {status}, but the answer is not understood: {reason}")]
    Decode {
        /// Method of the call.
        method: &'static str,
        /// URL of the call.
        url: String,
        /// HTTP status.
        status: u16,
        /// What does not fit, and where.
        reason: String,
    },
}

impl Error {
    /// HTTP status, when there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } | Self::Decode { status, .. } => Some(*status),
            Self::BaseUrl { .. } | Self::Transport { .. } => None,
        }
    }

    /// The code of a refusal: `ResourceNotFound`, `InvalidParameters`, …
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Api { body, .. } => Some(&body.code),
            _ => None,
        }
    }

    /// The wrong fields that a refusal names.
    pub fn fields(&self) -> &[FieldError] {
        match self {
            Self::Api { body, .. } => &body.errors,
            _ => &[],
        }
    }

    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { status: 404, .. })
    }

    /// Whether no answer came at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Transport { .. })
    }

    /// Whether the same call may succeed a little later: no answer, or the other side is busy or
    /// broken for now.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Transport { .. } => true,
            Self::Api { status, .. } => matches!(status, 429 | 500 | 502 | 503 | 504),
            Self::Decode { .. } | Self::BaseUrl { .. } => false,
        }
    }
}

struct Refusal<'a>(&'a ErrorBody);

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)?;
        for error in &self.0.errors {
            write!(f, "\n  {}: {}", error.field, error.message.as_ref().unwrap_or(&error.code))?;
        }
        Ok(())
    }
}
