//! What machines get by HTTP and TFTP: scripts, menus, their own small files, and what operators see.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{STAMP, Source, World, folder, start};
use headnode_client::{Booter, Timeouts};
use headnode_model::boot::{BootModule, BootParams};
use headnode_model::net::MacAddr;
use sdc_booter::admission::{Gate, Machine, Verdict};
use sdc_booter::dhcp::{Mode, Settings as Dhcp};
use sdc_booter::http::App;
use sdc_booter::leases::Leases;
use sdc_booter::live::Live;
use sdc_booter::metrics::Metrics;
use sdc_booter::observe::Nobody;
use sdc_booter::params::{Cache, Lookup, Patience};
use sdc_booter::script::Scripts;
use sdc_booter::settings::Settings;
use tempfile::TempDir;
use uuid::Uuid;

const SMARTOS: &str = "20260301T000000Z";
const UUID: Uuid = Uuid::from_u128(0x99);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SCRIPT: &str = "/boot.ipxe.01020000000001";

fn smartos_folder() -> TempDir {
    let dir = folder();
    let platform = dir.path().join("os").join(SMARTOS).join("platform/i86pc");
    fs::create_dir_all(platform.join("kernel/amd64")).unwrap();
    fs::create_dir_all(platform.join("amd64")).unwrap();
    fs::write(platform.join("kernel/amd64/unix"), "kernel").unwrap();
    fs::write(platform.join("amd64/boot_archive"), "archive").unwrap();
    fs::write(platform.join("amd64/boot_archive.hash"), "1234").unwrap();
    dir
}

fn source(platform: &str) -> Arc<Source> {
    let module = BootModule {
        path: "etc/abc".to_owned(),
        kind: "base64".to_owned(),
        content: "YWJj".to_owned(),
    };
    let params = BootParams {
        platform: platform.to_owned(),
        boot_modules: vec![module],
        ..BootParams::default()
    };
    Arc::new(Source { known: Some((UUID, params)), ..Source::default() })
}

async fn detail(world: &World) -> headnode_model::booter::BootDetail {
    let operator = Booter::new(&world.dir.path().join("operator.sock"), Timeouts::default());
    operator.unwrap().boot(MacAddr(MAC)).await.unwrap().unwrap()
}

#[tokio::test]
async fn all_that_a_smartos_script_names_can_be_fetched() {
    let dir = smartos_folder();
    // The digest on disk is not that of the archive, but nobody has read it yet.
    let hash = dir.path().join(format!("os/{SMARTOS}/platform/i86pc/amd64/boot_archive.hash"));
    let world = start(dir, source(SMARTOS)).await;
    let ip = world.lease(MAC, Some(UUID)).await;
    let get = async |path: &str| world.get_from(ip, path).await;
    assert_eq!(get("/bootfs/020000000001/etc/abc").await, (200, "abc".to_owned()));
    fs::remove_file(hash).unwrap();
    let (_, script) = get(SCRIPT).await;
    let base = world.url("");
    let mut files = 0;
    for line in script.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["kernel" | "module", url, ..] = words[..] {
            let path = url.strip_prefix(&base).unwrap();
            assert_eq!(get(path).await.0, 200, "{line}");
            files += 1;
        }
    }
    assert!(files >= 4, "{script}");
    let (_, digest) = get("/bootfs/020000000001/etc/abc.hash").await;
    assert_eq!(digest, "a9993e364706816aba3e25717850c26c9cd0d89d");
    for path in [
        "/bootfs/020000000001/etc/passwd",
        "/bootfs/020000000001/../../os",
        "/bootfs/020000000001/",
        "/bootfs/020000000009/networking.json",
        "/bootfs/zz/networking.json",
    ] {
        assert_eq!(get(path).await.0, 404, "{path}");
    }
    // Also not while the files are kept for their machine: boot modules may hold keys.
    let other = world.lease([2, 0, 0, 0, 0, 2], None).await;
    for stranger in [other, Ipv4Addr::LOCALHOST] {
        for name in ["networking.json", "etc/abc", "etc/abc.hash"] {
            let path = format!("/bootfs/020000000001/{name}");
            assert_eq!(world.get_from(stranger, &path).await.0, 404, "{path}");
        }
    }
    let (status, menu) = get("/menu.lst.01020000000001").await;
    assert!(status == 200 && menu.contains("title Rescue"), "{menu}");
    let boot = detail(&world).await.boot;
    assert_eq!((boot.script.as_deref(), boot.platform.as_deref()), (Some("boot"), Some(SMARTOS)));
}

#[tokio::test]
async fn operators_see_what_is_missing_and_what_was_chosen_at_the_console() {
    let world = start(smartos_folder(), source("20200101T000000Z")).await;
    world.lease(MAC, Some(UUID)).await;
    let (_, script) = world.get(SCRIPT).await;
    assert!(script.contains("choose --default retry"), "{script}");
    let boot = detail(&world).await.boot;
    assert_eq!(boot.script.as_deref(), Some("menu"));
    assert_eq!(boot.platform.as_deref(), Some("20200101T000000Z"));
    assert!(boot.problem.unwrap().contains("is not on the headnode"));
    assert!(boot.stuck.unwrap().contains("sdc boot set"));
    // Another one is chosen in the menu.
    let (_, script) = world.get(&format!("{SCRIPT}?platform={STAMP}")).await;
    assert!(script.contains(&format!("/os/{STAMP}/platform/x86_64/vmlinuz ")), "{script}");
    let boot = detail(&world).await.boot;
    assert_eq!((boot.script.as_deref(), boot.problem), (Some("boot"), None));
    fs::remove_file(world.dir.path().join("extra/agents/node.cpio.zst")).unwrap();
    world.get(&format!("{SCRIPT}?platform={STAMP}")).await;
    let boot = detail(&world).await.boot;
    assert_eq!(boot.script.as_deref(), Some("menu"));
    assert!(boot.problem.unwrap().contains("extra/agents/node.cpio.zst is missing"));
    let (_, rescue) = world.get(&format!("{SCRIPT}?rescue=true&platform={SMARTOS}")).await;
    assert!(rescue.contains("noimport=true"), "{rescue}");
    // Later and later.
    let (_, script) = world.get(&format!("{SCRIPT}?try=4")).await;
    assert!(script.contains("?try=5 "), "{script}");
    let (_, script) = world.get(&format!("{SCRIPT}?try=99999999999999999999&platform=../x")).await;
    assert!(script.contains("?try=1 "), "{script}");
}

struct Policy(Verdict);

impl Gate for Policy {
    fn at_dhcp(&self, _: &Machine<'_>) -> Verdict {
        self.0
    }

    fn at_script(&self, _: &Machine<'_>, _: bool) -> Verdict {
        self.0
    }

    fn needs_identity(&self, _: MacAddr) -> bool {
        false
    }
}

/// The parts that TFTP is given, beside another DHCP server.
fn app(root: &Path, verdict: Verdict) -> App {
    let text = "datacenter_name=t\ndns_domain=t\nadmin_nic=02:00:00:00:00:07\nadmin_ip=127.0.0.1\n\
        admin_netmask=255.0.0.0\ndhcp_range_start=127.9.0.10\ndhcp_range_end=127.9.0.200\n";
    let (settings, _) = Settings::from_config(text, root, &root.join("state")).unwrap();
    let settings = Arc::new(settings);
    let patience =
        Patience { budget: Duration::from_secs(5), cached: Duration::from_secs(2), lookups: 8 };
    let cache = Cache::open(&root.join("state"), 100).unwrap();
    let params = BootParams { platform: SMARTOS.to_owned(), ..BootParams::default() };
    let source = Arc::new(Source { known: Some((UUID, params)), ..Source::default() });
    App {
        leases: Arc::new(Mutex::new(Leases::new(settings.networks(), settings.admin_ip))),
        dhcp: Live::new(Dhcp { mode: Mode::Proxy, ..Dhcp::default() }),
        lookup: Lookup::new(source, cache, patience),
        scripts: Arc::new(Scripts::new(settings).unwrap()),
        metrics: Metrics::new(),
        gate: Arc::new(Policy(verdict)),
        observer: Arc::new(Nobody),
        own: None,
    }
}

#[tokio::test]
async fn tftp_clients_get_the_same_files_by_name() {
    let dir = smartos_folder();
    fs::remove_dir_all(dir.path().join("os").join(STAMP)).unwrap();
    let peer: IpAddr = "127.9.0.20".parse().unwrap();
    let app = self::app(dir.path(), Verdict::Admit);
    let text = async |name: &str| {
        assert!(App::is_virtual(name), "{name}");
        let content = app.render_virtual(name, peer).await;
        content.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    };
    // The default's platform is gone.
    let menu = text("menu.lst.01020000000001").await.unwrap();
    assert!(menu.contains("configfile /menu.lst.01020000000001"), "{menu}");
    // Beside another DHCP server the machine says first who it is, by HTTP.
    let script = text("/boot.ipxe.01020000000001").await.unwrap();
    assert!(script.contains("/boot.ipxe.01020000000001?uuid=${uuid}"), "{script}");
    let networking = text("bootfs/020000000001/networking.json").await.unwrap();
    assert!(networking.contains("\"127.9.0.20\""), "{networking}");
    assert!(text("boot.ipxe").await.unwrap().contains("dhcp &&"));
    for name in ["menu.lst.01zz", "bootfs/020000000001/nothing", "bootfs/x", "boot.ipxe.01"] {
        assert_eq!(text(name).await, None, "{name}");
    }
    assert!(!App::is_virtual("undionly.kpxe"));
    assert_eq!(app.render_virtual("undionly.kpxe", peer).await, None);

    let held = self::app(dir.path(), Verdict::Hold);
    let menu = held.render_virtual("menu.lst.01020000000001", peer).await.unwrap();
    assert!(String::from_utf8_lossy(&menu).contains("title sdc boot approve 02:00:00:00:00:01"));
    assert_eq!(held.render_virtual("bootfs/020000000001/networking.json", peer).await, None);
    let ignored = self::app(dir.path(), Verdict::Ignore);
    assert_eq!(ignored.render_virtual("menu.lst.01020000000001", peer).await, None);
}
