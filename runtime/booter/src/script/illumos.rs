//! The command line of the illumos kernel: flags, and properties after `-B` (C§1.1, C§4.4).
//!
//! The kernel splits what follows `-B` at commas; a blank ends it. A value that begins with a quote,
//! single or double, goes to the same quote and may hold commas, blanks and the other quote; nothing
//! escapes a quote. An empty value without quotes is read as `true`.

use headnode_model::boot::BootParams;
use serde_json::Value;

use super::args::{Refused, plain_value, text_of};

/// The longest value that the kernel has room for, in bytes.
const LONGEST: usize = 4000;

/// The serial device, or the screen (C§4.4).
pub(super) fn console(params: &BootParams) -> &str {
    match (params.default_console.as_str(), params.serial.as_str()) {
        ("serial", serial @ ("ttya" | "ttyb" | "ttyc" | "ttyd")) => serial,
        ("serial", _) => "ttyb",
        _ => "text",
    }
}

/// The number of the first console's serial port as GRUB counts them.
pub(super) fn unit(params: &BootParams) -> u8 {
    match params.serial.as_str() {
        "ttya" => 0,
        "ttyc" => 2,
        "ttyd" => 3,
        _ => 1,
    }
}

/// A property as the kernel reads it, for `-B`; `None` when its value is null.
pub(super) fn property(name: &str, value: &Value) -> Result<Option<String>, Refused> {
    let Some(value) = text_of(name, value)? else { return Ok(None) };
    // Triton's producers quote values with commas themselves (C§4.4).
    let bare = unquoted(&value);
    plain_value(bare)?;
    if bare.len() > LONGEST {
        return Err("its value is too long");
    }
    let quotes = bare.starts_with(['"', '\'']) || bare.ends_with(['"', '\'']);
    if !bare.is_empty() && !quotes && !bare.contains([',', ' ']) {
        return Ok(Some(format!("{name}={bare}")));
    }
    let quote = match (bare.contains('"'), bare.contains('\'')) {
        (false, _) => '"',
        (true, false) => '\'',
        (true, true) => return Err("its value has both kinds of quotes"),
    };
    Ok(Some(format!("{name}={quote}{bare}{quote}")))
}

/// A value without the quotes that a producer has put around it.
fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        if let Some(inner) = inner.filter(|inner| !inner.contains(quote)) {
            return inner;
        }
    }
    value
}

/// A flag as `-k`; `None` when it is turned off.
pub(super) fn flag(name: &str, value: &Value) -> Result<Option<String>, Refused> {
    let letters = name.strip_prefix('-').unwrap_or_default();
    if letters.is_empty() || !letters.bytes().all(|b| b.is_ascii_alphanumeric()) || name == "-B" {
        return Err("it is not a dash and letters");
    }
    match value {
        Value::Null | Value::Bool(false) => Ok(None),
        Value::Bool(true) => Ok(Some(name.to_owned())),
        value => {
            let value = text_of("flag", value)?.unwrap_or_default();
            plain_value(&value)?;
            // It must not be read as the beginning of the properties.
            if value.contains("-B") || value.contains([' ', '"', '\'']) {
                return Err("its value has blanks, quotes or -B");
            }
            Ok(Some(format!("{name} {value}").trim_end().to_owned()))
        }
    }
}

/// Flags and properties in one line. `console` is left to the properties when they have one.
pub(super) fn command_line(flags: &[String], properties: &[String], console: &str) -> String {
    let mut all = properties.to_vec();
    if !all.iter().any(|property| property.starts_with("console=")) {
        all.push(format!("console={console}"));
        if console != "text" {
            all.push(format!("{console}-mode=\"115200,8,n,1,-\""));
        }
    }
    let mut words = flags.to_vec();
    words.push(format!("-B {}", all.join(",")));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::args::tests::ipxe;
    use proptest::prelude::*;
    use serde_json::json;

    /// Properties as the kernel reads them, by its rules at the top of this file.
    fn kernel(line: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let Some((_, mut rest)) = line.split_once(" -B ") else { return found };
        while !rest.is_empty() && !rest.starts_with(' ') {
            let Some((name, tail)) = rest.split_once('=') else { break };
            let mut quote = None;
            let mut end = tail.len();
            for (at, c) in tail.char_indices() {
                match quote {
                    None if at == 0 && (c == '"' || c == '\'') => quote = Some(c),
                    None if c == ',' || c == ' ' => {
                        end = at;
                        break;
                    }
                    Some(q) if c == q => quote = None,
                    _ => {}
                }
            }
            let value = &tail[..end];
            let inner = match value.chars().next() {
                Some(q @ ('"' | '\'')) if value.len() > 1 && value.ends_with(q) => {
                    &value[1..value.len() - 1]
                }
                _ => value,
            };
            let value = if value.is_empty() { "true" } else { inner };
            found.push((name.to_owned(), value.to_owned()));
            rest = tail[end..].trim_start_matches(',');
        }
        found
    }

    #[test]
    fn the_line_is_as_the_contract_has_it() {
        let params = BootParams {
            serial: "ttya".into(),
            default_console: "serial".into(),
            ..BootParams::default()
        };
        assert_eq!((console(&params), unit(&params)), ("ttya", 0));
        let vga = BootParams { default_console: "vga".into(), ..params };
        assert_eq!(console(&vga), "text");
        let flags = vec!["-k".to_owned()];
        let properties = vec!["hostname=a".to_owned()];
        assert_eq!(
            command_line(&flags, &properties, "ttyb"),
            "-k -B hostname=a,console=ttyb,ttyb-mode=\"115200,8,n,1,-\""
        );
        assert_eq!(command_line(&[], &properties, "text"), "-B hostname=a,console=text");
    }

    #[test]
    fn values_are_quoted_when_they_need_it_and_once_only() {
        for (value, expected) in [
            (json!("m1,m2"), Ok(Some("x=\"m1,m2\"".to_owned()))),
            (json!("\"m1,m2\""), Ok(Some("x=\"m1,m2\"".to_owned()))),
            (json!("'m1,m2'"), Ok(Some("x=\"m1,m2\"".to_owned()))),
            (json!("a \"b\""), Ok(Some("x='a \"b\"'".to_owned()))),
            (json!("\""), Ok(Some("x='\"'".to_owned()))),
            (json!(""), Ok(Some("x=\"\"".to_owned()))),
            (json!(true), Ok(Some("x=true".to_owned()))),
            (json!(7), Ok(Some("x=7".to_owned()))),
            (Value::Null, Ok(None)),
        ] {
            assert_eq!(property("x", &value), expected, "{value}");
        }
        for bad in [json!("a'\","), json!("${x}"), json!("a\nb"), json!("a || b"), json!(["a"])] {
            assert!(property("x", &bad).is_err(), "{bad}");
        }
        assert!(property("a b", &json!("c")).is_err());
    }

    #[test]
    fn flags_are_letters_and_cannot_begin_the_properties() {
        assert_eq!(flag("-k", &json!(true)), Ok(Some("-k".to_owned())));
        assert_eq!(flag("-m", &json!("verbose")), Ok(Some("-m verbose".to_owned())));
        assert_eq!(flag("-k", &json!(false)), Ok(None));
        for (name, value) in [
            ("-B", json!(true)),
            ("k", json!(true)),
            ("-m", json!("x -B a=b")),
            ("- ", json!(true)),
        ] {
            assert!(flag(name, &value).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_value_that_is_written_survives_ipxe_and_the_kernel(
            values in proptest::collection::vec("[ -~]{0,10}", 1..5)
        ) {
            let (mut written, mut properties) = (Vec::new(), Vec::new());
            for (n, value) in values.iter().enumerate() {
                let name = format!("p{n}");
                if let Ok(Some(text)) = property(&name, &json!(value)) {
                    properties.push(text);
                    written.push((name, unquoted(value).to_owned()));
                }
            }
            let line = command_line(&[], &properties, "text");
            let read = kernel(&ipxe(&format!("unix {line} || goto failed")));
            written.push(("console".to_owned(), "text".to_owned()));
            prop_assert_eq!(read, written);
        }
    }
}
