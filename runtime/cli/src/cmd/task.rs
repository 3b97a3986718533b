//! `sdc task`.

use clap::Subcommand;
use headnode_client::Cnapi;
use headnode_model::timing::SERVER_SETUP_LIMIT;
use uuid::Uuid;

use super::print_json;
use crate::follow;
use crate::outcome::{EXIT_CODES, Failure, Result, say};

/// What to do with tasks.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Show a task and its history
    #[command(after_help = EXIT_CODES)]
    Get {
        /// The task's id
        id: Uuid,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the steps of a task as they happen, until it is over
    #[command(after_help = EXIT_CODES)]
    Watch {
        /// The task's id
        id: Uuid,
    },
}

impl Task {
    /// Does it.
    ///
    /// # Errors
    /// With the exit code that belongs to it.
    pub async fn run(self, cnapi: &Cnapi) -> Result {
        match self {
            Self::Get { id, json } => {
                let task = cnapi.get_task(id).await?;
                let task =
                    task.ok_or_else(|| Failure::not_found(format!("there is no task {id}")))?;
                if json {
                    return print_json(&task);
                }
                let status = serde_json::to_value(task.status)?;
                let status = status.as_str().unwrap_or_default();
                say!(
                    "{} on {}: {status}, {} %, begun {}",
                    task.task,
                    task.server_uuid,
                    task.progress,
                    task.timestamp
                )?;
                for event in &task.history {
                    if let Some(line) = follow::line(event) {
                        say!("  {} {line}", event.timestamp)?;
                    }
                }
                if let Some(error) = &task.error {
                    say!("error: {error}")?;
                }
                Ok(())
            }
            Self::Watch { id } => {
                let task = follow::task(cnapi, id, None, SERVER_SETUP_LIMIT).await?;
                say!("{}", follow::end(&task, &task.task)?)?;
                Ok(())
            }
        }
    }
}
