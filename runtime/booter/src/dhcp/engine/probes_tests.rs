//! The engine's probes; the test itself is the network that answers, or does not.

use super::*;
use crate::dhcp::engine::tests::{asking, decode, engine_with, from};
use crate::dhcp::settings::Settings;
use crate::dhcp::testing::{encode, message};
use crate::networks::Reservation;
use crate::observe::{Event, Observer};
use dhcproto::v4::MessageType;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

const STRANGER: MacAddr = MacAddr([2, 0xff, 0, 0, 0, 1]);

fn engine() -> Engine {
    let mut engine = engine_with(Settings::default(), |_| {});
    engine.probe_addresses();
    engine
}

fn mac(n: u16) -> [u8; 6] {
    let [a, b] = n.to_be_bytes();
    [2, 0, 0, 0, a, b]
}

impl Engine {
    fn discovers(&mut self, n: u16) -> Option<Send> {
        let bytes = encode(&message(MessageType::Discover, mac(n), 0));
        self.hear(&bytes, from("0.0.0.0:68"), 0)
    }

    fn claims(&mut self, ip: Ipv4Addr, sender: MacAddr) -> Vec<Send> {
        let message = arp::Message { reply: true, sender, ip, target: Ipv4Addr::UNSPECIFIED };
        self.arp(&message, 0)
    }

    fn takes_another(&mut self, n: u16) {
        let other = Ipv4Addr::new(10, 99, 99, 3);
        let mut request = asking(Ipv4Addr::new(10, 99, 99, 200), Some(other));
        request.set_chaddr(&mac(n));
        assert_eq!(self.hear(&encode(&request), from("0.0.0.0:68"), 0), None);
    }

    fn all_end(&mut self) -> Vec<Send> {
        self.end_probes(Instant::now() + Duration::from_secs(60), 0)
    }

    fn counted(&self, kind: &str) -> u64 {
        let text = self.context.metrics.text();
        let line = format!("sdc_booter_address_probes_total{{kind=\"{kind}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |n| n.parse().unwrap())
    }
}

fn offered(sends: &[Send]) -> Vec<Ipv4Addr> {
    sends.iter().map(|send| decode(send).yiaddr()).collect()
}

#[test]
fn a_new_machine_gets_its_offer_when_nobody_has_claimed_the_address() {
    let mut engine = engine();
    assert_eq!(engine.next_end(), None);
    let before = Instant::now();
    assert_eq!(engine.discovers(1), None);
    let [ip] = engine.take_probes()[..] else { panic!("one probe") };
    assert!(engine.take_probes().is_empty());
    let wait = engine.next_end().unwrap() - before;
    assert!((300..2000).contains(&wait.as_millis()), "{wait:?}");
    assert_eq!(engine.end_probes(before, 0), [], "not yet");
    assert_eq!(offered(&engine.all_end()), [ip]);
    assert_eq!((engine.next_end(), engine.take_probes()), (None, Vec::new()));
    // It takes the offer, and is known from then on.
    let server = engine.context.booter.admin_ip;
    let mut request = asking(ip, Some(server));
    request.set_chaddr(&mac(1));
    assert!(engine.hear(&encode(&request), from("0.0.0.0:68"), 1).is_some());
    assert_eq!(decode(&engine.discovers(1).unwrap()).yiaddr(), ip);
    assert!(engine.take_probes().is_empty());
}

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Observer for Told {
    fn event(&self, event: &Event<'_>) {
        if let Event::Dhcp { answer, problem, .. } = event {
            self.0.lock().unwrap().push(format!("{answer:?} {problem:?}"));
        }
    }
}

#[test]
fn a_claimed_address_rests_and_the_next_one_is_tried() {
    let mut engine = engine();
    let told = Arc::new(Told::default());
    engine.context.observer = Arc::clone(&told) as Arc<dyn Observer>;
    engine.discovers(1);
    let first = engine.take_probes()[0];
    assert_eq!(engine.claims(Ipv4Addr::new(10, 99, 99, 3), STRANGER), [], "another address");
    assert_eq!(engine.claims(first, STRANGER), []);
    let second = engine.take_probes()[0];
    assert_ne!(first, second);
    assert_eq!(engine.claims(first, STRANGER), [], "told twice");
    assert_eq!(offered(&engine.all_end()), [second]);
    assert_eq!(engine.counted("conflict"), 1);
    let told = told.0.lock().unwrap().join("\n");
    let problem = format!("None Some(\"{first} is in use by {STRANGER}\")");
    assert_eq!(told, format!("{problem}\nSome(\"offer\") None"));
    // Nobody else gets it, even when he asks for it.
    let mut discover = message(MessageType::Discover, mac(2), 0);
    discover.opts_mut().insert(dhcproto::v4::DhcpOption::RequestedIpAddress(first));
    engine.hear(&encode(&discover), from("0.0.0.0:68"), 1);
    assert_ne!(engine.take_probes()[0], first);
}

#[test]
fn the_machine_itself_may_use_its_address() {
    let mut engine = engine();
    engine.discovers(1);
    let ip = engine.take_probes()[0];
    assert_eq!(engine.claims(ip, MacAddr(mac(1))), []);
    assert_eq!(offered(&engine.all_end()), [ip]);
    assert_eq!(engine.counted("conflict"), 0);
}

#[test]
fn who_asks_again_is_answered_once_with_the_last_transaction() {
    let mut engine = engine();
    for xid in 1..5 {
        let mut discover = message(MessageType::Discover, mac(1), 0);
        discover.set_xid(xid);
        engine.hear(&encode(&discover), from("0.0.0.0:68"), 0);
    }
    assert_eq!(engine.take_probes().len(), 1);
    let sends = engine.all_end();
    assert_eq!(sends.iter().map(|send| decode(send).xid()).collect::<Vec<_>>(), [4]);
}

#[test]
fn known_machines_and_those_behind_relays_do_not_wait() {
    let reserved = Ipv4Addr::new(10, 99, 99, 20);
    let mut engine = engine_with(Settings::default(), |networks| {
        let reservation = Reservation { mac: MacAddr(mac(1)), ip: reserved, hostname: None };
        networks[0].reservations = vec![reservation];
        networks.push(crate::networks::Network {
            name: "rack".into(),
            subnet: "10.5.0.0/24".parse().unwrap(),
            ranges: vec![crate::networks::Range {
                first: Ipv4Addr::new(10, 5, 0, 10),
                last: Ipv4Addr::new(10, 5, 0, 20),
            }],
            ..networks[0].clone()
        });
    });
    engine.probe_addresses();
    assert_eq!(offered(&[engine.discovers(1).unwrap()]), [reserved]);
    let mut relayed = message(MessageType::Discover, mac(2), 0);
    relayed.set_giaddr(Ipv4Addr::new(10, 5, 0, 1));
    assert!(engine.hear(&encode(&relayed), from("10.5.0.1:67"), 0).is_some());
    assert!(engine.take_probes().is_empty());
}

#[test]
fn without_a_socket_or_time_nobody_waits() {
    assert!(engine_with(Settings::default(), |_| {}).discovers(1).is_some());
    let mut engine = engine_with(Settings { probe_ms: 0, ..Settings::default() }, |_| {});
    engine.probe_addresses();
    assert!(engine.discovers(1).is_some());
}

#[test]
fn who_takes_another_servers_offer_meanwhile_gets_none() {
    let mut engine = engine();
    engine.discovers(1);
    engine.discovers(2);
    engine.takes_another(1);
    assert_eq!(engine.all_end().len(), 1);
}

#[test]
fn who_waits_gets_nothing_when_the_server_is_switched_off_meanwhile() {
    let mut engine = engine();
    assert_eq!(engine.discovers(1), None);
    engine.context.dhcp.set(Settings { mode: Mode::Off, ..Settings::default() });
    assert_eq!(engine.all_end(), []);
}

#[test]
fn a_storm_is_probed_at_once_and_what_is_too_much_is_not() {
    let mut engine = engine_with(Settings::default(), |networks| {
        networks[0].subnet = "10.99.0.0/16".parse().unwrap();
        networks[0].ranges = vec![crate::networks::Range {
            first: Ipv4Addr::new(10, 99, 128, 1),
            last: Ipv4Addr::new(10, 99, 255, 254),
        }];
    });
    engine.probe_addresses();
    for n in 0..5000 {
        assert_eq!(engine.discovers(n).is_some(), usize::from(n) >= MOST, "{n}");
    }
    let mut probes = engine.take_probes();
    assert_eq!(probes.len(), MOST);
    assert_eq!(engine.counted("skipped"), 5000 - MOST as u64);
    let mut offers = offered(&engine.all_end());
    offers.sort();
    probes.sort();
    assert_eq!(offers, probes);
    assert_eq!((engine.probes.count, engine.probes.held.len()), (0, 0));
}

#[test]
fn who_claims_all_addresses_is_a_router_and_keeps_nobody_from_booting() {
    let mut engine = engine();
    let mut offers = Vec::new();
    for round in 0..10 {
        engine.discovers(1);
        while let Some(ip) = engine.take_probes().pop() {
            engine.claims(ip, STRANGER);
        }
        offers = engine.all_end();
        if !offers.is_empty() {
            println!("offered in round {round}");
            break;
        }
    }
    assert_eq!(offers.len(), 1);
    assert_eq!(engine.counted("conflict"), u64::from(MOST_CLAIMS));
}

proptest! {
    #[test]
    fn whatever_happens_nobody_waits_for_ever(
        steps in prop::collection::vec((0u8..5, 0u16..30, 0u8..3), 1..300)
    ) {
        let mut engine = engine_with(Settings::default(), |networks| {
            networks[0].ranges = vec![crate::networks::Range {
                first: Ipv4Addr::new(10, 99, 99, 40),
                last: Ipv4Addr::new(10, 99, 99, 49),
            }];
        });
        engine.probe_addresses();
        for (what, n, by) in steps {
            match what {
                0 | 1 => drop(engine.discovers(n)),
                2 => {
                    let ip = Ipv4Addr::new(10, 99, 99, 40 + (n % 10) as u8);
                    drop(engine.claims(ip, MacAddr([2, 0xff, 0, 0, 0, by])));
                }
                3 => engine.takes_another(n),
                _ => drop(engine.all_end()),
            }
            let probes = &engine.probes;
            let counts = || probes.held.values().map(|waiting| waiting.machines.len());
            let held: usize = counts().sum();
            prop_assert_eq!(held, probes.count);
            prop_assert!(counts().all(|count| (1..=MOST_OF_ADDRESS).contains(&count)));
            prop_assert_eq!(probes.held.len(), probes.ends.len());
            prop_assert!(probes.ends.iter().all(|(_, ip)| probes.held.contains_key(ip)));
        }
        engine.all_end();
        prop_assert_eq!((engine.probes.count, engine.probes.ends.len()), (0, 0));
    }
}
