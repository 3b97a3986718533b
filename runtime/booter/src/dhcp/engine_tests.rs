use super::*;
use crate::dhcp::testing::{encode, message};
use dhcproto::v4::{DhcpOption, Message, OptionCode};
use dhcproto::{Decodable, Decoder};
use proptest::prelude::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn engine() -> Engine {
    let settings = Settings::for_tests();
    let leases = Leases::new(settings.range, settings.reserved());
    Engine::new(Arc::new(settings), Arc::new(Mutex::new(leases)), Metrics::new())
}

fn decode(send: &Send) -> Message {
    assert!(send.bytes.len() >= 300);
    Message::decode(&mut Decoder::new(&send.bytes)).unwrap()
}

fn asking(ip: Ipv4Addr, server: Option<Ipv4Addr>) -> Message {
    let mut request = message(MessageType::Request, MAC, 0);
    request.opts_mut().insert(DhcpOption::RequestedIpAddress(ip));
    if let Some(server) = server {
        request.opts_mut().insert(DhcpOption::ServerIdentifier(server));
    }
    request
}

fn file(message: &Message) -> String {
    let Some(DhcpOption::BootfileName(name)) = message.opts().get(OptionCode::BootfileName) else {
        panic!("no boot file in {message}");
    };
    assert_eq!(message.fname().map(|f| f.strip_suffix(b"\0").unwrap_or(f)), Some(&name[..]));
    String::from_utf8(name.clone()).unwrap()
}

#[test]
fn a_bios_machine_is_taken_through_both_stages() {
    let mut engine = engine();
    let server = engine.settings.admin_ip;
    let offer = engine.hear(&encode(&message(MessageType::Discover, MAC, 0)), 0).unwrap();
    assert_eq!(offer.to, "255.255.255.255:68".parse().unwrap());
    let offer = decode(&offer);
    assert_eq!(file(&offer), "undionly.kpxe");
    assert_eq!(offer.siaddr(), server);
    let ip = offer.yiaddr();
    let ack = decode(&engine.hear(&encode(&asking(ip, Some(server))), 1).unwrap());
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(ack.yiaddr(), ip);
    for (code, option) in [
        (OptionCode::SubnetMask, DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0))),
        (OptionCode::Router, DhcpOption::Router(vec![Ipv4Addr::new(10, 99, 99, 1)])),
        (OptionCode::AddressLeaseTime, DhcpOption::AddressLeaseTime(2_592_000)),
        (OptionCode::ServerIdentifier, DhcpOption::ServerIdentifier(server)),
    ] {
        assert_eq!(ack.opts().get(code), Some(&option));
    }
    assert!(engine.take_changed());

    let mut ipxe = asking(ip, Some(server));
    ipxe.opts_mut().insert(DhcpOption::UserClass(b"iPXE".to_vec()));
    let ack = decode(&engine.hear(&encode(&ipxe), 5).unwrap());
    assert_eq!(file(&ack), "http://10.99.99.7/boot.ipxe.01020000000001");
    assert!(ack.opts().get(OptionCode::from(175)).is_some(), "no wait for a ProxyDHCP server");
    assert!(!engine.take_changed(), "one write for both stages");
}

#[test]
fn uefi_gets_its_program_and_an_arm_machine_nothing() {
    let mut engine = engine();
    let offer = engine.hear(&encode(&message(MessageType::Discover, MAC, 7)), 0).unwrap();
    assert_eq!(file(&decode(&offer)), "snponly.efi");
    assert_eq!(engine.hear(&encode(&message(MessageType::Discover, MAC, 11)), 0), None);
}

#[test]
fn an_address_that_is_not_ours_to_give_is_refused() {
    let mut engine = engine();
    for (ip, server) in [
        (Ipv4Addr::new(192, 168, 1, 5), None),
        (Ipv4Addr::new(10, 99, 99, 7), None),
        (Ipv4Addr::new(10, 99, 99, 7), Some(engine.settings.admin_ip)),
    ] {
        let nak = decode(&engine.hear(&encode(&asking(ip, server)), 0).unwrap());
        assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak), "{ip}");
        assert_eq!(nak.yiaddr(), Ipv4Addr::UNSPECIFIED);
    }
    assert!(!engine.take_changed());
}

#[test]
fn a_machine_that_remembers_a_free_address_keeps_it() {
    let mut engine = engine();
    let ip = Ipv4Addr::new(10, 99, 99, 200);
    let ack = decode(&engine.hear(&encode(&asking(ip, None)), 0).unwrap());
    assert_eq!((ack.opts().msg_type(), ack.yiaddr()), (Some(MessageType::Ack), ip));
}

#[test]
fn other_machines_are_left_alone() {
    let mut engine = engine();
    for class in [None, Some(&b"MSFT 5.0"[..]), Some(b"HTTPClient:Arch:00016")] {
        let mut discover = message(MessageType::Discover, MAC, 0);
        discover.opts_mut().remove(OptionCode::ClassIdentifier);
        if let Some(class) = class {
            discover.opts_mut().insert(DhcpOption::ClassIdentifier(class.to_vec()));
        }
        assert_eq!(engine.hear(&encode(&discover), 0), None);
    }
    assert!(engine.leases().is_empty());
}

#[test]
fn a_relay_gets_the_reply_with_its_information() {
    let mut engine = engine();
    let relay = Ipv4Addr::new(10, 99, 99, 2);
    let mut bytes = encode(message(MessageType::Discover, MAC, 0).set_giaddr(relay));
    // A sub-option that is cut off: not ours to judge.
    bytes.pop();
    bytes.extend([82, 4, 1, 9, b'a', b'b', 255]);
    let offer = engine.hear(&bytes, 0).unwrap();
    assert_eq!(offer.to, SocketAddrV4::new(relay, 67));
    assert!(offer.bytes.windows(6).any(|w| w == [82, 4, 1, 9, b'a', b'b']));
    let stranger = Ipv4Addr::new(10, 1, 1, 1);
    let bytes = encode(message(MessageType::Discover, MAC, 0).set_giaddr(stranger));
    assert_eq!(engine.hear(&bytes, 0), None);
}

#[test]
fn a_second_dhcp_server_is_noticed_by_its_replies_and_its_clients() {
    let mut engine = engine();
    let foreign = Ipv4Addr::new(10, 99, 99, 3);
    let offer = engine.hear(&encode(&message(MessageType::Discover, MAC, 0)), 0).unwrap();
    assert_eq!(engine.hear(&offer.bytes, 0), None);
    assert_eq!(engine.metrics.foreign_servers.get(), 0, "our own reply, looped back");
    let ip = decode(&offer).yiaddr();
    assert_eq!(engine.hear(&encode(&asking(ip, Some(foreign))), 0), None);
    assert_eq!(engine.metrics.foreign_servers.get(), 1);
    let at = offer.bytes.windows(6).position(|w| w == [54, 4, 10, 99, 99, 7]).unwrap();
    let mut theirs = offer.bytes;
    theirs[at + 5] = 3;
    assert_eq!(engine.hear(&theirs, 0), None);
    assert_eq!(engine.metrics.foreign_servers.get(), 2);
}

#[test]
fn a_second_machine_with_the_same_uuid_is_counted() {
    let mut engine = engine();
    for (n, now) in [(1, 0), (2, 10)] {
        let mut request = asking(Ipv4Addr::new(10, 99, 99, 50 + n), None);
        request.set_chaddr(&[2, 0, 0, 0, 0, n]);
        let mut id = vec![0];
        id.extend([7; 16]);
        request.opts_mut().insert(DhcpOption::ClientMachineIdentifier(id));
        engine.hear(&encode(&request), now).unwrap();
    }
    assert_eq!(engine.metrics.duplicate_uuids.get(), 1);
}

#[test]
fn a_used_up_range_is_counted_and_not_answered() {
    let mut engine = engine();
    let range = (Ipv4Addr::new(10, 99, 99, 40), Ipv4Addr::new(10, 99, 99, 40));
    engine.leases = Arc::new(Mutex::new(Leases::new(range, [])));
    let discover = |n| encode(&message(MessageType::Discover, [2, 0, 0, 0, 0, n], 0));
    assert!(engine.hear(&discover(1), 0).is_some());
    assert_eq!(engine.hear(&discover(2), 0), None);
    assert_eq!(engine.metrics.range_exhausted.get(), 1);
}

proptest! {
    #[test]
    fn changed_bytes_never_panic_and_never_lease_foreign_addresses(
        changes in prop::collection::vec((0usize..400, any::<u8>()), 0..20),
        cut in 0usize..400,
    ) {
        let mut engine = engine();
        let mut bytes = encode(&asking(Ipv4Addr::new(10, 99, 99, 60), None));
        for (at, to) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
        }
        bytes.truncate(cut.max(240));
        if let Some(send) = engine.hear(&bytes, 0) {
            decode(&send);
        }
        let leases = engine.leases();
        prop_assert!(leases.iter().all(|lease| leases.ours(lease.ip)));
    }
}
