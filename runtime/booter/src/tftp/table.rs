//! Which transfers run, for whom, and who has to make room.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::channel::{Inbox, Told};
use super::pace::Pace;
use super::packet::ReadRequest;
use super::settings::{Ports, Settings};
use crate::metrics::Metrics;

/// What a client may say before the server looks; what is more is lost, as on the network.
const INBOX: usize = 16;
/// From how many clients on their number is looked at.
const CLIENTS: usize = 1024;

/// The running transfers.
#[derive(Debug)]
pub struct Table {
    inner: Mutex<Inner>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Inner {
    /// By client.
    running: HashMap<SocketAddr, Entry>,
    /// How many transfers run: a client may have two for a while.
    active: usize,
    /// Transfers whose client has not answered yet, oldest first. Their addresses may be forged.
    unconfirmed: BTreeMap<u64, SocketAddr>,
    clients: HashMap<IpAddr, Client>,
    /// When to look for clients that have gone.
    sweep_at: usize,
    /// Tells transfers of the same client apart.
    next: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    stop: CancellationToken,
    /// What was asked, until the client has answered.
    asked: Option<Arc<ReadRequest>>,
    /// Whether the first packet was sent.
    prepared: bool,
    confirmed: bool,
    again: Arc<Notify>,
    inbox: Option<mpsc::Sender<Told>>,
    /// The client's transfer before this one: it goes on until the client has answered this one,
    /// because requests can be doubled on the way, late, or forged.
    old: Option<Box<Entry>>,
}

#[derive(Debug, Default)]
struct Client {
    transfers: usize,
    unconfirmed: BTreeMap<u64, SocketAddr>,
    pace: Arc<Pace>,
}

/// What becomes of a request.
pub enum Admitted {
    /// It is served.
    Yes(Ticket),
    /// The same request is being prepared, or its first packet is sent again.
    Repeated,
    /// All places are taken by clients that are there.
    Busy {
        /// All places of this address, not of the server.
        own: bool,
    },
}

/// A transfer's place in the table; dropping it gives it back.
pub struct Ticket {
    table: Arc<Table>,
    client: SocketAddr,
    number: u64,
    /// Cancelled when the transfer has to end: for a new request of the client, for others, or
    /// because the server stops.
    pub stop: CancellationToken,
    /// Told when the client has repeated its request: it may not have got the first packet.
    pub again: Arc<Notify>,
    /// How fast its address is served.
    pub pace: Arc<Pace>,
    /// In single port mode.
    pub inbox: Option<Inbox>,
}

impl Table {
    /// An empty table.
    pub fn new(metrics: Metrics) -> Self {
        Self { inner: Mutex::default(), metrics }
    }

    /// A place for a request of `client`, if there is one. The place's token is a child of `stop`.
    pub fn admit(
        self: &Arc<Self>,
        client: SocketAddr,
        request: Option<&Arc<ReadRequest>>,
        settings: &Settings,
        stop: &CancellationToken,
    ) -> Admitted {
        let mut guard = self.inner();
        let inner = &mut *guard;
        if let Some(old) = inner.running.get(&client) {
            if old.asked.is_some() && old.asked.as_ref() == request {
                if old.prepared {
                    // By the same transfer: the client may have seen its port already.
                    old.again.notify_one();
                }
                return Admitted::Repeated;
            }
            let number = old.number;
            // In single port mode nobody could tell which of two a client answers.
            if !old.confirmed || settings.ports == Ports::Single {
                inner.end(client, number);
            }
        }
        // Two of one port take one place: a forged request must not end what a client waits for, also when
        // all places are taken.
        let beside = inner.running.contains_key(&client);
        let own = inner.clients.get(&client.ip()).filter(|_| !beside);
        if own.is_some_and(|own| own.transfers >= settings.transfers_per_client) {
            let oldest = own.and_then(|own| own.unconfirmed.first_key_value());
            match oldest.map(|(number, client)| (*number, *client)) {
                None => return Admitted::Busy { own: true },
                Some(oldest) => self.evict(inner, oldest),
            }
        }
        if !beside && inner.active >= settings.transfers {
            match inner.unconfirmed.first_key_value().map(|(number, client)| (*number, *client)) {
                None => return Admitted::Busy { own: false },
                Some(oldest) => self.evict(inner, oldest),
            }
        }
        inner.sweep(settings.transfers);
        inner.next += 1;
        let (number, stop) = (inner.next, stop.child_token());
        let (sender, inbox) = match settings.ports {
            Ports::PerTransfer => (None, None),
            Ports::Single => {
                let (sender, inbox) = mpsc::channel(INBOX);
                (Some(sender), Some(inbox))
            }
        };
        let asked = request.cloned();
        let again = Arc::new(Notify::new());
        let entry = Entry {
            number,
            stop: stop.clone(),
            asked,
            prepared: false,
            confirmed: false,
            again: Arc::clone(&again),
            inbox: sender,
            old: inner.running.remove(&client).map(Box::new),
        };
        inner.running.insert(client, entry);
        inner.active += 1;
        inner.unconfirmed.insert(number, client);
        let own = inner.clients.entry(client.ip()).or_default();
        own.transfers += 1;
        own.unconfirmed.insert(number, client);
        let pace = Arc::clone(&own.pace);
        self.tell_active(inner);
        Admitted::Yes(Ticket { table: Arc::clone(self), client, number, stop, again, pace, inbox })
    }

    /// Hands over what a client has said to the server's port.
    pub fn deliver(&self, client: SocketAddr, told: Told) {
        let inner = self.inner();
        if let Some(inbox) = inner.running.get(&client).and_then(|entry| entry.inbox.as_ref()) {
            // A full inbox loses it, as the network might have.
            inbox.try_send(told).ok();
        }
    }

    fn evict(&self, inner: &mut Inner, (number, client): (u64, SocketAddr)) {
        inner.end(client, number);
        Metrics::count(&self.metrics.tftp_transfers, "evicted");
    }

    fn tell_active(&self, inner: &Inner) {
        self.metrics.tftp_active.set(i64::try_from(inner.active).unwrap_or(i64::MAX));
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Ends a transfer, unless that was done already.
    fn end(&mut self, client: SocketAddr, number: u64) {
        let Some(entry) = self.running.get_mut(&client) else { return };
        let ended = if entry.number == number {
            let mut ended = self.running.remove(&client);
            if let Some(old) = ended.as_mut().and_then(|entry| entry.old.take()) {
                self.running.insert(client, *old);
            }
            ended
        } else if entry.old.as_ref().is_some_and(|old| old.number == number) {
            entry.old.take().map(|old| *old)
        } else {
            None
        };
        let Some(ended) = ended else { return };
        ended.stop.cancel();
        self.active -= 1;
        self.unconfirmed.remove(&number);
        if let Some(own) = self.clients.get_mut(&client.ip()) {
            own.unconfirmed.remove(&number);
            own.transfers -= 1;
            // Else a client would be as fast as it likes by many short transfers.
            if own.transfers == 0 && own.pace.idle(Instant::now()) {
                self.clients.remove(&client.ip());
            }
        }
    }

    /// Forgets clients that are kept for their pace only.
    fn sweep(&mut self, transfers: usize) {
        if self.clients.len() < self.sweep_at.max(CLIENTS) {
            return;
        }
        let now = Instant::now();
        self.clients.retain(|_, own| own.transfers > 0 || !own.pace.idle(now));
        if self.clients.len() > transfers * 2 + CLIENTS {
            self.clients.retain(|_, own| own.transfers > 0);
        }
        self.sweep_at = self.clients.len() * 2;
    }
}

impl Ticket {
    /// The first packet is about to be sent: a repeated request now means that it was lost.
    pub fn prepared(&self) {
        if let Some(entry) = self.table.inner().running.get_mut(&self.client)
            && entry.number == self.number
        {
            entry.prepared = true;
        }
    }

    /// The client has answered: it is really there, and no longer at its transfer before this one.
    pub fn confirmed(&self) {
        let mut guard = self.table.inner();
        let inner = &mut *guard;
        if let Some(entry) = inner.running.get_mut(&self.client)
            && entry.number == self.number
        {
            (entry.asked, entry.confirmed) = (None, true);
            if let Some(old) = entry.old.as_ref().map(|old| old.number) {
                inner.end(self.client, old);
            }
        }
        inner.unconfirmed.remove(&self.number);
        if let Some(own) = inner.clients.get_mut(&self.client.ip()) {
            own.unconfirmed.remove(&self.number);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.table.inner();
        inner.end(self.client, self.number);
        self.table.tell_active(&inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Test {
        table: Arc<Table>,
        settings: Settings,
        stop: CancellationToken,
    }

    impl Test {
        fn new(transfers: usize, transfers_per_client: usize) -> Self {
            let settings = Settings { transfers, transfers_per_client, ..Settings::default() };
            let table = Arc::new(Table::new(Metrics::new()));
            Self { table, settings, stop: CancellationToken::new() }
        }

        fn admit(&self, client: &str) -> Admitted {
            self.table.admit(client.parse().unwrap(), None, &self.settings, &self.stop)
        }

        fn ticket(&self, client: &str) -> Ticket {
            match self.admit(client) {
                Admitted::Yes(ticket) => ticket,
                Admitted::Repeated | Admitted::Busy { .. } => panic!("{client} is not served"),
            }
        }
    }

    #[test]
    fn the_oldest_that_never_answered_makes_room_and_those_who_have_stay() {
        let test = Test::new(3, 3);
        let real = test.ticket("10.0.0.1:1");
        real.confirmed();
        let forged: Vec<_> = (2..9).map(|n| test.ticket(&format!("10.0.0.{n}:1"))).collect();
        let ended: Vec<_> = forged.iter().map(|ticket| ticket.stop.is_cancelled()).collect();
        assert_eq!(ended, [true, true, true, true, true, false, false]);
        assert!(!real.stop.is_cancelled());
        forged.iter().for_each(Ticket::confirmed);
        assert!(matches!(test.admit("10.0.1.1:1"), Admitted::Busy { own: false }));
        drop(forged);
        assert_eq!(test.table.inner().running.len(), 1);
        drop(real);
        let inner = test.table.inner();
        assert!(inner.running.is_empty() && inner.unconfirmed.is_empty());
        assert!(inner.clients.is_empty());
    }

    #[test]
    fn one_address_takes_its_share_only() {
        let test = Test::new(100, 2);
        let (a, b) = (test.ticket("10.0.0.1:1"), test.ticket("10.0.0.1:2"));
        b.confirmed();
        let c = test.ticket("10.0.0.1:3");
        assert!(a.stop.is_cancelled() && !b.stop.is_cancelled());
        c.confirmed();
        assert!(matches!(test.admit("10.0.0.1:4"), Admitted::Busy { own: true }));
        test.ticket("10.0.0.2:1");
        // A new request from a port that has a transfer takes its place, once it is answered.
        let again = test.ticket("10.0.0.1:2");
        assert!(!b.stop.is_cancelled());
        again.confirmed();
        assert!(b.stop.is_cancelled());
        drop(b);
        assert!(!again.stop.is_cancelled());
    }

    #[test]
    fn a_request_is_prepared_once() {
        let test = Test::new(9, 9);
        let request = |name: &str| {
            let (name, mode) = (name.to_owned(), "octet".to_owned());
            Arc::new(ReadRequest { name, mode, options: Vec::new() })
        };
        let client = "10.0.0.1:1".parse().unwrap();
        let admit =
            |name| test.table.admit(client, Some(&request(name)), &test.settings, &test.stop);
        let Admitted::Yes(first) = admit("a") else { panic!("not served") };
        assert!(matches!(admit("a"), Admitted::Repeated));
        let told = |ticket: &Ticket| {
            let told = ticket.again.notified();
            tokio::pin!(told);
            told.as_mut().enable()
        };
        assert!(!told(&first), "there is nothing to be sent again yet");
        first.prepared();
        assert!(matches!(admit("a"), Admitted::Repeated));
        assert!(told(&first) && !first.stop.is_cancelled());
        // Another file ends what nobody has answered.
        let Admitted::Yes(second) = admit("b") else { panic!("not served") };
        assert!(first.stop.is_cancelled());
        drop(first);
        // What was answered goes on until the next one is.
        second.confirmed();
        let Admitted::Yes(third) = admit("b") else { panic!("not served again") };
        assert!(!second.stop.is_cancelled());
        let Admitted::Yes(fourth) = admit("c") else { panic!("not served") };
        assert!(third.stop.is_cancelled() && !second.stop.is_cancelled());
        drop((third, fourth));
        let Admitted::Yes(fifth) = admit("d") else { panic!("not served") };
        assert_eq!(test.table.inner().active, 2);
        fifth.confirmed();
        assert!(second.stop.is_cancelled() && !fifth.stop.is_cancelled());
        drop(second);
        assert_eq!(test.table.inner().active, 1);
        drop(fifth);
        let inner = test.table.inner();
        assert!(inner.active == 0 && inner.running.is_empty() && inner.clients.is_empty());
    }

    #[test]
    fn clients_that_owe_are_remembered_in_bounds() {
        let test = Test::new(10, 10);
        for n in 0..20_000_u32 {
            let client = SocketAddr::from((n.to_be_bytes(), 1));
            let admitted = test.table.admit(client, None, &test.settings, &test.stop);
            let Admitted::Yes(ticket) = admitted else { panic!("not served") };
            ticket.pace.reserve(1 << 20, 1, Instant::now());
        }
        let kept = test.table.inner().clients.len();
        assert!((100..5000).contains(&kept), "{kept}");
    }
}
