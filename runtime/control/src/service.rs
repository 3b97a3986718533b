//! The service as a whole: started, run until it is told to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headnode_model::config::Headnode;
use headnode_model::timing::HEARTBEAT_RECONCILE;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::App;
use crate::fleet::Fleet;
use crate::jobs::{Jobs, Limits};
use crate::store::{SharedStore, StoreError};

/// How long open calls may take to end once we are told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The database failed at the start.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The listening socket failed.
    #[error("serving HTTP: {0}")]
    Serve(#[from] std::io::Error),
}

/// What the service is made of.
pub struct Service {
    /// Where it remembers.
    pub store: SharedStore,
    /// The datacenter.
    pub site: Headnode,
    /// Folder of platform images.
    pub platforms: PathBuf,
    /// How patient jobs are.
    pub limits: Limits,
}

impl Service {
    /// Serves calls on `listener` until `stop`; calls `ready` once the first call would be
    /// answered.
    ///
    /// # Errors
    /// When the database fails at the start, or the socket.
    pub async fn run(
        self,
        listener: TcpListener,
        stop: CancellationToken,
        ready: impl FnOnce(),
    ) -> Result<(), ServiceError> {
        let Self { store, site, platforms, limits } = self;
        let fleet = Fleet::new(store.clone(), site, platforms);
        fleet.resume().await?;
        let jobs = Jobs::new(Arc::clone(&fleet), limits, stop.clone());
        jobs.resume().await?;
        let reconciler = tokio::spawn(reconcile(Arc::clone(&fleet), stop.clone()));
        let router = App::new(fleet, jobs.clone()).router();
        let serve =
            axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        ready();
        let served = tokio::select! {
            served = serve => served,
            () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => {
                tracing::warn!("calls are still open and are cut off");
                Ok(())
            }
        };
        stop.cancel();
        jobs.stopped().await;
        if let Err(error) = reconciler.await {
            tracing::error!(%error, "the reconciler ended badly");
        }
        store.close().await;
        Ok(served?)
    }
}

async fn reconcile(fleet: Arc<Fleet>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(HEARTBEAT_RECONCILE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = fleet.reconcile().await {
            tracing::error!(%error, "looking for silent servers");
        }
    }
}
