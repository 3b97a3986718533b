//! Keeps the gate told who the datacenter's servers are.

use std::sync::Arc;
use std::time::Duration;

use headnode_model::timing::BOOT_PARAMS_BUDGET;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use super::Admission;
use crate::params::ParamSource;

/// How often CNAPI is asked. A server that registers in between is asked for by its script.
const PAUSE: Duration = Duration::from_secs(60);

/// Asks until `stop`. While CNAPI does not answer, what it has told last counts.
pub async fn follow(
    source: Arc<dyn ParamSource>,
    admission: Arc<Admission>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(PAUSE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ask = async {
        loop {
            tick.tick().await;
            match timeout(BOOT_PARAMS_BUDGET, source.servers()).await {
                Ok(Ok(known)) => admission.set_known(known),
                Ok(Err(error)) => tracing::debug!("asking CNAPI for its servers: {error}"),
                Err(_) => tracing::debug!("CNAPI does not say which servers it has"),
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = ask => {}
    }
}
