//! The questions of first boot and the answers file (C§2.1, C§2.2).

mod seal;

pub use seal::{Sealed, seal};

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An answer that takes the question's default without asking (C§2.1).
pub const TAKE_DEFAULT: &str = "<default>";

/// Keys of passwords, each with the key that takes its hash instead.
///
/// Triton's own `prompt-config.sh` knows the clear ones only (C§2.2): an image for it must hold
/// them in clear, which a build does not do unless it is told to.
pub const PASSWORDS: [(&str, &str); 2] =
    [("root_password", "root_password_hash"), ("admin_password", "admin_password_hash")];

/// Whether the value of a key is never to be shown: passwords, their hashes, and whatever is named
/// like one.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["word", "passwd", "passphrase", "secret", "shadow", "token", "private_key", "rabbitmq"]
        .iter()
        .any(|word| key.contains(word))
        || key.split('_').any(|word| matches!(word, "pw" | "pass" | "pwd"))
}

/// The answers file: `private/answers.json` on the key. `Debug` hides secrets.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Answers(pub BTreeMap<String, Value>);

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (key, value) in &self.0 {
            if is_secret(key) {
                map.entry(key, &format_args!("<hidden>"));
            } else {
                map.entry(key, value);
            }
        }
        map.finish()
    }
}

/// An answers file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the answers file is not a JSON object: {0}")]
pub struct AnswersError(#[from] serde_json::Error);

/// What the answers file says to one question.
#[derive(Clone, PartialEq, Eq)]
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
        // First as any object, then as ours: serde_json's message for a document of another kind
        // would show its content, which may be a password.
        let value: Value = serde_json::from_slice(json)?;
        match value {
            Value::Object(map) => Ok(Self(map.into_iter().collect())),
            _ => Err(AnswersError(<serde_json::Error as serde::de::Error>::custom(
                "it is JSON of another kind",
            ))),
        }
    }

    /// The answers as they are stored, sorted by key.
    ///
    /// # Errors
    /// Never for answers that were parsed.
    pub fn text(&self) -> serde_json::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// The answer to a question; numbers and booleans are taken as their text.
    pub fn get(&self, key: &str) -> Answer {
        match self.0.get(key) {
            None | Some(Value::Null) => Answer::Missing,
            Some(Value::String(text)) if text == TAKE_DEFAULT => Answer::Default,
            Some(Value::String(text)) => Answer::Given(text.clone()),
            Some(Value::Bool(value)) => Answer::Given(value.to_string()),
            Some(Value::Number(value)) => Answer::Given(value.to_string()),
            Some(_) if is_secret(key) => Answer::Unusable("it".to_owned()),
            Some(other) => Answer::Unusable(other.to_string()),
        }
    }

    /// Whether a control key (`skip_final_confirm`, …) is true.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Answer::Given(text) if text == "true")
    }
}
