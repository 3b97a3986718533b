//! Reading DHCP messages from the wire (RFC 2131, 2132, 4578).
//!
//! `dhcproto`'s owned type gives up at the first malformed option without saying so, keeps one of
//! several architectures only, and believes the hardware address's length. So the fixed part is
//! checked here, and its borrowed view is used for the options.

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::Message;
use dhcproto::v4::{HType, MAGIC, MessageType, OptionCode};
use headnode_model::net::MacAddr;
use uuid::Uuid;

use crate::networks::tag;

/// Length of the fixed part, magic cookie included (RFC 2131 §2).
const FIXED: usize = 240;

/// Why bytes are no message that we can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Cut off within the fixed part.
    #[error("{0} bytes are too short for a DHCP message, which has at least {FIXED}")]
    Short(usize),
    /// Not DHCP, but BOOTP or something else on the port.
    #[error("it has no DHCP magic cookie")]
    NoCookie,
    /// Neither a request nor a reply.
    #[error("its operation {0} is neither 1 (request) nor 2 (reply)")]
    Operation(u8),
    /// Not from an Ethernet NIC.
    #[error("its hardware address has type {kind} and length {length}, not Ethernet's 1 and 6")]
    Hardware {
        /// Hardware type (RFC 1700).
        kind: u8,
        /// Length of the hardware address in bytes.
        length: u8,
    },
    /// Zero, broadcast or multicast: no NIC has such an address.
    #[error("its hardware address {0} is no NIC's")]
    Address(MacAddr),
    /// Option 53 is missing, so that it is BOOTP.
    #[error("it has no message type (option 53)")]
    NoType,
    /// An option has the wrong length.
    #[error("its option {code} has {length} bytes")]
    OptionLength {
        /// Number of the option.
        code: u8,
        /// Length of its content.
        length: usize,
    },
}

/// A message from a client, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What the client wants.
    pub kind: MessageType,
    /// Transaction, echoed in the reply.
    pub xid: u32,
    /// How many relays it went through, echoed in the reply.
    pub hops: u8,
    /// Flags, echoed in the reply.
    pub flags: u16,
    /// The address that the client already uses, else 0.0.0.0.
    pub ciaddr: Ipv4Addr,
    /// The relay that the message came through, else 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// The client's NIC.
    pub mac: MacAddr,
    /// The address that it asks for (option 50).
    pub requested: Option<Ipv4Addr>,
    /// The server whose offer it takes (option 54).
    pub server: Option<Ipv4Addr>,
    /// Vendor class (option 60).
    pub class: Vec<u8>,
    /// Whether the user class is iPXE (option 77).
    pub ipxe: bool,
    /// Whether it has sent options of iPXE's own (option 175).
    pub ipxe_options: bool,
    /// Architectures, the preferred one first (option 93).
    pub archs: Vec<u16>,
    /// Machine identifier as sent (option 97), echoed in the reply.
    pub machine: Option<Vec<u8>>,
    /// Relay information as sent (option 82), echoed in the reply.
    pub relay: Option<Vec<u8>>,
}

/// Who asks, by its user class and vendor class (C§4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// iPXE.
    Ipxe,
    /// Network boot firmware.
    Pxe,
    /// UEFI firmware that boots by HTTP.
    Http,
    /// SunOS.
    Sunw,
    /// Nothing is told.
    Nameless,
    /// An operating system or something else.
    Other,
}

impl Client {
    /// The word for logs and observers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ipxe => "ipxe",
            Self::Pxe => "pxe",
            Self::Http => "http",
            Self::Sunw => "sunw",
            Self::Nameless | Self::Other => "other",
        }
    }
}

impl Request {
    /// Who asks.
    pub fn client(&self) -> Client {
        match &self.class[..] {
            _ if self.ipxe => Client::Ipxe,
            class if class.starts_with(b"PXEClient") => Client::Pxe,
            class if class.starts_with(b"HTTPClient") => Client::Http,
            class if class.starts_with(b"SUNW") => Client::Sunw,
            [] => Client::Nameless,
            _ => Client::Other,
        }
    }

    /// A sub-option of the relay's information (RFC 3046 §2.0); `None` too when that is broken.
    pub fn relay_part(&self, wanted: u8) -> Option<&[u8]> {
        let mut rest = self.relay.as_deref()?;
        while let [code, length, tail @ ..] = rest {
            let (data, next) = tail.split_at_checked(usize::from(*length))?;
            if *code == wanted {
                return Some(data);
            }
            rest = next;
        }
        None
    }

    /// The circuit id of the relay, when it is text (option 82, sub-option 1).
    pub fn circuit(&self) -> Option<&str> {
        std::str::from_utf8(self.relay_part(1)?).ok().and_then(tag)
    }

    /// The subnet that the relay selects (option 82, sub-option 5; RFC 3527).
    pub fn link(&self) -> Option<Ipv4Addr> {
        Some(<[u8; 4]>::try_from(self.relay_part(5)?).ok()?.into())
    }

    /// The SMBIOS UUID in option 97, as `dmidecode` and `/sys/class/dmi/id/product_uuid` show it:
    /// the first three fields are little-endian on the wire (RFC 4578 §2.3). `None` when there is
    /// none, or one of the values that boards without a UUID have.
    pub fn uuid(&self) -> Option<Uuid> {
        let (kind, bytes) = self.machine.as_deref()?.split_first()?;
        let uuid = Uuid::from_bytes_le(bytes.try_into().ok()?);
        (*kind == 0 && !uuid.is_nil() && !uuid.is_max()).then_some(uuid)
    }
}

/// A message, sorted by who has sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// From a client.
    Request(Box<Request>),
    /// From a server: this one or another.
    Reply {
        /// OFFER, ACK or NAK.
        kind: MessageType,
        /// The server's address (option 54, else `siaddr`).
        server: Ipv4Addr,
        /// For whom it is.
        mac: MacAddr,
    },
}

/// Reads a message.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Heard, Malformed> {
    let fixed = bytes.get(..FIXED).ok_or(Malformed::Short(bytes.len()))?;
    let (operation, kind, length) = (fixed[0], fixed[1], fixed[2]);
    if fixed[236..] != MAGIC {
        return Err(Malformed::NoCookie);
    }
    if HType::from(kind) != HType::Eth || length != 6 {
        return Err(Malformed::Hardware { kind, length });
    }
    let message = Message::new(bytes).map_err(|_| Malformed::Short(bytes.len()))?;
    let [a, b, c, d, e, f, ..] = fixed[28..] else { return Err(Malformed::Short(bytes.len())) };
    let mac = MacAddr([a, b, c, d, e, f]);
    // The lowest bit of the first byte marks groups.
    if mac.0 == [0; 6] || a & 1 == 1 {
        return Err(Malformed::Address(mac));
    }
    let options = Options::read(&message)?;
    let kind = options.kind.ok_or(Malformed::NoType)?;
    match operation {
        1 => Ok(Heard::Request(Box::new(Request {
            kind,
            xid: message.xid(),
            hops: message.hops(),
            flags: message.flags().into(),
            ciaddr: message.ciaddr(),
            giaddr: message.giaddr(),
            mac,
            requested: options.requested,
            server: options.server,
            class: options.class,
            ipxe: options.ipxe,
            ipxe_options: options.ipxe_options,
            archs: options.archs,
            machine: options.machine,
            relay: options.relay,
        }))),
        2 => Ok(Heard::Reply {
            kind,
            server: options.server.unwrap_or_else(|| message.siaddr()),
            mac,
        }),
        other => Err(Malformed::Operation(other)),
    }
}

#[derive(Default)]
struct Options {
    kind: Option<MessageType>,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    class: Vec<u8>,
    ipxe: bool,
    ipxe_options: bool,
    archs: Vec<u16>,
    machine: Option<Vec<u8>>,
    relay: Option<Vec<u8>>,
}

impl Options {
    fn read(message: &Message<'_>) -> Result<Self, Malformed> {
        let mut options = Self::default();
        for option in message.opts() {
            let (code, data) = (option.code(), option.data());
            let wrong = || Malformed::OptionLength { code: code.into(), length: data.len() };
            let address = || <[u8; 4]>::try_from(data).map(Ipv4Addr::from).map_err(|_| wrong());
            match code {
                OptionCode::MessageType => {
                    let [kind] = data else { return Err(wrong()) };
                    options.kind = Some(MessageType::from(*kind));
                }
                OptionCode::RequestedIpAddress => options.requested = Some(address()?),
                OptionCode::ServerIdentifier => options.server = Some(address()?),
                OptionCode::ClassIdentifier => options.class = data.to_vec(),
                OptionCode::UserClass => options.ipxe = is_ipxe(data),
                OptionCode::ClientSystemArchitecture => {
                    let (pairs, rest) = data.as_chunks::<2>();
                    if pairs.is_empty() || !rest.is_empty() {
                        return Err(wrong());
                    }
                    options.archs = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
                }
                // Some firmware sends 16 bytes without the type, or none: the machine boots all
                // the same, only without a UUID.
                OptionCode::ClientMachineIdentifier => options.machine = Some(data.to_vec()),
                OptionCode::RelayAgentInformation => options.relay = Some(data.to_vec()),
                code if u8::from(code) == 175 => options.ipxe_options = true,
                _ => {}
            }
        }
        Ok(options)
    }
}

/// iPXE sends its user class as plain text; RFC 3004 wants a list of texts, each after its length.
fn is_ipxe(data: &[u8]) -> bool {
    if data == b"iPXE" {
        return true;
    }
    let mut rest = data;
    while let Some((length, tail)) = rest.split_first() {
        let Some((class, next)) = tail.split_at_checked(usize::from(*length)) else {
            return false;
        };
        if class == b"iPXE" {
            return true;
        }
        rest = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::testing::{discover, encode};
    use dhcproto::v4::DhcpOption;
    use proptest::prelude::*;

    fn request(bytes: &[u8]) -> Request {
        match parse(bytes).unwrap() {
            Heard::Request(request) => *request,
            reply @ Heard::Reply { .. } => panic!("{reply:?}"),
        }
    }

    #[test]
    fn a_pxe_discover_is_read() {
        let mut message = discover([2, 0, 0, 0, 0, 1], 7);
        let mut id = vec![0];
        let uuid: Uuid = "564d2a1c-2f3b-4c5d-8e9f-001122334455".parse().unwrap();
        id.extend(uuid.to_bytes_le());
        message.opts_mut().insert(DhcpOption::ClientMachineIdentifier(id));
        let request = request(&encode(&message));
        assert_eq!(request.kind, MessageType::Discover);
        assert_eq!(request.client(), Client::Pxe);
        assert_eq!(request.archs, [7]);
        assert_eq!(request.uuid(), Some(uuid));
    }

    #[test]
    fn ipxes_user_class_is_known_in_both_forms() {
        for (data, ipxe) in [
            (&b"iPXE"[..], true),
            (b"\x04iPXE", true),
            (b"\x03abc\x04iPXE", true),
            (b"iPXE2", false),
            (b"\x05iPXE", false),
            (b"", false),
            (b"\x00", false),
        ] {
            assert_eq!(is_ipxe(data), ipxe, "{data:?}");
        }
    }

    #[test]
    fn the_relays_information_is_read_and_broken_information_is_none() {
        let with = |relay: &[u8]| {
            let mut bytes = encode(&discover([2, 0, 0, 0, 0, 1], 0));
            bytes.pop();
            bytes.extend([82, relay.len() as u8]);
            bytes.extend(relay);
            bytes.push(255);
            request(&bytes)
        };
        let good = with(b"\x02\x01x\x01\x02r1\x05\x04\x0a\x00\x01\x00");
        assert_eq!((good.circuit(), good.link()), (Some("r1"), Some(Ipv4Addr::new(10, 0, 1, 0))));
        for relay in [
            &b"\x01\x09ab"[..],
            b"\x01\x00",
            b"\x01\x01\xff",
            b"\x01\x02a ",
            b"\x05\x03abc",
            b"\x01",
        ] {
            let request = with(relay);
            assert_eq!((request.circuit(), request.link()), (None, None), "{relay:?}");
        }
    }

    #[test]
    fn all_architectures_are_kept() {
        let mut bytes = encode(&discover([2, 0, 0, 0, 0, 1], 0));
        let at = bytes.windows(4).position(|w| w == [93, 2, 0, 0]).unwrap();
        bytes.splice(at..at + 4, [93, 4, 0, 16, 0, 7]);
        assert_eq!(request(&bytes).archs, [16, 7]);
    }

    #[test]
    fn what_is_broken_is_named() {
        let good = encode(&discover([2, 0, 0, 0, 0, 1], 0));
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            parse(&bytes).unwrap_err()
        };
        assert_eq!(parse(&good[..239]).unwrap_err(), Malformed::Short(239));
        assert_eq!(parse(&good[..240]).unwrap_err(), Malformed::NoType);
        assert_eq!(changed(0, 3), Malformed::Operation(3));
        assert_eq!(changed(1, 6), Malformed::Hardware { kind: 6, length: 6 });
        assert_eq!(changed(2, 255), Malformed::Hardware { kind: 1, length: 255 });
        assert_eq!(changed(28, 255), Malformed::Address(MacAddr([255, 0, 0, 0, 0, 1])));
        assert_eq!(changed(236, 0), Malformed::NoCookie);
        let at = good.windows(2).position(|w| w == [93, 2]).unwrap();
        assert_eq!(changed(at + 1, 1), Malformed::OptionLength { code: 93, length: 1 });
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            drop(parse(&bytes));
        }

        #[test]
        fn no_options_panic(options in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = encode(&discover([2, 0, 0, 0, 0, 1], 0));
            bytes.truncate(FIXED);
            bytes.extend(options);
            if let Ok(Heard::Request(request)) = parse(&bytes) {
                let _ = (request.uuid(), request.client(), request.circuit(), request.link());
            }
        }
    }
}
