//! What operators have decided about machines, in a file that survives a power cut.
//!
//! One line per machine: MAC, `approve` or `deny`, time (Unix seconds), who, and a note:
//!
//! ```text
//! 90:b8:d0:01:02:03 approve 1764089600 root new node of rack 7
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use headnode_model::net::MacAddr;

use crate::durable;

/// Most machines that may be decided about.
pub const LIMIT: usize = 100_000;
/// Longest text of `who` and of a note, in bytes; the rest is cut off.
const TEXT_LIMIT: usize = 200;
/// A file longer than this is none of ours: [`LIMIT`] lines of the greatest length.
const SIZE_LIMIT: u64 = (LIMIT * (2 * TEXT_LIMIT + 60)) as u64;
const HEAD: &str = "# Operators' decisions: MAC, approve or deny, Unix seconds, who, note.\n";

/// What was decided about a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may boot.
    pub approved: bool,
    /// When, in Unix seconds.
    pub at: i64,
    /// Who decided; one word.
    pub who: String,
    /// Why, in one line; may be empty.
    pub note: String,
}

/// Why a decision is not kept.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// Too many.
    #[error(
        "{LIMIT} machines are decided about already: forget some (sdc boot forget), or use rules"
    )]
    Full,
    /// The file cannot be read or written.
    #[error("{what} the decisions in {}: {source}", path.display())]
    File {
        /// `reading` or `writing`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Decisions by machine.
pub type Decisions = BTreeMap<MacAddr, Decision>;

/// Reads the file's text; lines that are damaged come back as they are, with their numbers.
pub fn parse(text: &str) -> (Decisions, Vec<(usize, &str)>) {
    let (mut decisions, mut damaged) = (Decisions::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match decision(line) {
            Some((mac, decision)) if decisions.len() < LIMIT || decisions.contains_key(&mac) => {
                decisions.insert(mac, decision);
            }
            _ => damaged.push((index + 1, line)),
        }
    }
    (decisions, damaged)
}

fn decision(line: &str) -> Option<(MacAddr, Decision)> {
    let mut words = line.splitn(5, ' ');
    let mac = words.next()?.parse().ok()?;
    let approved = match words.next()? {
        "approve" => true,
        "deny" => false,
        _ => return None,
    };
    let at = words.next()?.parse().ok()?;
    let who = words.next().filter(|who| !who.is_empty())?;
    let note = words.next().unwrap_or_default();
    Some((mac, Decision { approved, at, who: word(who), note: plain(note) }))
}

/// The file's text.
pub(super) fn write(decisions: &Decisions) -> String {
    let mut text = HEAD.to_owned();
    for (mac, decision) in decisions {
        let verb = if decision.approved { "approve" } else { "deny" };
        let line = format!(
            "{mac} {verb} {} {} {}",
            decision.at,
            word(&decision.who),
            plain(&decision.note)
        );
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A text of one line without control characters.
pub(super) fn plain(text: &str) -> String {
    let mut plain: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.truncate(plain.floor_char_boundary(TEXT_LIMIT));
    plain.trim().to_owned()
}

/// A text of one word.
pub(super) fn word(text: &str) -> String {
    let word = plain(text).replace(char::is_whitespace, "_");
    if word.is_empty() { "-".to_owned() } else { word }
}

/// The file's place in the state folder.
pub(super) fn path(state: &Path) -> PathBuf {
    state.join("admission")
}

/// Reads the file. Damaged lines are logged and kept in a file beside, `admission.damaged`, where
/// the next damage joins them, so that a decision is never lost without a trace.
///
/// # Errors
/// When the file is there and cannot be read, is far too large, or the damaged lines cannot be kept.
pub(super) fn load(path: &Path) -> Result<Decisions, DecisionError> {
    let broken = |what| {
        let path = path.to_owned();
        move |source| DecisionError::File { what, path, source }
    };
    let bytes = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Decisions::new()),
        Err(error) => return Err(broken("reading")(error)),
        Ok(about) if about.len() > SIZE_LIMIT => {
            return Err(broken("reading")(io::Error::other("the file is far too large")));
        }
        Ok(_) => std::fs::read(path).map_err(broken("reading"))?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let (decisions, damaged) = parse(&text);
    if let Some((first, _)) = damaged.first() {
        let beside = path.with_extension("damaged");
        tracing::error!(
            file = %path.display(), kept = %beside.display(), lines = damaged.len(), first,
            "damaged decisions are not used: the machines in them are treated as undecided"
        );
        let mut kept = match std::fs::metadata(&beside) {
            Ok(about) if about.len() <= SIZE_LIMIT => {
                std::fs::read(&beside).map_err(broken("reading the damaged lines of"))?
            }
            _ => Vec::new(),
        };
        for (_, line) in damaged {
            kept.extend_from_slice(line.as_bytes());
            kept.push(b'\n');
        }
        durable::replace(&beside, &kept).map_err(broken("keeping the damaged lines of"))?;
        durable::replace(path, write(&decisions).as_bytes()).map_err(broken("writing"))?;
    }
    Ok(decisions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn damaged_lines_are_told_and_kept_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        let good = "90:b8:d0:01:02:03 deny 7 root stolen from rack 3";
        std::fs::write(&path, format!("# x\n{good}\n90:b8:d0:01:02 deny 7 root\n\nrubbish\n"))
            .unwrap();
        let decisions = load(&path).unwrap();
        let mac = "90:b8:d0:01:02:03".parse().unwrap();
        assert_eq!(decisions.len(), 1);
        assert_eq!(decisions[&mac].note, "stolen from rack 3");
        let beside = std::fs::read_to_string(path.with_extension("damaged")).unwrap();
        assert_eq!(beside, "90:b8:d0:01:02 deny 7 root\nrubbish\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{HEAD}{good}\n"));
        assert_eq!(load(&path).unwrap(), decisions);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_none_is_no_decision() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        assert!(load(&path).unwrap().is_empty());
        std::fs::create_dir(&path).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("admission"));
    }

    proptest! {
        #[test]
        fn text_and_back(macs: Vec<[u8; 6]>, approved: bool, at: i64, who: String, note: String) {
            let decision = Decision { approved, at, who: word(&who), note: plain(&note) };
            let decisions: Decisions =
                macs.into_iter().map(|mac| (MacAddr(mac), decision.clone())).collect();
            let text = write(&decisions);
            let (back, damaged) = parse(&text);
            prop_assert_eq!(damaged, vec![]);
            prop_assert_eq!(back, decisions);
        }

        #[test]
        fn no_text_panics_and_what_was_read_is_written_the_same(text: String) {
            let (decisions, _) = parse(&text);
            let written = write(&decisions);
            prop_assert_eq!(parse(&written).0, decisions);
        }

        #[test]
        fn nothing_gets_a_line_of_its_own(who: String, note: String) {
            let decision = Decision { approved: false, at: 0, who, note };
            let text = write(&Decisions::from([(MacAddr([0; 6]), decision)]));
            prop_assert_eq!(text.lines().count(), 2);
        }
    }
}
