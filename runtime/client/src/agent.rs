//! The agent's API (C§5.4).

use headnode_model::task::{Task, TaskRequest};
use reqwest::Method;
use uuid::Uuid;

use crate::http::{Call, Service};
use crate::{Error, Timeouts};

/// The agent of one machine.
#[derive(Debug, Clone)]
pub struct Agent {
    service: Service,
}

impl Agent {
    /// An agent by its base URL, as `http://10.99.99.38:5309`.
    ///
    /// # Errors
    /// [`Error::BaseUrl`].
    pub fn new(base_url: &str) -> Result<Self, Error> {
        Self::with_timeouts(base_url, Timeouts::default())
    }

    /// As [`Agent::new`], with other time-outs.
    ///
    /// # Errors
    /// [`Error::BaseUrl`].
    pub fn with_timeouts(base_url: &str, timeouts: Timeouts) -> Result<Self, Error> {
        Ok(Self { service: Service::new(base_url, "sdc-agent", timeouts)? })
    }

    /// Where the agent is, without a slash at the end.
    pub fn base_url(&self) -> &str {
        self.service.base()
    }

    /// Gives the agent a task and returns the task's id. With a `task_id` in the request the call
    /// can be repeated: an agent runs no id twice.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn post_task(&self, request: &TaskRequest) -> Result<Uuid, Error> {
        let body = crate::cnapi::to_value(request, self.base_url())?;
        let call = Call::with_body(Method::POST, "/tasks", &body);
        let answer = self.service.call(call).await?;
        answer.task()?.ok_or_else(|| answer.decode_error("it has no `id`".to_owned()))
    }

    /// A task and its history; `None` when the agent does not know it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_task(&self, id: Uuid) -> Result<Option<Task>, Error> {
        match self.service.call(Call::get(format!("/tasks/{id}"))).await {
            Ok(answer) => answer.json().map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
