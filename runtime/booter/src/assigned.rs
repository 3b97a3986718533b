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

type Addresses = BTreeMap<MacAddr, Ipv4Addr>;

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

fn read(path: &Path) -> io::Result<Addresses> {
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
        let mut told = Told::new(&leases);
        let mut silent = false;
        loop {
            tick.tick().await;
            let tags = leases.lock().unwrap_or_else(PoisonError::into_inner).tags();
            let problem = match timeout(BOOT_PARAMS_BUDGET, source.addresses(&tags)).await {
                Ok(Ok(None)) => return,
                Ok(Ok(Some(addresses))) => match told.believe(addresses) {
                    Some(addresses) => {
                        let (leases, path) = (Arc::clone(&leases), state.join(FILE));
                        let unsaved = told.unsaved;
                        let taken = tokio::task::spawn_blocking(move || {
                            take(&leases, &path, addresses, unsaved)
                        });
                        match taken.await {
                            Ok(unsaved) => {
                                told.unsaved = unsaved;
                                None
                            }
                            Err(error) => Some(error.to_string()),
                        }
                    }
                    None => Some("it has none at all, of those that it had".to_owned()),
                },
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

/// What NAPI has told.
struct Told {
    last: Addresses,
    /// The file could not be written.
    unsaved: bool,
}

impl Told {
    fn new(leases: &Mutex<Leases>) -> Self {
        let leases = leases.lock().unwrap_or_else(PoisonError::into_inner);
        Self { last: leases.assigned().clone(), unsaved: false }
    }

    /// What of an answer is to count. It is told page by page, and a NIC that is deleted meanwhile moves
    /// another one out of sight: only what is missing twice is gone. A NAPI that has lost all that it
    /// had is not believed.
    fn believe(&mut self, addresses: Addresses) -> Option<Addresses> {
        if addresses.is_empty() && !self.last.is_empty() {
            return None;
        }
        let mut all = self.last.clone();
        let given: std::collections::HashSet<&Ipv4Addr> = addresses.values().collect();
        all.retain(|mac, ip| !addresses.contains_key(mac) && !given.contains(ip));
        all.extend(&addresses);
        self.last = addresses;
        Some(all)
    }
}

/// Whether the file still has to be written.
fn take(leases: &Mutex<Leases>, path: &Path, addresses: Addresses, unsaved: bool) -> bool {
    let (changed, taken) = {
        let mut leases = leases.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = leases.assign(addresses, clock::unix_now());
        (changed, (changed || unsaved).then(|| leases.assigned().clone()))
    };
    let Some(taken) = taken else { return false };
    if changed {
        tracing::info!(
            addresses = taken.len(),
            "addresses that NAPI has given are kept for their NICs"
        );
    }
    let written = serde_json::to_vec(&taken).map_err(io::Error::other);
    let written = written.and_then(|text| durable::replace(path, &text));
    if let Err(error) = &written
        && !unsaved
    {
        let file = path.display();
        tracing::error!(%file, "keeping the addresses that NAPI has given: {error}");
    }
    written.is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::Network;
    use crate::settings::Settings;

    fn addresses<const N: usize>(all: [(u8, u8); N]) -> Addresses {
        let one = |(mac, ip)| (MacAddr([2, 0, 0, 0, 0, mac]), Ipv4Addr::new(10, 99, 99, ip));
        all.map(one).into()
    }

    #[test]
    fn what_is_missing_once_still_counts_and_nothing_at_all_is_no_answer() {
        let mut told = Told { last: Addresses::new(), unsaved: false };
        assert_eq!(told.believe(Addresses::new()), Some(Addresses::new()));
        let all = addresses([(1, 1), (2, 2)]);
        assert_eq!(told.believe(all.clone()), Some(all.clone()));
        assert_eq!(told.believe(addresses([(1, 1)])), Some(all));
        assert_eq!(told.believe(addresses([(1, 1)])), Some(addresses([(1, 1)])));
        assert_eq!(told.believe(Addresses::new()), None);
        // Moved to another NIC, and another address for the first.
        assert_eq!(told.believe(addresses([(3, 1)])), Some(addresses([(3, 1)])));
        assert_eq!(told.believe(addresses([(3, 4)])), Some(addresses([(3, 4)])));
    }

    #[test]
    fn a_file_that_could_not_be_written_is_written_later() {
        let settings = Settings::for_tests();
        let own = || Leases::new(vec![Network::own(&settings)], settings.admin_ip);
        let leases = Mutex::new(own());
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("later");
        let path = folder.join(FILE);
        let all = addresses([(1, 200)]);
        assert!(take(&leases, &path, all.clone(), false));
        assert!(take(&leases, &path, all.clone(), true));
        std::fs::create_dir(&folder).unwrap();
        assert!(!take(&leases, &path, all.clone(), true));
        let mut again = own();
        restore(&folder, &mut again);
        assert_eq!(again.assigned(), &all);
    }
}
