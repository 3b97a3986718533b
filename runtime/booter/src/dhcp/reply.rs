//! Writing DHCP replies.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode, UnknownOption};
use dhcproto::{Encodable, Encoder};

use super::packet::Request;
use crate::settings::Settings;

/// Shortest BOOTP message (RFC 951 §3): some firmware drops shorter ones.
const SHORTEST: usize = 300;
/// iPXE's own option (iPXE documentation, `dhcp.h`: encapsulated options), and in it "there is no
/// ProxyDHCP server": saves the about 3 s that iPXE else waits for one in each DHCP exchange.
const IPXE_OPTION: u8 = 175;
const IPXE_NO_PROXY_DHCP: [u8; 3] = [0xb0, 1, 1];

/// What a reply gives to the client.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// The address; 0.0.0.0 in answer to INFORM and in a refusal.
    pub ip: Ipv4Addr,
    /// Lease time in seconds, when an address is given.
    pub lease: Option<u32>,
    /// Boot file: a name on our TFTP server, or a URL.
    pub file: Option<&'a str>,
}

/// The bytes of an OFFER or an ACK.
///
/// # Errors
/// When the reply does not fit the wire format.
pub fn grant(
    settings: &Settings,
    request: &Request,
    kind: MessageType,
    grant: Grant<'_>,
) -> Result<Vec<u8>, dhcproto::error::EncodeError> {
    let mut message = head(settings, request, kind);
    message.set_yiaddr(grant.ip).set_siaddr(settings.admin_ip);
    message.set_sname_str(settings.admin_ip.to_string());
    let options = message.opts_mut();
    options.insert(DhcpOption::SubnetMask(settings.admin_net.netmask()));
    if let Some(gateway) = settings.gateway {
        options.insert(DhcpOption::Router(vec![gateway]));
    }
    if !settings.resolvers.is_empty() {
        options.insert(DhcpOption::DomainNameServer(settings.resolvers.clone()));
    }
    if let Some(seconds) = grant.lease {
        options.insert(DhcpOption::AddressLeaseTime(seconds));
    }
    if request.ipxe || request.ipxe_options {
        unknown(options, IPXE_OPTION, &IPXE_NO_PROXY_DHCP);
    }
    if let Some(file) = grant.file {
        options.insert(DhcpOption::BootfileName(file.as_bytes().to_vec()));
        // The header's field has 128 bytes and ends in a NUL.
        if file.len() < 128 {
            message.set_fname_str(file);
        }
    }
    finish(&message)
}

/// The bytes of a NAK: the client must begin anew.
///
/// # Errors
/// When the reply does not fit the wire format.
pub fn refuse(
    settings: &Settings,
    request: &Request,
    why: &str,
) -> Result<Vec<u8>, dhcproto::error::EncodeError> {
    let mut message = head(settings, request, MessageType::Nak);
    message.opts_mut().insert(DhcpOption::Message(why.to_owned()));
    if !request.giaddr.is_unspecified() {
        // The client has no address that the relay could send to (RFC 2131 §4.3.2).
        message.set_flags(dhcproto::v4::Flags::from(request.flags).set_broadcast());
    }
    finish(&message)
}

fn head(settings: &Settings, request: &Request, kind: MessageType) -> Message {
    let zero = Ipv4Addr::UNSPECIFIED;
    // A NAK's ciaddr is zero (RFC 2131 table 3).
    let ciaddr = if kind == MessageType::Ack { request.ciaddr } else { zero };
    let mut message =
        Message::new_with_id(request.xid, ciaddr, zero, zero, request.giaddr, &request.mac.0);
    message.set_opcode(Opcode::BootReply).set_flags(request.flags.into());
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(settings.admin_ip));
    if let Some(machine) = &request.machine {
        options.insert(DhcpOption::ClientMachineIdentifier(machine.clone()));
    }
    if let Some(relay) = &request.relay {
        // Byte for byte, whatever is in it (RFC 3046 §2.2).
        unknown(options, OptionCode::RelayAgentInformation.into(), relay);
    }
    message
}

fn unknown(options: &mut dhcproto::v4::DhcpOptions, code: u8, data: &[u8]) {
    options.insert(DhcpOption::Unknown(UnknownOption::new(code.into(), data.to_vec())));
}

fn finish(message: &Message) -> Result<Vec<u8>, dhcproto::error::EncodeError> {
    let mut bytes = Vec::with_capacity(576);
    message.encode(&mut Encoder::new(&mut bytes))?;
    if bytes.len() < SHORTEST {
        bytes.resize(SHORTEST, 0);
    }
    Ok(bytes)
}
