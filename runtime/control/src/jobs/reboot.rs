//! Reboot of a server: told to its agent once, over when the server registers from a new boot.

use headnode_model::task::{TaskEvent, TaskRequest, TaskStatus};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Failure, Job};
use crate::fleet::{now, same_boot};

pub(super) async fn run(job: &mut Job<'_>) -> Result<(), Failure> {
    let limits = job.inner.limits;
    let deadline = Instant::now() + limits.reboot;
    let mut boots = job.inner.fleet.boots();
    if job.record.params.get("sent") != Some(&Value::Bool(true)) {
        send(job).await?;
    }
    let id = job.record.task.id;
    while Instant::now() < deadline {
        boots.mark_unchanged();
        let server = job.server().await?;
        let before = job.record.params.get("boot_time").and_then(Value::as_str);
        if !same_boot(before, server.core.boot_time.as_deref()) {
            return Ok(());
        }
        // An agent that is still there can say that the reboot failed.
        if let Ok(agent) = job.agent().await
            && let Ok(Some(task)) = agent.get_task(id).await
        {
            if task.status == TaskStatus::Failure {
                let reason = task.error.unwrap_or_else(|| "the agent gives no reason".to_owned());
                return Err(reason.into());
            }
            if task.history.len() >= job.record.task.history.len() && job.take(task) {
                job.save().await?;
            }
        }
        tokio::select! {
            _ = boots.changed() => {}
            () = sleep(limits.poll * 4) => {}
        }
    }
    let server = job.server().await?;
    Err(format!(
        "{} has not come back within {} s: look at its console",
        server.core.wanted_hostname(),
        limits.reboot.as_secs()
    )
    .into())
}

/// Gives the agent its task, at most once: when we are interrupted in between (the headnode's own
/// reboot ends us too), the machine must not be rebooted a second time after it has come back.
async fn send(job: &mut Job<'_>) -> Result<(), Failure> {
    let limits = job.inner.limits;
    let agent = job.agent().await?;
    job.record.params["sent"] = Value::Bool(true);
    job.record.task.status = TaskStatus::Active;
    let event = json!({ "text": format!("telling the agent at {} to reboot", agent.base_url()) });
    job.record.task.history.push(TaskEvent { name: "start".to_owned(), timestamp: now(), event });
    job.save().await?;
    let request = TaskRequest {
        task: job.record.task.task.clone(),
        params: json!({}),
        task_id: Some(job.record.task.id),
        req_id: job.record.task.req_id.clone(),
    };
    let began = Instant::now();
    loop {
        match agent.post_task(&request).await {
            Ok(_) => return Ok(()),
            // No answer may mean that it reboots already; the boot time will tell.
            Err(headnode_client::Error::Transport { timed_out: true, .. }) => return Ok(()),
            Err(error) if error.is_temporary() && began.elapsed() < limits.contact / 4 => {
                let server = job.server().await?;
                let before = job.record.params.get("boot_time").and_then(Value::as_str);
                if !same_boot(before, server.core.boot_time.as_deref()) {
                    return Ok(());
                }
                sleep(limits.poll).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
