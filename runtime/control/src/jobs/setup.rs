//! Setup of a server: the agent's task `server_setup`, followed to its end.

use headnode_model::task::{Task, TaskRequest, TaskStatus};
use tokio::time::{Instant, sleep};

use super::{Failure, Job};

/// How often a task that an agent has forgotten is given to it again. Setup's steps can be
/// repeated; an agent that forgets again and again crashes in one of them.
const RESTARTS: u32 = 3;

pub(super) async fn run(job: &mut Job<'_>) -> Result<(), Failure> {
    let limits = job.inner.limits;
    let deadline = Instant::now() + limits.setup;
    let mut contact = Instant::now();
    let mut times_given = 0;
    let mut given = false;
    while Instant::now() < deadline {
        let answer = if given { look(job).await } else { give(job).await };
        match answer {
            Ok(Answer::Given) => {
                (given, times_given, contact) = (true, times_given + 1, Instant::now());
                continue;
            }
            Ok(Answer::Forgotten) if times_given > RESTARTS => {
                return Err(format!(
                    "the agent has forgotten the task {times_given} times, so it crashes while it \
                     works: look at `journalctl -u sdc-agent` on the server"
                )
                .into());
            }
            Ok(Answer::Forgotten) => {
                tracing::warn!(task = %job.record.task.id, "the agent was restarted, giving it the task again");
                given = false;
            }
            Ok(Answer::Task(task)) => {
                contact = Instant::now();
                let (status, error) = (task.status, task.error.clone());
                if job.take(*task) {
                    job.save().await?;
                }
                match status {
                    TaskStatus::Complete => return Ok(()),
                    TaskStatus::Failure => {
                        let reason =
                            error.unwrap_or_else(|| "the agent gives no reason".to_owned());
                        return Err(reason.into());
                    }
                    TaskStatus::Queued | TaskStatus::Active => {}
                }
            }
            Err(Trouble::Agent(error)) if error.is_temporary() => {
                if contact.elapsed() > limits.contact {
                    let silent = limits.contact.as_secs();
                    return Err(format!("no answer from the agent for {silent} s: {error}").into());
                }
            }
            Err(Trouble::Agent(error)) => return Err(error.into()),
            Err(Trouble::Other(failure)) => return Err(failure),
        }
        sleep(limits.poll).await;
    }
    Err(format!("not done after {} s", limits.setup.as_secs()).into())
}

enum Answer {
    Given,
    Task(Box<Task>),
    Forgotten,
}

enum Trouble {
    Agent(headnode_client::Error),
    Other(Failure),
}

async fn give(job: &Job<'_>) -> Result<Answer, Trouble> {
    let task = &job.record.task;
    let request = TaskRequest {
        task: task.task.clone(),
        params: job.record.params.clone(),
        task_id: Some(task.id),
        req_id: task.req_id.clone(),
    };
    let agent = job.agent().await.map_err(Trouble::Other)?;
    agent.post_task(&request).await.map_err(Trouble::Agent)?;
    Ok(Answer::Given)
}

async fn look(job: &Job<'_>) -> Result<Answer, Trouble> {
    // The address anew each time: an agent may come back with another one.
    let agent = job.agent().await.map_err(Trouble::Other)?;
    let task = agent.get_task(job.record.task.id).await.map_err(Trouble::Agent)?;
    Ok(task.map_or(Answer::Forgotten, |task| Answer::Task(Box::new(task))))
}
