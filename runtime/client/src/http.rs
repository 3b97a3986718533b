//! One call: URL, time-outs, request id, retries, errors.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headnode_model::api::{ErrorBody, REQUEST_ID_HEADER};
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::Error;

/// An answer longer than this is refused: 1000 servers with their sysinfo are about 10 MB.
const ANSWER_LIMIT: usize = 64 << 20;
/// How often an idempotent call is tried.
const TRIES: u32 = 3;
/// Pause before the second try; it doubles with each.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

tokio::task_local! {
    static REQUEST_ID: String;
}

/// Runs `work` so that all its calls carry the request id `id`.
pub async fn with_request_id<F: Future>(id: String, work: F) -> F::Output {
    REQUEST_ID.scope(id, work).await
}

/// The request id that [`with_request_id`] has set for the current task.
pub fn current_request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// How long a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// Until the whole answer is there, per try.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), total: Duration::from_secs(30) }
    }
}

/// A service at a base URL.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    http: reqwest::Client,
    base: Url,
    /// What listens there, for hints.
    name: &'static str,
    /// The Unix socket that it listens at, when it has one.
    socket: Option<PathBuf>,
    total: Duration,
}

fn builder(timeouts: Timeouts) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(timeouts.connect)
        .user_agent(concat!("headnode/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        // The admin network is never reached through a proxy, whatever the environment says.
        .no_proxy()
        .pool_max_idle_per_host(2)
}

/// A call before it is made.
pub(crate) struct Call<'a> {
    pub method: Method,
    pub path: String,
    pub query: Vec<(&'static str, String)>,
    pub body: Option<&'a Value>,
    /// Longer than the service's time-out, for calls that wait.
    pub total: Option<Duration>,
    /// Longest answer that is taken, in bytes.
    pub limit: usize,
}

impl<'a> Call<'a> {
    pub fn get(path: impl Into<String>) -> Self {
        let (method, path, limit) = (Method::GET, path.into(), ANSWER_LIMIT);
        Self { method, path, query: vec![], body: None, total: None, limit }
    }

    pub fn with_body(method: Method, path: impl Into<String>, body: &'a Value) -> Self {
        Self { method, body: Some(body), ..Self::get(path) }
    }

    fn method_name(&self) -> &'static str {
        match self.method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            _ => "request to",
        }
    }
}

/// An answer that is no error.
pub(crate) struct Answer {
    method: &'static str,
    url: String,
    status: u16,
    bytes: Vec<u8>,
}

impl Answer {
    /// The id of the task that the call began; `None` when there was nothing to do (204).
    pub fn task(&self) -> Result<Option<Uuid>, Error> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        match self.json::<crate::types::Accepted>()?.task() {
            Some(id) => Ok(Some(id)),
            None => Err(self.decode_error("it has neither `id` nor `job_uuid`".to_owned())),
        }
    }

    pub fn decode_error(&self, reason: String) -> Error {
        Error::Decode { method: self.method, url: self.url.clone(), status: self.status, reason }
    }

    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.bytes).map_err(|error| self.decode_error(error.to_string()))
    }
}

impl Service {
    pub fn new(base: &str, name: &'static str, timeouts: Timeouts) -> Result<Self, Error> {
        let wrong = |reason: String| Error::BaseUrl { url: base.to_owned(), reason };
        let url = Url::parse(base).map_err(|error| wrong(error.to_string()))?;
        if url.scheme() != "http" {
            return Err(wrong(format!("its scheme is {}, not http", url.scheme())));
        }
        if !url.has_host() || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it needs a host and nothing after the path".to_owned()));
        }
        let http = builder(timeouts).build().map_err(|error| wrong(error.to_string()))?;
        Ok(Self { http, base: url, name, socket: None, total: timeouts.total })
    }

    /// A service on this machine that listens at a Unix socket.
    pub fn unix(path: &Path, name: &'static str, timeouts: Timeouts) -> Result<Self, Error> {
        let wrong = |reason: String| Error::BaseUrl { url: path.display().to_string(), reason };
        // Only the path of the URL goes over the socket; the name is for messages.
        let url =
            Url::parse(&format!("http://{name}")).map_err(|error| wrong(error.to_string()))?;
        let http = builder(timeouts).unix_socket(path).build();
        let http = http.map_err(|error| wrong(error.to_string()))?;
        Ok(Self { http, base: url, name, socket: Some(path.to_owned()), total: timeouts.total })
    }

    pub fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    fn url(&self, call: &Call<'_>) -> Result<Url, Error> {
        let text = format!("{}{}", self.base(), call.path);
        let mut url = Url::parse(&text)
            .map_err(|error| Error::BaseUrl { url: text, reason: error.to_string() })?;
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        Ok(url)
    }

    /// Makes the call; a GET is tried again when no answer comes.
    pub async fn call(&self, call: Call<'_>) -> Result<Answer, Error> {
        let url = self.url(&call)?;
        let request_id = current_request_id().unwrap_or_else(|| Uuid::new_v4().to_string());
        let tries = if call.method == Method::GET { TRIES } else { 1 };
        let mut pause = RETRY_PAUSE;
        let mut attempt = 1;
        loop {
            match self.once(&call, &url, &request_id).await {
                // A time-out is not tried again: the time that the caller has is used up.
                Err(error @ Error::Transport { timed_out: false, .. }) if attempt < tries => {
                    tracing::debug!(%error, attempt, request_id, "trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn once(&self, call: &Call<'_>, url: &Url, id: &str) -> Result<Answer, Error> {
        let total = call.total.unwrap_or(self.total);
        let mut request = self
            .http
            .request(call.method.clone(), url.clone())
            .timeout(total)
            .header(REQUEST_ID_HEADER, id);
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let broken = |error: reqwest::Error| self.transport(call, url, total, &error);
        let mut response = request.send().await.map_err(broken)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if bytes.len() + chunk.len() > call.limit {
                return Err(Error::Decode {
                    method: call.method_name(),
                    url: url.to_string(),
                    status: status.as_u16(),
                    reason: format!("it is longer than {} MiB", call.limit >> 20),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        tracing::debug!(method = call.method_name(), %url, %status, request_id = id, "called");
        if status.is_success() {
            let (method, url) = (call.method_name(), url.to_string());
            return Ok(Answer { method, url, status: status.as_u16(), bytes });
        }
        let request_id = response
            .headers()
            .get(REQUEST_ID_HEADER)
            .and_then(|value| value.to_str().ok())
            .map(Box::from);
        Err(Error::Api {
            method: call.method_name(),
            url: url.to_string(),
            status: status.as_u16(),
            body: Box::new(error_body(status, &bytes)),
            request_id,
        })
    }

    fn transport(
        &self,
        call: &Call<'_>,
        url: &Url,
        total: Duration,
        error: &reqwest::Error,
    ) -> Error {
        let name = self.name;
        let (reason, hint) = if error.is_connect() {
            let hint = match &self.socket {
                Some(socket) => format!(
                    "{name} listens at {} on its own machine, and only root may ask: check that it runs",
                    socket.display()
                ),
                None => format!("check that {name} runs there and that the network is up"),
            };
            (innermost(error), hint)
        } else if error.is_timeout() {
            let hint = format!("{name} may be busy or hang: look at its log, then try again");
            (format!("no answer within {} s", total.as_secs_f32()), hint)
        } else {
            (innermost(error), format!("{name} may have been restarted: try again"))
        };
        Error::Transport {
            method: call.method_name(),
            url: url.to_string(),
            reason,
            hint,
            timed_out: error.is_timeout(),
        }
    }
}

/// The cause that an operator can act on: the last of the chain.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The error in the answer; one made of the status when the answer has none.
fn error_body(status: reqwest::StatusCode, bytes: &[u8]) -> ErrorBody {
    serde_json::from_slice(bytes).unwrap_or_else(|_| {
        let text: String = String::from_utf8_lossy(bytes).trim().chars().take(200).collect();
        let reason = status.canonical_reason().unwrap_or("an unknown status");
        ErrorBody {
            code: reason.replace(' ', ""),
            message: if text.is_empty() { "without an explanation".to_owned() } else { text },
            errors: vec![],
        }
    })
}
