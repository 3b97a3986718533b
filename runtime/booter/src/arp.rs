//! ARP (RFC 826): asking a network who uses an address before it is offered (RFC 2131 §2.2, the
//! probe of RFC 5227 §2.1.1).

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use headnode_model::net::MacAddr;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Protocol, Type};

/// ARP's number in an Ethernet frame (RFC 826, "protocol type").
const ETHERTYPE: u16 = 0x0806;
/// What each message for IPv4 on Ethernet begins with: hardware type 1, protocol 0x0800, addresses of
/// 6 and 4 bytes (RFC 826).
const HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// Bytes before the message: receiver, sender, type.
const FRAME_HEAD: usize = 14;
/// Shortest Ethernet frame without its checksum (IEEE 802.3 §4.2.3.3).
const SHORTEST: usize = 60;
/// Ethernet's number among the kernel's kinds of hardware (`ARPHRD_ETHER`).
const ETHERNET: u16 = 1;

/// What a message says about its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Whether it is an answer; else it is a question, an announcement or a probe.
    pub reply: bool,
    /// Its sender's NIC.
    pub sender: MacAddr,
    /// The address that the sender uses; 0.0.0.0 in a probe (RFC 5227 §1.1).
    pub ip: Ipv4Addr,
    /// The address that is asked about.
    pub target: Ipv4Addr,
}

/// The frame that asks whether anybody uses `ip`, without claiming it: a sender's address of 0.0.0.0
/// changes nobody's ARP table (RFC 5227 §2.1.1).
pub fn probe(sender: MacAddr, ip: Ipv4Addr) -> [u8; SHORTEST] {
    let mut frame = [0; SHORTEST];
    let parts: [&[u8]; 9] = [
        &[0xff; 6],
        &sender.0,
        &ETHERTYPE.to_be_bytes(),
        &HEAD,
        &[0, 1],
        &sender.0,
        &[0; 4],
        &[0; 6],
        &ip.octets(),
    ];
    // 42 bytes; the rest stays zero.
    for (place, byte) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *byte;
    }
    frame
}

/// Reads a frame; `None` when it is no ARP message for IPv4 on Ethernet, or its sender is no NIC.
pub fn parse(frame: &[u8]) -> Option<Message> {
    let (head, message) = frame.split_at_checked(FRAME_HEAD)?;
    let [.., a, b] = head else { return None };
    if u16::from_be_bytes([*a, *b]) != ETHERTYPE {
        return None;
    }
    let message = message.strip_prefix(&HEAD)?;
    let (operation, message) = message.split_first_chunk::<2>()?;
    let (sender, message) = message.split_first_chunk::<6>()?;
    let (ip, message) = message.split_first_chunk::<4>()?;
    let (_, message) = message.split_first_chunk::<6>()?;
    let (target, _) = message.split_first_chunk::<4>()?;
    let reply = match u16::from_be_bytes(*operation) {
        1 => false,
        2 => true,
        _ => return None,
    };
    // The lowest bit of the first byte marks groups.
    if *sender == [0; 6] || sender[0] & 1 == 1 {
        return None;
    }
    Some(Message { reply, sender: MacAddr(*sender), ip: (*ip).into(), target: (*target).into() })
}

/// Sends probes on an interface, and hears all ARP messages that reach it.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    mac: MacAddr,
}

impl Socket {
    /// Opens it.
    ///
    /// # Errors
    /// When the interface is no Ethernet NIC, or the process may not open such sockets
    /// (CAP_NET_RAW).
    pub fn open(interface: &str) -> io::Result<Self> {
        let link = link(interface)?;
        let none = || io::Error::other(format!("{interface} has no Ethernet address"));
        let mac = link.addr().filter(|mac| *mac != [0; 6] && link.hatype() == ETHERNET);
        let mac = MacAddr(mac.ok_or_else(none)?);
        // The kernel wants the number as it is on the wire.
        let protocol = Protocol::from(i32::from(ETHERTYPE.to_be()));
        let socket = socket2::Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        bind(socket.as_raw_fd(), &link)?;
        socket.set_nonblocking(true)?;
        // A packet socket and a connected UDP socket are used by the same calls.
        Ok(Self { socket: UdpSocket::from(socket), mac })
    }

    /// The interface's own NIC.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Asks about an address.
    ///
    /// # Errors
    /// When the interface is down, or its queue is full.
    pub fn probe(&self, ip: Ipv4Addr) -> io::Result<()> {
        self.socket.send(&probe(self.mac, ip)).map(|_| ())
    }

    /// The next message of another NIC, without waiting; `None` when there is none. What is no ARP
    /// message is skipped, at most `limit` frames are looked at.
    pub fn take(&self, limit: usize) -> Option<Message> {
        let mut buffer = [0; 128];
        for _ in 0..limit {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // The interface has gone down: told once.
                Err(_) => continue,
            };
            let message = buffer.get(..length).and_then(parse);
            if let Some(message) = message.filter(|message| message.sender != self.mac) {
                return Some(message);
            }
        }
        None
    }
}

impl AsFd for Socket {
    /// For waiting until there is a message to [`Socket::take`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The interface's address as the kernel wants it in `bind`: its number is in it.
pub(crate) fn link(interface: &str) -> io::Result<LinkAddr> {
    let links = getifaddrs()?.filter(|found| found.interface_name == interface);
    let mut links = links.filter_map(|found| found.address?.as_link_addr().copied());
    let none = || io::Error::other(format!("there is no network interface {interface}"));
    links.next().ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 99, 99, 40);

    fn answer(sender: [u8; 6], ip: Ipv4Addr) -> Vec<u8> {
        let mut frame = probe(OURS, IP).to_vec();
        frame[21] = 2;
        frame[22..28].copy_from_slice(&sender);
        frame[28..32].copy_from_slice(&ip.octets());
        frame
    }

    #[test]
    fn a_probe_is_the_one_of_the_standard() {
        let frame = probe(OURS, IP);
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let head = "ffffffffffff0200000000070806";
        let message = "0001080006040001020000000007000000000000000000000a636328";
        assert_eq!(hex, format!("{head}{message}{}", "0".repeat(36)));
        let zero = Ipv4Addr::UNSPECIFIED;
        let read = Message { reply: false, sender: OURS, ip: zero, target: IP };
        assert_eq!(parse(&frame), Some(read));
    }

    #[test]
    fn an_answer_is_read_and_what_is_none_is_not() {
        let good = answer([2, 0, 0, 0, 0, 9], IP);
        let read = parse(&good).unwrap();
        assert_eq!((read.reply, read.sender.0[5], read.ip), (true, 9, IP));
        assert_eq!(parse(&good[..42]), Some(read), "without padding");
        assert_eq!(parse(&good[..41]), None);
        for (at, to) in [(13, 0), (15, 6), (16, 9), (18, 8), (19, 16), (21, 3), (22, 1)] {
            let mut frame = good.clone();
            frame[at] = to;
            assert_eq!(parse(&frame), None, "byte {at}");
        }
        assert_eq!(parse(&answer([0; 6], IP)), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(mac in any::<[u8; 6]>(), ip in any::<u32>()) {
            let mac = MacAddr([mac[0] & 0xfe | 2, mac[1], mac[2], mac[3], mac[4], mac[5]]);
            let read = parse(&probe(mac, ip.into())).unwrap();
            prop_assert_eq!((read.sender, read.target, read.reply), (mac, ip.into(), false));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn changed_bytes_are_read_alike_or_not_at_all(at in 0usize..60, to in any::<u8>()) {
            let mut frame = answer([2, 0, 0, 0, 0, 9], IP);
            frame[at] = to;
            if let Some(read) = parse(&frame) {
                prop_assert!(read.sender.0[0] & 1 == 0);
                prop_assert_eq!(&frame[28..32], &read.ip.octets());
            }
        }
    }
}
