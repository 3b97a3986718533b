//! Why the booter does not start.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use headnode_model::net::MacAddr;

/// Why the booter does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port could not be opened.
    #[error("opening {service} port {address}/{protocol}: {source}{}", hint(source, *address, protocol))]
    Bind {
        /// DHCP, TFTP or HTTP.
        service: &'static str,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// The address and port.
        address: SocketAddrV4,
        /// What the operating system said.
        source: io::Error,
    },
    /// The list of network interfaces cannot be read.
    #[error("reading the list of network interfaces: {0}")]
    Interfaces(#[source] io::Error),
    /// The admin NIC is not there.
    #[error(
        "no network interface has the address {ip} (admin_ip) or the MAC {mac} (admin_nic): \
         is the admin NIC plugged in, and its driver loaded?"
    )]
    NoInterface {
        /// The headnode's address.
        ip: Ipv4Addr,
        /// The admin NIC.
        mac: MacAddr,
    },
    /// The state folder or a file in it is not usable.
    #[error("{what} {}: {source}", path.display())]
    State {
        /// What was tried, as "reading the leases".
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operators' decisions cannot be read.
    #[error(transparent)]
    Decisions(crate::admission::DecisionError),
    /// The operator's interface cannot be opened.
    #[error(transparent)]
    Operator(crate::api::SocketError),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(crate::http::TlsError),
    /// A built-in template is broken.
    #[error("reading the boot script templates: {0}")]
    Template(#[source] tera::Error),
}

fn hint(source: &io::Error, address: SocketAddrV4, protocol: &str) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => format!(
            "; another server has it (dnsmasq, dhcpd, tftpd-hpa, nginx, a second sdc-booter?): \
             `ss -lnp{} 'sport = :{}'` shows which",
            if protocol == "udp" { "u" } else { "t" },
            address.port()
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("; no network interface has the address {} yet", address.ip())
        }
        io::ErrorKind::PermissionDenied => "; it needs root, or the capabilities \
             CAP_NET_BIND_SERVICE and CAP_NET_RAW"
            .to_owned(),
        _ => String::new(),
    }
}
