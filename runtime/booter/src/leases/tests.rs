use super::*;
use proptest::prelude::*;

fn mac(n: u8) -> MacAddr {
    MacAddr([0x90, 0xb8, 0xd0, 0, 0, n])
}

fn ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 99, n)
}

fn table(first: u8, last: u8) -> Leases {
    Leases::new((ip(first), ip(last)), [ip(7)])
}

fn lease(m: u8, address: Ipv4Addr, now: i64) -> Lease {
    Lease { mac: mac(m), ip: address, uuid: None, seen: now, until: now + 100 }
}

#[test]
fn a_machine_keeps_its_address_and_a_lost_table_gives_the_same() {
    let mut leases = table(38, 253);
    let first = leases.offer(mac(1), None, 0).unwrap();
    assert!(leases.commit(lease(1, first, 0)).unwrap());
    assert!(!leases.commit(lease(1, first, 5)).unwrap(), "no second write within the minute");
    assert_eq!(leases.offer(mac(1), Some(ip(40)), 1_000_000), Ok(first));
    assert_eq!(table(38, 253).offer(mac(1), None, 0), Ok(first));
}

#[test]
fn no_address_is_given_twice_and_the_oldest_expired_goes_first() {
    let mut leases = table(7, 9);
    let a = leases.offer(mac(1), None, 0).unwrap();
    leases.commit(lease(1, a, 0)).unwrap();
    let b = leases.offer(mac(2), None, 10).unwrap();
    assert_ne!(a, b);
    assert_ne!(a, ip(7), "reserved");
    // The offer of `b` holds, the lease of `a` is not over.
    assert!(matches!(leases.offer(mac(3), None, 20), Err(Refusal::Exhausted { .. })));
    assert_eq!(leases.commit(lease(3, b, 20)), Err(Refusal::Taken(b, mac(2))));
    assert_eq!(leases.commit(lease(3, ip(7), 20)), Err(Refusal::NotOurs(ip(7))));
    leases.commit(lease(2, b, 30)).unwrap();
    assert_eq!(leases.offer(mac(3), None, 110), Ok(a));
    leases.commit(lease(3, a, 110)).unwrap();
    assert_eq!(leases.commit(lease(1, a, 111)), Err(Refusal::Taken(a, mac(3))));
    assert_eq!(leases.len(), 2);
}

#[test]
fn a_declined_address_rests_and_only_its_holder_is_believed() {
    let mut leases = table(38, 39);
    let a = leases.offer(mac(1), None, 0).unwrap();
    leases.commit(lease(1, a, 0)).unwrap();
    assert!(!leases.decline(mac(2), a, 1));
    assert!(leases.decline(mac(1), a, 1));
    let b = leases.offer(mac(1), Some(a), 2).unwrap();
    assert_ne!(a, b);
    assert_eq!(leases.commit(lease(1, a, 2)), Err(Refusal::Conflict(a)));
}

#[test]
fn a_released_address_comes_back_to_its_machine() {
    let mut leases = table(38, 253);
    let a = leases.offer(mac(1), None, 0).unwrap();
    leases.commit(lease(1, a, 0)).unwrap();
    assert!(!leases.release(mac(2), a, 5));
    assert!(leases.release(mac(1), a, 5));
    assert_eq!(leases.offer(mac(1), None, 6), Ok(a));
}

#[test]
fn a_twin_is_found_by_its_uuid() {
    let mut leases = table(38, 253);
    let uuid = Uuid::from_u128(7);
    let with = |m, a| Lease { uuid: Some(uuid), ..lease(m, a, 50) };
    leases.commit(with(1, ip(40))).unwrap();
    assert_eq!(leases.twin(mac(1), uuid, 0), None);
    assert_eq!(leases.twin(mac(2), uuid, 0).map(|lease| lease.mac), Some(mac(1)));
    assert_eq!(leases.twin(mac(2), uuid, 51), None);
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
                0 => drop(leases.offer(mac(m), Some(ip(a)), now)),
                1 => if let Ok(got) = leases.offer(mac(m), None, now) {
                    prop_assert!(leases.commit(lease(m, got, now)).is_ok());
                },
                2 => drop(leases.commit(lease(m, ip(a), now))),
                3 => drop(leases.release(mac(m), ip(a), now)),
                _ => drop(leases.decline(mac(m), ip(a), now)),
            }
            let owned: HashSet<Ipv4Addr> = leases.iter().map(|lease| lease.ip).collect();
            prop_assert_eq!(owned.len(), leases.len());
            prop_assert!(owned.iter().all(|owned| leases.ours(*owned)));
            prop_assert_eq!(leases.owners.len(), leases.len());
        }
    }
}
