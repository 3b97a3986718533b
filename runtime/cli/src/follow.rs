//! Following a task: one line per step as it happens.

use std::time::{Duration, Instant};

use headnode_client::Cnapi;
use headnode_model::event::Event;
use headnode_model::task::{Task, TaskEvent, TaskStatus};
use uuid::Uuid;

use crate::outcome::{Failure, Result, say};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// How long CNAPI may be away meanwhile: the headnode's own reboot takes it along.
const PATIENCE: Duration = Duration::from_secs(600);

/// Shows the steps of a task until it is over. `label` begins each line when several tasks are
/// followed at once.
///
/// # Errors
/// When the task fails, is not there, takes longer than `limit`, or CNAPI stays away.
pub async fn task(cnapi: &Cnapi, id: Uuid, label: Option<&str>, limit: Duration) -> Result<Task> {
    let label = label.map_or_else(String::new, |label| format!("{label}: "));
    let deadline = Instant::now() + limit;
    let mut answered = Instant::now();
    let mut shown = 0;
    let mut away = false;
    loop {
        match cnapi.get_task(id).await {
            Ok(None) => return Err(Failure::not_found(format!("there is no task {id}"))),
            Ok(Some(task)) => {
                answered = Instant::now();
                if away {
                    eprintln!("{label}CNAPI is back");
                    away = false;
                }
                for event in task.history.iter().skip(shown) {
                    if let Some(line) = line(event) {
                        say!("{label}{line}")?;
                    }
                }
                // A task that was begun anew tells its steps anew.
                shown = task.history.len();
                if task.status.is_over() {
                    return Ok(task);
                }
            }
            Err(error) if error.is_temporary() && answered.elapsed() < PATIENCE => {
                if !away {
                    eprintln!("{label}CNAPI does not answer, waiting for it");
                    away = true;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if Instant::now() > deadline {
            return Err(Failure::failed(format!(
                "{label}not over after {} s; it goes on: sdc task watch {id}",
                limit.as_secs()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The end of a task as one line, or as the error that it ended with.
pub fn end(task: &Task, what: &str) -> Result<String> {
    match task.status {
        TaskStatus::Complete => Ok(format!("{what}: done")),
        _ => {
            let reason = task.error.as_deref().unwrap_or("no reason is given");
            let first = reason.lines().next().unwrap_or_default();
            Err(Failure::failed(format!(
                "{what} failed: {first}\n  all of it: sdc task get {}",
                task.id
            )))
        }
    }
}

/// An event for people; `None` for one that says nothing.
pub fn line(event: &TaskEvent) -> Option<String> {
    if let Ok(step) = serde_json::from_value::<Event>(event.event.clone()) {
        return Some(step.to_string());
    }
    let text = ["error", "text", "message"]
        .iter()
        .find_map(|key| event.event.get(*key)?.as_str())
        .map(str::to_owned)
        .or_else(|| event.event.as_str().map(str::to_owned));
    match text {
        Some(text) => Some(format!("{}: {text}", event.name)),
        None if event.event.is_null() => Some(event.name.clone()),
        None => Some(format!("{}: {}", event.name, event.event)),
    }
}
