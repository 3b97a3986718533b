//! What the DHCP server answers: a function of the message, the lease table and the time.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};

use dhcproto::v4::MessageType;
use headnode_model::net::MacAddr;
use headnode_model::ports;
use uuid::Uuid;

use super::arch::{self, Program};
use super::packet::{self, Heard, Request};
use super::reply::{self, Grant};
use crate::leases::{Lease, Leases, Refusal};
use crate::limit::LogLimit;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// The same trouble is logged once in this many seconds.
const LOG_PAUSE: i64 = 600;
/// A machine with the same UUID that was seen within this time is a twin, not a machine whose NIC
/// was replaced: a day, in seconds.
const TWIN_SECONDS: i64 = 86_400;

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// The message.
    pub bytes: Vec<u8>,
    /// Where to.
    pub to: SocketAddrV4,
}

/// The server without its sockets.
pub struct Engine {
    settings: Arc<Settings>,
    leases: Arc<Mutex<Leases>>,
    metrics: Metrics,
    /// Whether leases have changed since [`Engine::take_changed`].
    changed: bool,
    foreign: LogLimit<Ipv4Addr>,
    twins: LogLimit<(MacAddr, Uuid)>,
    troubles: LogLimit<(MacAddr, &'static str)>,
}

impl Engine {
    /// A server that gives addresses from `leases`.
    pub fn new(settings: Arc<Settings>, leases: Arc<Mutex<Leases>>, metrics: Metrics) -> Self {
        Self {
            settings,
            leases,
            metrics,
            changed: false,
            foreign: LogLimit::new(LOG_PAUSE),
            twins: LogLimit::new(LOG_PAUSE),
            troubles: LogLimit::new(LOG_PAUSE),
        }
    }

    /// Whether leases have changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The answer to a message, when it deserves one. `now` is in Unix seconds.
    pub fn hear(&mut self, bytes: &[u8], now: i64) -> Option<Send> {
        match packet::parse(bytes) {
            Err(problem) => {
                Metrics::count(&self.metrics.dhcp_requests, "malformed");
                tracing::debug!(length = bytes.len(), "a DHCP message is ignored: {problem}");
                None
            }
            Ok(Heard::Reply { kind, server, mac }) => {
                if server != self.settings.admin_ip {
                    self.note_foreign(server, mac, kind, now);
                }
                None
            }
            Ok(Heard::Request(request)) => self.answer(&request, now),
        }
    }

    fn answer(&mut self, request: &Request, now: i64) -> Option<Send> {
        Metrics::count(&self.metrics.dhcp_requests, word(request.kind));
        let mac = request.mac;
        match request.kind {
            MessageType::Release => {
                let known = self.leases().release(mac, request.ciaddr, now);
                self.changed |= known;
                tracing::debug!(%mac, ip = %request.ciaddr, known, "address released");
                return None;
            }
            MessageType::Decline => {
                let ip = request.requested?;
                if self.leases().decline(mac, ip, now) {
                    self.changed = true;
                    tracing::warn!(
                        %mac, %ip,
                        "a node found its address in use by another machine: look for a machine \
                         with this fixed address, the node gets another one"
                    );
                }
                return None;
            }
            _ => {}
        }
        if let (MessageType::Request, Some(server)) = (request.kind, request.server)
            && server != self.settings.admin_ip
        {
            self.note_foreign(server, mac, request.kind, now);
            self.leases().withdraw_offer(mac);
            return None;
        }
        if !request.is_pxe() {
            Metrics::count(&self.metrics.dhcp_requests, "ignored");
            if request.is_http_boot() && self.troubles.pass((mac, "http"), now) {
                tracing::warn!(%mac, "UEFI HTTP boot is not served: choose PXE in its firmware");
            }
            return None;
        }
        if !request.giaddr.is_unspecified() && !self.settings.admin_net.contains(&request.giaddr) {
            if self.troubles.pass((mac, "relay"), now) {
                tracing::warn!(
                    %mac, relay = %request.giaddr, network = %self.settings.admin_net.trunc(),
                    "a relay's request is ignored: there are no addresses for the relay's network"
                );
            }
            return None;
        }
        match request.kind {
            MessageType::Discover => self.discover(request, now),
            MessageType::Request => self.request(request, now),
            MessageType::Inform => self.inform(request, now),
            _ => None,
        }
    }

    fn discover(&mut self, request: &Request, now: i64) -> Option<Send> {
        let file = self.boot_file(request, now)?;
        let offer = self.leases().offer(request.mac, request.requested, now);
        let ip = match offer {
            Ok(ip) => ip,
            Err(refusal) => {
                self.metrics.range_exhausted.inc();
                if self.troubles.pass((request.mac, "exhausted"), now) {
                    tracing::error!(mac = %request.mac, "no address for a node: {refusal}");
                }
                return None;
            }
        };
        let lease = Some(self.settings.lease_seconds);
        let grant = Grant { ip, lease, file: Some(&file) };
        self.grant(request, MessageType::Offer, grant)
    }

    fn request(&mut self, request: &Request, now: i64) -> Option<Send> {
        let mac = request.mac;
        let renewing = request.requested.is_none();
        let ip = request.requested.unwrap_or(request.ciaddr);
        if ip.is_unspecified() {
            tracing::debug!(%mac, "a request that names no address is ignored");
            return None;
        }
        let file = self.boot_file(request, now)?;
        let lease = Lease {
            mac,
            ip,
            uuid: request.uuid(),
            seen: now,
            until: now.saturating_add(self.settings.lease_seconds.into()),
        };
        let result = self.leases().commit(lease);
        match result {
            Ok(changed) => {
                self.changed |= changed;
                let count = self.leases().len();
                self.metrics.leases.set(i64::try_from(count).unwrap_or(i64::MAX));
                self.note_twin(request, now);
                let lease = Some(self.settings.lease_seconds);
                let to_client = renewing && request.giaddr.is_unspecified();
                let grant = Grant { ip, lease, file: Some(&file) };
                let mut send = self.grant(request, MessageType::Ack, grant)?;
                if to_client {
                    send.to = SocketAddrV4::new(ip, self.settings.ports.dhcp_client);
                }
                Some(send)
            }
            Err(refusal) => {
                let offered = request.server == Some(self.settings.admin_ip);
                tracing::info!(%mac, offered, "an address is refused: {refusal}");
                let why = match refusal {
                    Refusal::NotOurs(_) => "address is not of this network's range",
                    _ => "address is not available",
                };
                self.send(request, MessageType::Nak, reply::refuse(&self.settings, request, why))
            }
        }
    }

    fn inform(&mut self, request: &Request, now: i64) -> Option<Send> {
        if !self.settings.admin_net.contains(&request.ciaddr) {
            return None;
        }
        let file = self.boot_file(request, now)?;
        let grant = Grant { ip: Ipv4Addr::UNSPECIFIED, lease: None, file: Some(&file) };
        let mut send = self.grant(request, MessageType::Ack, grant)?;
        send.to = SocketAddrV4::new(request.ciaddr, self.settings.ports.dhcp_client);
        Some(send)
    }

    /// The boot file's name or URL; `None`, with a log line, when there is none for the machine.
    fn boot_file(&mut self, request: &Request, now: i64) -> Option<String> {
        if request.ipxe {
            let port = match self.settings.ports.http {
                ports::BOOTER_HTTP => String::new(),
                other => format!(":{other}"),
            };
            let bare = request.mac.bare();
            return Some(format!("http://{}{port}/boot.ipxe.01{bare}", self.settings.admin_ip));
        }
        match arch::program(&request.archs) {
            (_, Program::File(name)) => Some(name.to_owned()),
            (arch, Program::Nothing(why)) => {
                if self.troubles.pass((request.mac, "arch"), now) {
                    tracing::warn!(
                        mac = %request.mac, archs = ?request.archs,
                        "a machine of architecture {arch} cannot be booted: {why}"
                    );
                }
                None
            }
        }
    }

    fn grant(&mut self, request: &Request, kind: MessageType, grant: Grant<'_>) -> Option<Send> {
        tracing::info!(
            mac = %request.mac, ip = %grant.ip, uuid = ?request.uuid(), ipxe = request.ipxe,
            file = grant.file.unwrap_or_default(), "DHCP {}", word(kind)
        );
        self.send(request, kind, reply::grant(&self.settings, request, kind, grant))
    }

    fn send(
        &self,
        request: &Request,
        kind: MessageType,
        bytes: Result<Vec<u8>, dhcproto::error::EncodeError>,
    ) -> Option<Send> {
        let bytes = bytes
            .map_err(|error| tracing::error!(mac = %request.mac, "writing a DHCP reply: {error}"))
            .ok()?;
        Metrics::count(&self.metrics.dhcp_replies, word(kind));
        let ports = &self.settings.ports;
        let to = if request.giaddr.is_unspecified() {
            SocketAddrV4::new(self.settings.broadcast, ports.dhcp_client)
        } else {
            SocketAddrV4::new(request.giaddr, ports.dhcp_server)
        };
        Some(Send { bytes, to })
    }

    fn note_foreign(&mut self, server: Ipv4Addr, mac: MacAddr, kind: MessageType, now: i64) {
        self.metrics.foreign_servers.inc();
        if self.foreign.pass(server, now) {
            tracing::warn!(
                %server, client = %mac, message = word(kind),
                "two DHCP servers: {server} also answers on the admin network, so nodes may boot \
                 from it instead of from this headnode; switch it off or separate the networks"
            );
        }
    }

    fn note_twin(&mut self, request: &Request, now: i64) {
        let Some(uuid) = request.uuid() else { return };
        let since = now.saturating_sub(TWIN_SECONDS);
        let other = self.leases().twin(request.mac, uuid, since).map(|lease| lease.mac);
        let Some(other) = other else { return };
        self.metrics.duplicate_uuids.inc();
        if self.twins.pass((request.mac, uuid), now) {
            tracing::warn!(
                mac = %request.mac, %other, %uuid,
                "two NICs tell the same machine UUID {uuid}: {} and {other}. If they are in two \
                 machines, give one of them the kernel parameter override_uuid",
                request.mac
            );
        }
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
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
#[path = "engine_tests.rs"]
mod tests;
