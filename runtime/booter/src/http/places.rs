//! Who is connected: how many, how many from each address, and who goes when there are too many.
//!
//! A connection does not set timers: it writes down until when it must get on, and a sweep looks
//! over all of them twice a second. That costs a busy connection one store per step.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::limits::Limits;
use super::rate::Bucket;

/// Waits for a request: can be closed without harm.
const IDLE: u8 = 0;
/// A head has begun.
const HEAD: u8 = 1;
/// A request is being answered.
const BUSY: u8 = 2;
/// Is being closed.
const CLOSED: u8 = 3;

/// A head that has begun longer ago than this has lost its right to stay when places are short.
const HASTE: u64 = 2_000;

/// All connections.
#[derive(Debug)]
pub(super) struct Places {
    table: Mutex<Table>,
    /// A place was given back.
    pub(super) freed: Notify,
    begun: Instant,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    slots: HashMap<u64, Arc<Slot>>,
    clients: HashMap<IpAddr, (usize, Arc<Bucket>)>,
}

/// What is known of one connection.
#[derive(Debug)]
pub(super) struct Slot {
    client: IpAddr,
    phase: AtomicU8,
    /// When the phase began, in milliseconds of [`Places::begun`].
    since: AtomicU64,
    /// When it must have got on.
    deadline: AtomicU64,
    kicked: Notify,
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    slot: Arc<Slot>,
    all: Arc<Places>,
    /// What the client may have per second.
    pub(super) bucket: Arc<Bucket>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The client has as many connections as it may have.
    Client,
    /// All places are taken, and nobody can be asked to go.
    All,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { table: Mutex::default(), freed: Notify::new(), begun: Instant::now() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn after(&self, time: Duration) -> u64 {
        self.now().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that has just come; idle ones make room.
    pub(super) fn enter(self: &Arc<Self>, client: IpAddr, limits: &Limits) -> Result<Place, Full> {
        let (now, deadline) = (self.now(), self.after(limits.head()));
        let mut table = self.table();
        let own = table.clients.get(&client).map_or(0, |(count, _)| *count);
        if own >= limits.connections_per_client
            && !table.close_one(now, |slot| slot.client == client)
        {
            return Err(Full::Client);
        }
        if table.slots.len() >= limits.connections && !table.close_one(now, |_| true) {
            return Err(Full::All);
        }
        let id = table.next;
        table.next += 1;
        let slot = Arc::new(Slot {
            client,
            phase: AtomicU8::new(HEAD),
            since: AtomicU64::new(now),
            deadline: AtomicU64::new(deadline),
            kicked: Notify::new(),
        });
        table.slots.insert(id, Arc::clone(&slot));
        let entry = table.clients.entry(client).or_default();
        entry.0 += 1;
        let bucket = Arc::clone(&entry.1);
        Ok(Place { id, slot, all: Arc::clone(self), bucket })
    }

    /// Closes the connections whose time is over.
    pub(super) fn sweep(&self) {
        let now = self.now();
        let table = self.table();
        for slot in table.slots.values() {
            if slot.deadline.load(Ordering::Relaxed) < now {
                slot.phase.store(CLOSED, Ordering::Release);
                slot.kicked.notify_one();
            }
        }
    }

    /// Closes the connections without a whole request; those that are busy end by themselves.
    pub(super) fn close_waiting(&self) {
        for slot in self.table().slots.values() {
            let _ = slot.close(IDLE) || slot.close(HEAD);
        }
    }

    /// Closes one idle connection, if there is one, because file descriptors are short.
    pub(super) fn make_room(&self) {
        let now = self.now();
        self.table().close_one(now, |_| true);
    }
}

impl Table {
    /// Closes the connection that has been idle longest, else the one that has been at its head
    /// longest and too long; its place is free at once.
    fn close_one(&mut self, now: u64, fits: impl Fn(&Slot) -> bool) -> bool {
        let since = |slot: &Slot| slot.since.load(Ordering::Relaxed);
        for (phase, patience) in [(IDLE, 0), (HEAD, HASTE)] {
            let oldest = self
                .slots
                .iter()
                .filter(|(_, slot)| slot.phase.load(Ordering::Relaxed) == phase && fits(slot))
                .min_by_key(|(_, slot)| since(slot));
            let Some((id, slot)) = oldest else { continue };
            let id = *id;
            if since(slot).saturating_add(patience) <= now && slot.close(phase) {
                self.remove(id);
                return true;
            }
        }
        false
    }

    fn remove(&mut self, id: u64) {
        let Some(slot) = self.slots.remove(&id) else { return };
        if let Entry::Occupied(mut client) = self.clients.entry(slot.client) {
            client.get_mut().0 -= 1;
            if client.get().0 == 0 {
                client.remove();
            }
        }
    }
}

impl Slot {
    fn enter(&self, to: u8, since: u64, deadline: u64) -> bool {
        self.deadline.store(deadline, Ordering::Relaxed);
        self.since.store(since, Ordering::Relaxed);
        let step = |phase| (phase != CLOSED).then_some(to);
        self.phase.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).is_ok()
    }

    fn close(&self, phase: u8) -> bool {
        let swap =
            self.phase.compare_exchange(phase, CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if swap {
            self.kicked.notify_one();
        }
        swap
    }
}

impl Place {
    /// Waits for a request from now on. `false`: the connection is to be closed.
    pub(super) fn idle(&self, limits: &Limits) -> bool {
        self.slot.enter(IDLE, self.all.now(), self.all.after(limits.idle()))
    }

    /// A head has begun. `false`: the connection is to be closed.
    pub(super) fn head(&self, limits: &Limits) -> bool {
        self.slot.enter(HEAD, self.all.now(), self.all.after(limits.head()))
    }

    /// We work on an answer; that may take any time. `false`: the connection is to be closed.
    pub(super) fn busy(&self) -> bool {
        self.slot.enter(BUSY, self.all.now(), u64::MAX)
    }

    /// The other side has got on, and has `time` for its next step.
    pub(super) fn progress(&self, time: Duration) {
        self.slot.deadline.store(self.all.after(time), Ordering::Relaxed);
    }

    /// Ends when the connection is to be closed.
    pub(super) async fn kicked(&self) {
        self.slot.kicked.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.table().remove(self.id);
        self.all.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { connections: 3, connections_per_client: 2, ..Limits::default() }
    }

    fn ip(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    #[test]
    fn idle_connections_make_room_and_busy_ones_do_not() {
        let (places, limits) = (Arc::new(Places::new()), limits());
        let first = places.enter(ip(1), &limits).unwrap();
        let second = places.enter(ip(1), &limits).unwrap();
        assert_eq!(places.enter(ip(1), &limits).unwrap_err(), Full::Client);
        let third = places.enter(ip(2), &limits).unwrap();
        assert_eq!(places.enter(ip(3), &limits).unwrap_err(), Full::All);
        assert!(first.busy() && second.busy() && third.idle(&limits));
        let fourth = places.enter(ip(3), &limits).unwrap();
        assert!(!third.head(&limits), "it was closed");
        drop(third);
        assert_eq!(places.enter(ip(3), &limits).unwrap_err(), Full::All);
        assert!(first.idle(&limits));
        let fifth = places.enter(ip(1), &limits).unwrap();
        assert!(!first.busy());
        drop((first, second, fourth, fifth));
        assert!(places.table().slots.is_empty() && places.table().clients.is_empty());
    }

    #[tokio::test]
    async fn who_does_not_get_on_is_closed() {
        let places = Arc::new(Places::new());
        let place = places.enter(ip(1), &limits()).unwrap();
        place.progress(Duration::from_secs(60));
        places.sweep();
        assert!(place.busy());
        place.slot.deadline.store(0, Ordering::Relaxed);
        while places.now() == 0 {
            std::hint::spin_loop();
        }
        places.sweep();
        place.kicked().await;
        assert!(!place.busy());
        assert!(places.enter(ip(1), &limits()).is_ok());
    }

    #[test]
    fn stopping_closes_those_that_wait() {
        let places = Arc::new(Places::new());
        let (idle, busy) =
            (places.enter(ip(1), &limits()).unwrap(), places.enter(ip(1), &limits()).unwrap());
        assert!(idle.idle(&limits()) && busy.busy());
        places.close_waiting();
        assert!(!idle.head(&limits()) && busy.idle(&limits()));
    }
}
