//! CNAPI's API (C§6.2); method names after Triton's client (C§6.8).

use std::fmt;
use std::time::{Duration, Instant};

use headnode_model::boot::BootParams;
use headnode_model::config::Config;
use headnode_model::server::Server;
use headnode_model::sysinfo::Sysinfo;
use headnode_model::task::Task;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::http::{Call, Service};
use crate::{Error, Ping, Platforms, ServerQuery, SetupParams, Timeouts};

/// How long one `GET /tasks/:id/wait` is held; shorter than what drops idle connections.
const WAIT_SLICE: Duration = Duration::from_secs(20);

/// Longest boot parameters in bytes: a few arguments, and modules of at most 4 KiB each (C§4.2). Many
/// are asked for at the same time, so a broken service must not be able to fill the memory.
const BOOT_LIMIT: usize = 1 << 20;

/// Whose boot parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootTarget {
    /// Those of servers that have none of their own.
    Default,
    /// Those of one server.
    Server(Uuid),
}

impl fmt::Display for BootTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Server(uuid) => uuid.fmt(f),
        }
    }
}

/// A datacenter's CNAPI. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Cnapi {
    service: Service,
}

impl Cnapi {
    /// CNAPI by its base URL, as `http://10.99.99.7:8010`.
    ///
    /// # Errors
    /// [`Error::BaseUrl`].
    pub fn new(base_url: &str) -> Result<Self, Error> {
        Self::with_timeouts(base_url, Timeouts::default())
    }

    /// As [`Cnapi::new`], with other time-outs.
    ///
    /// # Errors
    /// [`Error::BaseUrl`].
    pub fn with_timeouts(base_url: &str, timeouts: Timeouts) -> Result<Self, Error> {
        Ok(Self { service: Service::new(base_url, "sdc-control (CNAPI)", timeouts)? })
    }

    /// CNAPI as the configuration of a headnode or compute node tells: `cnapi_client_url`, else
    /// the admin address.
    ///
    /// # Errors
    /// [`Error::BaseUrl`], also when the configuration names neither.
    pub fn from_config(config: &Config) -> Result<Self, Error> {
        let url = config.cnapi_url().ok_or_else(|| Error::BaseUrl {
            url: String::new(),
            reason: "the configuration has neither cnapi_client_url nor admin_ip".to_owned(),
        })?;
        Self::new(&url)
    }

    /// Where CNAPI is, without a slash at the end.
    pub fn base_url(&self) -> &str {
        self.service.base()
    }

    /// Whether CNAPI is there and ready.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ping(&self) -> Result<Ping, Error> {
        self.service.call(Call::get("/ping")).await?.json()
    }

    /// Servers that match. Do not set `fields` here: a [`Server`] needs them all.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_servers(&self, query: &ServerQuery) -> Result<Vec<Server>, Error> {
        let call = Call { query: query.pairs(), ..Call::get("/servers") };
        self.service.call(call).await?.json()
    }

    /// Servers that match, as CNAPI wrote them.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_servers_json(&self, query: &ServerQuery) -> Result<Vec<Value>, Error> {
        let call = Call { query: query.pairs(), ..Call::get("/servers") };
        self.service.call(call).await?.json()
    }

    /// One server with all its parts; `None` when there is no such server.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_server(&self, uuid: Uuid) -> Result<Option<Server>, Error> {
        found(self.service.call(Call::get(format!("/servers/{uuid}"))).await)
    }

    /// One server as CNAPI wrote it; `None` when there is no such server.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_server_json(&self, uuid: Uuid) -> Result<Option<Value>, Error> {
        found(self.service.call(Call::get(format!("/servers/{uuid}"))).await)
    }

    /// Changes fields of a server: `POST /servers/:uuid`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn update_server(&self, uuid: Uuid, changes: &Value) -> Result<(), Error> {
        self.send(Method::POST, format!("/servers/{uuid}"), changes).await
    }

    /// Forgets a server; it comes back if it still sends its sysinfo.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_server(&self, uuid: Uuid) -> Result<(), Error> {
        let call = Call { method: Method::DELETE, ..Call::get(format!("/servers/{uuid}")) };
        self.service.call(call).await.map(drop)
    }

    /// Registers a server, or tells what is new about it: `POST /servers/:uuid/sysinfo`.
    ///
    /// # Errors
    /// See [`Error`]; code `DuplicateServer` (409) when another living machine has this UUID.
    pub async fn register_sysinfo(&self, sysinfo: &Sysinfo) -> Result<(), Error> {
        let body = json!({ "sysinfo": to_value(sysinfo, self.base_url())? });
        self.send(Method::POST, format!("/servers/{}/sysinfo", sysinfo.uuid), &body).await
    }

    /// Tells that a server lives. Not found means that it has to register first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn heartbeat(&self, uuid: Uuid) -> Result<(), Error> {
        self.send(Method::POST, format!("/servers/{uuid}/events/heartbeat"), &json!({})).await
    }

    /// Tells how a server is: instances, pool, memory, disks (C§5.4).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn status(&self, uuid: Uuid, status: &Value) -> Result<(), Error> {
        self.send(Method::POST, format!("/servers/{uuid}/events/status"), status).await
    }

    /// Begins the setup of a server and returns the job's id, which [`Cnapi::wait_task`] follows;
    /// `None` when the server is set up already. A setup that runs is not begun twice.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn setup_server(
        &self,
        uuid: Uuid,
        params: &SetupParams,
    ) -> Result<Option<Uuid>, Error> {
        let body = to_value(params, self.base_url())?;
        let call = Call::with_body(Method::PUT, format!("/servers/{uuid}/setup"), &body);
        self.service.call(call).await?.task()
    }

    /// Reboots a server and returns the id of the job, which ends when the server is back.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn reboot_server(&self, uuid: Uuid) -> Result<Uuid, Error> {
        let body = json!({});
        let call = Call::with_body(Method::POST, format!("/servers/{uuid}/reboot"), &body);
        let answer = self.service.call(call).await?;
        answer.task()?.ok_or_else(|| answer.decode_error("it names no job".to_owned()))
    }

    /// What a server boots; `None` when CNAPI does not know the server.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn boot_params(&self, uuid: Uuid) -> Result<Option<BootParams>, Error> {
        let call = Call { limit: BOOT_LIMIT, ..Call::get(format!("/boot/{uuid}")) };
        found(self.service.call(call).await)
    }

    /// What servers boot that CNAPI does not know.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn default_boot_params(&self) -> Result<BootParams, Error> {
        let call = Call { limit: BOOT_LIMIT, ..Call::get("/boot/default") };
        self.service.call(call).await?.json()
    }

    /// Replaces boot parameters: PUT.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_boot_params(
        &self,
        target: BootTarget,
        params: &BootParams,
    ) -> Result<(), Error> {
        let body = to_value(params, self.base_url())?;
        self.send(Method::PUT, format!("/boot/{target}"), &body).await
    }

    /// Changes the boot parameters that `changes` names and keeps the others: POST. A kernel
    /// argument or flag whose value is `null` is removed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn update_boot_params(
        &self,
        target: BootTarget,
        changes: &Value,
    ) -> Result<(), Error> {
        self.send(Method::POST, format!("/boot/{target}"), changes).await
    }

    /// The platform images that the headnode holds, with their operating systems.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_platforms(&self) -> Result<Platforms, Error> {
        let query = vec![("os", "true".to_owned())];
        self.service.call(Call { query, ..Call::get("/platforms") }).await?.json()
    }

    /// A task and its history; `None` when there is no such task.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_task(&self, id: Uuid) -> Result<Option<Task>, Error> {
        found(self.service.call(Call::get(format!("/tasks/{id}"))).await)
    }

    /// Waits until a task is over, for at most `limit`, and returns it as it then is: look at its
    /// status. `None` when there is no such task.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn wait_task(&self, id: Uuid, limit: Duration) -> Result<Option<Task>, Error> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let slice = left.min(WAIT_SLICE);
            let call = Call {
                query: vec![("timeout", slice.as_secs().max(1).to_string())],
                total: Some(slice + Duration::from_secs(10)),
                ..Call::get(format!("/tasks/{id}/wait"))
            };
            let task = found::<Task>(self.service.call(call).await)?;
            if left <= slice || task.as_ref().is_none_or(|task| task.status.is_over()) {
                return Ok(task);
            }
        }
    }

    async fn send(&self, method: Method, path: String, body: &Value) -> Result<(), Error> {
        self.service.call(Call::with_body(method, path, body)).await.map(drop)
    }
}

/// `None` for an answer that says the thing does not exist.
pub(crate) fn found<T: serde::de::DeserializeOwned>(
    answer: Result<crate::http::Answer, Error>,
) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => answer.json().map(Some),
        Err(error) if error.code() == Some("ResourceNotFound") => Ok(None),
        Err(error) => Err(error),
    }
}

/// The JSON of a body of our own types.
pub(crate) fn to_value<T: Serialize>(body: &T, base_url: &str) -> Result<Value, Error> {
    serde_json::to_value(body).map_err(|error| Error::Decode {
        method: "request to",
        url: base_url.to_owned(),
        status: 0,
        reason: format!("encoding the request: {error}"),
    })
}
