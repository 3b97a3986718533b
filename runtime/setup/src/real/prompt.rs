//! Questions on the console.

use anyhow::{Context as _, Result};
use headnode_model::questions::{Facts, Kind, Question, check};
use headnode_node::nic::Nic;
use inquire::validator::Validation;
use inquire::{Confirm, Password, Select, Text};

/// Asks until the answer is good.
///
/// # Errors
/// When the console is gone or the question was broken off.
pub fn ask(
    question: &Question,
    default: Option<String>,
    facts: &Facts,
    nics: &[Nic],
) -> Result<String> {
    let Question { prompt, help, kind, key, .. } = *question;
    let asking = || format!("asking for {key}");
    let known = facts.clone();
    let validate = move |text: &str| {
        Ok(match check(kind, text, &known) {
            Ok(_) => Validation::Valid,
            Err(message) => Validation::Invalid(message.into()),
        })
    };
    match kind {
        Kind::Password => {
            let asked = Password::new(prompt).with_help_message(help).with_validator(validate);
            asked.prompt().with_context(asking)
        }
        Kind::Bool => {
            let asked = Confirm::new(prompt)
                .with_help_message(help)
                .with_default(default.as_deref() == Some("true"));
            Ok(asked.prompt().with_context(asking)?.to_string())
        }
        Kind::Nic if !nics.is_empty() => {
            let line = |nic: &Nic| {
                format!("{} {} (link {})", nic.mac, nic.name, if nic.link { "up" } else { "down" })
            };
            let lines: Vec<_> = nics.iter().map(line).collect();
            let start =
                nics.iter().position(|nic| Some(nic.mac.to_string()) == default).unwrap_or(0);
            let asked =
                Select::new(prompt, lines).with_help_message(help).with_starting_cursor(start);
            let picked = asked.raw_prompt().with_context(asking)?;
            let nic = nics.get(picked.index).with_context(asking)?;
            Ok(nic.mac.to_string())
        }
        _ => {
            let mut asked = Text::new(prompt).with_help_message(help).with_validator(validate);
            if let Some(default) = &default {
                asked = asked.with_default(default);
            }
            asked.prompt().with_context(asking)
        }
    }
}
