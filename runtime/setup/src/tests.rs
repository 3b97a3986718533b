//! Whole boots of a machine in memory.

use std::path::Path;

use headnode_model::answers::{Answers, seal};
use headnode_model::event::{Event, StepEvent};
use headnode_model::paths;
use headnode_model::personal::{Part, SIZE};
use headnode_model::setup_state::SetupState;
use headnode_node::file::sha256_of;
use serde_json::json;

use crate::fake::{Durable, Fake, Files, Memory, Pool, blank};
use crate::run::{Failure, boot};

mod personal;

const KEYS: &[u8] = b"ssh-ed25519 AAAA someone\n";
const MAC: &str = "90:b8:d0:00:00:01";

fn answers() -> serde_json::Value {
    json!({
        "datacenter_name": "coal", "admin_nic": MAC, "admin_ip": "10.99.99.7",
        "admin_netmask": "255.255.255.0", "dns_domain": "example.com", "root_password": "secret-word",
    })
}

/// A key, and the kernel parameters that belong to it.
fn key(answers: &serde_json::Value, platform: &str) -> (Files, String) {
    let mut files: Files = [
        (".joyliveusb", ""),
        ("os/20260101t000000z/platform/x86_64/vmlinuz", platform),
        ("bundle/node.cpio.zst", "node software"),
    ]
    .map(|(path, text)| (path.into(), text.as_bytes().to_vec()))
    .into();
    let list: Vec<_> = files
        .iter()
        .map(|(path, bytes)| json!({"path": path, "size": bytes.len(), "sha256": sha256_of(bytes)}))
        .chain(
            [paths::ANSWERS, paths::AUTHORIZED_KEYS]
                .map(|path| json!({"path": path, "size": SIZE})),
        )
        .collect();
    let manifest =
        json!({"format": 1, "name": "headnode", "version": "1", "created": 0, "platforms": [],
        "services": [], "files": list})
        .to_string();
    let params =
        format!("headnode=true headnode.manifest=sha256:{}", sha256_of(manifest.as_bytes()));
    files.insert(paths::KEY_MANIFEST.into(), manifest.into_bytes());
    let answers = Part::Answers.fill(answers.to_string().as_bytes()).unwrap();
    files.insert(paths::ANSWERS.into(), answers);
    files.insert(paths::AUTHORIZED_KEYS.into(), Part::AuthorizedKeys.fill(KEYS).unwrap());
    (files, params)
}

fn machine() -> Fake {
    let (files, params) = key(&answers(), "kernel one");
    Fake::new(
        files,
        vec![blank("sda", 8), blank("sdb", 8), blank("sdk", 4)]
            .into_iter()
            .filter(|d| d.name != "sdk")
            .collect(),
        &params,
    )
}

fn run(fake: &Fake) -> Result<Vec<Event>, (Failure, Vec<Event>)> {
    let mut events = Vec::new();
    match boot(fake, &mut |event| events.push(event.clone())) {
        Ok(_) => Ok(events),
        Err(failure) => Err((failure, events)),
    }
}

fn failure(fake: &Fake) -> (String, String) {
    let (failure, _) = run(fake).unwrap_err();
    (failure.step.to_owned(), format!("{:#}", failure.error))
}

/// The state at the end, without what tells of the way there.
fn finished(fake: &Fake) -> (Durable, Memory) {
    let inner = fake.0.borrow();
    let mut durable = inner.durable.clone();
    assert_eq!(durable.pools.len(), 1);
    let var = durable.pools[0].datasets.get_mut("var").unwrap();
    let state: SetupState =
        serde_json::from_slice(&var.remove(Path::new("lib/setup.json")).unwrap()).unwrap();
    assert!(state.complete);
    for pool in &durable.pools {
        for (path, _) in pool.datasets.values().flatten() {
            assert!(!path.to_string_lossy().ends_with(".tmp"), "{}", path.display());
        }
    }
    (durable, inner.memory.clone())
}

#[test]
fn first_boot_and_the_second_one() {
    let fake = machine();
    let events = run(&fake).unwrap();
    let done: Vec<_> = events
        .iter()
        .filter(|e| matches!(e.what, StepEvent::Done { .. }))
        .map(|e| e.step.as_str())
        .collect();
    assert_eq!(
        done,
        [
            "key_found",
            "manifest_verified",
            "configured",
            "admin_nic_up",
            "pool_created",
            "datasets_created",
            "key_copied",
            "extras_prepared",
            "system_configured",
            "services_started",
            "setup_complete"
        ]
    );
    let first = finished(&fake);
    let usbkey = &first.0.pools[0].datasets["usbkey"];
    assert!(usbkey.contains_key(Path::new("os/20260101T000000Z/platform/x86_64/vmlinuz")));
    assert!(usbkey.contains_key(Path::new(paths::EXTRA_BUNDLE_NODE)));
    assert!(!usbkey.keys().any(|p| p.starts_with("private")));
    let node = String::from_utf8(usbkey[Path::new(paths::EXTRA_NODE_CONFIG)].clone()).unwrap();
    assert!(node.contains("cnapi_client_url=http://10.99.99.7:8010"), "{node}");
    assert_eq!(first.0.pools[0].disks, ["sda", "sdb"]);
    // The password itself is nowhere but in the answers.
    for (path, bytes) in
        first.0.key.as_ref().unwrap().iter().chain(first.0.pools[0].datasets.values().flatten())
    {
        let clear = String::from_utf8_lossy(bytes).contains("secret-word");
        assert_eq!(clear, path == Path::new(paths::ANSWERS), "{}", path.display());
    }
    fake.reset();
    let events = run(&fake).unwrap();
    assert_eq!(events[0].count, 11);
    assert!(events.iter().any(|e| e.step == "pool_imported"));
    assert_eq!(finished(&fake), first);
}

#[test]
fn sealed_answers_set_up_a_headnode_without_any_password() {
    let mut clear = answers();
    clear["admin_password"] = json!("joypass123");
    let clear: Answers = serde_json::from_value(clear).unwrap();
    let sealed = serde_json::to_value(seal(&clear, b"seed").unwrap().answers).unwrap();
    let (files, params) = key(&sealed, "kernel");
    let fake = Fake::new(files, vec![blank("sda", 8)], &params);
    run(&fake).unwrap();
    let (durable, memory) = finished(&fake);
    let config = &durable.pools[0].datasets["usbkey"][Path::new("config")];
    let config = String::from_utf8(config.clone()).unwrap();
    for (key, sealed_key) in
        [("root_shadow", "root_password_hash"), ("ufds_admin_pw_hash", "admin_password_hash")]
    {
        let line = format!("{key}='{}'", sealed[sealed_key].as_str().unwrap());
        assert!(config.lines().any(|l| l == line), "{line} is not in\n{config}");
    }
    let on_pool = durable.pools.into_iter().flat_map(|p| p.datasets.into_values());
    let bytes = durable
        .key
        .unwrap()
        .into_values()
        .chain(on_pool.flat_map(Files::into_values))
        .chain(memory.files.into_values());
    for text in bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) {
        assert!(!text.contains("secret-word") && !text.contains("joypass123"), "{text}");
    }
}

#[test]
fn a_power_cut_after_any_effect_ends_in_the_same_state() {
    let whole = machine();
    run(&whole).unwrap();
    whole.reset();
    run(&whole).unwrap();
    let want = finished(&whole);
    let effects = {
        let fresh = machine();
        run(&fresh).unwrap();
        fresh.0.borrow().effects.clone()
    };
    assert!(effects.len() > 30, "{effects:?}");
    for halfway in [false, true] {
        for (number, name) in effects.iter().enumerate() {
            let fake = machine();
            fake.0.borrow_mut().die_at = Some((number, halfway));
            run(&fake).unwrap_err();
            fake.reset();
            if let Err((failure, _)) = run(&fake) {
                panic!("after {name} ({halfway}): {}: {:#}", failure.step, failure.error);
            }
            fake.reset();
            run(&fake).unwrap();
            assert!(finished(&fake) == want, "after {name} ({halfway})");
        }
    }
}

#[test]
fn two_power_cuts_in_a_row_too() {
    let want = {
        let whole = machine();
        run(&whole).unwrap();
        whole.reset();
        run(&whole).unwrap();
        finished(&whole)
    };
    for first in (0..40).step_by(3) {
        for second in 0..40 {
            let fake = machine();
            for at in [first, second] {
                fake.0.borrow_mut().die_at = Some((at, (first + second) % 2 == 0));
                drop(run(&fake));
                fake.reset();
            }
            if let Err((failure, _)) = run(&fake) {
                panic!("after {first} and {second}: {}: {:#}", failure.step, failure.error);
            }
            fake.reset();
            run(&fake).unwrap();
            assert!(finished(&fake) == want, "after {first} and {second}");
        }
    }
}

#[test]
fn a_finished_headnode_boots_without_its_key_and_takes_a_new_platform() {
    let fake = machine();
    run(&fake).unwrap();
    let key_files = fake.0.borrow_mut().durable.key.take();
    fake.reset();
    let events = run(&fake).unwrap();
    assert!(events.iter().any(|e| e.to_string().contains("the key is not there")));
    let (mut files, params) = key(&answers(), "kernel two");
    let old = key_files.unwrap();
    for path in [paths::CONFIG, paths::KEY_SETUP_STATE] {
        files.insert(path.into(), old[Path::new(path)].clone());
    }
    fake.reset();
    fake.0.borrow_mut().durable.key = Some(files);
    fake.0.borrow_mut().params = params;
    run(&fake).unwrap();
    let kernel = Path::new("os/20260101T000000Z/platform/x86_64/vmlinuz");
    assert_eq!(finished(&fake).0.pools[0].datasets["usbkey"][kernel], b"kernel two");
}

/// A machine that boots from a disc, which forgets everything.
fn machine_with_a_disc() -> Fake {
    let fake = machine();
    let files = fake.0.borrow().durable.key.clone();
    fake.0.borrow_mut().disc = files;
    fake
}

#[test]
fn a_headnode_on_a_disc_is_set_up_once_and_then_lives_on_its_pool() {
    let fake = machine_with_a_disc();
    run(&fake).unwrap();
    let (durable, _) = finished(&fake);
    fake.reset();
    let events = run(&fake).unwrap();
    assert!(events.iter().any(|e| e.step == "pool_imported"));
    assert_eq!(finished(&fake).0.pools, durable.pools);
}

#[test]
fn a_power_cut_beside_a_disc_loses_nothing_and_names_the_disk_that_it_left_half_made() {
    let effects = {
        let fake = machine_with_a_disc();
        run(&fake).unwrap();
        fake.0.borrow().effects.clone()
    };
    let mut refused = 0;
    for (number, halfway) in (0..effects.len()).flat_map(|n| [(n, false), (n, true)]) {
        let fake = machine_with_a_disc();
        fake.0.borrow_mut().die_at = Some((number, halfway));
        run(&fake).unwrap_err();
        fake.reset();
        let pools = fake.0.borrow().durable.pools.len();
        match run(&fake) {
            Ok(_) => drop(finished(&fake)),
            // Nothing but the disc could have told that the disk was ours.
            Err((failure, _)) => {
                let error = format!("{:#}", failure.error);
                assert!(error.contains("wipe_disks"), "after {}: {error}", effects[number]);
                assert_eq!(fake.0.borrow().durable.pools.len(), pools);
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && refused <= 4, "{refused} cuts ended in a refusal: {effects:?}");
}

#[test]
fn a_finished_headnode_boots_beside_a_key_that_is_not_its_own() {
    let fake = machine();
    run(&fake).unwrap();
    fake.reset();
    let (other, _) = key(&answers(), "kernel of someone else");
    fake.0.borrow_mut().durable.key = Some(other.clone());
    let events = run(&fake).unwrap();
    assert!(events.iter().any(|e| e.to_string().contains("another manifest")));
    assert_eq!(fake.0.borrow().durable.key, Some(other));
}

#[test]
fn an_unfinished_headnode_waits_for_its_key() {
    let fake = machine();
    let at = 25;
    fake.0.borrow_mut().die_at = Some((at, false));
    run(&fake).unwrap_err();
    fake.reset();
    assert_eq!(fake.0.borrow().durable.pools.len(), 1);
    let files = fake.0.borrow_mut().durable.key.take();
    let (step, _) = failure(&fake);
    assert_eq!(step, "key_found");
    fake.reset();
    fake.0.borrow_mut().durable.key = files;
    run(&fake).unwrap();
}

#[test]
fn damage_is_named_and_nothing_is_touched() {
    let fake = machine();
    let path = Path::new("os/20260101t000000z/platform/x86_64/vmlinuz");
    fake.0.borrow_mut().durable.key.as_mut().unwrap().get_mut(path).unwrap()[0] ^= 1;
    let (step, error) = failure(&fake);
    assert_eq!(step, "manifest_verified");
    assert!(error.contains("os/20260101t000000z/platform/x86_64/vmlinuz is damaged"), "{error}");
    assert!(fake.0.borrow().effects.is_empty());
    let fake = machine();
    fake.0
        .borrow_mut()
        .durable
        .key
        .as_mut()
        .unwrap()
        .get_mut(Path::new(paths::KEY_MANIFEST))
        .unwrap()[9] ^= 1;
    let (_, error) = failure(&fake);
    assert!(error.contains("manifest.json on the key is damaged"), "{error}");
}

#[test]
fn bad_answers_are_all_named() {
    let mut bad = answers();
    bad["admin_ip"] = json!("10.99.99.300");
    bad["datacenter_name"] = json!("Coal!");
    bad["admin_nic"] = json!("00:00:00:00:00:09");
    let (files, params) = key(&bad, "k");
    let fake = Fake::new(files, vec![blank("sda", 8)], &params);
    let (step, error) = failure(&fake);
    assert_eq!(step, "configured");
    for word in ["3 errors", "admin_ip", "datacenter_name", "admin_nic", MAC] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert!(fake.0.borrow().effects.is_empty());
}

fn foreign() -> Pool {
    Pool {
        name: "zones".into(),
        comment: "headnode ffffffffffff".into(),
        owner: "other".into(),
        disks: vec!["sda".into()],
        datasets: [(String::new(), Files::from([(".system_pool".into(), Vec::new())]))].into(),
        broken: false,
    }
}

fn used(name: &str, label: &str) -> headnode_node::disk::Disk {
    headnode_node::disk::Disk {
        fs: Some("zfs_member".into()),
        label: Some(label.into()),
        ..blank(name, 8)
    }
}

#[test]
fn foreign_pools_and_used_disks_are_left_alone_unless_named() {
    let (files, params) = key(&answers(), "k");
    let fake = Fake::new(files, vec![used("sda", "zones")], &params);
    fake.0.borrow_mut().durable.pools.push(foreign());
    let before = fake.0.borrow().durable.disks.clone();
    let (_, events) = run(&fake).unwrap_err();
    let (step, error) = failure(&fake);
    assert_eq!(step, "pool_created");
    assert!(error.contains("member of the ZFS pool \"zones\""), "{error}");
    assert!(events.iter().any(|e| e.to_string().contains("adopt_pool")));
    assert_eq!(fake.0.borrow().durable.disks, before);
    let mut wipe = answers();
    wipe["wipe_disks"] = json!(["SDA"]);
    fake.reset();
    let bytes = wipe.to_string().into_bytes();
    fake.0.borrow_mut().durable.key.as_mut().unwrap().insert(paths::ANSWERS.into(), bytes);
    run(&fake).unwrap();
    assert_eq!(finished(&fake).0.pools[0].owner, "01234567-89ab-cdef-0123-456789abcdef");
}

#[test]
fn no_disk_no_key_and_a_failing_service_are_told() {
    let (files, params) = key(&answers(), "k");
    let fake = Fake::new(files, Vec::new(), &params);
    assert!(failure(&fake).1.contains("no disk for the pool"));
    let fake = machine();
    fake.0.borrow_mut().durable.key = None;
    let (step, error) = failure(&fake);
    assert_eq!(step, "key_found");
    assert!(error.contains("within 120 s") && error.contains("sda (SDA"), "{error}");
    let fake = machine();
    fake.0.borrow_mut().failing_service = true;
    let (step, error) = failure(&fake);
    assert_eq!(step, "services_started");
    assert!(error.contains("port 67 is taken"), "{error}");
    // The same boot goes on when it is tried again.
    fake.0.borrow_mut().failing_service = false;
    run(&fake).unwrap();
    finished(&fake);
}
