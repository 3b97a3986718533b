//! What a relay agent changes in DHCP messages (RFC 1542 §4.1, RFC 3046 §2.1), byte by byte: all that
//! it has no business with passes as it came.

use std::net::Ipv4Addr;
use std::ops::Range;

use super::super::switch::Mac;

/// The port of servers and relay agents.
pub const SERVER_PORT: u16 = 67;
/// The port of clients.
pub const CLIENT_PORT: u16 = 68;

// Where the fields are (RFC 2131 §2).
const OP: usize = 0;
const HLEN: usize = 2;
const HOPS: usize = 3;
const FLAGS: usize = 10;
const YIADDR: Range<usize> = 16..20;
const GIADDR: Range<usize> = 24..28;
const CHADDR: Range<usize> = 28..34;
const COOKIE: Range<usize> = 236..240;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const BROADCAST: u8 = 0x80;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// RFC 1542 §4.1.1: a request that passed this many relays goes round in circles.
const MOST_HOPS: u8 = 16;
/// RFC 951: no message is shorter, and old clients insist on it.
const SHORTEST: usize = 300;

const PAD: u8 = 0;
const END: u8 = 255;
/// The relay agent information option, and its circuit id (RFC 3046 §2.0).
const AGENT: u8 = 82;
const CIRCUIT: u8 = 1;

/// Who gets a server's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// Everybody: the client asked for it, or has no address yet.
    Everybody,
    /// The client, by the address that it was just given.
    Client(Mac, Ipv4Addr),
}

/// A client's request as the server shall get it: with the relay's address and the circuit's name.
/// `None` for what must not be passed on: what is no DHCP request, went through a relay already
/// (there is no other one in a lab), or claims to.
pub fn to_server(message: &[u8], giaddr: Ipv4Addr, circuit: &str) -> Option<Vec<u8>> {
    let options = read(message, REQUEST)?;
    let hops = *message.get(HOPS)?;
    if hops >= MOST_HOPS || options.agent.is_some() || address(message, GIADDR)? != [0; 4] {
        return None;
    }
    let length = u8::try_from(circuit.len()).ok().filter(|length| *length <= 253)?;
    let mut out = message.get(..options.end)?.to_vec();
    *out.get_mut(HOPS)? = hops + 1;
    out.get_mut(GIADDR)?.copy_from_slice(&giaddr.octets());
    out.extend_from_slice(&[AGENT, length + 2, CIRCUIT, length]);
    out.extend_from_slice(circuit.as_bytes());
    Some(finish(out))
}

/// A server's reply as the client shall get it: without the relay's option; and who gets it. `None`
/// for what is no DHCP reply, or one to another relay.
pub fn to_client(message: &[u8], giaddr: Ipv4Addr) -> Option<(Vec<u8>, Receiver)> {
    let options = read(message, REPLY)?;
    if address(message, GIADDR)? != giaddr.octets() {
        return None;
    }
    let agent = options.agent.unwrap_or(options.end..options.end);
    let mut out = message.get(..agent.start)?.to_vec();
    out.extend_from_slice(message.get(agent.end..options.end)?);
    let client = Ipv4Addr::from(address(message, YIADDR)?);
    let mac = Mac(message.get(CHADDR)?.try_into().ok()?);
    let everybody = message.get(FLAGS)? & BROADCAST != 0 || client.is_unspecified();
    let receiver = match everybody || mac.is_group() {
        true => Receiver::Everybody,
        false => Receiver::Client(mac, client),
    };
    Some((finish(out), receiver))
}

fn finish(mut message: Vec<u8>) -> Vec<u8> {
    message.push(END);
    if message.len() < SHORTEST {
        message.resize(SHORTEST, PAD);
    }
    message
}

fn address(message: &[u8], field: Range<usize>) -> Option<[u8; 4]> {
    message.get(field)?.try_into().ok()
}

/// Where the options end, and where the relay's option is.
struct Options {
    end: usize,
    agent: Option<Range<usize>>,
}

/// `None` when this is no DHCP message of this direction over Ethernet, or an option is cut off.
fn read(message: &[u8], op: u8) -> Option<Options> {
    if message.get(OP..=HLEN)? != [op, 1, 6] || message.get(COOKIE)? != MAGIC {
        return None;
    }
    let (mut at, mut agent) = (COOKIE.end, None);
    loop {
        match message.get(at) {
            None | Some(&END) => return Some(Options { end: at, agent }),
            Some(&PAD) => at += 1,
            Some(&code) => {
                let next = at + 2 + usize::from(*message.get(at + 1)?);
                if next > message.len() {
                    return None;
                }
                if code == AGENT {
                    agent = Some(at..next);
                }
                at = next;
            }
        }
    }
}
