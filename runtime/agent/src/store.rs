//! Tasks on disk: one JSON file each, written so that a power cut leaves the old or the new one.

use std::path::{Path, PathBuf};

use headnode_model::task::{Task, TaskRequest};
use headnode_node::file::write_atomic;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A task and the request that it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The request, as it came.
    pub request: TaskRequest,
    /// The task.
    pub task: Task,
}

/// The folder of the tasks' files.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// A store in this folder, which is made when the first task comes.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// All tasks, oldest first. Files that are no tasks are left alone, with a warning.
    pub fn load(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::warn!(path = %path.display(), error, "a task's file is damaged: ignored")
                }
            }
        }
        records.sort_by(|a, b| a.task.timestamp.cmp(&b.task.timestamp));
        records
    }

    /// Writes a task. A disk that does not take it is no reason to stop working: CNAPI has the
    /// task too.
    pub fn save(&self, record: &Record) {
        let path = self.path(record.task.id);
        let written = serde_json::to_vec(record)
            .map_err(std::io::Error::other)
            .and_then(|bytes| write_atomic(&path, &bytes, 0o600));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "writing a task");
        }
    }

    /// Forgets a task.
    pub fn remove(&self, id: Uuid) {
        let path = self.path(id);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), %error, "removing a task");
        }
    }

    fn path(&self, id: Uuid) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

fn read(path: &Path) -> Result<Record, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    serde_json::from_slice(&bytes).map_err(|e| e.to_string())
}
