use super::*;
use crate::dhcp::arch::{BIOS, EFI};
use crate::dhcp::testing::{encode, message};
use dhcproto::v4::{DhcpOption, Message, OptionCode};
use dhcproto::{Decodable, Decoder};
use proptest::prelude::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn engine() -> Engine {
    engine_with(Settings::default(), |_| {})
}

pub(super) fn engine_with(dhcp: Settings, change: impl FnOnce(&mut Vec<Network>)) -> Engine {
    let booter = crate::settings::Settings::for_tests();
    let mut networks = vec![Network::own(&booter)];
    change(&mut networks);
    Engine::new(Context {
        leases: Arc::new(Mutex::new(Leases::new(networks, booter.admin_ip))),
        booter: Arc::new(booter),
        dhcp: Live::new(dhcp),
        metrics: Metrics::new(),
        gate: Arc::new(crate::admission::Everybody),
        observer: Arc::new(crate::observe::Nobody),
    })
}

pub(super) fn from(peer: &str) -> Origin {
    Origin { peer: peer.parse().unwrap(), proxy: false }
}

impl Engine {
    fn told(&mut self, bytes: &[u8], now: i64) -> Option<Send> {
        self.hear(bytes, from("0.0.0.0:68"), now)
    }

    fn take_changed(&mut self) -> bool {
        !self.leases().take_journal().is_empty()
    }
}

pub(super) fn decode(send: &Send) -> Message {
    assert!(send.bytes.len() >= 300);
    Message::decode(&mut Decoder::new(&send.bytes)).unwrap()
}

pub(super) fn asking(ip: Ipv4Addr, server: Option<Ipv4Addr>) -> Message {
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
    let server = engine.context.booter.admin_ip;
    let offer = engine.told(&encode(&message(MessageType::Discover, MAC, 0)), 0).unwrap();
    assert_eq!(offer.to, "255.255.255.255:68".parse().unwrap());
    let offer = decode(&offer);
    assert_eq!(file(&offer), "undionly.kpxe");
    assert_eq!(offer.siaddr(), server);
    let ip = offer.yiaddr();
    let ack = decode(&engine.told(&encode(&asking(ip, Some(server))), 1).unwrap());
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
    let ack = decode(&engine.told(&encode(&ipxe), 5).unwrap());
    assert_eq!(file(&ack), "http://10.99.99.7/boot.ipxe.01020000000001");
    assert!(ack.opts().get(OptionCode::from(175)).is_some(), "no wait for a ProxyDHCP server");
    assert!(!engine.take_changed(), "one write for both stages");
}

#[test]
fn uefi_gets_its_program_and_an_arm_machine_nothing() {
    let mut engine = engine();
    let offer = engine.told(&encode(&message(MessageType::Discover, MAC, 7)), 0).unwrap();
    assert_eq!(file(&decode(&offer)), "snponly.efi");
    assert_eq!(engine.told(&encode(&message(MessageType::Discover, MAC, 11)), 0), None);
}

#[test]
fn an_address_that_is_not_ours_to_give_is_refused() {
    let mut engine = engine();
    for (ip, server) in [
        (Ipv4Addr::new(192, 168, 1, 5), None),
        (Ipv4Addr::new(10, 99, 99, 7), None),
        (Ipv4Addr::new(10, 99, 99, 7), Some(engine.context.booter.admin_ip)),
    ] {
        let nak = decode(&engine.told(&encode(&asking(ip, server)), 0).unwrap());
        assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak), "{ip}");
        assert_eq!(nak.yiaddr(), Ipv4Addr::UNSPECIFIED);
    }
    assert!(!engine.take_changed());
}

#[test]
fn a_machine_that_remembers_a_free_address_keeps_it() {
    let mut engine = engine();
    let ip = Ipv4Addr::new(10, 99, 99, 200);
    let ack = decode(&engine.told(&encode(&asking(ip, None)), 0).unwrap());
    assert_eq!((ack.opts().msg_type(), ack.yiaddr()), (Some(MessageType::Ack), ip));
}

#[test]
fn other_machines_are_left_alone() {
    let mut engine = engine();
    for class in [None, Some(&b"MSFT 5.0"[..])] {
        let mut discover = message(MessageType::Discover, MAC, 0);
        discover.opts_mut().remove(OptionCode::ClassIdentifier);
        if let Some(class) = class {
            discover.opts_mut().insert(DhcpOption::ClassIdentifier(class.to_vec()));
        }
        assert_eq!(engine.told(&encode(&discover), 0), None);
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
    let offer = engine.told(&bytes, 0).unwrap();
    assert_eq!(offer.to, SocketAddrV4::new(relay, 67));
    // Once, and last: a relay takes off only one, and from the end.
    let told = [82, 4, 1, 9, b'a', b'b', 255];
    let found = |w: &&[u8]| **w == told[..6];
    assert_eq!(offer.bytes.windows(6).filter(found).count(), 1, "{:?}", offer.bytes);
    let end = offer.bytes.iter().rposition(|byte| *byte != 0).unwrap();
    assert_eq!(&offer.bytes[end - 6..=end], told);
    let stranger = Ipv4Addr::new(10, 1, 1, 1);
    let bytes = encode(message(MessageType::Discover, MAC, 0).set_giaddr(stranger));
    assert_eq!(engine.told(&bytes, 0), None);
}

#[test]
fn a_second_dhcp_server_is_noticed_by_its_replies_and_its_clients() {
    let mut engine = engine();
    let foreign = Ipv4Addr::new(10, 99, 99, 3);
    let offer = engine.told(&encode(&message(MessageType::Discover, MAC, 0)), 0).unwrap();
    assert_eq!(engine.told(&offer.bytes, 0), None);
    assert_eq!(engine.context.metrics.foreign_servers.get(), 0, "our own reply, looped back");
    let ip = decode(&offer).yiaddr();
    assert_eq!(engine.told(&encode(&asking(ip, Some(foreign))), 0), None);
    assert_eq!(engine.context.metrics.foreign_servers.get(), 1);
    let at = offer.bytes.windows(6).position(|w| w == [54, 4, 10, 99, 99, 7]).unwrap();
    let mut theirs = offer.bytes;
    theirs[at + 5] = 3;
    assert_eq!(engine.told(&theirs, 0), None);
    assert_eq!(engine.context.metrics.foreign_servers.get(), 2);
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
        engine.told(&encode(&request), now).unwrap();
    }
    assert_eq!(engine.context.metrics.duplicate_uuids.get(), 1);
}

#[test]
fn a_used_up_range_is_counted_and_not_answered() {
    let mut engine = engine_with(Settings::default(), |networks| {
        networks[0].ranges = vec![crate::networks::Range {
            first: Ipv4Addr::new(10, 99, 99, 40),
            last: Ipv4Addr::new(10, 99, 99, 40),
        }];
    });
    assert!(engine.told(&encode(&asking(Ipv4Addr::new(10, 99, 99, 40), None)), 0).is_some());
    let other = encode(&message(MessageType::Discover, [2, 0, 0, 0, 0, 2], 0));
    assert_eq!(engine.told(&other, 0), None);
    assert_eq!(engine.context.metrics.range_exhausted.get(), 1);
}

#[test]
fn uefi_http_gets_a_url() {
    let mut engine = engine();
    let mut discover = message(MessageType::Discover, MAC, 16);
    discover.opts_mut().insert(DhcpOption::ClassIdentifier(b"HTTPClient:Arch:00016".to_vec()));
    let offer = decode(&engine.told(&encode(&discover), 0).unwrap());
    assert_eq!(file(&offer), "http://10.99.99.7/firmware/snponly.efi");
    let class = DhcpOption::ClassIdentifier(b"HTTPClient".to_vec());
    assert_eq!(offer.opts().get(OptionCode::ClassIdentifier), Some(&class));
}

#[test]
fn others_are_answered_when_they_may_be_and_get_no_boot_file() {
    let settings = Settings { allow_others: true, ..Settings::default() };
    let mut engine = engine_with(settings, |_| {});
    let mut discover = message(MessageType::Discover, MAC, 0);
    discover.opts_mut().insert(DhcpOption::ClassIdentifier(b"MSFT 5.0".to_vec()));
    let offer = decode(&engine.told(&encode(&discover), 0).unwrap());
    assert_eq!(offer.opts().get(OptionCode::BootfileName), None);
}

#[test]
fn a_network_behind_a_relay_has_its_own_addresses_and_tag() {
    let mut engine = engine_with(Settings::default(), |networks| {
        let rack = Network {
            name: "r1".into(),
            subnet: "10.5.0.0/24".parse().unwrap(),
            ranges: vec![crate::networks::Range {
                first: Ipv4Addr::new(10, 5, 0, 10),
                last: Ipv4Addr::new(10, 5, 0, 20),
            }],
            gateway: Some(Ipv4Addr::new(10, 5, 0, 1)),
            domain: Some("rack.example".into()),
            nic_tag: "admin_rack_r1".into(),
            ..networks[0].clone()
        };
        networks.push(rack);
    });
    let giaddr = Ipv4Addr::new(10, 5, 0, 1);
    let mut request = message(MessageType::Discover, MAC, 7);
    request.set_giaddr(giaddr).set_hops(1);
    let offer = engine.told(&encode(&request), 0).unwrap();
    assert_eq!(offer.to, SocketAddrV4::new(giaddr, 67));
    let offer = decode(&offer);
    assert_eq!(offer.hops(), 1);
    assert!((10..=20).contains(&offer.yiaddr().octets()[3]));
    assert_eq!(offer.opts().get(OptionCode::Router), Some(&DhcpOption::Router(vec![giaddr])));
    let domain = DhcpOption::DomainName("rack.example".into());
    assert_eq!(offer.opts().get(OptionCode::DomainName), Some(&domain));
    let mut request = asking(offer.yiaddr(), Some(engine.context.booter.admin_ip));
    request.set_giaddr(giaddr);
    assert!(engine.told(&encode(&request), 1).unwrap().promise);
    let tag = engine.leases().get(MacAddr(MAC)).and_then(|lease| lease.tag.clone());
    assert_eq!(tag.as_deref(), Some("admin_rack_r1"));
}

#[test]
fn a_proxy_gives_boot_files_and_never_addresses() {
    let settings = Settings { mode: Mode::Proxy, ..Settings::default() };
    let mut engine = engine_with(settings, |_| {});
    let offer = decode(&engine.told(&encode(&message(MessageType::Discover, MAC, 7)), 0).unwrap());
    assert_eq!((offer.yiaddr(), file(&offer)), (Ipv4Addr::UNSPECIFIED, EFI.to_owned()));
    assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
    assert!(offer.opts().get(OptionCode::VendorExtensions).is_some());
    let request =
        encode(&asking(Ipv4Addr::new(192, 168, 1, 5), Some(Ipv4Addr::new(192, 168, 1, 1))));
    assert_eq!(engine.told(&request, 1), None, "the other server's business");
    let peer = Origin { peer: "10.99.99.60:4011".parse().unwrap(), proxy: true };
    let ack = engine.hear(&request, peer, 1).unwrap();
    assert_eq!(ack.to, peer.peer);
    let ack = decode(&ack);
    assert_eq!((ack.opts().msg_type(), file(&ack)), (Some(MessageType::Ack), BIOS.to_owned()));
    assert!(engine.leases().is_empty());
    assert_eq!(engine.context.metrics.foreign_servers.get(), 0);
}

#[test]
fn only_the_address_itself_releases_and_only_a_fresh_lease_is_declined() {
    let mut engine = engine();
    let ip = Ipv4Addr::new(10, 99, 99, 60);
    engine.told(&encode(&asking(ip, None)), 0).unwrap();
    engine.take_changed();
    let mut release = message(MessageType::Release, MAC, 0);
    release.set_ciaddr(ip);
    engine.told(&encode(&release), 1);
    assert!(!engine.take_changed(), "from another address");
    engine.hear(&encode(&release), from("10.99.99.60:68"), 1);
    assert!(engine.take_changed());
    let mut decline = message(MessageType::Decline, MAC, 0);
    decline.opts_mut().insert(DhcpOption::RequestedIpAddress(ip));
    engine.told(&encode(&decline), 1000);
    assert!(!engine.take_changed(), "long after");
    engine.told(&encode(&decline), 20);
    assert!(engine.take_changed());
}

#[test]
fn an_address_that_nobody_has_is_not_declined() {
    let mut engine = engine();
    let ip = Ipv4Addr::new(10, 99, 99, 61);
    let mut decline = message(MessageType::Decline, MAC, 0);
    decline.opts_mut().insert(DhcpOption::RequestedIpAddress(ip));
    engine.told(&encode(&decline), 20);
    assert!(!engine.take_changed());
    let ack = engine.told(&encode(&asking(ip, None)), 21).unwrap();
    assert_eq!(
        (decode(&ack).yiaddr(), decode(&ack).opts().msg_type()),
        (ip, Some(MessageType::Ack))
    );
}

#[test]
fn without_authority_a_machine_that_is_not_known_is_left_alone() {
    let settings = Settings { authoritative: false, ..Settings::default() };
    let mut engine = engine_with(settings, |_| {});
    let foreign = encode(&asking(Ipv4Addr::new(192, 168, 1, 5), None));
    assert_eq!(engine.told(&foreign, 0), None);
    let offer = decode(&engine.told(&encode(&message(MessageType::Discover, MAC, 0)), 0).unwrap());
    let server = engine.context.booter.admin_ip;
    engine.told(&encode(&asking(offer.yiaddr(), Some(server))), 0).unwrap();
    let nak = decode(&engine.told(&foreign, 1).unwrap());
    assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak));
}

#[test]
fn renewing_is_answered_to_the_machine_and_a_wrong_address_by_broadcast() {
    let mut engine = engine();
    let ip = Ipv4Addr::new(10, 99, 99, 60);
    let mut renew = message(MessageType::Request, MAC, 0);
    renew.set_ciaddr(ip);
    let ack = engine.told(&encode(&renew), 0).unwrap();
    assert_eq!(ack.to, SocketAddrV4::new(ip, 68));
    renew.set_ciaddr(Ipv4Addr::new(10, 99, 99, 61));
    let nak = engine.told(&encode(&renew), 1).unwrap();
    assert_eq!(*nak.to.ip(), Ipv4Addr::BROADCAST);
    assert_eq!(decode(&nak).opts().msg_type(), Some(MessageType::Nak));
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
        if let Some(send) = engine.told(&bytes, 0) {
            decode(&send);
        }
        let leases = engine.leases();
        prop_assert!(leases.iter().all(|lease| leases.ours(lease.mac, lease.ip)));
    }
}
