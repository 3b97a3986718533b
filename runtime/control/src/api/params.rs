//! Reading requests: bodies, path parameters and queries; all that is wrong is told at once.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use headnode_model::api::FieldError;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::error::ApiError;

/// The longest body that is read. A sysinfo of a machine with 100 disks has about 50 KB.
pub const BODY_LIMIT: usize = 2 << 20;

/// A JSON object as body; an empty body is an empty object.
pub struct Body(pub Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes: Bytes = axum::body::to_bytes(request.into_body(), BODY_LIMIT)
            .await
            .map_err(|error| body_error(&error))?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => Ok(Self(object)),
            Ok(_) => Err(ApiError::content("the body is JSON, but not an object")),
            Err(error) => Err(ApiError::content(format!("Invalid JSON: {error}"))),
        }
    }
}

fn body_error(error: &axum::Error) -> ApiError {
    let limited = std::error::Error::source(error)
        .is_some_and(|source| source.to_string().contains("length limit"));
    if limited || error.to_string().contains("length limit") {
        ApiError::too_large(BODY_LIMIT)
    } else {
        ApiError::content(format!("the body was cut off: {error}"))
    }
}

/// The UUID in the path, of a server or task.
pub struct Id(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::content(error.to_string()))?;
        // Uuid's parser takes other forms too (braces, urn:); one name per server is enough.
        match text.parse() {
            Ok(uuid) if text.len() == 36 => Ok(Self(uuid)),
            _ => Err(ApiError::invalid_field("uuid", format!("{text:?} is not a UUID"))),
        }
    }
}

/// Fields of a body or query that are taken out one by one.
pub struct Fields {
    left: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    /// The fields of a body.
    pub fn new(left: Map<String, Value>) -> Self {
        Self { left, errors: vec![] }
    }

    /// The fields of a query; all are texts. A name that comes twice is an error.
    pub fn from_query(query: Option<&str>) -> Self {
        let mut fields = Self::new(Map::new());
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                fields.error(name, "InvalidParameter", "is not percent-encoded UTF-8".to_owned());
                continue;
            };
            if fields.left.insert(name.clone(), Value::String(value)).is_some() {
                fields.error(&name, "Duplicate", "is given more than once".to_owned());
            }
        }
        fields
    }

    /// Notes that a field is wrong.
    pub fn error(&mut self, field: &str, code: &str, message: String) {
        let (field, code) = (field.to_owned(), code.to_owned());
        self.errors.push(FieldError { field, code, message: Some(message) });
    }

    /// Notes that a field has a wrong value.
    pub fn invalid(&mut self, field: &str, message: impl Into<String>) {
        self.error(field, "InvalidParameter", message.into());
    }

    /// Whether a field is there.
    pub fn has(&self, field: &str) -> bool {
        self.left.contains_key(field)
    }

    /// Takes a field that `read` understands.
    pub fn take<T>(
        &mut self,
        field: &str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.left.shift_remove(field)?;
        let taken = read(&value);
        if taken.is_none() {
            self.invalid(field, format!("must be {wanted}, but is {}", kind(&value)));
        }
        taken
    }

    /// Takes a text, without blanks around it.
    pub fn string(&mut self, field: &str) -> Option<String> {
        self.take(field, "a string", |value| Some(value.as_str()?.trim().to_owned()))
    }

    /// Takes `true` or `false`.
    pub fn bool(&mut self, field: &str) -> Option<bool> {
        self.take(field, "true or false", Value::as_bool)
    }

    /// Takes `true` or `false`, also as a text: queries have nothing else.
    pub fn flag(&mut self, field: &str) -> Option<bool> {
        self.take(field, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        })
    }

    /// Takes a whole number within bounds, also as a text.
    pub fn integer(&mut self, field: &str, min: u32, max: u32) -> Option<u32> {
        let wanted = format!("a whole number from {min} to {max}");
        self.take(field, &wanted, |value| {
            let number = match value {
                Value::String(text) => text.parse().ok()?,
                value => value.as_u64()?,
            };
            u32::try_from(number).ok().filter(|n| (min..=max).contains(n))
        })
    }

    /// Takes a list of words, separated by commas.
    pub fn words(&mut self, field: &str) -> Option<Vec<String>> {
        self.take(field, "words separated by commas", |value| {
            let words: Vec<_> = value.as_str()?.split(',').map(|w| w.trim().to_owned()).collect();
            let word = |w: &String| {
                !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            };
            words.iter().all(word).then_some(words)
        })
    }

    /// Takes an object.
    pub fn object(&mut self, field: &str) -> Option<Map<String, Value>> {
        self.take(field, "an object", |value| value.as_object().cloned())
    }

    /// Takes an array.
    pub fn array(&mut self, field: &str) -> Option<Vec<Value>> {
        self.take(field, "an array", |value| value.as_array().cloned())
    }

    /// Drops fields that Triton's clients send along and that mean nothing to us.
    pub fn ignore(&mut self, fields: &[&str]) {
        for field in fields {
            self.left.shift_remove(*field);
        }
    }

    /// Drops what was not taken.
    pub fn ignore_rest(&mut self) {
        self.left.clear();
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// All fields that were wrong, and those that nobody took: a misspelt name is not to pass as
    /// if it were obeyed.
    pub fn finish(mut self) -> Result<(), ApiError> {
        let unknown: Vec<_> = self.left.keys().cloned().collect();
        for field in unknown {
            self.invalid(&field, "is not a parameter of this call");
        }
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(self.errors)) }
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => {
            let short: String = text.chars().take(60).collect();
            format!("{short:?}")
        }
        other => other.to_string(),
    }
}

/// The text that `application/x-www-form-urlencoded` has encoded.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (pair, tail) = rest.split_at_checked(2)?;
                let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
                bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
                rest = tail;
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn form_encoding_is_undone() {
        assert_eq!(decode("a+b%2Cc%c3%a9"), Some("a b,cé".to_owned()));
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_query_panics(query: String) {
            let mut fields = Fields::from_query(Some(&query));
            let _ = (fields.flag("setup"), fields.integer("limit", 1, 1000), fields.words("extras"));
            drop(fields.finish());
        }

        #[test]
        fn what_was_encoded_comes_back(text: String) {
            let encoded: String = text.bytes().map(|b| format!("%{b:02X}")).collect();
            let mut fields = Fields::from_query(Some(&format!("hostname={encoded}")));
            prop_assert_eq!(fields.string("hostname"), Some(text.trim().to_owned()));
            prop_assert!(fields.finish().is_ok());
        }
    }
}
