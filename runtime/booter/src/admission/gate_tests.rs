use proptest::prelude::*;

use super::*;
use crate::admission::Rule;

const MAC: MacAddr = MacAddr([0x90, 0xb8, 0xd0, 1, 2, 3]);

fn machine() -> Machine<'static> {
    Machine { mac: MAC, uuid: None, serial: None, vendor: None, rack: None }
}

fn admission(settings: Settings, state: &Path, directory: bool) -> Admission {
    Admission::open(Live::new(settings), state, directory, Metrics::new()).unwrap()
}

fn settings(policy: Verdict) -> Settings {
    Settings { policy, rules: Vec::new() }
}

fn rule(verdict: Verdict) -> Rule {
    Rule { mac: None, uuid: None, serial: None, vendor: None, rack: None, verdict }
}

#[test]
fn decisions_come_first_then_cnapi_then_rules_then_policy() {
    let dir = tempfile::tempdir().unwrap();
    let rules = vec![Rule { rack: Some("admin_rack_7".into()), ..rule(Verdict::Hold) }];
    let gate = admission(Settings { policy: Verdict::Ignore, rules }, dir.path(), false);
    let racked = Machine { rack: Some("ADMIN_rack_7"), ..machine() };
    assert_eq!(gate.at_script(&machine(), false), Verdict::Ignore);
    assert_eq!(gate.at_script(&racked, false), Verdict::Hold);
    assert_eq!(gate.at_script(&racked, true), Verdict::Admit);
    gate.deny(&[MAC], "root", "stolen").unwrap();
    assert_eq!(gate.at_script(&racked, true), Verdict::Ignore);
    assert_eq!(gate.at_dhcp(&racked), Verdict::Ignore);
    gate.approve(&[MAC], "root", "found").unwrap();
    assert_eq!(
        (gate.at_dhcp(&machine()), gate.at_script(&machine(), false)),
        (Verdict::Admit, Verdict::Admit)
    );
    // A new start finds them.
    let gate = admission(settings(Verdict::Ignore), dir.path(), false);
    assert_eq!(gate.at_dhcp(&machine()), Verdict::Admit);
    assert_eq!(gate.forget(&[MAC, MacAddr([0; 6])], "root", "").unwrap(), 1);
    assert_eq!(gate.at_dhcp(&machine()), Verdict::Ignore);
}

#[test]
fn a_rule_that_may_still_fit_holds_at_dhcp() {
    let dir = tempfile::tempdir().unwrap();
    let rules = vec![Rule { vendor: Some("supermicro".into()), ..rule(Verdict::Admit) }];
    let gate = admission(Settings { policy: Verdict::Ignore, rules }, dir.path(), false);
    assert_eq!(gate.at_dhcp(&machine()), Verdict::Hold);
    let told = |vendor| Machine { vendor: Some(vendor), ..machine() };
    assert_eq!(gate.at_script(&told("Supermicro Inc."), false), Verdict::Admit);
    assert_eq!(gate.at_script(&told("Dell"), false), Verdict::Ignore);
    assert_eq!(gate.at_script(&machine(), false), Verdict::Ignore);
}

#[test]
fn a_machine_that_cnapi_may_know_is_not_ignored_before_cnapi_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let gate = admission(settings(Verdict::Ignore), dir.path(), true);
    let uuid = Uuid::from_u128(7);
    let told = Machine { uuid: Some(uuid), ..machine() };
    assert_eq!(gate.at_dhcp(&told), Verdict::Hold);
    gate.set_known(Known::default());
    assert_eq!(gate.at_dhcp(&told), Verdict::Ignore);
    assert_eq!(gate.at_dhcp(&machine()), Verdict::Hold);
    gate.set_known(Known { uuids: [uuid].into(), macs: HashSet::new() });
    assert_eq!(gate.at_dhcp(&told), Verdict::Admit);
}

#[test]
fn a_decision_that_cannot_be_written_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let gate = admission(settings(Verdict::Hold), &dir.path().join("gone"), false);
    assert!(gate.approve(&[MAC], "root", "").is_err());
    assert_eq!(gate.at_dhcp(&machine()), Verdict::Hold);
}

#[test]
fn the_number_of_decisions_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let gate = admission(settings(Verdict::Hold), dir.path(), false);
    let macs: Vec<MacAddr> = (0..=u32::try_from(LIMIT).unwrap())
        .map(|n| {
            let [a, b, c, d] = n.to_be_bytes();
            MacAddr([2, 0, a, b, c, d])
        })
        .collect();
    assert!(matches!(gate.approve(&macs, "root", ""), Err(DecisionError::Full)));
    gate.approve(&macs[1..], "root", "").unwrap();
    assert!(matches!(gate.deny(&macs[..1], "root", ""), Err(DecisionError::Full)));
    gate.deny(&macs[1..2], "root", "").unwrap();
    let again = admission(settings(Verdict::Hold), dir.path(), false);
    assert_eq!(again.decisions(), gate.decisions());
}

#[test]
fn the_settings_are_read_from_toml_and_changed_while_running() {
    let text = "policy = \"hold\"\n[[rule]]\nmac = \"00:25:90\"\nverdict = \"admit\"\n";
    let read: Settings = toml::from_str(text).unwrap();
    assert_eq!(read.policy, Verdict::Hold);
    assert!(
        toml::from_str::<Settings>("[[rule]]\nmac = \"00:25:9\"\nverdict = \"admit\"").is_err()
    );
    assert!(toml::from_str::<Settings>("[[rule]]\nmc = \"00\"\nverdict = \"admit\"").is_err());
    let dir = tempfile::tempdir().unwrap();
    let live = Live::new(read);
    let gate = Admission::open(live.clone(), dir.path(), false, Metrics::new()).unwrap();
    assert_eq!(gate.at_dhcp(&machine()), Verdict::Hold);
    live.set(settings(Verdict::Admit));
    assert_eq!(gate.at_dhcp(&machine()), Verdict::Admit);
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Admit), Just(Verdict::Hold), Just(Verdict::Ignore)]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let word = || proptest::option::of("[ab]");
    let uuid = proptest::option::of((0u128..2).prop_map(Uuid::from_u128));
    (uuid, word(), word(), word(), any_verdict()).prop_map(
        |(uuid, serial, vendor, rack, verdict)| Rule {
            mac: None,
            uuid,
            serial,
            vendor,
            rack,
            verdict,
        },
    )
}

proptest! {
    #[test]
    fn who_is_ignored_at_dhcp_would_be_ignored_at_the_script(
        policy in any_verdict(),
        rules in proptest::collection::vec(any_rule(), 0..5),
        uuid in proptest::option::of((0u128..2).prop_map(Uuid::from_u128)),
        told in (0u128..2).prop_map(Uuid::from_u128),
        serial in "[ab]", vendor in "[ab]", rack in proptest::option::of("[ab]"),
    ) {
        let settings = Settings { policy, rules };
        let dir = tempfile::tempdir().unwrap();
        let gate = admission(settings, dir.path(), false);
        let first = Machine { uuid, rack: rack.as_deref(), ..machine() };
        if gate.at_dhcp(&first) == Verdict::Ignore {
            let (serial, vendor) = (Some(serial.as_str()), Some(vendor.as_str()));
            let then = Machine { uuid: uuid.or(Some(told)), serial, vendor, ..first };
            prop_assert_eq!(gate.at_script(&then, false), Verdict::Ignore);
        }
    }
}
