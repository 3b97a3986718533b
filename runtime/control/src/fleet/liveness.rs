//! Heartbeats, in memory: a write per server and five seconds would wear the disks for nothing.
//! The database learns only of changes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
#[derive(Debug, Default)]
pub struct Liveness(Mutex<HashMap<Uuid, Beat>>);

impl Liveness {
    /// No invariant spans several entries, so a map that a panicking thread left is usable.
    fn beats(&self) -> MutexGuard<'_, HashMap<Uuid, Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        beats.get(&uuid).is_some_and(|beat| beat.running && beat.at.elapsed() < HEARTBEAT_STALE)
    }

    /// When the server was heard last, since we started.
    pub fn last(&self, uuid: Uuid) -> Option<OffsetDateTime> {
        self.beats().get(&uuid).map(|beat| beat.time)
    }

    /// How many servers live.
    pub fn alive(&self) -> usize {
        let alive = |beat: &&Beat| beat.running && beat.at.elapsed() < HEARTBEAT_STALE;
        self.beats().values().filter(alive).count()
    }

    /// Servers that are silent while the database says that they live.
    pub fn fallen_silent(&self) -> Vec<(Uuid, OffsetDateTime)> {
        let beats = self.beats();
        let silent = |beat: &Beat| beat.running && beat.at.elapsed() >= HEARTBEAT_STALE;
        beats.iter().filter(|(_, beat)| silent(beat)).map(|(id, beat)| (*id, beat.time)).collect()
    }

    /// The database has learnt that the server is silent.
    pub fn settle(&self, uuid: Uuid) {
        let mut beats = self.beats();
        if let Some(beat) = beats.get_mut(&uuid) {
            // A heartbeat that came meanwhile makes the next one write to the database.
            beat.running = false;
        }
    }

    /// The server is gone.
    pub fn forget(&self, uuid: Uuid) {
        self.beats().remove(&uuid);
    }
}
