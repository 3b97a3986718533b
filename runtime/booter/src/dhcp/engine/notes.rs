//! What is told to the observer, and what is worth a line in the log, and how often.

use std::net::Ipv4Addr;

use dhcproto::v4::MessageType;
use headnode_model::net::MacAddr;

use super::{Asked, Engine, LINES_A_SECOND, Outcome, TWIN_SECONDS, word};
use crate::dhcp::arch;
use crate::dhcp::packet::Client;
use crate::observe::Event;

impl Engine {
    /// Tells the observer what became of a request.
    pub(super) fn tell(&self, asked: &Asked<'_>, outcome: &Outcome) {
        let Asked { request, client, settings, .. } = *asked;
        let (arch, _) = arch::program(&request.archs, client == Client::Http, &settings.programs);
        self.context.observer.event(&Event::Dhcp {
            mac: request.mac,
            uuid: request.uuid(),
            asked: word(request.kind),
            answer: outcome.answer,
            ip: outcome.ip.map(Into::into),
            client: client.word(),
            arch,
            file: outcome.file.as_deref(),
            rack: asked.rack.as_deref(),
            problem: outcome.problem.as_deref(),
        });
    }

    pub(super) fn note_foreign(
        &mut self,
        server: Ipv4Addr,
        mac: MacAddr,
        kind: MessageType,
        now: i64,
    ) {
        self.context.metrics.foreign_servers.inc();
        self.others.note(server, mac, word(kind), now);
        if self.foreign.pass(server, now) {
            tracing::warn!(
                %server, client = %mac, message = word(kind),
                "two DHCP servers: {server} also answers on the admin network, so nodes may boot \
                 from it instead of from this headnode; switch it off or separate the networks"
            );
        }
    }

    pub(super) fn note_twin(&mut self, asked: &Asked<'_>, at: usize) {
        let Asked { request, now, .. } = *asked;
        let Some(uuid) = request.uuid() else { return };
        let since = now.saturating_sub(TWIN_SECONDS);
        let other = self.leases().twin(at, request.mac, uuid, since).map(|lease| lease.mac);
        let Some(other) = other else { return };
        self.context.metrics.duplicate_uuids.inc();
        if self.twins.pass((request.mac, uuid), now) {
            tracing::warn!(
                mac = %request.mac, %other, %uuid,
                "two NICs tell the same machine UUID {uuid}: {} and {other}. If they are in two \
                 machines, give one of them the kernel parameter override_uuid",
                request.mac
            );
        }
    }

    pub(super) fn may_log(&mut self, now: i64) -> bool {
        if self.lines.0 != now {
            self.lines = (now, 0);
        }
        self.lines.1 = self.lines.1.saturating_add(1);
        self.lines.1 <= LINES_A_SECOND
    }
}
