//! Heartbeats, in memory: a write per server and five seconds would wear the disks for nothing.
//! The database learns only of changes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use headnode_model::timing::HEARTBEAT_STALE;
use time::OffsetDateTime;
use uuid::Uuid;

#[derive(Debug, Clone, Copy)]
struct Beat {
    at: Instant,
    time: OffsetDateTime,
    /// Whether the database says that it lives.
    running: bool,
}

/// When each server was heard last.
#[derive(Debug)]
pub struct Liveness {
    beats: Mutex<HashMap<Uuid, Beat>>,
    stale: Duration,
}

impl Default for Liveness {
    fn default() -> Self {
        Self::new(HEARTBEAT_STALE)
    }
}

impl Liveness {
    /// Servers live that were heard within `stale`.
    pub fn new(stale: Duration) -> Self {
        Self { beats: Mutex::default(), stale }
    }

    /// No invariant spans several entries, so a map that a panicking thread left is usable.
    fn beats(&self) -> MutexGuard<'_, HashMap<Uuid, Beat>> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a heartbeat of a server that the database knows to live.
    pub fn beat(&self, uuid: Uuid) {
        let beat = Beat { at: Instant::now(), time: OffsetDateTime::now_utc(), running: true };
        self.beats().insert(uuid, beat);
    }

    /// Notes a heartbeat if the server is known to live; `false` when it is not.
    pub fn beat_known(&self, uuid: Uuid) -> bool {
        match self.beats().get_mut(&uuid) {
            Some(beat) if beat.running => {
                (beat.at, beat.time) = (Instant::now(), OffsetDateTime::now_utc());
                true
            }
            _ => false,
        }
    }

    /// Whether the server was heard lately.
    pub fn is_alive(&self, uuid: Uuid) -> bool {
        let beats = self.beats();
        beats.get(&uuid).is_some_and(|beat| beat.running && beat.at.elapsed() < self.stale)
    }

    /// When the server was heard last, since we started.
    pub fn last(&self, uuid: Uuid) -> Option<OffsetDateTime> {
        self.beats().get(&uuid).map(|beat| beat.time)
    }

    /// How many servers live.
    pub fn alive(&self) -> usize {
        let alive = |beat: &&Beat| beat.running && beat.at.elapsed() < self.stale;
        self.beats().values().filter(alive).count()
    }

    /// Servers that have fallen silent since the last call, for the database to learn it. The next
    /// heartbeat of each goes to the database too.
    pub fn fallen_silent(&self) -> Vec<(Uuid, OffsetDateTime)> {
        let mut silent = Vec::new();
        for (uuid, beat) in self.beats().iter_mut() {
            if beat.running && beat.at.elapsed() >= self.stale {
                beat.running = false;
                silent.push((*uuid, beat.time));
            }
        }
        silent
    }

    /// The server is gone.
    pub fn forget(&self, uuid: Uuid) {
        self.beats().remove(&uuid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_server_is_told_once_and_can_come_back() {
        let liveness = Liveness::new(Duration::ZERO);
        let uuid = Uuid::nil();
        assert!(!liveness.beat_known(uuid), "nothing is known of it yet");
        liveness.beat(uuid);
        assert!(!liveness.is_alive(uuid));
        assert_eq!(liveness.fallen_silent().len(), 1);
        assert_eq!(liveness.fallen_silent().len(), 0);
        assert!(!liveness.beat_known(uuid), "the database has to learn that it is back");
        let liveness = Liveness::default();
        liveness.beat(uuid);
        assert!(liveness.is_alive(uuid) && liveness.beat_known(uuid));
        assert_eq!(liveness.alive(), 1);
        liveness.forget(uuid);
        assert!(!liveness.is_alive(uuid) && liveness.last(uuid).is_none());
    }
}
