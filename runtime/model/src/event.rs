//! Typed events of everything that goes on in steps: the console, the log, the API and the tests
//! read the same ones.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What happened to a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum StepEvent {
    /// The step begins.
    Started,
    /// The step is this far.
    Progress {
        /// How much is done.
        done: u64,
        /// How much there is to do; 0 when nobody knows.
        total: u64,
        /// Unit of both: `bytes`, `files`, …
        unit: String,
    },
    /// The step has something to say.
    Message {
        /// One line for people.
        text: String,
    },
    /// The step is done.
    Done {
        /// One line that tells the result.
        result: String,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
    },
    /// The step had been done before.
    Skipped {
        /// Why.
        reason: String,
    },
    /// The step failed.
    Failed {
        /// What is wrong, where, and what to do.
        error: String,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
    },
}

/// An event of one step of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, RFC 3339.
    pub time: String,
    /// The step's name, as in the state file.
    pub step: String,
    /// Its place in the list, from 1.
    pub index: usize,
    /// How many steps the list has.
    pub count: usize,
    /// What happened.
    #[serde(flatten)]
    pub what: StepEvent,
}

impl fmt::Display for Event {
    /// The console's form, one line: `[ 3/11] pool_created: done in 1.2 s: zones, mirror of 2 disks`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:>2}/{}] {}: ", self.index, self.count, self.step)?;
        match &self.what {
            StepEvent::Started => f.write_str("started"),
            StepEvent::Progress { done, total: 0, unit } => write!(f, "{done} {unit}"),
            StepEvent::Progress { done, total, unit } => {
                write!(f, "{:>3} % of {total} {unit}", done.saturating_mul(100) / total)
            }
            StepEvent::Message { text } => f.write_str(text),
            StepEvent::Done { result, elapsed_ms } => {
                write!(f, "done in {}", Seconds(*elapsed_ms))?;
                if result.is_empty() { Ok(()) } else { write!(f, ": {result}") }
            }
            StepEvent::Skipped { reason } => write!(f, "skipped: {reason}"),
            StepEvent::Failed { error, elapsed_ms } => {
                write!(f, "FAILED after {}: {error}", Seconds(*elapsed_ms))
            }
        }
    }
}

struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} s", self.0 / 1000, self.0 % 1000 / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_line_is_stable_and_the_json_flat() {
        let event = Event {
            time: "2026-01-01T00:00:00Z".to_owned(),
            step: "pool_created".to_owned(),
            index: 3,
            count: 11,
            what: StepEvent::Done {
                result: "zones, mirror of 2 disks".to_owned(),
                elapsed_ms: 1234,
            },
        };
        assert_eq!(
            event.to_string(),
            "[ 3/11] pool_created: done in 1.2 s: zones, mirror of 2 disks"
        );
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["event"], "done");
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }
}
