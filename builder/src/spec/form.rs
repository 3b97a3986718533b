//! Checks one file's values against the tables of [`super::keys`], and brings them into one form:
//! texts that stand for numbers and switches become those, relative paths become absolute or start
//! at the current folder.

use std::path::Path as FilePath;

use headnode_model::stamp::Stamp;
use serde_json::{Map, Value};

use super::keys::{self, Form, Key, Names};
use super::lines::Path;

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The way to it.
    pub path: Path,
    /// What is wrong.
    pub text: String,
}

/// Checks the values of a file that lies in `folder`. Unknown top-level keys are not told but
/// returned: another file may make them the base of an `alt_manta_base`.
pub fn check(
    values: &mut Map<String, Value>,
    folder: &FilePath,
    findings: &mut Vec<Finding>,
) -> Vec<String> {
    let mut walk = Walk { folder, findings, path: Vec::new() };
    let (alias, meant) = keys::ALIAS;
    if let Some(value) = values.shift_remove(alias) {
        if values.contains_key(meant) {
            walk.path.push(alias.to_owned());
            walk.find(format!("says the same as {meant:?}, which is there too: keep one of them"));
            walk.path.pop();
        } else {
            values.insert(meant.to_owned(), value);
        }
    }
    walk.object(values, keys::TOP, true)
}

struct Walk<'a> {
    folder: &'a FilePath,
    findings: &'a mut Vec<Finding>,
    path: Path,
}

impl Walk<'_> {
    fn find(&mut self, text: String) {
        self.findings.push(Finding { path: self.path.clone(), text });
    }

    fn object(&mut self, values: &mut Map<String, Value>, known: &[Key], top: bool) -> Vec<String> {
        let mut unknown = Vec::new();
        for (name, value) in values.iter_mut() {
            self.path.push(name.clone());
            match known.iter().find(|key| key.name == name) {
                Some(key) => self.value(value, &key.form),
                None if top => unknown.push(name.clone()),
                None => self.find(keys::unknown(name, known)),
            }
            self.path.pop();
        }
        unknown
    }

    fn value(&mut self, value: &mut Value, form: &Form) {
        // As if it were not there; a later file takes a value back so.
        if value.is_null() {
            return;
        }
        match form {
            Form::Object(known) => match value.as_object_mut() {
                Some(values) => drop(self.object(values, known, false)),
                None => self.wrong(value, "an object"),
            },
            Form::Map(names, inner) => match value.as_object_mut() {
                Some(values) => {
                    for (name, value) in values.iter_mut() {
                        self.path.push(name.clone());
                        if let Err(text) = name_problem(name, *names) {
                            self.find(text);
                        }
                        self.value(value, inner);
                        self.path.pop();
                    }
                }
                None => self.wrong(value, "an object"),
            },
            Form::List(inner) => match value.as_array_mut() {
                Some(items) => {
                    for (number, item) in items.iter_mut().enumerate() {
                        self.path.push(number.to_string());
                        match item {
                            Value::Null => self.find("null has no place in a list".to_owned()),
                            item => self.value(item, inner),
                        }
                        self.path.pop();
                    }
                }
                None => self.wrong(value, "a list"),
            },
            Form::Bool => match (value.as_bool(), value.as_str()) {
                (Some(_), _) => {}
                (_, Some("true")) => *value = Value::Bool(true),
                (_, Some("false")) => *value = Value::Bool(false),
                _ => self.wrong(value, "true or false"),
            },
            Form::Count(least, most) => {
                let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
                let text = value.as_str().filter(|text| digits(text));
                let count = value.as_u64().or_else(|| text?.parse().ok());
                match count.filter(|count| (least..=most).contains(&count)) {
                    Some(count) => *value = Value::from(count),
                    None => self.wrong(value, &format!("a whole number from {least} to {most}")),
                }
            }
            _ => match value.as_str().map(|text| text_problem(text, form)) {
                None => self.wrong(value, "a text"),
                Some(Err(text)) => self.find(text),
                Some(Ok(())) => {
                    if let (Form::Path, Some(text)) = (form, value.as_str()) {
                        let joined = self.folder.join(text);
                        *value = Value::from(joined.to_string_lossy());
                    }
                }
            },
        }
    }

    fn wrong(&mut self, value: &Value, wanted: &str) {
        let text = value.to_string();
        let shown: String = text.chars().take(60).collect();
        let dots = if shown.len() < text.len() { "…" } else { "" };
        self.find(format!("{shown}{dots} is not {wanted}"));
    }
}

/// What keeps a text from having a form.
fn text_problem(text: &str, form: &Form) -> Result<(), String> {
    let fine = |fine: bool, wanted: &str| {
        if fine { Ok(()) } else { Err(format!("{text:?} is not {wanted}")) }
    };
    match form {
        Form::Choice(choices) if choices.contains(&text) => Ok(()),
        Form::Choice(choices) => {
            let near = keys::nearest(text, choices.iter().copied());
            let near = near.map(|near| format!(", did you mean {near:?}")).unwrap_or_default();
            Err(format!("{text:?} is none of {}{near}", choices.join(", ")))
        }
        Form::Name => fine(is_name(text), "a name: use letters, digits, . _ - + only"),
        Form::Path => fine(!text.is_empty() && !text.contains('\0'), "the path of a file"),
        Form::MantaPath => fine(
            text.starts_with('/') && !text.split('/').any(|part| part == ".."),
            "a path in Manta: it must begin with / and have no ..",
        ),
        Form::Url => {
            let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
            let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
            fine(
                host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
                    && !text.contains(char::is_whitespace),
                "an address: it must begin with https:// or http:// and a host, without password, \
                 because the lock file tells it to everybody",
            )
        }
        Form::Uuid => fine(is_uuid(text), "a UUID"),
        Form::Sha256 => fine(is_hex(text, 64), "a SHA-256: 64 hex digits in lower case"),
        Form::Stamp => fine(
            text.parse::<Stamp>().is_ok() && !text.contains(char::is_lowercase),
            "a time written YYYYMMDDTHHMMSSZ",
        ),
        Form::Size => text.parse::<super::Size>().map(|_| ()),
        _ => Ok(()),
    }
}

/// Whether a text is a UUID in its usual form, in lower case.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Whether a text is so many hex digits in lower case.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text may become part of a path or a file's name.
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    !text.is_empty() && text.len() <= 128 && !text.starts_with('.') && text.chars().all(plain)
}

fn name_problem(name: &str, names: Names) -> Result<(), String> {
    let lower = !name.chars().any(char::is_uppercase);
    let fine = match names {
        Names::Any => is_name(name),
        Names::Lower => is_name(name) && lower,
        Names::KeyPath => {
            let part = |part: &str| {
                !matches!(part, "" | "." | "..")
                    && !part.contains(|c: char| c.is_control() || r#"\:*?"<>|"#.contains(c))
            };
            lower && name.split('/').all(part)
        }
    };
    if fine {
        return Ok(());
    }
    Err(match names {
        Names::Any => "is no name: use letters, digits, . _ - + only".to_owned(),
        Names::Lower => "is no name on the key: use a-z, digits, . _ - + only (C§1.4)".to_owned(),
        Names::KeyPath => {
            "is no path on the key: it must be relative, in lower case, without .. and \\:*?\"<>|"
                .to_owned()
        }
    })
}
