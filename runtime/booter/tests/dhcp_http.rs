//! DHCP, leases on disk, boot scripts and files, over loopback.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{OTHER_STAMP, STAMP, Source, pxe, start, world};
use dhcproto::v4::MessageType;
use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SCRIPT: &str = "/boot.ipxe.01020000000001";

#[tokio::test]
async fn a_machine_keeps_its_address_over_a_crash_and_a_damaged_file() {
    let first = world(Arc::default()).await;
    let ip = first.lease(MAC, None).await;
    let other = first.lease([2, 0, 0, 0, 0, 2], None).await;
    assert_ne!(ip, other);
    // What `kill -9` leaves: the lease was on disk before the ACK was sent.
    let text = fs::read_to_string(first.dir.path().join("state/leases.log")).unwrap();
    assert!(text.contains(&format!("02:00:00:00:00:01 {ip}")), "{text}");
    let common::World { dir, booter, .. } = first;
    booter.stop().await;
    let file = dir.path().join("state/leases");
    let text = fs::read_to_string(&file).unwrap();
    let cut = text.find("02:00:00:00:00:02").unwrap() + 20;
    fs::write(&file, &text[..cut]).unwrap();

    let second = start(dir, Arc::default()).await;
    assert_eq!(second.booter.address_of(MacAddr(MAC)), Some(ip));
    assert_eq!(second.lease(MAC, None).await, ip);
    // The lease in the cut line is lost; the hash of the MAC gives the same address again.
    assert_eq!(second.lease([2, 0, 0, 0, 0, 2], None).await, other);
    assert!(second.dir.path().join("state/leases.damaged").exists());
}

#[tokio::test]
async fn rubbish_on_the_port_does_no_harm() {
    let world = world(Arc::default()).await;
    let good = common::encode(&pxe(MessageType::Discover, MAC, None));
    for length in 0..good.len() {
        world.client.send_to(&good[..length], world.dhcp()).await.unwrap();
    }
    for seed in 0..500u32 {
        let mut bytes = good.clone();
        for step in 0..8u32 {
            let n = seed.wrapping_mul(2_654_435_761).wrapping_add(step.wrapping_mul(40_503));
            let at = 240 + (n as usize >> 8) % (bytes.len() - 240);
            bytes[at] = n as u8;
        }
        world.client.send_to(&bytes, world.dhcp()).await.unwrap();
    }
    let mac = [2, 0, 0, 0, 9, 9];
    let until = Instant::now() + common::LIMIT;
    let answered = async { while world.reply().await.chaddr() != mac {} };
    tokio::pin!(answered);
    // The socket may still be full: a machine asks again.
    loop {
        assert!(Instant::now() < until);
        world.send(&pxe(MessageType::Discover, mac, None)).await;
        if tokio::time::timeout(Duration::from_millis(500), &mut answered).await.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn a_known_server_boots_its_platform_also_while_cnapi_is_down_or_hangs() {
    let uuid = Uuid::from_u128(0x1234);
    let mut params = BootParams { platform: OTHER_STAMP.into(), ..BootParams::default() };
    params.kernel_args.insert("hostname".into(), "cn1".into());
    let source = Arc::new(Source { known: Some((uuid, params)), ..Source::default() });
    let world = world(Arc::clone(&source)).await;
    let (status, text) = world.get(SCRIPT).await;
    assert_eq!(status, 200);
    assert!(text.contains("no address from this headnode"), "{text}");

    let ip = world.lease(MAC, Some(uuid)).await;
    let expected = format!("/os/{OTHER_STAMP}/platform/x86_64/vmlinuz ");
    for (down, hangs) in [(false, false), (true, false), (false, true)] {
        source.down.store(down, Ordering::SeqCst);
        source.hangs.store(hangs, Ordering::SeqCst);
        let start = Instant::now();
        let (status, text) = world.get(SCRIPT).await;
        assert_eq!(status, 200);
        assert!(text.contains(&expected), "{text}");
        assert!(text.contains(" hostname=cn1 "), "{text}");
        assert!(text.contains(&format!(" ip={ip}:::255.0.0.0:: ")), "{text}");
        assert!(start.elapsed().as_secs_f32() < 2.0);
    }
    let metrics = world.booter.metrics().text();
    assert!(metrics.contains("boot_scripts_total{kind=\"cache\"} 2"), "{metrics}");
}

#[tokio::test]
async fn an_unknown_server_boots_the_default_and_without_cnapi_the_newest_platform() {
    let source = Arc::new(Source::default());
    let world = world(Arc::clone(&source)).await;
    source.down.store(true, Ordering::SeqCst);
    world.lease(MAC, Some(Uuid::from_u128(5))).await;
    let (_, text) = world.get(SCRIPT).await;
    assert!(text.contains(&format!("/os/{STAMP}/")), "{text}");
    source.down.store(false, Ordering::SeqCst);
    let (_, text) = world.get(SCRIPT).await;
    assert!(text.contains(&format!("/os/{STAMP}/")), "{text}");
    let metrics = world.booter.metrics().text();
    assert!(metrics.contains("{kind=\"builtin\"} 1"), "{metrics}");
    assert!(metrics.contains("{kind=\"default\"} 1"), "{metrics}");
    // A damaged cache file is as good as none.
    let cache = world.dir.path().join("state/cache/02-00-00-00-00-01.json");
    assert!(cache.exists());
    fs::write(&cache, "{\"platform\":").unwrap();
    source.down.store(true, Ordering::SeqCst);
    let (_, text) = world.get(SCRIPT).await;
    assert!(text.contains(&format!("/os/{STAMP}/")), "{text}");
}

#[tokio::test]
async fn files_are_served_with_ranges_and_nothing_else_is() {
    let world = world(Arc::default()).await;
    let client = reqwest::Client::new();
    let url = world.url(&format!("/os/{STAMP}/platform/x86_64/initrd"));
    let whole = client.get(&url).header("x-request-id", "r1").send().await.unwrap();
    assert_eq!(whole.headers()["x-request-id"], "r1");
    assert_eq!(whole.headers()["content-length"], "3000000");
    let etag = whole.headers()["etag"].clone();
    assert_eq!(whole.bytes().await.unwrap().len(), 3_000_000);
    let part = client.get(&url).header("range", "bytes=10-19").send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.bytes().await.unwrap().len()), (206, 10));
    let same = client.get(&url).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(same.status().as_u16(), 304);
    let head = client.head(&url).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "3000000");
    assert_eq!(client.post(&url).send().await.unwrap().status().as_u16(), 405);
    for path in [
        "/",
        "/config",
        "/os",
        "/os/",
        "/private/answers.json",
        "/os/%2e%2e/private/answers.json",
        "/os/..%2fprivate/answers.json",
        "/extra/../private/answers.json",
        "/boot.ipxe.01zz",
        "/state/leases",
    ] {
        assert_eq!(world.get(path).await.0, 404, "{path}");
    }
    assert_eq!(world.get("/healthz").await, (200, "ok\n".to_owned()));
    assert!(world.get("/boot.ipxe").await.1.contains("${netX/mac:hexraw}"));
    assert!(world.get("/metrics").await.1.contains("sdc_booter_http_bytes_total 3"));
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_a_hint() {
    let world = world(Arc::default()).await;
    let error = sdc_booter::net::http(world.booter.settings()).unwrap_err().to_string();
    let port = world.booter.settings().ports.http;
    assert!(error.contains(&format!("HTTP port 127.0.0.1:{port}/tcp")), "{error}");
    assert!(error.contains("another server has it"), "{error}");
}

#[tokio::test]
async fn new_settings_drop_no_download() {
    let world = world(Arc::default()).await;
    let mut running = TcpStream::connect(world.booter.http_address()).await.unwrap();
    let path = format!("/os/{STAMP}/platform/x86_64/initrd");
    let ask = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    running.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1000];
    running.read_exact(&mut answer).await.unwrap();
    let folder = world.dir.path().join("config.inc");
    fs::create_dir_all(&folder).unwrap();
    // Not even one that those after it do not get any more.
    let text =
        "[http]\nconnections = 1\nconnections_per_client = 1\n[admission]\npolicy = \"ignore\"\n";
    fs::write(folder.join("booter.toml"), text).unwrap();
    let changed = world.booter.reload().await.unwrap();
    assert_eq!(changed, ["http", "admission"]);
    running.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(&vec![7; 3_000_000]), "{} bytes", answer.len());
}
