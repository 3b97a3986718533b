//! The JSON Schema of build.spec, made from the tables that the files are checked by.

use serde_json::{Map, Value, json};

use super::keys::{Form, Key, Names, TOP};

/// The schema, draft 2020-12. What it refuses, `headnode spec check` refuses; the check also knows
/// what a schema cannot say, such as that a feature must be defined.
pub fn schema() -> Value {
    let mut schema = object(TOP, true);
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("build.spec: what `headnode build` builds"));
    // The user's own keys, which an alt_manta_base names.
    let base = json!({"type": ["string", "null"], "pattern": "^/"});
    schema.insert("additionalProperties".to_owned(), base);
    Value::Object(schema)
}

fn object(keys: &[Key], top: bool) -> Map<String, Value> {
    let mut properties = Map::new();
    for key in keys {
        let mut one = form(&key.form);
        one.insert("description".to_owned(), json!(key.about));
        properties.insert(key.name.to_owned(), Value::Object(one));
    }
    if top {
        let (alias, meant) = super::keys::ALIAS;
        if let Some(value) = properties.get(meant).cloned() {
            properties.insert(alias.to_owned(), value);
        }
    }
    let mut schema = Map::new();
    let kind = if top { json!("object") } else { json!(["object", "null"]) };
    schema.insert("type".to_owned(), kind);
    schema.insert("properties".to_owned(), Value::Object(properties));
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema
}

fn form(form: &Form) -> Map<String, Value> {
    let text = |pattern: &str| json!({"type": ["string", "null"], "pattern": pattern});
    let choice = |choices: &[&str]| {
        let mut all: Vec<Value> = choices.iter().map(|choice| json!(choice)).collect();
        all.push(Value::Null);
        json!({ "enum": all })
    };
    const NAME: &str = "^[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,127}$";
    const LOWER: &str = "^[a-z0-9_+-][a-z0-9._+-]{0,127}$";
    const PART: &str = r#"(?!\.{1,2}(/|$))[^\x00-\x1f\\/:*?"<>|A-Z]+"#;
    let value = match form {
        Form::Bool => json!({"enum": [true, false, "true", "false", null]}),
        Form::Count(least, most) => json!({"anyOf": [
            {"type": ["integer", "null"], "minimum": least, "maximum": most},
            {"type": "string", "pattern": "^[0-9]+$"},
        ]}),
        Form::Text => json!({"type": ["string", "null"]}),
        Form::Name => text(NAME),
        Form::Path => text("^[^\\x00]+$"),
        Form::MantaPath => text("^/"),
        Form::Url => text("^https?://[^/?#\\s@]+([/?#]\\S*)?$"),
        Form::Uuid => text("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),
        Form::Sha256 => text("^[0-9a-f]{64}$"),
        Form::Stamp => text("^[0-9]{8}T[0-9]{6}Z$"),
        Form::Size => text("^(auto|[0-9]+(B|MiB|M|GiB|G|MB|mb|GB|gb)?)$"),
        Form::Choice(choices) => choice(choices),
        Form::List(inner) => {
            // A null within a list is refused, elsewhere it takes a value back.
            json!({"type": ["array", "null"],
                   "items": {"allOf": [self::form(inner), {"not": {"type": "null"}}]}})
        }
        Form::Object(keys) => return object(keys, false),
        Form::Map(names, inner) => {
            let names = match names {
                Names::Any => NAME.to_owned(),
                Names::Lower => LOWER.to_owned(),
                Names::KeyPath => format!("^{PART}(/{PART})*$"),
            };
            json!({"type": ["object", "null"], "propertyNames": {"pattern": names},
                   "additionalProperties": self::form(inner)})
        }
    };
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
