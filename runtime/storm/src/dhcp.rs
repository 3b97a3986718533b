//! The DHCP side of all machines: one socket, whose replies are told apart by their transaction.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dhcproto::v4::{
    Architecture, DhcpOption, Flags, Message, MessageType, Opcode, OptionCode, UnknownOption,
};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use headnode_model::net::MacAddr;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::Error;

/// PXE firmware's waits for an offer, in seconds (PXE 2.1 §2.2.3): after the fourth it gives up.
const FIRMWARE: [u64; 4] = [4, 8, 16, 32];
/// iPXE's waits, in seconds, as long in all.
const IPXE: [u64; 8] = [1, 2, 4, 8, 10, 10, 10, 15];
/// How often a machine begins anew after a NAK (RFC 2131 §3.1, item 5), as one does whose address was
/// taken by another one between offer and request.
const NAKS: u32 = 4;
/// Replies of one transaction that may wait: more than servers on any sane network.
const REPLIES: usize = 4;

/// How requests reach the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By broadcast from port 68 of an interface.
    Broadcast {
        /// The interface's name.
        interface: String,
    },
    /// As a relay does, from port 67 of an address to that of the server.
    Relay {
        /// The relay's address (`giaddr`).
        relay: Ipv4Addr,
        /// The server's.
        server: Ipv4Addr,
    },
}

/// What a machine asks as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    pub mac: MacAddr,
    pub uuid: Uuid,
    /// Option 93.
    pub arch: u16,
    /// Whether iPXE asks, and no longer the firmware.
    pub ipxe: bool,
}

/// What a machine was given.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub ip: Ipv4Addr,
    pub next_server: Ipv4Addr,
    pub file: String,
    /// Messages that were sent again.
    pub retries: u32,
}

/// The socket of all machines.
pub(crate) struct Hub {
    socket: UdpSocket,
    to: SocketAddrV4,
    relay: Ipv4Addr,
    next: AtomicU32,
    waiting: Mutex<HashMap<u32, mpsc::Sender<Message>>>,
}

impl Hub {
    /// Opens the socket. Needs a tokio runtime and root.
    pub fn open(way: &Way) -> Result<Self, Error> {
        let open = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_broadcast(true)?;
            socket.set_reuse_address(true)?;
            // The replies to all machines, while they are being told apart.
            socket.set_recv_buffer_size(16 << 20)?;
            let (from, to, relay) = match way {
                Way::Broadcast { interface } => {
                    socket.bind_device(Some(interface.as_bytes()))?;
                    let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
                    (from, SocketAddrV4::new(Ipv4Addr::BROADCAST, 67), Ipv4Addr::UNSPECIFIED)
                }
                Way::Relay { relay, server } => {
                    (SocketAddrV4::new(*relay, 67), SocketAddrV4::new(*server, 67), *relay)
                }
            };
            socket.bind(&SocketAddr::from(from).into())?;
            socket.set_nonblocking(true)?;
            let socket = UdpSocket::from_std(socket.into())?;
            Ok(Self {
                socket,
                to,
                relay,
                next: AtomicU32::new(std::process::id() << 12),
                waiting: Mutex::default(),
            })
        };
        open().map_err(Error::io("opening the DHCP socket"))
    }

    /// Hands out replies, for ever.
    pub async fn listen(&self) {
        let mut buffer = [0; 1500];
        loop {
            let Ok((length, _)) = self.socket.recv_from(&mut buffer).await else { continue };
            let bytes = buffer.get(..length).unwrap_or_default();
            let Ok(message) = Message::decode(&mut Decoder::new(bytes)) else { continue };
            if message.opcode() != Opcode::BootReply {
                continue;
            }
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(to) = waiting.get(&message.xid()) {
                // A machine that does not read them has its answer already.
                let _ = to.try_send(message);
            }
        }
    }

    /// DISCOVER, OFFER, REQUEST, ACK; anew after a NAK.
    pub async fn lease(&self, who: Who) -> Result<Given, Error> {
        let mut naks = 0;
        loop {
            match self.once(who).await {
                Err(Error::Refused(_)) if naks < NAKS => naks += 1,
                result => {
                    return result.map(|given| Given { retries: given.retries + naks, ..given });
                }
            }
        }
    }

    async fn once(&self, who: Who) -> Result<Given, Error> {
        let xid = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, mut replies) = mpsc::channel(REPLIES);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(xid, sender);
        let result = self.exchange(xid, who, &mut replies).await;
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&xid);
        result
    }

    async fn exchange(
        &self,
        xid: u32,
        who: Who,
        replies: &mut mpsc::Receiver<Message>,
    ) -> Result<Given, Error> {
        let discover = self.message(MessageType::Discover, xid, who);
        let (offer, first) = self.ask(&discover, who, replies, MessageType::Offer, "offer").await?;
        let mut request = self.message(MessageType::Request, xid, who);
        request.opts_mut().insert(DhcpOption::RequestedIpAddress(offer.yiaddr()));
        if let Some(server) = offer.opts().get(OptionCode::ServerIdentifier) {
            request.opts_mut().insert(server.clone());
        }
        let (ack, second) =
            self.ask(&request, who, replies, MessageType::Ack, "acknowledgement").await?;
        if ack.yiaddr() != offer.yiaddr() {
            let text = format!("{} offered, {} given", offer.yiaddr(), ack.yiaddr());
            return Err(Error::Wrong(text));
        }
        let file = boot_file(&ack).ok_or_else(|| Error::Wrong("no boot file".to_owned()))?;
        let next_server = Some(ack.siaddr()).filter(|ip| !ip.is_unspecified());
        let next_server = next_server.unwrap_or_else(|| server_id(&ack));
        Ok(Given { ip: ack.yiaddr(), next_server, file, retries: first + second })
    }

    async fn ask(
        &self,
        message: &Message,
        who: Who,
        replies: &mut mpsc::Receiver<Message>,
        wanted: MessageType,
        what: &'static str,
    ) -> Result<(Message, u32), Error> {
        let waits: &[u64] = if who.ipxe { &IPXE } else { &FIRMWARE };
        let begun = Instant::now();
        let mut message = message.clone();
        for (retries, seconds) in (0..).zip(waits) {
            message.set_secs(u16::try_from(begun.elapsed().as_secs()).unwrap_or(u16::MAX));
            let mut bytes = Vec::with_capacity(576);
            let done = message.encode(&mut Encoder::new(&mut bytes));
            done.map_err(|error| Error::Wrong(error.to_string()))?;
            // Firmware sends 548 bytes and more; relays and some servers drop shorter ones than 300.
            if bytes.len() < 300 {
                bytes.resize(300, 0);
            }
            let sent = self.socket.send_to(&bytes, self.to).await;
            sent.map_err(Error::io("sending a DHCP message"))?;
            let until = Instant::now() + Duration::from_secs(*seconds);
            loop {
                let left = until.saturating_duration_since(Instant::now());
                let Ok(Some(reply)) = timeout(left, replies.recv()).await else { break };
                match reply.opts().msg_type() {
                    Some(MessageType::Nak) if wanted == MessageType::Ack => {
                        return Err(Error::Refused("NAK".to_owned()));
                    }
                    Some(kind) if kind == wanted && reply.chaddr() == who.mac.0 => {
                        return Ok((reply, retries));
                    }
                    _ => {}
                }
            }
        }
        Err(Error::Silent { what, seconds: waits.iter().sum() })
    }

    fn message(&self, kind: MessageType, xid: u32, who: Who) -> Message {
        let zero = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(xid, zero, zero, zero, self.relay, &who.mac.0);
        message.set_opcode(Opcode::BootRequest);
        // As EDK II does; a unicast reply would go to a MAC that no NIC here has.
        message.set_flags(Flags::default().set_broadcast());
        if !self.relay.is_unspecified() {
            message.set_hops(1);
        }
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::MaxMessageSize(1472));
        let wanted = [1, 3, 6, 12, 15, 43, 51, 54, 60, 66, 67, 97, 175];
        let wanted = wanted.map(OptionCode::from).to_vec();
        options.insert(DhcpOption::ParameterRequestList(wanted));
        let class = format!("PXEClient:Arch:{:05}:UNDI:003000", who.arch);
        options.insert(DhcpOption::ClassIdentifier(class.into_bytes()));
        options.insert(DhcpOption::ClientSystemArchitecture(Architecture::from(who.arch)));
        let mut id = vec![0];
        id.extend(who.uuid.to_bytes_le());
        options.insert(DhcpOption::ClientMachineIdentifier(id));
        let mut unknown = |code: u8, data: &[u8]| {
            options.insert(DhcpOption::Unknown(UnknownOption::new(code.into(), data.to_vec())));
        };
        unknown(94, &[1, 3, 0]);
        if who.ipxe {
            unknown(77, b"iPXE");
            // Features: HTTP, and the version of iPXE.
            unknown(175, &[19, 1, 1, 235, 3, 1, 21, 1]);
        }
        message
    }
}

fn boot_file(message: &Message) -> Option<String> {
    let option = match message.opts().get(OptionCode::BootfileName) {
        Some(DhcpOption::BootfileName(name)) => Some(String::from_utf8_lossy(name).into_owned()),
        _ => None,
    };
    let header = || message.fname().map(|name| String::from_utf8_lossy(name).into_owned());
    let name = option.or_else(header)?;
    let name = name.trim_end_matches('\0');
    (!name.is_empty()).then(|| name.to_owned())
}

fn server_id(message: &Message) -> Ipv4Addr {
    match message.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(ip)) => *ip,
        _ => Ipv4Addr::UNSPECIFIED,
    }
}
