//! The router between the admin network and a rack: the only way from the rack's nodes to the
//! headnode. It answers ARP and ping for its two addresses, routes IPv4 between the two networks, and is
//! the rack's DHCP relay agent, which puts the rack's name into option 82 as circuit id.
//!
//! [`Router`] is a function of frames: [`Router::handle`] gets one and tells which ones to send.
//! [`connect`] runs it between two switches.

mod dhcp;
mod link;
#[cfg(test)]
mod tests;

pub use link::connect;

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;

use dhcp::Receiver;
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacketSlice, EtherType, Icmpv4Slice, Icmpv4Type, IpNumber,
    Ipv4HeaderSlice, PacketBuilder, UdpSlice,
};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::switch::{Mac, addresses};

/// The router's Ethernet addresses, on the admin network and in the rack; no machine has them.
const MACS: [Mac; 2] = [Mac([0x52, 0x54, 0, 0, 2, 1]), Mac([0x52, 0x54, 0, 0, 2, 2])];
const EVERYBODY: Mac = Mac([0xff; 6]);

/// What an Ethernet frame carries; longer packets are dropped, as no machine of a lab sends them.
const MTU: usize = 1500;
/// The length of an Ethernet header.
const ETHERNET: usize = 14;
/// The time to live of the router's own packets (RFC 1700).
const TTL: u8 = 64;
/// How many machines' Ethernet addresses are known at once: more than a lab has machines.
const NEIGHBOURS: usize = 1024;
/// How many packets wait for the Ethernet address of their receiver.
const WAITING: usize = 64;

/// A rack: nodes on a network of their own behind a relay agent, and where that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rack {
    /// Its name, which is the circuit id in option 82.
    pub name: String,
    /// The router's address in the rack, and the rack's network: its nodes' gateway.
    pub gateway: Ipv4Net,
    /// The router's address on the admin network, and that network. The headnode needs a route to
    /// the rack by this address.
    pub uplink: Ipv4Net,
    /// The DHCP server that gets the nodes' requests: the headnode.
    pub server: Ipv4Addr,
}

impl Default for Rack {
    /// Fits a headnode at 10.99.99.7/24, as `ci/lab.answers.json` makes one.
    fn default() -> Self {
        Self {
            name: "rack1".to_owned(),
            gateway: net([10, 98, 0, 1]),
            uplink: net([10, 99, 99, 1]),
            server: Ipv4Addr::new(10, 99, 99, 7),
        }
    }
}

fn net(address: [u8; 4]) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from(address), 24)
}

impl Rack {
    /// What is wrong with it, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        if !super::spec::is_name(&self.name) {
            out.push(format!(
                "rack name '{}': use 1 to 32 of a-z, 0-9 and '-', beginning with a letter",
                self.name
            ));
        }
        let (rack, uplink) = (self.gateway, self.uplink);
        if rack.contains(&uplink.network()) || uplink.contains(&rack.network()) {
            out.push(format!(
                "the rack {} overlaps the admin network {}",
                rack.trunc(),
                uplink.trunc()
            ));
        }
        for net in [rack, uplink] {
            let edge = [net.network(), net.broadcast()].contains(&net.addr());
            if net.prefix_len() > 30 || edge {
                out.push(format!("{net}: no machine can have this address"));
            }
        }
        if !uplink.contains(&self.server) || self.server == uplink.addr() {
            out.push(format!(
                "the headnode's address {} must be another one of the router's network {}",
                self.server,
                uplink.trunc()
            ));
        }
        out
    }
}

/// One of the router's two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The admin network.
    Uplink,
    /// The rack.
    Rack,
}

impl Side {
    fn mac(self) -> Mac {
        MACS[self as usize]
    }
}

/// Frames to send, each with the side where it goes out.
pub type Out = Vec<(Side, Vec<u8>)>;

/// A packet that waits for its receiver's Ethernet address.
struct Waiting {
    next: Ipv4Addr,
    side: Side,
    frame: Vec<u8>,
}

/// The router. Its memory is bounded, whatever it gets.
pub struct Router {
    rack: Rack,
    neighbours: HashMap<Ipv4Addr, Mac>,
    waiting: VecDeque<Waiting>,
}

impl Router {
    /// A router of this rack.
    pub fn new(rack: Rack) -> Self {
        Self { rack, neighbours: HashMap::new(), waiting: VecDeque::new() }
    }

    /// Takes a frame that came in on this side, and adds those to send to `out`. What is not for the
    /// router, or is malformed, gives none.
    pub fn handle(&mut self, from: Side, frame: &[u8], out: &mut Out) {
        let Some((source, destination)) = addresses(frame) else { return };
        if source.is_group() || (destination != from.mac() && destination != EVERYBODY) {
            return;
        }
        let (kind, packet) = (&frame[ETHERNET - 2..ETHERNET], &frame[ETHERNET..]);
        let handled = match kind {
            [0x08, 0x06] => self.arp(from, packet, out),
            [0x08, 0x00] => self.ip(from, packet, out),
            _ => None,
        };
        if handled.is_none() {
            tracing::trace!(?from, %source, "the rack's router drops a frame");
        }
    }

    fn interface(&self, side: Side) -> Ipv4Net {
        match side {
            Side::Uplink => self.rack.uplink,
            Side::Rack => self.rack.gateway,
        }
    }

    fn is_own(&self, address: Ipv4Addr) -> bool {
        address == self.rack.uplink.addr() || address == self.rack.gateway.addr()
    }

    /// The network in which this address is, if it is one of the two.
    fn side_of(&self, address: Ipv4Addr) -> Option<Side> {
        [Side::Uplink, Side::Rack].into_iter().find(|side| {
            let net = self.interface(*side);
            net.contains(&address) && address != net.broadcast() && address != net.network()
        })
    }

    fn arp(&mut self, from: Side, packet: &[u8], out: &mut Out) -> Option<()> {
        let arp = ArpPacketSlice::from_slice(packet).ok()?.to_packet().try_eth_ipv4().ok()?;
        let (mac, sender) = (Mac(arp.sender_mac), arp.sender_ipv4_addr());
        if self.side_of(sender) == Some(from) && !self.is_own(sender) && !mac.is_group() {
            self.learn(sender, mac, out);
        }
        let own = self.interface(from).addr();
        if arp.operation == ArpOperation::REQUEST && arp.target_ipv4_addr() == own {
            let answer = ArpEthIpv4Packet {
                operation: ArpOperation::REPLY,
                sender_mac: from.mac().0,
                sender_ipv4: own.octets(),
                target_mac: mac.0,
                target_ipv4: sender.octets(),
            };
            out.push((from, ethernet(from.mac(), mac, EtherType::ARP, &answer.to_bytes())));
        }
        Some(())
    }

    fn learn(&mut self, address: Ipv4Addr, mac: Mac, out: &mut Out) {
        // Whoever is forgotten is asked again.
        if self.neighbours.len() >= NEIGHBOURS && !self.neighbours.contains_key(&address) {
            self.neighbours.clear();
        }
        self.neighbours.insert(address, mac);
        for mut waiting in std::mem::take(&mut self.waiting) {
            if waiting.next == address {
                waiting.frame[..6].copy_from_slice(&mac.0);
                out.push((waiting.side, waiting.frame));
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }

    fn ip(&mut self, from: Side, packet: &[u8], out: &mut Out) -> Option<()> {
        let header = Ipv4HeaderSlice::from_slice(packet).ok()?;
        if header.header_checksum() != header.to_header().calc_header_checksum() {
            return None;
        }
        // Short frames are padded: what is behind the packet is none of it.
        let packet = packet.get(..usize::from(header.total_len()))?;
        let payload = packet.get(header.slice().len()..)?;
        let to = header.destination_addr();
        if from == Side::Rack
            && (to.is_broadcast() || to == self.rack.gateway.addr())
            && let Some(request) = dhcp_message(&header, payload)
        {
            let gateway = self.rack.gateway.addr();
            let request = dhcp::to_server(request, gateway, &self.rack.name)?;
            let (uplink, server) = (self.rack.uplink.addr(), self.rack.server);
            let ports = (dhcp::SERVER_PORT, dhcp::SERVER_PORT);
            let frame = udp(Side::Uplink, EVERYBODY, (uplink, server), ports, &request)?;
            return self.send(Side::Uplink, server, frame, out);
        }
        if self.is_own(to) {
            return self.for_router(from, &header, payload, out);
        }
        self.route(from, &header, payload, out)
    }

    /// A packet for the router itself: a DHCP server's reply, or a ping.
    fn for_router(
        &mut self,
        from: Side,
        header: &Ipv4HeaderSlice<'_>,
        payload: &[u8],
        out: &mut Out,
    ) -> Option<()> {
        if let Some(reply) = dhcp_message(header, payload) {
            let gateway = self.rack.gateway.addr();
            let (reply, receiver) = dhcp::to_client(reply, gateway)?;
            let (mac, ip) = match receiver {
                Receiver::Everybody => (EVERYBODY, Ipv4Addr::BROADCAST),
                Receiver::Client(mac, ip) => (mac, ip),
            };
            let ports = (dhcp::SERVER_PORT, dhcp::CLIENT_PORT);
            out.push((Side::Rack, udp(Side::Rack, mac, (gateway, ip), ports, &reply)?));
            return Some(());
        }
        if header.protocol() != IpNumber::ICMP || header.is_fragmenting_payload() {
            return None;
        }
        let ping = Icmpv4Slice::from_slice(payload).ok()?;
        let Icmpv4Type::EchoRequest(echo) = ping.icmp_type() else { return None };
        let (own, asker) = (header.destination(), header.source_addr());
        let side = self.side_of(asker).filter(|side| *side == from)?;
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(side.mac().0, EVERYBODY.0)
            .ipv4(own, header.source(), TTL)
            .icmpv4_echo_reply(echo.id, echo.seq)
            .write(&mut frame, ping.payload())
            .ok()?;
        self.send(side, asker, frame, out)
    }

    fn route(
        &mut self,
        from: Side,
        header: &Ipv4HeaderSlice<'_>,
        payload: &[u8],
        out: &mut Out,
    ) -> Option<()> {
        let to = header.destination_addr();
        let side = self.side_of(to).filter(|side| *side != from)?;
        let mut header = header.to_header();
        header.time_to_live = header.time_to_live.checked_sub(1).filter(|left| *left > 0)?;
        header.header_checksum = header.calc_header_checksum();
        if header.header_len() + payload.len() > MTU {
            return None;
        }
        let packet = [header.to_bytes().as_slice(), payload].concat();
        self.send(side, to, ethernet(side.mac(), EVERYBODY, EtherType::IPV4, &packet), out)
    }

    /// Sends a frame to the machine with this address, when its Ethernet address is known; else asks
    /// for that first.
    fn send(&mut self, side: Side, to: Ipv4Addr, mut frame: Vec<u8>, out: &mut Out) -> Option<()> {
        if let Some(mac) = self.neighbours.get(&to) {
            frame[..6].copy_from_slice(&mac.0);
            out.push((side, frame));
            return Some(());
        }
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting { next: to, side, frame });
        let question = ArpEthIpv4Packet {
            operation: ArpOperation::REQUEST,
            sender_mac: side.mac().0,
            sender_ipv4: self.interface(side).addr().octets(),
            target_mac: [0; 6],
            target_ipv4: to.octets(),
        };
        out.push((side, ethernet(side.mac(), EVERYBODY, EtherType::ARP, &question.to_bytes())));
        Some(())
    }
}

/// The message to a DHCP server or relay in this packet; `None` when it is another packet.
fn dhcp_message<'a>(header: &Ipv4HeaderSlice<'_>, payload: &'a [u8]) -> Option<&'a [u8]> {
    if header.protocol() != IpNumber::UDP || header.is_fragmenting_payload() {
        return None;
    }
    let udp = UdpSlice::from_slice(payload).ok()?;
    (udp.destination_port() == dhcp::SERVER_PORT).then(|| udp.payload())
}

fn ethernet(source: Mac, destination: Mac, kind: EtherType, packet: &[u8]) -> Vec<u8> {
    [&destination.0[..], &source.0, &kind.0.to_be_bytes(), packet].concat()
}

fn udp(
    side: Side,
    to: Mac,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    ports: (u16, u16),
    payload: &[u8],
) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(side.mac().0, to.0)
        .ipv4(source.octets(), destination.octets(), TTL)
        .udp(ports.0, ports.1)
        .write(&mut frame, payload)
        .ok()?;
    (frame.len() <= ETHERNET + MTU).then_some(frame)
}
