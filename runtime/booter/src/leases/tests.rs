use super::*;
use crate::networks::{Range, Reservation};
use crate::settings::Settings;
use proptest::prelude::*;
use std::collections::HashSet;

fn mac(n: u8) -> MacAddr {
    MacAddr([0x90, 0xb8, 0xd0, 0, 0, n])
}

fn ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 99, n)
}

fn table(first: u8, last: u8) -> Leases {
    Leases::new(vec![network(&[(first, last)])], ip(7))
}

fn network(ranges: &[(u8, u8)]) -> Network {
    let range = |(first, last): &(u8, u8)| Range { first: ip(*first), last: ip(*last) };
    Network {
        ranges: ranges.iter().map(range).collect(),
        resolvers: Vec::new(),
        ..Network::own(&Settings::for_tests())
    }
}

fn text(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr([2, 9, a, b, c, d])
}

fn lease(m: u8, address: Ipv4Addr, now: i64) -> Lease {
    Lease { mac: mac(m), ip: address, uuid: None, seen: now, until: now + 100, tag: None }
}

#[test]
fn a_machine_keeps_its_address_and_a_lost_table_gives_the_same() {
    let mut leases = table(38, 253);
    let first = leases.offer(0, mac(1), None, 0).unwrap().0;
    assert!(leases.commit(0, lease(1, first, 0), Claim::Remembered).unwrap());
    assert!(
        !leases.commit(0, lease(1, first, 5), Claim::Remembered).unwrap(),
        "no second write within the minute"
    );
    assert_eq!(leases.offer(0, mac(1), Some(ip(40)), 1_000_000), Ok((first, false)));
    assert_eq!(table(38, 253).offer(0, mac(1), None, 0), Ok((first, true)));
}

#[test]
fn no_address_is_given_twice_and_the_oldest_expired_goes_first() {
    let mut leases = table(7, 9);
    let a = leases.offer(0, mac(1), None, 0).unwrap().0;
    leases.commit(0, lease(1, a, 0), Claim::Remembered).unwrap();
    let b = leases.offer(0, mac(2), None, 10).unwrap().0;
    assert_ne!(a, b);
    assert_ne!(a, ip(7), "reserved");
    // The offer of `b` holds, the lease of `a` is not over.
    assert_eq!(
        leases.commit(0, lease(3, b, 20), Claim::Remembered),
        Err(Refusal::Taken(b, mac(2)))
    );
    assert_eq!(
        leases.commit(0, lease(3, ip(7), 20), Claim::Remembered),
        Err(Refusal::NotOurs(ip(7)))
    );
    leases.commit(0, lease(2, b, 30), Claim::Remembered).unwrap();
    assert_eq!(leases.offer(0, mac(3), None, 110), Ok((a, true)));
    leases.commit(0, lease(3, a, 110), Claim::Remembered).unwrap();
    assert_eq!(
        leases.commit(0, lease(1, a, 111), Claim::Remembered),
        Err(Refusal::Taken(a, mac(3)))
    );
    assert_eq!(leases.len(), 2);
}

#[test]
fn a_declined_address_rests_and_only_its_holder_is_believed() {
    let mut leases = table(38, 39);
    let a = leases.offer(0, mac(1), None, 0).unwrap().0;
    leases.commit(0, lease(1, a, 0), Claim::Remembered).unwrap();
    assert!(!leases.conflict(mac(2), a, 1));
    assert!(leases.conflict(mac(1), a, 1));
    let b = leases.offer(0, mac(1), Some(a), 2).unwrap().0;
    assert_ne!(a, b);
    assert_eq!(leases.commit(0, lease(1, a, 2), Claim::Remembered), Err(Refusal::Conflict(a)));
    // Also when the networks are read anew.
    let networks = leases.pools.iter().map(|pool| (*pool.network).clone()).collect();
    leases.reconfigure(networks);
    assert_eq!(leases.commit(0, lease(1, a, 3), Claim::Remembered), Err(Refusal::Conflict(a)));
    assert_eq!(leases.offer(0, mac(1), Some(a), 3).map(|(ip, _)| ip), Ok(b));
}

#[test]
fn a_released_address_comes_back_to_its_machine() {
    let mut leases = table(38, 253);
    let a = leases.offer(0, mac(1), None, 0).unwrap().0;
    leases.commit(0, lease(1, a, 0), Claim::Remembered).unwrap();
    assert!(!leases.release(mac(2), a, 5));
    assert!(leases.release(mac(1), a, 5));
    assert_eq!(leases.offer(0, mac(1), None, 6), Ok((a, false)));
}

#[test]
fn a_twin_is_found_by_its_uuid() {
    let mut leases = table(38, 253);
    let uuid = Uuid::from_u128(7);
    let with = |m, a| Lease { uuid: Some(uuid), ..lease(m, a, 50) };
    leases.commit(0, with(1, ip(40)), Claim::Remembered).unwrap();
    assert_eq!(leases.twin(0, mac(1), uuid, 0), None);
    assert_eq!(leases.twin(0, mac(2), uuid, 0).map(|lease| lease.mac), Some(mac(1)));
    assert_eq!(leases.twin(0, mac(2), uuid, 51), None);
}

proptest! {
    #[test]
    fn whatever_machines_do_no_address_has_two_owners(
        steps in prop::collection::vec((0u8..12, 0u8..5, 36u8..46, 0i64..200), 1..200)
    ) {
        let mut leases = table(38, 44);
        let mut now = 0;
        for (m, what, a, later) in steps {
            now += later;
            match what {
                0 => drop(leases.offer(0, mac(m), Some(ip(a)), now)),
                1 => if let Ok((got, _)) = leases.offer(0, mac(m), None, now) {
                    prop_assert!(leases.commit(0, lease(m, got, now), Claim::Remembered).is_ok());
                },
                2 => drop(leases.commit(0, lease(m, ip(a), now), Claim::Remembered)),
                3 => drop(leases.release(mac(m), ip(a), now)),
                _ => drop(leases.conflict(mac(m), ip(a), now)),
            }
            let owned: HashSet<Ipv4Addr> = leases.iter().map(|lease| lease.ip).collect();
            prop_assert_eq!(owned.len(), leases.len());
            prop_assert!(owned.iter().all(|owned| leases.ours(mac(99), *owned)));
            prop_assert_eq!(leases.pools[0].owners.len(), leases.len());
        }
    }
}

#[test]
fn a_flood_of_random_machines_keeps_nobody_who_is_known_from_booting() {
    let mut own = network(&[(38, 60)]);
    own.reservations = vec![Reservation { mac: mac(2), ip: ip(200), hostname: None }];
    let mut leases = Leases::new(vec![own], ip(7));
    let (known, _) = leases.offer(0, mac(1), None, 0).unwrap();
    leases.commit(0, lease(1, known, 0), Claim::Offered).unwrap();
    for n in 0..100_000 {
        leases.offer(0, text(n), None, 1).unwrap();
    }
    assert!(leases.pools[0].remembered().0 <= 23);
    assert_eq!(leases.offer(0, mac(1), None, 1), Ok((known, false)));
    assert_eq!(leases.offer(0, mac(2), None, 1), Ok((ip(200), false)));
    assert!(leases.commit(0, lease(2, ip(200), 1), Claim::Offered).is_ok());
    // A new machine gets an offer too, and may take it although the flood has pushed it out.
    let (new, _) = leases.offer(0, mac(3), None, 2).unwrap();
    for n in 0..100 {
        leases.offer(0, text(n), None, 2).unwrap();
    }
    assert!(leases.commit(0, lease(3, new, 3), Claim::Offered).is_ok());
    assert_eq!(leases.get(mac(1)).map(|lease| lease.ip), Some(known));
}

#[test]
fn one_host_cannot_burn_a_range_by_declining() {
    let mut leases = table(38, 100);
    for n in 0..1000 {
        let (got, _) = leases.offer(0, text(n), None, 0).unwrap();
        assert!(leases.conflict(text(n), got, 0));
    }
    assert_eq!(leases.pools[0].remembered().1, 7);
    assert!(leases.offer(0, mac(1), None, 0).is_ok());
    // Nor by declining before its range becomes a smaller one.
    leases.reconfigure(vec![network(&[(38, 47)])]);
    assert!(leases.pools[0].remembered().1 <= 4);
    leases.reconfigure(vec![network(&[(38, 100)])]);
    assert!(leases.pools[0].remembered().1 <= 4);
}

#[test]
fn an_address_in_use_rests_unless_a_machine_has_a_lease_of_it() {
    let mut leases = table(38, 39);
    let got = leases.offer(0, mac(1), None, 0).unwrap().0;
    leases.in_use(got, 0);
    leases.in_use(ip(200), 0);
    let other = leases.offer(0, mac(1), Some(got), 0).unwrap().0;
    assert_ne!(got, other);
    leases.commit(0, lease(1, other, 0), Claim::Offered).unwrap();
    leases.take_journal();
    leases.in_use(other, 99);
    assert_eq!(leases.get(mac(1)).map(|lease| lease.ip), Some(other), "its lease is valid");
    leases.in_use(other, 100);
    let gone = parse_log(&leases.take_journal()).0;
    assert_eq!(gone, [Entry::Gone(mac(1), other)]);
    assert!(matches!(leases.offer(0, mac(2), None, 100), Err(Refusal::Exhausted(_))));
    assert_eq!(leases.offer(0, mac(2), None, 3600).map(|(ip, _)| ip), Ok(got));
}

#[test]
fn several_ranges_are_one_pool_without_what_is_kept() {
    let mut leases = Leases::new(vec![network(&[(6, 8), (250, 255), (1, 2)])], ip(7));
    let got: HashSet<Ipv4Addr> = (0..8)
        .map(|n| {
            let (got, _) = leases.offer(0, mac(n), None, 0).unwrap();
            leases.commit(0, lease(n, got, 0), Claim::Offered).unwrap();
            got
        })
        .collect();
    // 7 is the server, 255 the broadcast address, 1 the gateway.
    assert_eq!(got, [6, 8, 250, 251, 252, 253, 254, 2].map(ip).into());
    assert!(matches!(leases.offer(0, mac(9), None, 1), Err(Refusal::Exhausted(_))));
}

#[test]
fn a_reload_keeps_what_still_fits_and_tells_the_log_of_the_rest() {
    let mut leases = table(38, 60);
    for n in [1, 2, 3] {
        leases.commit(0, lease(n, ip(38 + n), 0), Claim::Offered).unwrap();
    }
    leases.take_journal();
    let mut next = network(&[(40, 60)]);
    next.reservations = vec![Reservation { mac: mac(9), ip: ip(40), hostname: None }];
    leases.reconfigure(vec![next]);
    assert_eq!(leases.iter().map(|lease| lease.ip).collect::<Vec<_>>(), [ip(41)]);
    let (gone, problems) = parse_log(&leases.take_journal());
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(gone, [Entry::Gone(mac(1), ip(39)), Entry::Gone(mac(2), ip(40))]);
    assert_eq!(leases.offer(0, mac(2), Some(ip(40)), 0).map(|(got, _)| got == ip(40)), Ok(false));
}

#[test]
fn what_napi_has_given_is_kept_for_its_nic() {
    let mut leases = table(38, 41);
    leases.commit(0, lease(1, ip(38), 0), Claim::Offered).unwrap();
    leases.commit(0, lease(2, ip(39), 0), Claim::Offered).unwrap();
    leases.take_journal();
    let other = Ipv4Addr::new(10, 0, 0, 1);
    let told = [(mac(1), ip(200)), (mac(2), ip(39)), (mac(3), ip(40)), (mac(4), ip(7))];
    let told: BTreeMap<_, _> = told.into_iter().chain([(mac(5), other)]).collect();
    assert!(leases.assign(told.clone(), 50));
    assert!(!leases.assign(told.clone(), 50), "nothing new");
    // What the first one uses stays its own until it asks again, also over a reload.
    let networks = leases.networks.clone();
    leases.reconfigure(networks);
    assert_eq!(leases.get(mac(1)).map(|lease| lease.ip), Some(ip(38)));
    assert_eq!(leases.take_journal(), "");
    assert_eq!(leases.offer(0, mac(3), Some(ip(38)), 50), Ok((ip(40), true)));
    assert_eq!(leases.offer(0, mac(2), Some(ip(38)), 50), Ok((ip(39), false)));
    let again = leases.commit(0, lease(1, ip(38), 50), Claim::Remembered);
    assert_eq!(again, Err(Refusal::Other(ip(38), ip(200))));
    // Asked about before it gets it: NAPI may not know who uses it.
    assert_eq!(leases.offer(0, mac(1), Some(ip(38)), 50), Ok((ip(200), true)));
    leases.commit(0, lease(1, ip(200), 50), Claim::Offered).unwrap();
    assert_eq!(leases.offer(0, mac(1), None, 50), Ok((ip(200), false)));
    // The server's own address and one of another network are nobody's here.
    let got: HashSet<_> = [4, 5].map(|m| leases.offer(0, mac(m), None, 50).unwrap().0).into();
    assert_eq!(got, [ip(38), ip(41)].into());
    // A reload keeps it, and what the configuration says counts before it.
    let mut next = network(&[(38, 41)]);
    next.reservations = vec![Reservation { mac: mac(9), ip: ip(40), hostname: None }];
    leases.reconfigure(vec![next]);
    assert_eq!(leases.get(mac(1)).map(|lease| lease.ip), Some(ip(200)));
    assert_eq!(leases.offer(0, mac(9), None, 50), Ok((ip(40), false)));
    assert_ne!(leases.offer(0, mac(3), None, 50).map(|(ip, _)| ip), Ok(ip(40)));
}

#[test]
fn nobody_loses_an_address_that_it_uses_because_napi_gives_it_to_another() {
    let mut leases = table(38, 41);
    let long = |m, address| Lease { until: 10_000, ..lease(m, address, 0) };
    leases.commit(0, long(1, ip(38)), Claim::Offered).unwrap();
    let has = |leases: &Leases, m| leases.get(mac(m)).map(|lease| lease.ip);
    // Never NAPI's to give: until the lease is over.
    let stolen: BTreeMap<_, _> = [(mac(3), ip(38))].into();
    assert!(!leases.assign(stolen.clone(), 9_999));
    assert_eq!(has(&leases, 1), Some(ip(38)));
    // NAPI has given it, out of the ranges, and moves it to another NIC: not while it boots.
    assert!(leases.assign([(mac(2), ip(200))].into(), 0));
    leases.commit(0, long(2, ip(200)), Claim::Offered).unwrap();
    let moved: BTreeMap<_, _> = [(mac(4), ip(200))].into();
    let left: BTreeMap<_, _> = [(mac(2), ip(200))].into();
    assert!(!leases.assign(moved.iter().chain(&left).map(|(m, i)| (*m, *i)).collect(), 1));
    assert_eq!((has(&leases, 2), leases.assigned()), (Some(ip(200)), &left));
    assert!(leases.assign(moved.clone(), BOOTING));
    assert_eq!((has(&leases, 2), leases.assigned()), (None, &moved));
    assert_eq!(leases.offer(0, mac(4), None, BOOTING), Ok((ip(200), true)));
    // Taken back: the machine uses it until it asks for another.
    leases.commit(0, Lease { seen: BOOTING, ..long(4, ip(200)) }, Claim::Offered).unwrap();
    assert!(leases.assign(BTreeMap::new(), BOOTING));
    assert_eq!(has(&leases, 4), Some(ip(200)));
    let (next, _) = leases.offer(0, mac(4), None, BOOTING).unwrap();
    assert!((38..=41).contains(&next.octets()[3]), "{next}");
    leases.commit(0, Lease { seen: BOOTING, ..long(4, next) }, Claim::Offered).unwrap();
    assert_eq!(has(&leases, 4), Some(next));
    // Its lease is over.
    assert!(leases.assign(stolen.clone(), 10_000));
    assert_eq!((has(&leases, 1), leases.assigned()), (None, &stolen));
}

#[test]
fn while_somebody_uses_what_napi_has_given_the_machine_gets_another_address() {
    let mut leases = table(38, 41);
    leases.assign([(mac(1), ip(200)), (mac(2), ip(40))].into(), 0);
    leases.commit(0, lease(1, ip(200), 0), Claim::Offered).unwrap();
    assert!(leases.conflict(mac(1), ip(200), 1));
    leases.in_use(ip(40), 1);
    for m in [1, 2] {
        let (got, new) = leases.offer(0, mac(m), None, 2).unwrap();
        assert!(new && (38..=41).contains(&got.octets()[3]) && got != ip(40), "{got}");
        leases.commit(0, lease(m, got, 2), Claim::Offered).unwrap();
        assert_eq!(leases.offer(0, mac(m), None, 3), Ok((got, false)));
    }
    // Known over a reload, and an hour later it has its own again.
    let networks = leases.networks.clone();
    leases.reconfigure(networks);
    assert_ne!(leases.offer(0, mac(1), None, 4).map(|(ip, _)| ip), Ok(ip(200)));
    assert_eq!(leases.offer(0, mac(1), None, 4000), Ok((ip(200), true)));
    assert_eq!(leases.offer(0, mac(2), None, 4000), Ok((ip(40), true)));
    assert!(leases.commit(0, lease(1, ip(200), 4000), Claim::Offered).is_ok());
}
