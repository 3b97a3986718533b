//! What an answer must look like.

use std::net::Ipv4Addr;

use super::{Facts, Kind};
use crate::answers::{Answer, Answers};
use crate::config::Problem;
use crate::net::{self, MacAddr};
use crate::password;

/// Checks one answer; gives its normal form.
///
/// # Errors
/// What is wrong with it and what is wanted.
pub fn check(kind: Kind, text: &str, facts: &Facts) -> Result<String, String> {
    let trimmed = text.trim();
    let quoted = || format!("{trimmed:?}");
    let address =
        || trimmed.parse::<Ipv4Addr>().map_err(|_| format!("{} is not an IPv4 address", quoted()));
    match kind {
        Kind::Password if text.is_empty() => Err("must not be empty".to_owned()),
        Kind::Password => Ok(text.to_owned()),
        Kind::Hash if password::is_hash(text) => Ok(text.to_owned()),
        Kind::Hash => Err("must be a hash of SHA-512-crypt ($6$…)".to_owned()),
        Kind::Text if trimmed.is_empty() => Err("must not be empty".to_owned()),
        Kind::Text if trimmed.contains(['"', '\'', '`', '\n', '\r']) => {
            Err("must not contain quotes".to_owned())
        }
        Kind::Text => Ok(trimmed.to_owned()),
        Kind::Label => label(trimmed).map(|()| trimmed.to_owned()),
        Kind::Domain | Kind::Host => {
            if kind == Kind::Host && trimmed.parse::<std::net::IpAddr>().is_ok() {
                return Ok(trimmed.to_owned());
            }
            let good = trimmed.len() <= 253 && trimmed.split('.').all(domain_part);
            good.then(|| trimmed.to_owned()).ok_or_else(|| {
                format!("{} is not a DNS name in lower case, as example.com", quoted())
            })
        }
        Kind::Nic => {
            let mac: MacAddr = trimmed.parse().map_err(|e: net::MacError| e.to_string())?;
            match &facts.nics {
                Some(nics) if !nics.contains(&mac) => {
                    let list = nics.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    let list = if list.is_empty() { "none".to_owned() } else { list };
                    Err(format!("this machine has no NIC with the MAC {mac}; it has: {list}"))
                }
                _ => Ok(mac.to_string()),
            }
        }
        Kind::Address => address().map(|ip| ip.to_string()),
        Kind::AddressOrNone if trimmed == "none" => Ok("none".to_owned()),
        Kind::AddressOrNone => {
            address().map(|ip| ip.to_string()).map_err(|e| format!("{e}, and not `none`"))
        }
        Kind::Netmask => {
            let mask = trimmed.parse::<Ipv4Addr>().ok().filter(|mask| {
                net::network(Ipv4Addr::UNSPECIFIED, *mask)
                    .is_some_and(|n| (1..=30).contains(&n.prefix_len()))
            });
            mask.map(|m| m.to_string())
                .ok_or_else(|| format!("{} is not a netmask, as 255.255.255.0", quoted()))
        }
        Kind::Vlan if trimmed == "none" || trimmed == "0" => Ok("none".to_owned()),
        Kind::Vlan => match trimmed.parse::<u16>() {
            Ok(id) if (1..=4094).contains(&id) => Ok(id.to_string()),
            _ => Err(format!("{} is not a VLAN id from 1 to 4094, and not `none`", quoted())),
        },
        Kind::Bool => match trimmed.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" => Ok("true".to_owned()),
            "false" | "no" | "n" => Ok("false".to_owned()),
            _ => Err(format!("{} is neither true nor false", quoted())),
        },
    }
}

fn label(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let wrong = if text.is_empty() {
        "must not be empty"
    } else if text.len() > 63 {
        "is longer than 63 letters"
    } else if !text.chars().all(plain) {
        "may hold only lower-case letters, digits and `-`"
    } else if text.starts_with('-') || text.ends_with('-') {
        "must begin and end with a letter or digit"
    } else if text.chars().all(|c| c.is_ascii_digit()) {
        "must not be a number"
    } else if text == "ca" {
        "`ca` is taken: its names would look like Cloud Analytics'"
    } else {
        return Ok(());
    };
    Err(format!("{text:?}: {wrong}"))
}

fn domain_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&part.len())
        && part.chars().all(plain)
        && !part.starts_with('-')
        && !part.ends_with('-')
}

/// What is wrong with a password, or the hash that stands in its place. Values are never told.
pub fn password_problems(answers: &Answers, clear: &str, hashed: &str) -> Vec<Problem> {
    let problem = |key: &str, message: &str| {
        vec![Problem { key: key.to_owned(), message: message.to_owned() }]
    };
    match (answers.get(clear), answers.get(hashed)) {
        (Answer::Missing, Answer::Missing) => Vec::new(),
        (Answer::Missing, Answer::Given(hash)) if password::is_hash(&hash) => Vec::new(),
        (Answer::Missing, _) => {
            problem(hashed, "must be a hash of SHA-512-crypt ($6$…), as mkpasswd -m sha-512 makes")
        }
        (_, Answer::Given(_) | Answer::Default | Answer::Unusable(_)) => {
            problem(clear, &format!("give either it or {hashed}, not both"))
        }
        (Answer::Given(text), _) if text.is_empty() => problem(clear, "must not be empty"),
        (Answer::Given(text), _) if clear == "admin_password" => {
            password::weak(&text).map_or_else(Vec::new, |why| problem(clear, why))
        }
        (Answer::Given(_), _) => Vec::new(),
        (Answer::Default, _) => problem(clear, "has no default: give a value"),
        (Answer::Unusable(_), _) => problem(clear, "must be a text"),
    }
}
