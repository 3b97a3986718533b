//! Asking for a machine's parameters without ever waiting for ever.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Answer, Cache, Cached, Nics, Origin, ParamSource};

/// Most questions that wait or run; more machines than that get what the cache has.
const FLIGHTS: usize = 4096;
/// The part of the patience that a source gets which lets others wait already.
const DISTRUST: u32 = 8;
/// Questions of a round of refreshing that run together (C§4.2).
const TOGETHER: usize = 16;
/// After so many failures a round of refreshing ends: the source is down.
const GIVE_UP: usize = 4;

/// How long the source is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// In all, when there is nothing else to boot a machine with (C§4.1: 28 s).
    pub budget: Duration,
    /// When the cache could answer instead. The question goes on meanwhile.
    pub cached: Duration,
    /// Most questions that run together.
    pub lookups: usize,
}

/// What was found for a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it boots with.
    pub params: BootParams,
    /// Where that came from.
    pub origin: Origin,
    /// Whether the machine is a server of the datacenter, as CNAPI says or said when it last could.
    pub known: bool,
    /// The server that it is.
    pub server: Option<Uuid>,
    /// Its network as NAPI has it.
    pub nics: Option<Nics>,
    /// What is not in the cache yet.
    news: Option<Cached>,
}

impl Found {
    /// Parameters that are not to be kept. A machine with a server is known.
    pub fn new(
        params: BootParams,
        origin: Origin,
        server: Option<Uuid>,
        nics: Option<Nics>,
    ) -> Self {
        Self { params, origin, known: server.is_some(), server, nics, news: None }
    }
}

/// Whose question it is.
type Key = (MacAddr, Option<Uuid>);
/// What the source said, once it has; or why it did not.
type Outcome = Option<Arc<Result<Answer, String>>>;

/// Finds boot parameters, whatever else is down. Clones share everything.
#[derive(Clone)]
pub struct Lookup(Arc<Inner>);

struct Inner {
    source: Arc<dyn ParamSource>,
    cache: Cache,
    patience: Patience,
    /// Places for questions that run.
    places: Semaphore,
    flights: Mutex<HashMap<Key, watch::Receiver<Outcome>>>,
    /// Somebody has waited in vain since the last answer.
    silent: AtomicBool,
}

impl Inner {
    fn flights(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Outcome>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, (mac, uuid): Key) -> Result<Answer, String> {
        let asking = async {
            let _place = self.places.acquire().await;
            self.source.machine(mac, uuid).await
        };
        match tokio::time::timeout(self.patience.budget, asking).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", self.patience.budget.as_secs_f32())),
        }
    }
}

/// Ends a question, also when it panics: nobody waits for it any more.
struct Landing(Arc<Inner>, Key);

impl Drop for Landing {
    fn drop(&mut self) {
        self.0.flights().remove(&self.1);
    }
}

impl Lookup {
    /// Asks `source`, keeps and finds in `cache`. Questions need a tokio runtime.
    pub fn new(source: Arc<dyn ParamSource>, cache: Cache, patience: Patience) -> Self {
        let places = Semaphore::new(patience.lookups.max(1));
        let (flights, silent) = (Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(Inner { source, cache, patience, places, flights, silent }))
    }

    /// Keeps what was found for later. Not done by [`Lookup::find`], so that machines that may not
    /// boot fill no disk.
    pub async fn keep(&self, mac: MacAddr, found: &Found) {
        match &found.news {
            Some(news) => self.0.cache.put(mac, news.clone()).await,
            None => self.0.cache.used(mac).await,
        }
    }

    /// The parameters of the machine with the NIC `mac`.
    pub async fn find(&self, mac: MacAddr, uuid: Option<Uuid>) -> Found {
        let cached = self.0.cache.get(mac).await;
        let Patience { budget, cached: patience, .. } = self.0.patience;
        let limit = match (&cached, self.0.silent.load(Ordering::Relaxed)) {
            (None, _) => budget,
            (Some(_), false) => patience,
            (Some(_), true) => patience / DISTRUST,
        };
        let uuid = uuid.or(cached.as_ref().and_then(|cached| cached.server));
        let problem = match self.wait((mac, uuid), limit).await {
            Ok(answer) => return found(answer, cached),
            Err(problem) => problem,
        };
        match cached {
            Some(Cached { params, known_server: known, server, nics }) => {
                tracing::warn!(%mac, "CNAPI gave no boot parameters, the cached ones are used: {problem}");
                Found { params, origin: Origin::Cache, known, server, nics, news: None }
            }
            None => {
                tracing::warn!(
                    %mac,
                    "CNAPI gave no boot parameters and none are cached, the newest platform is used: {problem}"
                );
                let params = BootParams {
                    default_console: "serial".to_owned(),
                    serial: "ttyb".to_owned(),
                    ..BootParams::default()
                };
                Found::new(params, Origin::Builtin, None, None)
            }
        }
    }

    async fn wait(&self, key: Key, limit: Duration) -> Result<Answer, String> {
        let mut flight = self.join(key).ok_or("too many machines ask at the same time")?;
        // Some more than the question itself has, so that its own words are told.
        let limit = limit + Duration::from_millis(50);
        match tokio::time::timeout(limit, flight.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => match outcome.as_deref() {
                Some(Ok(answer)) => Ok(answer.clone()),
                Some(Err(problem)) => Err(problem.clone()),
                None => Err("no answer".to_owned()),
            },
            Ok(Err(_)) => Err("asking has failed".to_owned()),
            Err(_) => {
                self.0.silent.store(true, Ordering::Relaxed);
                Err(format!("no answer within {} s", limit.as_secs_f32()))
            }
        }
    }

    /// The question that runs for a machine, or a new one; `None` when there are too many.
    fn join(&self, key: Key) -> Option<watch::Receiver<Outcome>> {
        let mut flights = self.0.flights();
        if let Some(flight) = flights.get(&key) {
            return Some(flight.clone());
        }
        if flights.len() >= FLIGHTS {
            return None;
        }
        let (tell, flight) = watch::channel(None);
        flights.insert(key, flight.clone());
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let landing = Landing(inner, key);
            let inner = &landing.0;
            let outcome = inner.ask(key).await;
            if let Ok(answer) = &outcome {
                inner.silent.store(false, Ordering::Relaxed);
                // Before it is told: whoever asks after that finds it.
                inner.cache.refresh(key.0, answer.clone()).await;
            }
            tell.send_replace(Some(Arc::new(outcome)));
        });
        Some(flight)
    }

    /// Asks anew for all machines in the cache every `pause`, servers first, until `stop`.
    pub async fn refresh(self, pause: Duration, stop: CancellationToken) {
        let mut tick = tokio::time::interval(pause);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once, but whoever boots now asks by himself.
        tick.tick().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.round() => {}
            }
        }
    }

    async fn round(&self) {
        self.0.cache.forget_old().await;
        let (mut running, mut failed, mut asked) = (JoinSet::new(), 0, 0usize);
        for mac in self.0.cache.machines() {
            if running.len() >= TOGETHER && running.join_next().await.is_some_and(is_failure) {
                failed += 1;
            }
            if failed >= GIVE_UP {
                tracing::warn!(asked, "cached boot parameters are not refreshed: CNAPI gives none");
                return;
            }
            asked += 1;
            let this = self.clone();
            running.spawn(async move {
                let server = this.0.cache.get(mac).await.and_then(|cached| cached.server);
                this.wait((mac, server), this.0.patience.budget).await.is_ok()
            });
        }
        while running.join_next().await.is_some() {}
        tracing::debug!(asked, "cached boot parameters refreshed");
    }
}

fn is_failure(asked: Result<bool, tokio::task::JoinError>) -> bool {
    !asked.unwrap_or(false)
}

fn found(answer: Answer, cached: Option<Cached>) -> Found {
    let now = Cached::new(answer, cached.as_ref());
    let news = (cached.as_ref() != Some(&now)).then(|| now.clone());
    let Cached { params, known_server: known, server, nics } = now;
    let origin = if known { Origin::Server } else { Origin::Default };
    Found { params, origin, known, server, nics, news }
}
