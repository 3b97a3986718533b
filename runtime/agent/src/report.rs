//! What the agent tells CNAPI: sysinfo, heartbeats, status (C§5.4).
//!
//! CNAPI may be away for as long as it likes: tries go on, at growing pauses that have a limit, and
//! nothing piles up, since every report is made anew. The log tells the first failure and the
//! recovery, not every try.

use std::sync::Arc;
use std::time::Duration;

use headnode_client::{Cnapi, Error, Timeouts};
use headnode_model::timing;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use crate::clock::{self, Backoff};
use crate::machine::Machine;
use crate::metrics::Metrics;
use crate::steps;

/// The longest pause between two tries to register.
const REGISTER_PAUSE_MAX: Duration = Duration::from_secs(15);
/// A server that CNAPI refuses for good (another one has its UUID) asks this often.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// A heartbeat that takes longer than this is overtaken by the next one.
const CALL_LIMIT: Duration = Duration::from_secs(4);

/// Time-outs of the calls to CNAPI.
pub const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(2), total: CALL_LIMIT };

/// Reports on a machine to CNAPI.
#[derive(Clone)]
pub struct Reporter {
    cnapi: Cnapi,
    machine: Arc<dyn Machine>,
    metrics: Arc<Metrics>,
    /// Send sysinfo now.
    changed: Arc<Notify>,
    registered: watch::Sender<bool>,
}

impl Reporter {
    /// A reporter; `changed` makes it send sysinfo at once.
    pub fn new(
        cnapi: Cnapi,
        machine: Arc<dyn Machine>,
        metrics: Arc<Metrics>,
        changed: Arc<Notify>,
    ) -> Self {
        Self { cnapi, machine, metrics, changed, registered: watch::Sender::new(false) }
    }

    /// Tells whether CNAPI knows this machine.
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.subscribe()
    }

    /// Reports for ever.
    pub async fn run(self) {
        tokio::join!(self.sysinfo(), self.heartbeats(), self.statuses());
    }

    /// Runs a look at the machine beside the event loop.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&dyn Machine) -> T + Send + 'static,
    ) -> Option<T> {
        let machine = Arc::clone(&self.machine);
        let begun = Instant::now();
        let looked = tokio::task::spawn_blocking(move || look(&*machine)).await;
        tracing::debug!(elapsed = ?begun.elapsed(), "looked at the machine");
        looked.inspect_err(|error| tracing::error!(%error, "looking at the machine")).ok()
    }

    fn count(&self, sent: bool) {
        let counter = if sent { &self.metrics.reports_sent } else { &self.metrics.reports_failed };
        counter.inc();
    }

    fn set_registered(&self, registered: bool) {
        self.metrics.registered.set(i64::from(registered));
        self.registered
            .send_if_modified(|known| std::mem::replace(known, registered) != registered);
    }

    async fn sysinfo(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), REGISTER_PAUSE_MAX);
        let mut trouble = Trouble::new("sending sysinfo");
        loop {
            let Some(sysinfo) = self.look(|machine| machine.sysinfo()).await else {
                tokio::time::sleep(backoff.pause()).await;
                continue;
            };
            let result = self.cnapi.register_sysinfo(&sysinfo).await;
            self.count(result.is_ok());
            let pause = match &result {
                Ok(()) => {
                    backoff.reset();
                    self.set_registered(true);
                    timing::SYSINFO_INTERVAL
                }
                Err(error) if error.status() == Some(409) => {
                    self.set_registered(false);
                    REFUSED_PAUSE
                }
                Err(_) => backoff.pause(),
            };
            let refusal = result.as_ref().err().filter(|error| error.status() == Some(409));
            if let Some(text) = trouble.note(&result)
                && refusal.is_some()
            {
                steps::say(&refused(&text, refusal.and_then(Error::code), sysinfo.uuid));
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    async fn heartbeats(&self) {
        let mut registered = self.registered();
        let mut trouble = Trouble::new("sending a heartbeat");
        let uuid = self.machine.uuid();
        let mut ticks = tokio::time::interval(timing::HEARTBEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if registered.wait_for(|registered| *registered).await.is_err() {
                return;
            }
            ticks.tick().await;
            let result = self.cnapi.heartbeat(uuid).await;
            self.count(result.is_ok());
            trouble.note(&result);
            if result.is_err_and(|error| error.status() == Some(404)) {
                self.forgotten();
            }
        }
    }

    /// CNAPI does not know this server (any more): it has to register again.
    fn forgotten(&self) {
        self.set_registered(false);
        self.changed.notify_one();
    }

    async fn statuses(&self) {
        let mut registered = self.registered();
        let mut trouble = Trouble::new("sending the status");
        let uuid = self.machine.uuid();
        let mut sent: Option<(Instant, String)> = None;
        let mut ticks = tokio::time::interval(timing::STATUS_INTERVAL_MIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if registered.wait_for(|registered| *registered).await.is_err() {
                return;
            }
            ticks.tick().await;
            let Some(key) = self.look(|machine| machine.status_key()).await else { continue };
            let due = sent.as_ref().is_none_or(|(when, last)| {
                when.elapsed() + timing::STATUS_INTERVAL_MIN > timing::STATUS_INTERVAL
                    || *last != key
            });
            if !due {
                continue;
            }
            let Some(mut status) = self.look(|machine| machine.status()).await else { continue };
            status["timestamp"] = clock::now().into();
            let result = self.cnapi.status(uuid, &status).await;
            self.count(result.is_ok());
            trouble.note(&result);
            if result.is_ok() {
                // What changes the status is in sysinfo too: on a headnode, that setup is over.
                if sent.as_ref().is_some_and(|(_, last)| *last != key) {
                    self.changed.notify_one();
                }
                sent = Some((Instant::now(), key));
            }
        }
    }
}

/// The console's line about a refusal.
fn refused(text: &str, code: Option<&str>, uuid: Uuid) -> String {
    let hint = match code {
        Some("DuplicateServer") => format!(
            "; another machine has the UUID {uuid} too: boot one of them with \
             override_uuid=<new uuid>"
        ),
        _ => String::new(),
    };
    format!("CNAPI REFUSES this server: {text}{hint}")
}

/// Logs a trouble when it comes, changes and goes.
struct Trouble {
    doing: &'static str,
    last: Option<String>,
}

impl Trouble {
    fn new(doing: &'static str) -> Self {
        Self { doing, last: None }
    }

    /// Notes a result; gives the trouble when it is a new one.
    fn note(&mut self, result: &Result<(), Error>) -> Option<String> {
        let now = result.as_ref().err().map(ToString::to_string);
        if now == self.last {
            return None;
        }
        match &now {
            Some(error) => tracing::warn!(error, "{}: trying again", self.doing),
            None => tracing::info!("{}: works again", self.doing),
        }
        self.last.clone_from(&now);
        now
    }
}
