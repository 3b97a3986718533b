//! Sockets and network interfaces.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Once;

use headnode_model::net::MacAddr;
use socket2::{Domain, Protocol, Socket, Type};

use crate::overhear::Overhear;
use crate::settings::Settings;
use crate::{Error, arp, dhcp, ipv6};

/// The interface that holds `ip`, else one whose Ethernet address is `mac`.
///
/// # Errors
/// When there is none, or the list of interfaces cannot be read.
pub fn interface(ip: Ipv4Addr, mac: MacAddr) -> Result<String, Error> {
    let all = nix::ifaddrs::getifaddrs().map_err(|error| Error::Interfaces(error.into()))?;
    let holder = all
        .filter(|found| {
            let address = found.address.and_then(|a| a.as_sockaddr_in().map(|a| a.ip()));
            address == Some(ip)
        })
        .map(|found| found.interface_name)
        .next();
    if let Some(name) = holder {
        return Ok(name);
    }
    let folder = fs::read_dir("/sys/class/net").map_err(Error::Interfaces)?;
    let mut names: Vec<String> = folder
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let address = fs::read_to_string(entry.path().join("address")).ok()?;
            (address.trim().parse() == Ok(mac)).then(|| entry.file_name().into_string().ok())?
        })
        .collect();
    names.sort();
    names.into_iter().next().ok_or(Error::NoInterface { ip, mac })
}

/// The DHCP server's sockets.
///
/// # Errors
/// Names the port, the address and who may hold it.
pub fn dhcp(settings: &Settings) -> Result<dhcp::Sockets, Error> {
    let server = udp(settings.dhcp_listen, settings.ports.dhcp_server, settings, "DHCP")?;
    let ears = ears(settings)
        .map_err(|error| {
            tracing::warn!(
                "other DHCP servers are noticed by their clients' requests only: {error}"
            );
        })
        .ok();
    let asks = settings.more.dhcp.mode == dhcp::Mode::Server;
    let arp = settings.interface.as_deref().filter(|_| asks).and_then(|interface| {
        let warn = |error| {
            tracing::warn!(
                interface,
                "the network is not asked whether an address is in use before it is offered: {error}; \
                 it takes the capability CAP_NET_RAW and an Ethernet NIC"
            );
        };
        arp::Socket::open(interface).map_err(warn).ok()
    });
    Ok(dhcp::Sockets { server, ears, proxy: None, arp })
}

/// The clients' port, else what reaches it on the interface.
fn ears(settings: &Settings) -> Result<dhcp::Ears, Error> {
    let port = udp(settings.dhcp_listen, settings.ports.dhcp_client, settings, "DHCP");
    let held = match (port, &settings.interface) {
        (Ok(socket), _) => return Ok(dhcp::Ears::Port(socket)),
        (Err(error), None) => return Err(error),
        (Err(error), Some(interface)) => Overhear::open(interface).map_err(|_| error),
    };
    held.map(dhcp::Ears::Wire)
}

/// The socket on which machines ask a proxy; only mode `proxy` needs it.
///
/// # Errors
/// Names the port, the address and who may hold it.
pub fn proxy(settings: &Settings) -> Result<tokio::net::UdpSocket, Error> {
    udp(settings.dhcp_listen, dhcp::PROXY_PORT, settings, "proxyDHCP")
}

/// The TFTP server's socket.
///
/// # Errors
/// Names the port, the address and who may hold it.
pub fn tftp(settings: &Settings) -> Result<tokio::net::UdpSocket, Error> {
    // Bound to an address, which is on the admin interface only: no need to bind to the device.
    let any = Settings { interface: None, ..settings.clone() };
    udp(settings.admin_ip, settings.ports.tftp, &any, "TFTP")
}

/// The HTTP server's listener.
///
/// # Errors
/// Names the port, the address and who may hold it.
pub fn http(settings: &Settings) -> Result<tokio::net::TcpListener, Error> {
    tcp(settings, settings.ports.http)
}

/// The HTTPS server's listener.
///
/// # Errors
/// Names the port, the address and who may hold it.
pub fn https(settings: &Settings, port: u16) -> Result<tokio::net::TcpListener, Error> {
    tcp(settings, port)
}

fn tcp(settings: &Settings, port: u16) -> Result<tokio::net::TcpListener, Error> {
    let address = SocketAddrV4::new(settings.admin_ip, port);
    let bind = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        // Else a restart fails while connections of the old process linger.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(address).into())?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(socket.into())
    };
    bind().map_err(|source| Error::Bind { service: "HTTP", protocol: "tcp", address, source })
}

/// The socket for router solicitations, when there is an interface and it has IPv6.
pub fn ipv6(settings: &Settings) -> Option<tokio::net::UdpSocket> {
    let interface = settings.interface.as_deref()?;
    ipv6::open(interface)
        .map_err(|error| {
            tracing::warn!(
                interface,
                "listening for IPv6 router solicitations: {error}; each node boots 16 s slower"
            );
        })
        .ok()
}

/// Bytes of requests that may wait.
const WAITING: usize = 4 << 20;
/// One word about a kernel that allows less is enough.
static SMALL: Once = Once::new();

fn udp(
    ip: Ipv4Addr,
    port: u16,
    settings: &Settings,
    service: &'static str,
) -> Result<tokio::net::UdpSocket, Error> {
    let address = SocketAddrV4::new(ip, port);
    let bind = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        if let Some(interface) = &settings.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        socket.set_broadcast(true)?;
        // A boot storm's requests wait here.
        socket.set_recv_buffer_size(WAITING)?;
        // The kernel tells twice of what it was asked for (socket(7)).
        if socket.recv_buffer_size()? < 2 * WAITING {
            SMALL.call_once(|| {
                tracing::warn!(
                    "the kernel keeps fewer requests waiting than a boot storm has: set \
                     net.core.rmem_max to {WAITING} (sysctl)"
                );
            });
        }
        socket.bind(&SocketAddr::from(address).into())?;
        socket.set_nonblocking(true)?;
        tokio::net::UdpSocket::from_std(socket.into())
    };
    bind().map_err(|source| Error::Bind { service, protocol: "udp", address, source })
}
