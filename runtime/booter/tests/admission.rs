//! Which machines get a script that boots them, and what an operator sees of it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{OTHER_STAMP, STAMP, Source, World, folder, start_with};
use headnode_client::{Booter, Timeouts};
use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use sdc_booter::settings::{BESIDE_CONFIG, File};
use uuid::Uuid;

const UUID: Uuid = Uuid::from_u128(0x564d_2a1c_2f3b_4c5d_8e9f_0011_2233_4455);
const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SCRIPT: &str = "/boot.ipxe.01020000000001";
const STRANGERS: &str = "/boot.ipxe.01020000000002";
const BOOTS: &str = "/vmlinuz ";
const WAITS: &str = "sdc boot approve";

fn source(platform: &str) -> Arc<Source> {
    let params = BootParams { platform: platform.to_owned(), ..BootParams::default() };
    Arc::new(Source { known: Some((UUID, params)), ..Source::default() })
}

fn settings(root: &Path, text: &str) -> File {
    let path = root.join(BESIDE_CONFIG);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    File::read(&path).unwrap()
}

async fn world(source: &Arc<Source>, text: &str) -> World {
    let dir = folder();
    let more = settings(dir.path(), text);
    start_with(dir, Arc::clone(source), more).await
}

/// The cached parameters of how many machines are on disk.
fn cached(world: &World) -> usize {
    fs::read_dir(world.dir.path().join("state/cache")).unwrap().count()
}

#[tokio::test]
async fn a_server_boots_while_cnapi_is_down_also_after_a_restart_and_strangers_stay_out() {
    let source = source(STAMP);
    let text = "[admission]\npolicy = \"hold\"\n";
    let world = world(&source, text).await;
    world.lease(SERVER, Some(UUID)).await;
    world.lease(STRANGER, Some(Uuid::from_u128(7))).await;
    let (status, script) = world.get(SCRIPT).await;
    assert!(status == 200 && script.contains(BOOTS), "{script}");
    let (status, script) = world.get(STRANGERS).await;
    assert!(status == 200 && script.contains(WAITS) && !script.contains(BOOTS), "{script}");
    assert_eq!(cached(&world), 1, "a machine that waits fills no disk");

    source.down.store(true, Ordering::SeqCst);
    assert!(world.get(SCRIPT).await.1.contains(BOOTS));
    assert!(world.get(STRANGERS).await.1.contains(WAITS));
    let World { dir, booter, client } = world;
    booter.stop().await;
    drop(client);
    let more = settings(dir.path(), text);
    let world = start_with(dir, Arc::clone(&source), more).await;
    assert!(world.get(SCRIPT).await.1.contains(BOOTS));
    assert!(world.get(STRANGERS).await.1.contains(WAITS));
}

#[tokio::test]
async fn a_rule_by_serial_number_has_machines_say_who_they_are() {
    let text = "[admission]\npolicy = \"ignore\"\n[[admission.rule]]\nserial = \"ABC 1\"\n\
        verdict = \"admit\"\n";
    let world = world(&Arc::default(), text).await;
    world.lease(STRANGER, None).await;
    let (_, script) = world.get(STRANGERS).await;
    assert!(script.contains("?uuid=${uuid}&serial=${serial:uristring}&manufacturer="), "{script}");
    assert!(!script.contains(BOOTS));
    let told = |serial: &str| format!("{STRANGERS}?uuid=&serial={serial}&manufacturer=");
    assert!(world.get(&told("abc%201")).await.1.contains(BOOTS));
    assert_eq!(world.get(&told("abc2")).await.0, 404);
    // Boards without a serial number are asked once only.
    assert_eq!(world.get(&told("")).await.0, 404);
}

/// The URL at which a script has the machine ask again, as a board without values fills it in.
fn next(script: &str) -> String {
    let line = script.lines().find_map(|line| line.strip_prefix("chain --replace --autofree "));
    let url = line.unwrap().split(' ').next().unwrap();
    let path = &url[url.find("/boot.ipxe").unwrap()..];
    let names = ["${uuid}", "${serial:uristring}", "${manufacturer:uristring}"];
    names.into_iter().fold(path.to_owned(), |path, name| path.replace(name, ""))
}

#[tokio::test]
async fn what_was_chosen_at_the_console_counts_also_where_machines_say_who_they_are() {
    let text = "[[admission.rule]]\nserial = \"abc\"\nverdict = \"ignore\"\n";
    let world = world(&Arc::default(), text).await;
    world.lease(STRANGER, None).await;
    let ask = async |query: &str| {
        let (_, script) = world.get(&format!("{STRANGERS}?{query}")).await;
        assert!(script.contains("${serial:uristring}"), "{script}");
        let path = next(&script);
        (world.get(&path).await.1, path)
    };
    let (script, path) = ask("rescue=true&try=3").await;
    assert!(script.contains(BOOTS) && script.contains(" noimport"), "{path}: {script}");
    assert!(path.contains("try=3"), "{path}");
    let (script, path) = ask(&format!("platform={OTHER_STAMP}")).await;
    assert!(script.contains(&format!("/os/{OTHER_STAMP}/")), "{path}: {script}");
    let (script, path) = ask("menu=true").await;
    assert!(script.contains("choose --default"), "{path}: {script}");
    let (script, path) = ask("platform=$%7Buuid%7D%20%7C%7C%20shell").await;
    assert!(script.contains(BOOTS) && !path.contains("shell"), "{path}: {script}");
}

#[tokio::test]
async fn whatever_is_in_the_url_a_machine_gets_its_script() {
    let world = world(&Arc::default(), "").await;
    world.lease(STRANGER, None).await;
    for query in ["uuid=nonsense", "uuid=&uuid=", "%ff=%zz", "&&=&", "serial=%00"] {
        let (status, script) = world.get(&format!("{STRANGERS}?{query}")).await;
        assert!(status == 200 && script.contains(BOOTS), "{query}: {status} {script}");
    }
}

#[tokio::test]
async fn an_operator_sees_why_a_script_boots_nothing() {
    let world = world(&source("20200101T000000Z"), "").await;
    world.lease(SERVER, Some(UUID)).await;
    assert!(!world.get(SCRIPT).await.1.contains(BOOTS));
    let operator = Booter::new(&world.dir.path().join("operator.sock"), Timeouts::default());
    let detail = operator.unwrap().boot(MacAddr(SERVER)).await.unwrap().unwrap();
    assert_eq!(detail.boot.script.as_deref(), Some("menu"));
    assert!(detail.boot.stuck.unwrap().contains("20200101T000000Z"));
}

#[tokio::test]
async fn new_settings_count_at_once_and_wrong_ones_change_nothing() {
    let world = world(&Arc::default(), "").await;
    world.lease(STRANGER, None).await;
    assert!(world.get(STRANGERS).await.1.contains(BOOTS));
    settings(world.dir.path(), "[admission]\npolicy = \"hold\"\n");
    assert_eq!(world.booter.reload().await, Ok(vec!["admission".to_owned()]));
    assert!(world.get(STRANGERS).await.1.contains(WAITS));
    for (wrong, why) in [
        (
            "[admission]\npolicy = \"hold\"\n[[network]]\nname = \"x\"\nsubnet = \"127.0.0.0/9\"\n",
            "overlaps",
        ),
        ("[dhcp]\nmode = \"proxy\"\n", "restart"),
    ] {
        settings(world.dir.path(), wrong);
        let error = world.booter.reload().await.unwrap_err();
        assert!(error.contains(why), "{error}");
        assert!(world.get(STRANGERS).await.1.contains(WAITS));
    }
    fs::write(world.dir.path().join(BESIDE_CONFIG), "polcy = 1").unwrap();
    assert!(world.booter.reload().await.unwrap_err().contains("polcy"));
}

#[tokio::test]
async fn beside_another_dhcp_server_a_machine_boots_with_the_address_that_it_has() {
    let world = world(&Arc::default(), "[dhcp]\nmode = \"proxy\"\n").await;
    // Nobody but the machine itself can tell its UUID, which is what CNAPI knows servers by.
    let (_, script) = world.get(STRANGERS).await;
    assert!(script.contains("?uuid=${uuid}&serial="), "{script}");
    // A board without one boots all the same.
    let (_, script) = world.get(&format!("{STRANGERS}?uuid=&serial=&manufacturer=")).await;
    assert!(script.contains(BOOTS) && script.contains("ip=127.0.0.1::"), "{script}");
}

#[tokio::test]
async fn the_gauges_show_what_goes_on() {
    let world = world(&Arc::default(), "").await;
    world.lease(STRANGER, None).await;
    world.get(STRANGERS).await;
    let text = world.booter.metrics().text();
    for line in [
        "sdc_booter_addresses_used{network=\"admin\"} 1",
        "sdc_booter_addresses_free{network=\"admin\"} 190",
        "sdc_booter_script_seconds_count 1",
        "sdc_booter_lookup_seconds_count 1",
        "sdc_booter_tftp_active 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}
