//! Tasks: work that CNAPI gives to an agent, and how far it is (C§5.4, C§6.2).

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// How a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStatus {
    /// Accepted, not begun.
    Queued,
    /// Running.
    Active,
    /// Ended well.
    Complete,
    /// Ended badly.
    Failure,
}

impl TaskStatus {
    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Complete | Self::Failure)
    }
}

/// The body of `POST /tasks` to an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRequest {
    /// The task's kind: `server_setup`, `server_reboot`, `server_sysinfo`, `nop`.
    pub task: String,
    /// What the kind needs to know.
    #[serde(default)]
    pub params: Value,
    /// The task's identity, chosen by the caller: the same id is never run twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<Uuid>,
    /// Request id of the call that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub req_id: Option<String>,
}

/// A task as CNAPI and agents show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The task's identity.
    pub id: Uuid,
    /// Request id of the call that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub req_id: Option<String>,
    /// The server that it runs on.
    pub server_uuid: Uuid,
    /// Its kind.
    pub task: String,
    /// How it stands.
    pub status: TaskStatus,
    /// Percent done, 0 to 100.
    #[serde(default)]
    pub progress: u8,
    /// When it was accepted, RFC 3339.
    pub timestamp: String,
    /// What happened so far.
    #[serde(default)]
    pub history: Vec<TaskEvent>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One entry of a task's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// `start`, `progress`, `event`, `finish` or `error`.
    pub name: String,
    /// When, RFC 3339.
    pub timestamp: String,
    /// What; for steps a [`crate::event::Event`].
    #[serde(default)]
    pub event: Value,
}
