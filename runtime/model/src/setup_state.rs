//! How far a machine's setup is: the state file of C§3.1.

use serde::{Deserialize, Serialize};

/// What a machine is set up as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeType {
    /// The machine that carries the control services.
    Headnode,
    /// A machine that boots from the headnode.
    Computenode,
}

/// The state file. Every step is "if not seen: do, then mark as seen".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupState {
    /// What the machine is set up as.
    pub node_type: NodeType,
    /// When setup began, RFC 3339.
    pub start_time: String,
    /// The step that is running or has run last.
    pub current_state: String,
    /// When the file was written last, RFC 3339.
    pub last_updated: String,
    /// The steps that are done.
    pub seen_states: Vec<String>,
    /// Whether setup is over.
    pub complete: bool,
    /// Why the current step failed, when it did; Triton's file does not have this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl SetupState {
    /// The state of a machine whose setup begins at `now` (RFC 3339).
    pub fn new(node_type: NodeType, now: &str) -> Self {
        Self {
            node_type,
            start_time: now.to_owned(),
            current_state: String::new(),
            last_updated: now.to_owned(),
            seen_states: Vec::new(),
            complete: false,
            error: None,
        }
    }

    /// Whether a step is done.
    pub fn seen(&self, step: &str) -> bool {
        self.seen_states.iter().any(|s| s == step)
    }

    /// Notes that a step begins.
    pub fn begin(&mut self, step: &str, now: &str) {
        step.clone_into(&mut self.current_state);
        now.clone_into(&mut self.last_updated);
        self.error = None;
    }

    /// Notes that a step is done.
    pub fn done(&mut self, step: &str, now: &str) {
        if !self.seen(step) {
            self.seen_states.push(step.to_owned());
        }
        now.clone_into(&mut self.last_updated);
    }

    /// Notes why the current step failed.
    pub fn failed(&mut self, error: &str, now: &str) {
        self.error = Some(error.to_owned());
        now.clone_into(&mut self.last_updated);
    }
}
