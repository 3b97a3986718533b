//! Hearing what DHCP servers say on an interface when another program of this machine holds the
//! clients' port (68), as `dhclient` does.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use headnode_model::ports;
use nix::sys::socket::bind;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::arp;

/// IPv4's number in an Ethernet frame (RFC 894).
const ETHERTYPE: u16 = 0x0800;
/// UDP's number in an IPv4 header (RFC 768).
const UDP: u8 = 17;
/// Shortest IPv4 header; length of an UDP header.
const IP_HEAD: usize = 20;
const UDP_HEAD: usize = 8;

/// What the kernel lets through: UDP from port 67 to port 68, not the later part of a fragmented
/// packet. The instructions are those of the classic packet filter, as in the kernel's
/// `networking/filter`: code, jump when true, jump when false, operand.
const FILTER: [(u16, u8, u8, u32); 11] = [
    // The protocol, byte 9 of the IPv4 header.
    (0x30, 0, 0, 9),
    (0x15, 0, 8, UDP as u32),
    // The fragment's offset: the lower 13 bits of bytes 6 and 7.
    (0x28, 0, 0, 6),
    (0x45, 6, 0, 0x1fff),
    // X is the length of the IPv4 header; then the UDP header's ports.
    (0xb1, 0, 0, 0),
    (0x48, 0, 0, 0),
    (0x15, 0, 3, ports::DHCP_SERVER as u32),
    (0x48, 0, 0, 2),
    (0x15, 0, 1, ports::DHCP_CLIENT as u32),
    (0x06, 0, 0, 0xffff),
    (0x06, 0, 0, 0),
];

/// The sender and the message in an IPv4 packet of a DHCP server to a client; `None` when it is no
/// such packet.
pub fn message(packet: &[u8]) -> Option<(SocketAddrV4, &[u8])> {
    let (version, words) = (packet.first()? >> 4, packet.first()? & 15);
    let (head, rest) = packet.split_at_checked(usize::from(words) * 4)?;
    if version != 4 || head.len() < IP_HEAD || *head.get(9)? != UDP {
        return None;
    }
    let source = <[u8; 4]>::try_from(head.get(12..16)?).ok()?;
    let [a, b, c, d, e, f, ..] = *rest else { return None };
    let [from, to, length] = [[a, b], [c, d], [e, f]].map(u16::from_be_bytes);
    if (from, to) != (ports::DHCP_SERVER, ports::DHCP_CLIENT) {
        return None;
    }
    // What comes after it pads the frame.
    let message = rest.get(UDP_HEAD..usize::from(length))?;
    Some((SocketAddrV4::new(Ipv4Addr::from(source), from), message))
}

/// Hears all DHCP servers' messages to clients that reach an interface.
#[derive(Debug)]
pub struct Overhear(Socket);

impl Overhear {
    /// Opens it.
    ///
    /// # Errors
    /// When there is no such interface, or the process may not open such sockets (CAP_NET_RAW).
    pub fn open(interface: &str) -> io::Result<Self> {
        let link = arp::link(interface)?;
        // The kernel wants the number as it is on the wire.
        let protocol = Protocol::from(i32::from(ETHERTYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket
            .attach_filter(&FILTER.map(|(code, yes, no, k)| SockFilter::new(code, yes, no, k)))?;
        bind(socket.as_raw_fd(), &link)?;
        socket.set_nonblocking(true)?;
        let hears = Self(socket);
        // Until it was bound it heard all interfaces, and for a moment without the filter.
        while hears.read(&mut [0; 1]).is_ok() {}
        Ok(hears)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut &self.0, buffer)
    }

    /// The next message and its sender, without waiting; `None` when a packet was none.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing to read, else what the operating system says.
    pub fn take<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<(SocketAddrV4, &'b [u8])>> {
        let length = self.read(buffer)?;
        Ok(buffer.get(..length).and_then(message))
    }
}

impl AsFd for Overhear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An IPv4 packet with options of `options` words in its header, and padding at its end.
    fn packet(options: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45 + options, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 0, 9];
        bytes.extend([255; 4]);
        bytes.extend(vec![1; usize::from(options) * 4]);
        bytes.extend([0, 67, 0, 68]);
        bytes.extend((payload.len() as u16 + 8).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        bytes.extend([0; 6]);
        bytes
    }

    #[test]
    fn only_servers_messages_are_taken_out() {
        let good = packet(0, b"offer");
        assert_eq!(message(&good), Some(("10.0.0.9:67".parse().unwrap(), &b"offer"[..])));
        for (at, to) in [(0, 0x65), (0, 0x44), (0, 0x4f), (9, 6), (21, 68), (23, 67), (25, 200)] {
            let mut bytes = good.clone();
            bytes[at] = to;
            assert_eq!(message(&bytes), None, "byte {at}");
        }
        assert_eq!(message(&good[..30]), None);
    }

    proptest! {
        #[test]
        fn what_is_in_it_comes_out(
            options in 0u8..=10, payload in prop::collection::vec(any::<u8>(), 0..600)
        ) {
            let packet = packet(options, &payload);
            prop_assert_eq!(message(&packet).map(|(_, message)| message), Some(&payload[..]));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = message(&bytes);
        }
    }
}
