//! Messages for tests.

use std::net::Ipv4Addr;

use dhcproto::v4::{Architecture, DhcpOption, Message, MessageType, Opcode};
use dhcproto::{Encodable, Encoder};

pub fn discover(mac: [u8; 6], arch: u16) -> Message {
    message(MessageType::Discover, mac, arch)
}

pub fn message(kind: MessageType, mac: [u8; 6], arch: u16) -> Message {
    let zero = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x1234_5678, zero, zero, zero, zero, &mac);
    message.set_opcode(Opcode::BootRequest);
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ClassIdentifier(b"PXEClient:Arch:00000:UNDI:002001".to_vec()));
    options.insert(DhcpOption::ClientSystemArchitecture(Architecture::from(arch)));
    message
}

pub fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).unwrap();
    bytes
}
