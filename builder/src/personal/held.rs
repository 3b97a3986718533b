//! What a personal part of an image holds, and whether its readers would take it.

use headnode_model::answers::Answers;
use headnode_model::personal::{Part, SIZE};
use headnode_model::questions::{self, Facts};

use super::{console, keys};
use crate::source::platform::Kind;

/// What a part holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Nothing of a site.
    Blank,
    /// Something, for people: how much it is, or the console. No secret.
    Filled(String),
}

impl Held {
    /// Reads all bytes of a part. `os` is what the image boots, whose rules count.
    ///
    /// # Errors
    /// Why no reader would take it. No secret is told.
    pub fn read(part: Part, bytes: &[u8], os: Option<Kind>) -> Result<Self, String> {
        if bytes.len() != SIZE {
            return Err(format!("it has {} bytes instead of {SIZE}", bytes.len()));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
        let bad = |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r');
        if text.contains(bad) {
            return Err("it holds bytes that belong into no text".to_owned());
        }
        if part.is_blank(bytes) {
            return Ok(Self::Blank);
        }
        let content = std::str::from_utf8(part.content(bytes)).unwrap_or_default();
        let told = match part {
            Part::Answers => answers(bytes, os)?,
            Part::AuthorizedKeys => {
                let count = keys::check(content)?;
                format!("{count} {}", if count == 1 { "key" } else { "keys" })
            }
            Part::GrubEnvironment => {
                let head = std::str::from_utf8(part.blank()).unwrap_or_default();
                if !content.starts_with(head) {
                    return Err("it is no environment block of GRUB".to_owned());
                }
                named(console::of_grub(content)?)
            }
            Part::LoaderConf => named(console::of_loader(content)?),
        };
        Ok(Self::Filled(told))
    }
}

fn named(console: Option<String>) -> String {
    console.map_or_else(|| "other settings".to_owned(), |name| format!("console {name}"))
}

fn answers(bytes: &[u8], os: Option<Kind>) -> Result<String, String> {
    let answers = Answers::parse(bytes).map_err(|error| error.to_string())?;
    // Triton's own scripts on SmartOS have rules of their own.
    if os != Some(Kind::SmartOs) {
        let outcome = questions::evaluate(&answers, &Facts::default());
        if !outcome.problems.is_empty() {
            let all: Vec<_> = outcome.problems.iter().map(ToString::to_string).collect();
            return Err(format!("first boot will refuse it: {}", all.join("; ")));
        }
    }
    let count = answers.0.len();
    Ok(format!("{count} {}", if count == 1 { "answer" } else { "answers" }))
}
