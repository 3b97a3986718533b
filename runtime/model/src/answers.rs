//! The questions of first boot and the answers file (C§2.1, C§2.2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An answer that takes the question's default without asking (C§2.1).
pub const TAKE_DEFAULT: &str = "<default>";

/// The answers file: `private/answers.json` on the key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Answers(pub BTreeMap<String, Value>);

/// An answers file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the answers file is not a JSON object: {0}")]
pub struct AnswersError(#[from] serde_json::Error);

/// What the answers file says to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: ask.
    Missing,
    /// Take the default.
    Default,
    /// This.
    Given(String),
    /// Something that is neither text, number nor boolean.
    Unusable(String),
}

impl Answers {
    /// Reads an answers file.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub fn parse(json: &[u8]) -> Result<Self, AnswersError> {
        Ok(Self(serde_json::from_slice(json)?))
    }

    /// The answer to a question; numbers and booleans are taken as their text.
    pub fn get(&self, key: &str) -> Answer {
        match self.0.get(key) {
            None | Some(Value::Null) => Answer::Missing,
            Some(Value::String(text)) if text == TAKE_DEFAULT => Answer::Default,
            Some(Value::String(text)) => Answer::Given(text.clone()),
            Some(Value::Bool(value)) => Answer::Given(value.to_string()),
            Some(Value::Number(value)) => Answer::Given(value.to_string()),
            Some(other) => Answer::Unusable(other.to_string()),
        }
    }

    /// Whether a control key (`skip_final_confirm`, …) is true.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Answer::Given(text) if text == "true")
    }
}
