//! Writing DHCP replies.

use std::net::Ipv4Addr;

use dhcproto::error::EncodeError;
use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode, UnknownOption};
use dhcproto::{Encodable, Encoder};

use super::packet::{Client, Request};
use crate::networks::Network;

/// Shortest BOOTP message (RFC 951 §3): some firmware drops shorter ones.
const SHORTEST: usize = 300;
/// iPXE's own option (iPXE documentation, `dhcp.h`: encapsulated options), and in it "there is no
/// ProxyDHCP server": saves the about 3 s that iPXE else waits for one in each DHCP exchange.
const IPXE_OPTION: u8 = 175;
const IPXE_NO_PROXY_DHCP: [u8; 3] = [0xb0, 1, 1];
/// PXE's vendor options (PXE specification 2.1 §2.4): discovery control (6) says "use the boot file
/// of this message, look for no other server" (bit 3); 255 ends them.
const PXE_USE_BOOT_FILE: [u8; 4] = [6, 1, 8, 255];

/// What an OFFER or ACK gives to the client.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// OFFER or ACK.
    pub kind: MessageType,
    /// The booter's own address.
    pub server: Ipv4Addr,
    /// The address; 0.0.0.0 in answer to INFORM.
    pub ip: Ipv4Addr,
    /// Whether the address is leased: it is not in answer to INFORM.
    pub leased: bool,
    /// The client's network.
    pub network: &'a Network,
    /// The client's host name.
    pub hostname: Option<&'a str>,
    /// Boot file: a name on our TFTP server, or a URL.
    pub file: Option<&'a str>,
}

/// The bytes of an OFFER or an ACK.
///
/// # Errors
/// When the reply does not fit the wire format.
pub fn grant(request: &Request, grant: Grant<'_>) -> Result<Vec<u8>, EncodeError> {
    let Grant { server, network, .. } = grant;
    let mut message = head(server, request, grant.kind);
    message.set_yiaddr(grant.ip);
    let options = message.opts_mut();
    options.insert(DhcpOption::SubnetMask(network.subnet.netmask()));
    if let Some(gateway) = network.gateway {
        options.insert(DhcpOption::Router(vec![gateway]));
    }
    let routes = network.classless_routes();
    if !routes.is_empty() {
        options.insert(DhcpOption::ClasslessStaticRoute(routes));
    }
    if !network.resolvers.is_empty() {
        options.insert(DhcpOption::DomainNameServer(network.resolvers.clone()));
    }
    if let Some(domain) = &network.domain {
        options.insert(DhcpOption::DomainName(domain.clone()));
    }
    if let Some(name) = grant.hostname {
        options.insert(DhcpOption::Hostname(name.to_owned()));
    }
    if grant.leased {
        options.insert(DhcpOption::AddressLeaseTime(network.lease_seconds));
    }
    if request.ipxe || request.ipxe_options {
        unknown(options, IPXE_OPTION, &IPXE_NO_PROXY_DHCP);
    }
    if request.client() == Client::Http {
        // Firmware takes a URL only from a server that says that it means HTTP (UEFI §24.7.3.1).
        options.insert(DhcpOption::ClassIdentifier(b"HTTPClient".to_vec()));
    }
    if let Some(file) = grant.file {
        boot_file(&mut message, server, file);
    }
    finish(&message, request)
}

/// The bytes of an OFFER or ACK without an address, beside another server's (PXE specification 2.1
/// §2.2).
///
/// # Errors
/// When the reply does not fit the wire format.
pub fn proxy(
    server: Ipv4Addr,
    request: &Request,
    kind: MessageType,
    file: &str,
) -> Result<Vec<u8>, EncodeError> {
    let mut message = head(server, request, kind);
    let options = message.opts_mut();
    if request.client() == Client::Http {
        options.insert(DhcpOption::ClassIdentifier(b"HTTPClient".to_vec()));
    } else {
        options.insert(DhcpOption::ClassIdentifier(b"PXEClient".to_vec()));
        unknown(options, OptionCode::VendorExtensions.into(), &PXE_USE_BOOT_FILE);
    }
    boot_file(&mut message, server, file);
    finish(&message, request)
}

/// The bytes of a NAK: the client must begin anew.
///
/// # Errors
/// When the reply does not fit the wire format.
pub fn refuse(server: Ipv4Addr, request: &Request, why: &str) -> Result<Vec<u8>, EncodeError> {
    let mut message = head(server, request, MessageType::Nak);
    message.opts_mut().insert(DhcpOption::Message(why.to_owned()));
    if !request.giaddr.is_unspecified() {
        // The client has no address that the relay could send to (RFC 2131 §4.3.2).
        message.set_flags(dhcproto::v4::Flags::from(request.flags).set_broadcast());
    }
    finish(&message, request)
}

fn head(server: Ipv4Addr, request: &Request, kind: MessageType) -> Message {
    let zero = Ipv4Addr::UNSPECIFIED;
    // A NAK's ciaddr is zero (RFC 2131 table 3).
    let ciaddr = if kind == MessageType::Ack { request.ciaddr } else { zero };
    let mut message =
        Message::new_with_id(request.xid, ciaddr, zero, zero, request.giaddr, &request.mac.0);
    message.set_opcode(Opcode::BootReply).set_flags(request.flags.into()).set_hops(request.hops);
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(server));
    if let Some(machine) = &request.machine {
        options.insert(DhcpOption::ClientMachineIdentifier(machine.clone()));
    }
    message
}

fn boot_file(message: &mut Message, server: Ipv4Addr, file: &str) {
    message.set_siaddr(server).set_sname_str(server.to_string());
    message.opts_mut().insert(DhcpOption::BootfileName(file.as_bytes().to_vec()));
    // The header's field has 128 bytes and ends in a NUL.
    if file.len() < 128 {
        message.set_fname_str(file);
    }
}

fn unknown(options: &mut dhcproto::v4::DhcpOptions, code: u8, data: &[u8]) {
    options.insert(DhcpOption::Unknown(UnknownOption::new(code.into(), data.to_vec())));
}

fn finish(message: &Message, request: &Request) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::with_capacity(576);
    message.encode(&mut Encoder::new(&mut bytes))?;
    if let Some(relay) = &request.relay {
        // Byte for byte, whatever is in it, once, and last (RFC 3046 §2.1, §2.2). The library writes
        // an option that it does not look into twice.
        if bytes.last() == Some(&u8::from(OptionCode::End)) {
            bytes.pop();
        }
        // Longer than an option can be: several, which the reader joins (RFC 3396).
        for part in relay.chunks(255) {
            bytes.push(OptionCode::RelayAgentInformation.into());
            bytes.push(part.len() as u8);
            bytes.extend_from_slice(part);
        }
        bytes.push(OptionCode::End.into());
    }
    if bytes.len() < SHORTEST {
        bytes.resize(SHORTEST, 0);
    }
    Ok(bytes)
}
