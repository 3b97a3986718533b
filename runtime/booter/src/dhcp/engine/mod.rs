//! What the DHCP server answers: a function of the message, the lease table and the time.

mod notes;
mod probes;
mod program;
mod returned;

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dhcproto::error::EncodeError;
use dhcproto::v4::MessageType;
use headnode_model::net::MacAddr;
use uuid::Uuid;

use super::others::Others;
use super::packet::{self, Client, Heard, Request};
use super::reply::{self, Grant};
use super::settings::{Mode, RelayReply, Settings};
use crate::admission::{Gate, Machine, Verdict};
use crate::leases::{Claim, Lease, Leases, Refusal};
use crate::limit::LogLimit;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::networks::{Network, Place, rack_tag};
use crate::observe::Observer;
use probes::{Probes, Round};

/// The same trouble is logged once in this many seconds.
const LOG_PAUSE: i64 = 600;
/// Most lines a second about what machines were given; a flood of random MACs must not fill the
/// disk. What is not logged is still counted and observed.
const LINES_A_SECOND: u32 = 100;
/// A machine with the same UUID that was seen within this time is a twin, not a machine whose NIC
/// was replaced: a day, in seconds.
const TWIN_SECONDS: i64 = 86_400;
/// A machine checks its address directly after it got it (RFC 2131 §3.1 step 5): a DECLINE that
/// comes later than these seconds was forged.
const DECLINE_SECONDS: i64 = 300;
/// A machine waits this long after a DECLINE before it begins anew (RFC 2131 §3.1 step 5).
const DECLINE_PAUSE: i64 = 10;

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// The message.
    pub bytes: Vec<u8>,
    /// Where to.
    pub to: SocketAddrV4,
    /// An address is promised: everything in [`Leases::take_journal`] must be on disk first.
    pub promise: bool,
}

/// Where a message was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Who has sent it.
    pub peer: SocketAddrV4,
    /// Whether it came to the proxy port (4011) instead of the DHCP port.
    pub proxy: bool,
}

/// What the engine works with.
pub struct Context {
    /// The booter's settings.
    pub booter: Arc<crate::settings::Settings>,
    /// The section `[dhcp]`.
    pub dhcp: Live<Settings>,
    /// The table.
    pub leases: Arc<Mutex<Leases>>,
    /// Counters.
    pub metrics: Metrics,
    /// Who may boot.
    pub gate: Arc<dyn Gate>,
    /// Who hears about it.
    pub observer: Arc<dyn Observer>,
}

/// The server without its sockets.
pub struct Engine {
    context: Context,
    foreign: LogLimit<Ipv4Addr>,
    others: Arc<Others>,
    probes: Probes,
    twins: LogLimit<(MacAddr, Uuid)>,
    troubles: LogLimit<(MacAddr, &'static str)>,
    declines: LogLimit<MacAddr>,
    /// The second of the last line, and how many lines there were in it.
    lines: (i64, u32),
}

/// What became of a request.
#[derive(Default)]
struct Outcome {
    send: Option<Send>,
    answer: Option<&'static str>,
    ip: Option<Ipv4Addr>,
    file: Option<String>,
    problem: Option<Cow<'static, str>>,
    /// There is no answer yet.
    held: bool,
}

impl Outcome {
    fn silent(problem: impl Into<Cow<'static, str>>) -> Self {
        Self { problem: Some(problem.into()), ..Self::default() }
    }
}

/// A request and what is known about it.
struct Asked<'a> {
    request: &'a Request,
    bytes: &'a [u8],
    round: Round,
    client: Client,
    from: Origin,
    settings: &'a Settings,
    /// The number of its network, when it has one.
    at: Option<usize>,
    rack: Option<Arc<str>>,
    now: i64,
}

impl Engine {
    /// A server that gives addresses from the context's table.
    pub fn new(context: Context) -> Self {
        Self {
            context,
            foreign: LogLimit::new(LOG_PAUSE),
            others: Arc::default(),
            probes: Probes::new(),
            twins: LogLimit::new(LOG_PAUSE),
            troubles: LogLimit::new(LOG_PAUSE),
            declines: LogLimit::new(DECLINE_PAUSE),
            lines: (0, 0),
        }
    }

    /// What the engine works with.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The other DHCP servers that were heard.
    pub fn others(&self) -> Arc<Others> {
        Arc::clone(&self.others)
    }

    /// The answer to a message, when it deserves one at once. `now` is in Unix seconds.
    pub fn hear(&mut self, bytes: &[u8], from: Origin, now: i64) -> Option<Send> {
        let settings = self.context.dhcp.get();
        if settings.mode == Mode::Off {
            return None;
        }
        match packet::parse(bytes) {
            Err(problem) => {
                Metrics::count(&self.context.metrics.dhcp_requests, "malformed");
                tracing::debug!(length = bytes.len(), "a DHCP message is ignored: {problem}");
                None
            }
            Ok(Heard::Reply { kind, server, mac }) => {
                // Beside a proxy there is another server, or nobody would have an address.
                if server != self.context.booter.admin_ip && settings.mode == Mode::Server {
                    self.note_foreign(server, mac, kind, now);
                }
                None
            }
            Ok(Heard::Request(request)) => {
                Metrics::count(&self.context.metrics.dhcp_requests, word(request.kind));
                self.serve((&request, bytes), from, &settings, Round::First, now)
            }
        }
    }

    fn serve(
        &mut self,
        (request, bytes): (&Request, &[u8]),
        from: Origin,
        settings: &Settings,
        round: Round,
        now: i64,
    ) -> Option<Send> {
        let circuit = request.circuit();
        let place =
            Place { circuit, link: request.link(), giaddr: request.giaddr, ciaddr: request.ciaddr };
        let relayed = !request.giaddr.is_unspecified();
        let (at, rack) = {
            let leases = self.leases();
            let at = leases.place(&place);
            let named = circuit.filter(|_| relayed).map(|circuit| rack_tag(circuit).into());
            let rack = named.or_else(|| leases.tag(at.filter(|at| *at != 0)?));
            (at, rack)
        };
        let client = request.client();
        let asked = Asked { request, bytes, round, client, from, settings, at, rack, now };
        let outcome = match self.claimed(&asked) {
            Some(outcome) => outcome,
            None => self.answer(&asked),
        };
        if outcome.held {
            return None;
        }
        self.tell(&asked, &outcome);
        match (outcome.answer, &outcome.problem) {
            (None, _) => Metrics::count(&self.context.metrics.dhcp_requests, "ignored"),
            (Some("nak"), _) => {}
            (Some(answer), _) if self.may_log(now) => tracing::info!(
                mac = %request.mac, ip = ?outcome.ip, uuid = ?request.uuid(),
                client = client.word(), rack = asked.rack.as_deref(),
                file = outcome.file.as_deref().unwrap_or_default(), "DHCP {answer}"
            ),
            _ => {}
        }
        outcome.send
    }

    fn answer(&mut self, asked: &Asked<'_>) -> Outcome {
        let Asked { request, now, .. } = *asked;
        let mac = request.mac;
        let proxy = asked.settings.mode == Mode::Proxy;
        match request.kind {
            MessageType::Release if !proxy => return self.release(asked),
            MessageType::Decline if !proxy => return self.decline(asked),
            MessageType::Discover | MessageType::Request | MessageType::Inform => {}
            _ => return Outcome::silent("not for a server of this kind"),
        }
        let ours = self.context.booter.admin_ip;
        if let (false, MessageType::Request, Some(server)) = (proxy, request.kind, request.server)
            && server != ours
        {
            self.note_foreign(server, mac, request.kind, now);
            let free = self.leases().withdraw_offer(mac);
            free.into_iter().for_each(|ip| self.probes.withdraw(ip, mac));
            return Outcome::silent("it takes another server's offer");
        }
        let allowed = match asked.client {
            Client::Ipxe | Client::Pxe | Client::Http | Client::Sunw => true,
            Client::Nameless => {
                asked.settings.allow_missing_class_id || asked.settings.allow_others
            }
            Client::Other => asked.settings.allow_others,
        };
        if !allowed {
            return Outcome::silent("it does not boot by network");
        }
        let machine = Machine {
            mac,
            uuid: request.uuid(),
            serial: None,
            vendor: None,
            rack: asked.rack.as_deref(),
        };
        if self.context.gate.at_dhcp(&machine) == Verdict::Ignore {
            return Outcome::silent("it may not boot here: approve it");
        }
        let file = match self.boot_file(asked) {
            Ok(file) => file,
            Err(why) => return Outcome::silent(why),
        };
        if proxy {
            return self.proxy(asked, file);
        }
        if asked.from.proxy {
            return Outcome::silent("the proxy port is not served in this mode");
        }
        let Some((at, network)) =
            asked.at.and_then(|at| Some((at, Arc::clone(self.leases().network(at)?))))
        else {
            if self.troubles.pass((mac, "relay"), now) {
                tracing::warn!(
                    %mac, relay = %request.giaddr, circuit = request.circuit(),
                    "a relay's request is ignored: there is no network for the relay's address or \
                     circuit id; add a [[network]]"
                );
            }
            return Outcome::silent("there is no network for its relay");
        };
        match request.kind {
            MessageType::Discover => self.discover(asked, at, &network, file),
            MessageType::Request => self.request(asked, at, &network, file),
            _ => self.inform(asked, at, &network, file),
        }
    }

    fn discover(
        &mut self,
        asked: &Asked<'_>,
        at: usize,
        network: &Network,
        file: Option<String>,
    ) -> Outcome {
        let Asked { request, now, .. } = *asked;
        let offer = self.leases().offer(at, request.mac, request.requested, now);
        match offer {
            Ok((ip, true)) if self.hold(asked, at, ip) => {
                Outcome { held: true, ..Outcome::default() }
            }
            Ok((ip, _)) => self.grant(asked, at, network, MessageType::Offer, ip, file),
            Err(refusal) => {
                self.context.metrics.range_exhausted.inc();
                if self.troubles.pass((request.mac, "exhausted"), now) && self.may_log(now) {
                    tracing::error!(mac = %request.mac, "no address for a node: {refusal}");
                }
                Outcome::silent(refusal.to_string())
            }
        }
    }

    /// The states of RFC 2131 §4.3.2 and its table 4: SELECTING names a server, INIT-REBOOT an
    /// address only, RENEWING and REBINDING already use theirs.
    fn request(
        &mut self,
        asked: &Asked<'_>,
        at: usize,
        network: &Network,
        file: Option<String>,
    ) -> Outcome {
        let Asked { request, now, settings, .. } = *asked;
        let mac = request.mac;
        let selecting = request.server.is_some();
        let used = Some(request.ciaddr).filter(|ip| !ip.is_unspecified());
        let Some(ip) = request.requested.or(used) else {
            return Outcome::silent("it names no address");
        };
        // Beside another server: what we do not know may be right.
        let quiet = !selecting && !settings.authoritative && self.leases().at(at, mac).is_none();
        if quiet {
            return Outcome::silent("it asks for an address that another server may have given");
        }
        let tag = asked.rack.clone().or_else(|| self.leases().tag(at));
        let until = now.saturating_add(network.lease_seconds.into());
        let lease = Lease { mac, ip, uuid: request.uuid(), seen: now, until, tag };
        let claim = if selecting { Claim::Offered } else { Claim::Remembered };
        let result = self.leases().commit(at, lease, claim);
        if let Err(refusal) = result {
            if self.may_log(now) {
                tracing::info!(%mac, selecting, "an address is refused: {refusal}");
            }
            let why = match refusal {
                Refusal::NotOurs(_) => "address is not of this network's range",
                _ => "address is not available",
            };
            let bytes = reply::refuse(self.context.booter.admin_ip, request, why);
            return Outcome {
                send: self.send(asked, MessageType::Nak, bytes),
                answer: Some("nak"),
                problem: Some(refusal.to_string().into()),
                ..Outcome::default()
            };
        }
        let count = self.leases().len();
        self.context.metrics.leases.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.note_twin(asked, at);
        let mut outcome = self.grant(asked, at, network, MessageType::Ack, ip, file);
        let direct = request.requested.is_none() && request.giaddr.is_unspecified();
        if let Some(send) = outcome.send.as_mut().filter(|_| direct) {
            send.to = SocketAddrV4::new(ip, self.context.booter.ports.dhcp_client);
        }
        outcome
    }

    fn inform(
        &mut self,
        asked: &Asked<'_>,
        at: usize,
        network: &Network,
        file: Option<String>,
    ) -> Outcome {
        let ip = asked.request.ciaddr;
        if !network.subnet.contains(&ip) {
            return Outcome::silent("its address is not of its network");
        }
        let zero = Ipv4Addr::UNSPECIFIED;
        let mut outcome = self.grant(asked, at, network, MessageType::Ack, zero, file);
        if let Some(send) = &mut outcome.send {
            // RFC 2131 §4.3.5: to the client itself, whatever way the question came.
            send.to = SocketAddrV4::new(ip, self.context.booter.ports.dhcp_client);
        }
        outcome.ip = Some(ip);
        outcome
    }

    fn grant(
        &mut self,
        asked: &Asked<'_>,
        at: usize,
        network: &Network,
        kind: MessageType,
        ip: Ipv4Addr,
        file: Option<String>,
    ) -> Outcome {
        let hostname = self.leases().hostname(at, asked.request.mac).map(str::to_owned);
        let grant = Grant {
            kind,
            server: self.context.booter.admin_ip,
            ip,
            leased: !ip.is_unspecified(),
            network,
            hostname: hostname.as_deref(),
            file: file.as_deref(),
        };
        let send = self.send(asked, kind, reply::grant(asked.request, grant));
        Outcome { send, answer: Some(word(kind)), ip: Some(ip), file, ..Outcome::default() }
    }

    fn send(
        &self,
        asked: &Asked<'_>,
        kind: MessageType,
        bytes: Result<Vec<u8>, EncodeError>,
    ) -> Option<Send> {
        let request = asked.request;
        let bytes = bytes
            .map_err(|error| tracing::error!(mac = %request.mac, "writing a DHCP reply: {error}"))
            .ok()?;
        Metrics::count(&self.context.metrics.dhcp_replies, word(kind));
        let booter = &self.context.booter;
        let to = if request.giaddr.is_unspecified() {
            SocketAddrV4::new(booter.broadcast, booter.ports.dhcp_client)
        } else if asked.settings.relay_reply == RelayReply::Source {
            asked.from.peer
        } else {
            SocketAddrV4::new(request.giaddr, booter.ports.dhcp_server)
        };
        Some(Send { bytes, to, promise: kind == MessageType::Ack })
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.context.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn word(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Discover => "discover",
        MessageType::Offer => "offer",
        MessageType::Request => "request",
        MessageType::Decline => "decline",
        MessageType::Ack => "ack",
        MessageType::Nak => "nak",
        MessageType::Release => "release",
        MessageType::Inform => "inform",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
