//! The kernel's command line (C§1.1, C§4.5).

use headnode_model::boot::BootParams;
use serde_json::Value;

use super::Node;
use crate::settings::Settings;

/// The kernel's parameters for a node, as one line of an iPXE script. `archives` are the names
/// under which iPXE keeps the initial archives, in their order. A parameter of CNAPI takes the place
/// of ours with the same name; one that cannot be written in an iPXE script is left out and logged.
pub(super) fn kernel_line(settings: &Settings, node: &Node, archives: &[&str]) -> String {
    let (network, lease, params) = (&*node.network, &node.lease, &node.found.params);
    let gateway = network.gateway.map(|ip| ip.to_string()).unwrap_or_default();
    let ip = format!("{}::{gateway}:{}::", lease.ip, network.subnet.netmask());
    let ours = [
        ("BOOTIF", format!("01-{}", lease.mac.dashed())),
        ("ip", ip),
        ("assets_admin_ip", settings.admin_ip.to_string()),
        ("hostname", lease.mac.dashed()),
        ("admin_nic", lease.mac.to_string()),
    ];
    let further = node.of_network();
    let mut words: Vec<String> =
        consoles(params).into_iter().map(|device| format!("console={device}")).collect();
    for (name, value) in ours {
        if !params.kernel_args.contains_key(name) && !further.contains_key(name) {
            words.push(format!("{name}={value}"));
        }
    }
    for (name, value) in further.iter().chain(&node.kernel_args()) {
        match word(name, value) {
            Ok(word) => words.extend(word),
            Err(why) => tracing::warn!(
                mac = %lease.mac, name,
                "a kernel parameter of the server is left out: {why}"
            ),
        }
    }
    words.extend(archives.iter().map(|name| format!("initrd={name}")));
    words.join(" ")
}

/// The consoles, the one that becomes `/dev/console` last if the machine has it. The first serial
/// port is always among them: a machine with only that one is not mute because CNAPI's default is
/// the second one.
fn consoles(params: &BootParams) -> Vec<String> {
    let number = match params.serial.as_str() {
        "ttya" => 0,
        "ttyc" => 2,
        "ttyd" => 3,
        _ => 1,
    };
    let serial = |number: u8| format!("ttyS{number},115200n8");
    let mut consoles = vec!["tty0".to_owned(), serial(0)];
    if number != 0 {
        consoles.push(serial(number));
    }
    if params.default_console == "vga" {
        consoles.rotate_left(1);
    }
    consoles
}

/// Why a parameter cannot be written.
pub(super) type Refused = &'static str;

/// One parameter as iPXE and the kernel read it; `None` when its value is null.
fn word(name: &str, value: &Value) -> Result<Option<String>, Refused> {
    let Some(value) = text_of(name, value)? else { return Ok(None) };
    // The kernel has no way to write a quote within quotes.
    if value.contains('"') {
        return Err("its value has a double quote");
    }
    plain_value(&value)?;
    Ok(Some(match value.as_str() {
        "" => name.to_owned(),
        value if value.contains(' ') => format!("{name}=\"{value}\""),
        value => format!("{name}={value}"),
    }))
}

/// A parameter's value as text; `None` when it is null.
pub(super) fn text_of(name: &str, value: &Value) -> Result<Option<String>, Refused> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return Err("its name has characters other than letters, digits, _, - and .");
    }
    Ok(Some(match value {
        Value::Null => return Ok(None),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Array(_) | Value::Object(_) => return Err("its value is a list or an object"),
    }))
}

/// Whether iPXE hands a value on as it is.
pub(super) fn plain_value(value: &str) -> Result<(), Refused> {
    if !value.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        return Err("its value has characters that are not printable ASCII");
    }
    if value.contains("${") {
        return Err("its value has ${, which iPXE would replace");
    }
    // iPXE splits the line at blanks and joins it with single ones; some words are operators there.
    if value.contains("  ") || value.starts_with(' ') || value.ends_with(' ') {
        return Err("its value has blanks that iPXE would drop");
    }
    if value.split(' ').skip(1).any(|w| matches!(w, "||" | "&&" | ";") || w.starts_with('#')) {
        return Err("its value has a word that is an operator or a comment for iPXE");
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::leases::Lease;
    use headnode_model::boot::KernelParams;
    use headnode_model::net::MacAddr;
    use proptest::prelude::*;
    use serde_json::json;

    /// The words of a line as iPXE sees them: split at blanks, up to an operator or a comment, and
    /// joined again by single blanks.
    pub(in crate::script) fn ipxe(line: &str) -> String {
        assert!(!line.contains("${"));
        let words = line.split_whitespace();
        let operator = |w: &&str| !matches!(*w, "||" | "&&" | ";") && !w.starts_with('#');
        words.take_while(operator).collect::<Vec<_>>().join(" ")
    }

    fn line(args: &[(&str, Value)]) -> String {
        let lease = Lease {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ip: [10, 99, 99, 40].into(),
            uuid: None,
            seen: 0,
            until: 0,
            tag: None,
        };
        let kernel_args = args.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
        let params = BootParams {
            kernel_args,
            serial: "ttya".to_owned(),
            default_console: "serial".to_owned(),
            ..BootParams::default()
        };
        let node = Node { lease, ..Node::for_tests(params) };
        kernel_line(&Settings::for_tests(), &node, &["a", "b"])
    }

    #[test]
    fn the_model_reads_back_what_is_written() {
        let text = line(&[
            ("hostname", json!("cn 1")),
            ("noimport", json!(true)),
            ("quiet", json!("")),
            ("gone", Value::Null),
            ("n", json!(7)),
        ]);
        let params = KernelParams::parse(&text);
        assert_eq!(params.get("hostname"), Some("cn 1"));
        assert!(params.is_true("noimport"));
        assert_eq!(params.get("quiet"), Some(""));
        assert_eq!(params.get("gone"), None);
        assert_eq!(params.get("n"), Some("7"));
        assert_eq!(params.get("console"), Some("ttyS0,115200n8"));
        assert_eq!(params.admin_nic(), Some(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!(params.gateway(), Some([10, 99, 99, 1].into()));
        assert!(text.ends_with(" initrd=a initrd=b"), "{text}");
    }

    #[test]
    fn what_ipxe_would_change_is_left_out() {
        for bad in ["a\"b", "${x}", "a\nboot", "a || reboot", "a #b", " a", "é"] {
            assert!(word("x", &json!(bad)).is_err(), "{bad:?}");
        }
        assert!(word("a b", &json!("c")).is_err());
        assert!(word("a", &json!(["c"])).is_err());
        assert_eq!(word("a", &json!("m1,m2")), Ok(Some("a=m1,m2".to_owned())));
    }

    proptest! {
        #[test]
        fn every_value_that_is_written_is_read_back(value in "[ -~]{0,12}") {
            if word("x", &json!(value.clone())).is_ok() {
                let text = line(&[("x", json!(value.clone()))]);
                let params = KernelParams::parse(&ipxe(&format!("{text} || goto failed")));
                prop_assert_eq!(params.get("x"), Some(value.as_str()));
            }
        }
    }
}
