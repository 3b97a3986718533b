//! Addresses that NAPI has given to NICs (C§4.1, C§4.2 step 1): each is kept for its NIC.
//!
//! All of them are asked for together and ahead, not each when its machine asks: a machine gets its
//! answer at once and also while NAPI is down, the last ones being kept in a file.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headnode_model::net::MacAddr;
use headnode_model::timing::BOOT_PARAMS_BUDGET;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use crate::leases::Leases;
use crate::params::ParamSource;
use crate::{clock, durable};

/// How often NAPI is asked.
const PAUSE: Duration = Duration::from_secs(60);
/// The file's name in the state folder.
const FILE: &str = "napi-addresses.json";
/// Larger files are none of ours.
const SIZE_LIMIT: u64 = 16 << 20;

/// Takes over what NAPI has told last, before the leases are read. A file that cannot be read is logged:
/// NAPI is asked soon.
pub(crate) fn restore(state: &Path, leases: &mut Leases) {
    let path = state.join(FILE);
    match read(&path) {
        Ok(addresses) => _ = leases.assign(addresses, clock::unix_now()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let file = path.display();
            tracing::warn!(%file, "reading the addresses that NAPI has told last: {error}");
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<MacAddr, Ipv4Addr>> {
    if std::fs::metadata(path)?.len() > SIZE_LIMIT {
        return Err(io::Error::other("the file is far too large"));
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// Asks NAPI for all addresses until `stop`. While it does not answer, what it has told last counts.
pub(crate) async fn follow(
    source: Arc<dyn ParamSource>,
    leases: Arc<Mutex<Leases>>,
    state: PathBuf,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(PAUSE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ask = async {
        let mut silent = false;
        loop {
            tick.tick().await;
            let tags = leases.lock().unwrap_or_else(PoisonError::into_inner).tags();
            let problem = match timeout(BOOT_PARAMS_BUDGET, source.addresses(&tags)).await {
                Ok(Ok(None)) => return,
                Ok(Ok(Some(addresses))) => {
                    let (leases, path) = (Arc::clone(&leases), state.join(FILE));
                    let taken =
                        tokio::task::spawn_blocking(move || take(&leases, &path, addresses));
                    taken.await.err().map(|error| error.to_string())
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {} s", BOOT_PARAMS_BUDGET.as_secs())),
            };
            if let Some(problem) = problem.as_ref().filter(|_| !silent) {
                tracing::warn!(
                    "NAPI does not say which addresses it has given, those of before count: {problem}"
                );
            }
            silent = problem.is_some();
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = ask => {}
    }
}

fn take(leases: &Mutex<Leases>, path: &Path, addresses: BTreeMap<MacAddr, Ipv4Addr>) {
    let taken = {
        let mut leases = leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.assign(addresses, clock::unix_now()).then(|| leases.assigned().clone())
    };
    let Some(taken) = taken else { return };
    tracing::info!(
        addresses = taken.len(),
        "addresses that NAPI has given are kept for their NICs"
    );
    let written = serde_json::to_vec(&taken).map_err(io::Error::other);
    if let Err(error) = written.and_then(|text| durable::replace(path, &text)) {
        let file = path.display();
        tracing::error!(%file, "keeping the addresses that NAPI has given: {error}");
    }
}
