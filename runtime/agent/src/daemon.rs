//! The running agent: HTTP server, tasks and reports around a machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use headnode_client::Cnapi;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use crate::machine::Machine;
use crate::metrics::Metrics;
use crate::report::Reporter;
use crate::store::Store;
use crate::tasks::Tasks;
use crate::{http, notify};

/// How long open requests may take once the agent is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// What the agent runs on.
pub struct Service {
    /// The machine.
    pub machine: Arc<dyn Machine>,
    /// CNAPI.
    pub cnapi: Cnapi,
    /// Where the HTTP server listens.
    pub listener: TcpListener,
    /// Folder of the tasks' files.
    pub tasks: PathBuf,
}

impl Service {
    /// Runs until `stop` is done. `on_start` gets a watch that turns true when CNAPI knows this
    /// machine.
    ///
    /// # Errors
    /// When the HTTP server breaks.
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
        on_start: impl FnOnce(watch::Receiver<bool>),
    ) -> anyhow::Result<()> {
        let metrics = Arc::new(Metrics::new());
        let changed = Arc::new(Notify::new());
        let reporter = Reporter::new(
            self.cnapi,
            Arc::clone(&self.machine),
            Arc::clone(&metrics),
            Arc::clone(&changed),
        );
        on_start(reporter.registered());
        let tasks = Tasks::new(self.machine, Store::new(self.tasks), Arc::clone(&metrics), changed);
        let router = http::router(tasks.clone(), metrics);
        let reporting = tokio::spawn(reporter.run());
        let working = tokio::spawn(tasks.run());

        let stopping = Arc::new(Notify::new());
        let told = Arc::clone(&stopping);
        let serve = axum::serve(self.listener, router)
            .with_graceful_shutdown(async move { told.notified().await });
        let mut serving = tokio::spawn(async move { serve.await });
        notify::notify("READY=1");
        let ended = tokio::select! {
            ended = &mut serving => ended,
            () = stop => {
                notify::notify("STOPPING=1");
                tracing::info!("stopping");
                stopping.notify_one();
                match tokio::time::timeout(GRACE, &mut serving).await {
                    Ok(ended) => ended,
                    // A request that hangs is cut off with the process.
                    Err(_) => Ok(Ok(())),
                }
            }
        };
        reporting.abort();
        working.abort();
        ended.context("joining the HTTP server")?.context("serving HTTP")
    }
}
