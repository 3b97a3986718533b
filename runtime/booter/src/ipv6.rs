//! Saving iPXE a wait of about 16 s for an IPv6 router.
//!
//! iPXE configures IPv4 and IPv6 at the same time and goes on only when both have come to an end
//! (`ifconf_progress` in its source). Where no IPv6 router answers its solicitations, that is
//! after its last retry. So they are answered here: with an advertisement that says "no router,
//! no prefix, no DHCPv6", which changes nothing on any machine (router lifetime 0, RFC 4861 §4.2)
//! and lets iPXE go on at once.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// All routers on the link (RFC 4291 §2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// ICMPv6 type and code of a router solicitation.
const SOLICITATION: [u8; 2] = [133, 0];
/// A router advertisement: type 134, code 0, checksum (written by the kernel), hop limit
/// unspecified, no flags, router lifetime 0, and no values for reachability.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A socket that hears router solicitations on an interface.
///
/// # Errors
/// When the machine has no IPv6, or the process may not open raw sockets.
pub fn open(interface: &str) -> io::Result<UdpSocket> {
    let index = nix::net::if_::if_nametoindex(interface).map_err(io::Error::from)?;
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    // Receivers drop what could have come from beyond the link (RFC 4861 §6.1.2).
    socket.set_unicast_hops_v6(255)?;
    socket.set_nonblocking(true)?;
    // A raw socket and a UDP socket are used by the same calls.
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}

/// Answers solicitations until `stop`.
pub async fn run(socket: UdpSocket, stop: CancellationToken) {
    let mut buffer = [0; 1500];
    loop {
        let got = tokio::select! {
            () = stop.cancelled() => break,
            got = socket.recv_from(&mut buffer) => got,
        };
        let Ok((length, SocketAddr::V6(from))) = got else { continue };
        let packet = buffer.get(..length).unwrap_or_default();
        // RFC 4861 §6.1.1: at least 8 bytes. A machine without an address yet asks again.
        if length < 8 || !packet.starts_with(&SOLICITATION) || !from.ip().is_unicast_link_local() {
            continue;
        }
        let to = SocketAddrV6::new(*from.ip(), 0, 0, from.scope_id());
        match socket.send_to(&ADVERTISEMENT, SocketAddr::V6(to)).await {
            Ok(_) => tracing::debug!(to = %from.ip(), "told that there is no IPv6 router"),
            Err(error) => {
                tracing::debug!(to = %from.ip(), "sending a router advertisement: {error}")
            }
        }
    }
}
