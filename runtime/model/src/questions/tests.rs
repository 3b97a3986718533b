//! Answers, good and bad.

use super::*;
use proptest::prelude::*;
use serde_json::json;

const HASHES: Hashes<'_> = Hashes { root: "$6$x$y", admin: None };

fn answers(value: serde_json::Value) -> Answers {
    serde_json::from_value(value).unwrap()
}

fn good() -> serde_json::Value {
    json!({
        "datacenter_name": "coal", "admin_nic": "00:50:56:34:60:4c", "admin_ip": "10.99.99.7",
        "admin_netmask": "<default>", "dns_domain": "example.com", "root_password": "root",
    })
}

#[test]
fn minimal_answers_make_a_whole_configuration() {
    let answers = answers(good());
    let outcome = evaluate(&answers, &Facts::default());
    let config = config(&outcome, &answers, "id", HASHES).unwrap();
    assert_eq!(config.get("region_name"), Some("coal"));
    assert_eq!(config.get("dhcp_range_start"), Some("10.99.99.37"));
    assert_eq!(config.get("dhcp_range_end"), Some("10.99.99.254"));
    assert_eq!(config.get("admin_network"), Some("10.99.99.0"));
    assert_eq!(config.get("cnapi_client_url"), Some("http://10.99.99.7:8010"));
    assert_eq!(config.get("root_password"), None);
    assert!(!config.to_string().contains("=root\n"));
    assert_eq!(config.for_compute_node().get("ntp_hosts"), Some("10.99.99.7"));
}

#[test]
fn all_errors_are_named_at_once() {
    let mut value = good();
    value["admin_ip"] = json!("10.99.99.300");
    value["datacenter_name"] = json!("Coal!");
    value["admin_nic"] = json!("00:50:56:34:60:4d");
    value["colour"] = json!("red");
    let facts = Facts { nics: Some(vec![MacAddr([0, 1, 2, 3, 4, 5])]), admin_nic: None };
    let outcome = evaluate(&answers(value), &facts);
    let keys: Vec<_> = outcome.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["datacenter_name", "admin_nic", "admin_ip"]);
    assert!(outcome.problems[1].message.contains("00:01:02:03:04:05"));
    assert_eq!(outcome.unknown, ["colour"]);
}

#[test]
fn answers_that_do_not_fit_together_are_named() {
    for (key, value, blamed) in [
        ("admin_ip", "10.99.99.255", "admin_ip"),
        ("admin_gateway", "10.1.1.1", "admin_gateway"),
        ("dhcp_range_end", "10.99.99.9", "dhcp_range_end"),
        ("dhcp_range_start", "10.99.99.2", "dhcp_range_start"),
        ("admin_netmask", "255.0.255.0", "admin_netmask"),
        ("pool_disks", "sda", "pool_disks"),
    ] {
        let mut all = good();
        all[key] = json!(value);
        let outcome = evaluate(&answers(all), &Facts::default());
        assert!(outcome.problems.iter().any(|p| p.key == blamed), "{key}: {:?}", outcome.problems);
    }
}

#[test]
fn a_small_network_and_an_external_one_work() {
    let mut all = good();
    all["admin_netmask"] = json!("255.255.255.240");
    all["setup_external_network"] = json!(true);
    let outcome = evaluate(&answers(all.clone()), &Facts::default());
    let missing: Vec<_> = outcome.missing.iter().map(|q| q.key).collect();
    assert_eq!(
        missing,
        ["external_nic", "external_ip", "external_netmask", "external_gateway", "external_vlan_id"]
    );
    assert_eq!(outcome.values["dhcp_range_start"], "10.99.99.8");
    for (key, value) in [
        ("external_nic", "00:00:00:00:00:02"),
        ("external_ip", "192.168.1.5"),
        ("external_netmask", "<default>"),
        ("external_gateway", "192.168.1.1"),
        ("external_vlan_id", "none"),
    ] {
        all[key] = json!(value);
    }
    let answers = answers(all);
    let config = config(&evaluate(&answers, &Facts::default()), &answers, "id", HASHES).unwrap();
    assert_eq!(config.get("external_network"), Some("192.168.1.0"));
    assert_eq!(config.get("external_vlan_id"), None);
}

#[test]
fn a_hash_stands_in_for_its_password() {
    let hash = crate::password::hash("root", &[1; 12]).unwrap();
    let mut all = good();
    all.as_object_mut().unwrap().remove("root_password");
    let asked = evaluate(&answers(all.clone()), &Facts::default()).missing;
    assert_eq!(asked.iter().map(|q| q.key).collect::<Vec<_>>(), ["root_password"]);
    all["root_password_hash"] = json!(hash);
    all["admin_password_hash"] = json!(hash);
    let all = answers(all);
    let outcome = evaluate(&all, &Facts::default());
    assert!(outcome.missing.is_empty() && outcome.problems.is_empty(), "{outcome:?}");
    assert!(outcome.unknown.is_empty(), "{outcome:?}");
    assert_eq!(outcome.values["root_password_hash"], hash);
    assert!(!format!("{outcome:?}").contains("$6$"));
    let hashes = Hashes { root: &hash, admin: Some(&hash) };
    let config = config(&outcome, &all, "id", hashes).unwrap();
    assert_eq!(config.get("ufds_admin_pw_hash"), Some(hash.as_str()));
    assert_eq!(config.get("root_password_hash"), None);
    assert_eq!(config.for_compute_node().get("ufds_admin_pw_hash"), None);
    assert!(!format!("{config:?}").contains("$6$"));
}

#[test]
fn problems_of_passwords_do_not_tell_them() {
    for (key, value) in [
        ("root_password", json!(["qwertyui"])),
        ("root_password", json!("<default>")),
        ("admin_password", json!("qwertyui")),
        ("admin_password_hash", json!("qwertyui")),
    ] {
        let mut all = good();
        all[key] = value;
        let outcome = evaluate(&answers(all), &Facts::default());
        let keys: Vec<_> = outcome.problems.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, [key]);
        assert!(!format!("{outcome:?}").contains("qwertyui"), "{outcome:?}");
    }
}

proptest! {
    #[test]
    fn no_answer_panics(key in "[a-z_]{1,20}", text: String, which in 0usize..QUESTIONS.len()) {
        let mut all = good();
        all[key] = json!(text.clone());
        all[QUESTIONS[which].key] = json!(text);
        let answers = answers(all);
        let outcome = evaluate(&answers, &Facts::default());
        drop(config(&outcome, &answers, "id", HASHES));
    }
}
