//! The booter's operator interface, over its Unix socket.

use std::path::Path;
use std::time::Duration;

use headnode_model::booter::{Boot, BootDetail, BootEvents, BooterStatus, Decide};
use headnode_model::net::MacAddr;
use reqwest::Method;
use serde_json::Value;

use crate::http::{Call, Service};
use crate::{Error, Timeouts};

/// What is done about a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It may boot.
    Approve,
    /// It gets no answer.
    Deny,
    /// The decision about it, and what was seen of it, is forgotten.
    Forget,
}

/// The booter on this machine.
#[derive(Debug, Clone)]
pub struct Booter(Service);

impl Booter {
    /// The booter that listens at a Unix socket.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(socket: &Path, timeouts: Timeouts) -> Result<Self, Error> {
        Ok(Self(Service::unix(socket, "sdc-booter", timeouts)?))
    }

    /// How the booter is.
    ///
    /// # Errors
    /// As every call.
    pub async fn status(&self) -> Result<BooterStatus, Error> {
        self.0.call(Call::get("/status")).await?.json()
    }

    /// All machines, the one heard of last first.
    ///
    /// # Errors
    /// As every call.
    pub async fn boots(&self) -> Result<Vec<Boot>, Error> {
        self.0.call(Call::get("/boots")).await?.json()
    }

    /// A machine with its events; `None` when it was not seen.
    ///
    /// # Errors
    /// As every call.
    pub async fn boot(&self, mac: MacAddr) -> Result<Option<BootDetail>, Error> {
        match self.0.call(Call::get(format!("/boots/{mac}"))).await {
            Err(error) if error.is_not_found() => Ok(None),
            answer => Ok(Some(answer?.json()?)),
        }
    }

    /// What a machine would boot with now.
    ///
    /// # Errors
    /// As every call; 404 when that cannot be told.
    pub async fn params(&self, mac: MacAddr) -> Result<Value, Error> {
        // The booter itself asks CNAPI, for up to 28 s (C§4.1).
        let total = Some(Duration::from_secs(40));
        self.0.call(Call { total, ..Call::get(format!("/boots/{mac}/params")) }).await?.json()
    }

    /// Decides about a machine.
    ///
    /// # Errors
    /// As every call.
    pub async fn decide(&self, mac: MacAddr, verb: Verb, decide: &Decide) -> Result<(), Error> {
        let verb = match verb {
            Verb::Approve => "approve",
            Verb::Deny => "deny",
            Verb::Forget => "forget",
        };
        let body = serde_json::json!({"who": decide.who, "note": decide.note});
        let call = Call::with_body(Method::POST, format!("/boots/{mac}/{verb}"), &body);
        self.0.call(call).await.map(drop)
    }

    /// The events after a number; waits up to `wait` (at most a minute) for the first one.
    ///
    /// # Errors
    /// As every call.
    pub async fn events(
        &self,
        after: u64,
        mac: Option<MacAddr>,
        wait: Duration,
    ) -> Result<BootEvents, Error> {
        let mut query = vec![("after", after.to_string()), ("wait", wait.as_secs().to_string())];
        query.extend(mac.map(|mac| ("mac", mac.to_string())));
        let total = Some(wait + Duration::from_secs(10));
        self.0.call(Call { query, total, ..Call::get("/events") }).await?.json()
    }

    /// Has the booter read its configuration anew; gives what has changed.
    ///
    /// # Errors
    /// As every call; 409 when the configuration is wrong.
    pub async fn reload(&self) -> Result<Vec<String>, Error> {
        let nothing = Value::Null;
        self.0.call(Call::with_body(Method::POST, "/reload", &nothing)).await?.json()
    }
}
