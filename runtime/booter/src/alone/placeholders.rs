//! `{mac}` and its like in the values of the configuration.

use std::fmt;
use std::net::Ipv4Addr;

use headnode_model::net::MacAddr;
use uuid::Uuid;

/// Longest serial number that is put into a script, in characters.
const SERIAL: usize = 64;

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// The NIC that the machine boots from.
    Mac,
    /// The machine's address; not known yet when firmware asks for its boot file.
    Ip,
    /// The host's name, else its MAC with dashes.
    Hostname,
    /// This server's address.
    Server,
    /// The serial number of the SMBIOS.
    Serial,
    /// The UUID of the SMBIOS.
    Uuid,
}

/// All names, as they are written.
const NAMES: [(&str, Name); 6] = [
    ("mac", Name::Mac),
    ("ip", Name::Ip),
    ("hostname", Name::Hostname),
    ("server", Name::Server),
    ("serial", Name::Serial),
    ("uuid", Name::Uuid),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(Name),
}

/// A text with placeholders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// What placeholders are replaced by.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// `{mac}`
    pub mac: MacAddr,
    /// `{ip}`
    pub ip: Option<Ipv4Addr>,
    /// `{hostname}`; `None` for a machine without a name.
    pub hostname: Option<&'a str>,
    /// `{server}`
    pub server: Ipv4Addr,
    /// `{serial}`, as the machine has told it: it may be anything.
    pub serial: Option<&'a str>,
    /// `{uuid}`
    pub uuid: Option<Uuid>,
}

impl Template {
    /// Reads a value of the configuration. `${…}` is iPXE's own and stays, `{{` is one brace.
    ///
    /// # Errors
    /// A sentence about a placeholder that there is not.
    pub fn parse(text: &str) -> Result<Self, String> {
        read(text, true)
    }

    /// Reads a script: what is no placeholder of ours stays as it is.
    pub fn of_script(text: &str) -> Self {
        read(text, false).unwrap_or_default()
    }

    /// Whether a placeholder is in it.
    pub fn names(&self, name: Name) -> bool {
        self.0.contains(&Part::Name(name))
    }

    /// The text, when it has no placeholders.
    pub fn fixed(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The parts that are the same for all machines.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Name(_) => None,
        })
    }

    /// The text for a machine. What is not known is empty.
    pub fn render(&self, values: &Values<'_>) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Name(Name::Mac) => text.push_str(&values.mac.to_string()),
                Part::Name(Name::Ip) => push(&mut text, values.ip),
                Part::Name(Name::Hostname) => text.push_str(&hostname(values)),
                Part::Name(Name::Server) => text.push_str(&values.server.to_string()),
                Part::Name(Name::Serial) => {
                    text.push_str(&values.serial.map(safe).unwrap_or_default());
                }
                Part::Name(Name::Uuid) => push(&mut text, values.uuid),
            }
        }
        text
    }
}

impl fmt::Display for Template {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Name(name) => {
                let known = NAMES.iter().find(|(_, known)| known == name);
                write!(f, "{{{}}}", known.map_or("", |(word, _)| word))
            }
        })
    }
}

fn push(text: &mut String, value: Option<impl ToString>) {
    text.push_str(&value.map(|value| value.to_string()).unwrap_or_default());
}

fn hostname(values: &Values<'_>) -> String {
    let dashes = || values.mac.to_string().replace(':', "-");
    values.hostname.map_or_else(dashes, str::to_owned)
}

/// What a machine tells becomes part of a script and of file names: only harmless letters are left.
fn safe(told: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    told.trim().chars().take(SERIAL).map(kept).collect()
}

fn read(text: &str, strict: bool) -> Result<Template, String> {
    let mut parts = Vec::new();
    let mut fixed = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        fixed.push_str(before);
        let inner = from.strip_prefix('{').unwrap_or_default();
        let close = inner.find('}');
        let word = close.and_then(|close| inner.get(..close));
        let name = word.and_then(|word| NAMES.iter().find(|(known, _)| *known == word));
        let after = |close: usize| inner.get(close + 1..).unwrap_or_default();
        if before.ends_with('$') {
            // iPXE's own, up to its brace.
            let (kept, next) = match (word, close) {
                (Some(word), Some(close)) => (format!("{{{word}}}"), after(close)),
                _ => ("{".to_owned(), inner),
            };
            fixed.push_str(&kept);
            rest = next;
        } else if let (Some((_, name)), Some(close)) = (name, close) {
            parts
                .extend(Some(std::mem::take(&mut fixed)).filter(|t| !t.is_empty()).map(Part::Text));
            parts.push(Part::Name(*name));
            rest = after(close);
        } else if !strict || inner.starts_with('{') {
            fixed.push('{');
            rest = if strict { inner.strip_prefix('{').unwrap_or_default() } else { inner };
        } else {
            let known: Vec<String> = NAMES.iter().map(|(name, _)| format!("{{{name}}}")).collect();
            return Err(format!(
                "there is no placeholder {{{}: there are {}; a brace is written {{{{",
                word.map_or_else(|| inner.to_owned(), |word| format!("{word}}}")),
                known.join(" ")
            ));
        }
    }
    fixed.push_str(rest);
    parts.extend(Some(fixed).filter(|text| !text.is_empty()).map(Part::Text));
    Ok(Template(parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(serial: Option<&str>) -> Values<'_> {
        Values {
            mac: MacAddr([0x52, 0x54, 0, 0, 0, 1]),
            ip: Some([10, 0, 0, 9].into()),
            hostname: None,
            server: [10, 0, 0, 1].into(),
            serial,
            uuid: None,
        }
    }

    #[test]
    fn known_names_are_replaced_and_unknown_ones_named() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("{mac} {ip}", "52:54:00:00:00:01 10.0.0.9"),
            ("h={hostname};{uuid};", "h=52-54-00-00-00-01;;"),
            ("http://{server}/{serial}.cfg", "http://10.0.0.1/A_B__.cfg"),
            ("${net0/ip} ${mac}{ip}", "${net0/ip} ${mac}10.0.0.9"),
            ("a {{mac} ${", "a {mac} ${"),
        ] {
            let template = Template::parse(text).unwrap();
            assert_eq!(template.render(&values(Some(" A B;&"))), expected, "{text}");
        }
        for wrong in ["{macc}", "a {", "{ mac}", "{}"] {
            let error = Template::parse(wrong).unwrap_err();
            assert!(error.contains("{hostname}"), "{error}");
        }
        let script = Template::of_script("menu { x } {mac {ip}");
        assert_eq!(script.render(&values(None)), "menu { x } {mac 10.0.0.9");
    }

    #[test]
    fn what_is_fixed_is_known() {
        let template = Template::parse("a/{serial}/b").unwrap();
        assert!(template.names(Name::Serial) && !template.names(Name::Mac));
        assert_eq!(template.fixed(), None);
        assert_eq!(template.texts().collect::<Vec<_>>(), ["a/", "/b"]);
        assert_eq!(Template::parse("a").unwrap().fixed(), Some("a"));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_serial_adds_a_line_or_a_word(text: String, serial: String) {
            let _ = Template::parse(&text);
            let _ = Template::of_script(&text).render(&values(Some(&serial)));
            let told = Template::parse("{serial}").unwrap().render(&values(Some(&serial)));
            prop_assert!(!told.contains(|c: char| !c.is_ascii_graphic() || c == '$' || c == '/'));
        }

        #[test]
        fn a_script_without_placeholders_stays(text in "[^{}]*") {
            prop_assert_eq!(Template::of_script(&text).render(&values(None)), text);
        }
    }
}
