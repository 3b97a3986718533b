//! Addresses that come back: RELEASE and DECLINE.

use std::sync::Arc;

use super::{Asked, DECLINE_SECONDS, Engine, Outcome};
use crate::networks::Network;

impl Engine {
    pub(super) fn release(&mut self, asked: &Asked<'_>) -> Outcome {
        let Asked { request, now, .. } = *asked;
        let ip = request.ciaddr;
        let network = asked.at.and_then(|at| self.leases().network(at).cloned());
        let relay = |network: &Arc<Network>| {
            let giaddr = request.giaddr;
            network.subnet.contains(&ip)
                && network.subnet.contains(&giaddr)
                && *asked.from.peer.ip() == giaddr
        };
        if *asked.from.peer.ip() != ip && !network.as_ref().is_some_and(relay) {
            return Outcome::silent("the release did not come from the address that it releases");
        }
        if !self.leases().release(request.mac, ip, now) {
            return Outcome::silent("the released address is not its own");
        }
        tracing::debug!(mac = %request.mac, %ip, "address released");
        Outcome { ip: Some(ip), ..Outcome::default() }
    }

    pub(super) fn decline(&mut self, asked: &Asked<'_>) -> Outcome {
        let Asked { request, now, .. } = *asked;
        let mac = request.mac;
        let Some(ip) = request.requested else {
            return Outcome::silent("it declines no address");
        };
        if request.server.is_some_and(|server| server != self.context.booter.admin_ip) {
            return Outcome::silent("it declines another server's address");
        }
        // An honest one follows our ACK: there is a lease, and it is new.
        let old = self.leases().holder(ip).is_none_or(|lease| {
            now.saturating_sub(lease.seen).unsigned_abs() > DECLINE_SECONDS.unsigned_abs()
        });
        if old || !self.declines.pass(mac, now) || !self.leases().conflict(mac, ip, now) {
            return Outcome::silent("the decline is not believed");
        }
        if self.may_log(now) {
            tracing::warn!(
                %mac, %ip,
                "a node found its address in use by another machine: look for a machine with this \
                 fixed address, the node gets another one"
            );
        }
        Outcome { ip: Some(ip), ..Outcome::silent("its address is in use by another machine") }
    }
}
