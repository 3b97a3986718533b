//! Scripts against files as they are expected, and what stands in a machine's way.

use std::fs;
use std::time::{Duration, Instant};

use headnode_model::boot::{BootModule, BootParams};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::params::{Found, Nics};

const LINUX: &str = "20260101T000000Z";
const SMARTOS: &str = "20250101T000000Z";
/// Not the SHA-1 of the boot archive.
const OTHER_DIGEST: &str = "2c97ea4d23e0eb29b19d8a2f9d7a1b9d7c3f2a10";

struct World {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl World {
    /// A Linux platform, and an older SmartOS one.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { root: dir.path().to_owned(), ..Settings::for_tests() };
        let world = Self { dir, settings };
        for file in ["x86_64/vmlinuz", "x86_64/initrd"] {
            world.file(&format!("os/{LINUX}/platform/{file}"), "");
        }
        world.file("extra/agents/node.cpio.zst", "");
        world.file(&format!("os/{SMARTOS}/platform/i86pc/kernel/amd64/unix"), "");
        world.file(&world.archive(), "archive");
        let digest = digests::sha1_of(b"archive");
        world.file(&format!("{}.hash", world.archive()), &format!("{digest}\n"));
        world
    }

    fn archive(&self) -> String {
        format!("os/{SMARTOS}/platform/i86pc/amd64/boot_archive")
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn scripts(&self) -> Scripts {
        Scripts::new(Arc::new(self.settings.clone())).unwrap()
    }

    fn boot(&self, node: &Node) -> Script {
        self.scripts().boot(node).unwrap()
    }
}

fn node(platform: &str) -> Node {
    Node::for_tests(BootParams {
        platform: platform.to_owned(),
        default_console: "serial".to_owned(),
        serial: "ttyb".to_owned(),
        ..BootParams::default()
    })
}

/// Compares with the file in `golden`; `UPDATE_GOLDEN=1` writes it instead.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{} differs; UPDATE_GOLDEN=1 writes it anew", path.display());
}

#[test]
fn a_linux_node_gets_kernel_archives_and_parameters() {
    let world = World::new();
    let script = world.boot(&node(LINUX));
    assert_eq!((script.kind, script.problem), ("boot", None));
    let kernel = "kernel http://10.99.99.7/os/20260101T000000Z/platform/x86_64/vmlinuz \
        console=tty0 console=ttyS0,115200n8 console=ttyS1,115200n8 \
        BOOTIF=01-90-b8-d0-01-02-03 ip=10.99.99.40::10.99.99.1:255.255.255.0:: \
        assets_admin_ip=10.99.99.7 hostname=90-b8-d0-01-02-03 admin_nic=90:b8:d0:01:02:03 \
        initrd=initrd initrd=node.cpio.zst initrd=boot-files.cpio.gz || goto failed\n";
    assert!(script.text.contains(kernel), "{}", script.text);
    golden("linux.ipxe", &script.text);
}

#[test]
fn a_linux_node_gets_its_boot_modules_in_an_archive() {
    let world = World::new();
    let mut node = node(LINUX);
    let module = |path: &str| BootModule {
        path: path.into(),
        kind: "base64".into(),
        content: "YWJj".into(),
    };
    node.found.params.boot_modules =
        vec![module("key"), module("../bad"), module("boot-files.cpio.gz")];
    let scripts = world.scripts();
    scripts.boot(&node).unwrap();
    let archive = scripts.kept_file(node.mac(), "boot-files.cpio.gz").unwrap().unwrap();
    let bytes = bootfs::tests::unpacked(&archive);
    let has = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has("etc/triton-networking.json\0") && has("etc/triton-key\0") && has("abc"));
    assert!(!has("bad") && !has("boot-files"));
    // After a restart of the booter the same archive is made again.
    assert_eq!(world.scripts().file(&node, "boot-files.cpio.gz"), Some(archive));
}

#[test]
fn tritons_linux_gets_its_root_by_url_and_the_configuration_of_nodes() {
    let mut world = World::new();
    world.file(&format!("os/{LINUX}/platform/x86_64/filesystem.squashfs"), "");
    // It needs no bundle of ours.
    fs::remove_file(world.path("extra/agents/node.cpio.zst")).unwrap();
    world.file("extra/joysetup/node.config", "datacenter_name=coal\n");
    let scripts = world.scripts();
    let script = scripts.boot(&node(LINUX)).unwrap();
    assert_eq!((script.kind, script.problem), ("boot", None));
    golden("live.ipxe", &script.text);
    let archive = scripts.kept_file(node(LINUX).mac(), "boot-files.cpio.gz").unwrap().unwrap();
    let bytes = bootfs::tests::unpacked(&archive);
    let has = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has("etc/node.config\0") && has("datacenter_name=coal\n"));
    assert_eq!(world.scripts().file(&node(LINUX), "boot-files.cpio.gz"), Some(archive));
    // Also without anything else in it, and not at all without that.
    world.settings.more.script.boot_files = false;
    assert!(world.boot(&node(LINUX)).text.contains("/boot-files.cpio.gz ||"));
    fs::remove_file(world.path("extra/joysetup/node.config")).unwrap();
    let text = world.boot(&node(LINUX)).text;
    assert!(text.contains("fetch=http://") && !text.contains("boot-files.cpio.gz"), "{text}");
}

#[test]
fn ipxe_loads_as_the_site_wants_it() {
    let mut world = World::new();
    world.settings.more.script.command_lines = 4096;
    let loads = |text: &str, base: &str| {
        let urls =
            text.lines().filter_map(|line| line.split(' ').find(|word| word.contains("://")));
        for url in urls.filter(|url| !url.contains("/boot.ipxe.01")) {
            assert!(url.starts_with(base), "{url}");
        }
    };
    for (scheme, script, base) in [
        (Scheme::Tftp, "http://10.99.99.7/boot.ipxe.01", "tftp://10.99.99.7/"),
        (Scheme::Https, "https://10.99.99.7:8443/boot.ipxe.01", "https://10.99.99.7:8443/"),
    ] {
        world.settings.more.script.scheme = scheme;
        let (certificate, key) = ("/a".into(), "/b".into());
        world.settings.more.http.tls = Some(crate::http::Tls { port: 8443, certificate, key });
        for platform in [LINUX, SMARTOS] {
            let text = world.boot(&node(platform)).text;
            assert!(text.contains(&format!("chain --replace --autofree {script}")), "{text}");
            assert!(text.contains(&format!("kernel {base}os/")), "{text}");
            loads(&text, base);
        }
    }
}

#[test]
fn a_smartos_node_gets_all_of_the_contract() {
    let mut world = World::new();
    world.settings.more.script =
        ScriptSettings { modules: 16, command_lines: 4096, ..ScriptSettings::default() };
    let mut node = node(SMARTOS);
    let params = &mut node.found.params;
    params.kernel_args.insert("rabbitmq".into(), "guest:guest:10.99.99.20:5672".into());
    params.kernel_args.insert("aggr0_aggr".into(), "\"m1,m2\"".into());
    params.kernel_args.insert("dropped".into(), "${x}".into());
    params.kernel_flags.insert("-k".into(), json!(true));
    params.kernel_flags.insert("-d".into(), json!(false));
    let module = |path: &str| BootModule {
        path: path.into(),
        kind: "base64".into(),
        content: "YWJj".into(),
    };
    params.boot_modules = vec![module("etc/abc"), module("../bad"), module("networking.json")];
    let scripts = world.scripts();
    let script = scripts.boot(&node).unwrap();
    assert_eq!((script.kind, script.problem), ("boot", None));
    golden("smartos.ipxe", &script.text);
    let kept = |name: &str| scripts.kept_file(node.mac(), name).unwrap();
    assert_eq!(kept("etc/abc").unwrap(), "abc");
    assert_eq!(kept("etc/abc.hash").unwrap(), digests::sha1_of(b"abc"));
    assert_eq!(kept("../bad"), None);
    let networking = kept("networking.json").unwrap();
    golden("networking.json", std::str::from_utf8(&networking).unwrap());
    assert_eq!(kept("networking.json.hash").unwrap(), digests::sha1_of(&networking));
    // After a restart of the booter the same files are made again.
    assert_eq!(world.scripts().file(&node, "networking.json"), Some(networking));
    golden("menu.lst", &scripts.grub(&node).unwrap().text);
    // And for a machine whose files are not kept, because those of so many others are.
    let crowd = world.scripts();
    for n in 0..300_000_u32 {
        let [a, b, c, d] = n.to_be_bytes();
        crowd.files.put(MacAddr([2, 9, a, b, c, d]), Arc::default());
    }
    assert_eq!(crowd.file(&node, "etc/abc").unwrap(), "abc");
    assert!(crowd.file(&node, "etc/abc.hash").is_some());
    assert_eq!(crowd.kept_file(node.mac(), "etc/abc"), None);
}

#[test]
fn boot_files_have_the_sites_rules_and_can_be_left_out() {
    let mut world = World::new();
    let rules: toml::Table = toml::from_str(
        "[nictag_rules.sdc_overlay]\noverlay = true\nmtu = 8500\n[nictag_rules.sdc_overlay.rule]\n\
         encap = \"vxlan\"\nsvp = { host = \"portolan.coal.example.com\", port = 1296 }\n",
    )
    .unwrap();
    world.settings.more.script = rules.try_into().unwrap();
    let made = world.scripts().file(&node(SMARTOS), "networking.json").unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made).unwrap();
    let svp = &made["nictag_rules"]["sdc_overlay"]["rule"]["svp"];
    assert_eq!(*svp, json!({ "host": "portolan.coal.example.com", "port": 1296 }));

    world.settings.more.script.boot_files = false;
    for platform in [SMARTOS, LINUX] {
        let mut node = node(platform);
        node.found.params.boot_modules = vec![BootModule {
            path: "secret".into(),
            kind: "base64".into(),
            content: "YWJj".into(),
        }];
        let script = world.boot(&node);
        assert_eq!(script.kind, "boot");
        for gone in ["networking.json", "secret", "boot-files"] {
            assert!(!script.text.contains(gone), "{gone}: {}", script.text);
        }
        assert_eq!(world.scripts().file(&node, "networking.json"), None);
    }
}

#[test]
fn a_screen_and_another_serial_port() {
    let world = World::new();
    let mut node = node(SMARTOS);
    node.found.params.serial = "ttya".into();
    let grub = |node: &Node| world.scripts().grub(node).unwrap().text;
    assert!(grub(&node).contains("--unit=0") && grub(&node).contains("terminal"));
    assert!(world.boot(&node).text.contains(",console=ttya,ttya-mode=\"115200,8,n,1,-\" ||"));
    node.found.params.default_console = "vga".into();
    let text = world.boot(&node).text;
    assert!(text.contains(",console=text ||") && !text.contains("ttya"), "{text}");
    assert!(!grub(&node).contains("terminal"));
}

#[test]
fn napi_tells_networks_and_cnapi_has_the_last_word() {
    let mut world = World::new();
    world.settings.more.script =
        ScriptSettings { modules: 16, command_lines: 4096, ..ScriptSettings::default() };
    let mut node = node(SMARTOS);
    let nics = json!({
        "nics": [
            {"mac": "90:b8:d0:01:02:03", "ip": "10.99.99.40", "nic_tag": "admin", "vlan_id": 0,
             "nic_tags_provided": ["admin"], "belongs_to_type": "server", "routes": {"10.0.0.0/8": "10.99.99.1"}},
            {"mac": "90:b8:d0:01:02:04", "nic_tags_provided": ["external", "internal"]},
            {"mac": "90:b8:d0:01:02:05"}
        ],
        "aggregations": [{"name": "aggr0", "macs": ["90:b8:d0:01:02:04", "90:b8:d0:01:02:05"],
            "lacp_mode": "active", "nic_tags_provided": ["internal"]}],
        "nic_tags": [{"name": "admin", "uuid": "00000000-0000-0000-0000-000000000001", "mtu": 1500},
            {"name": "external", "uuid": "00000000-0000-0000-0000-000000000002", "mtu": 9000}]
    });
    let nics: Nics = serde_json::from_value(nics).unwrap();
    node.found.nics = Some(nics);
    node.found.params.kernel_args.insert("external_nic".into(), "aa:bb".into());
    let text = world.boot(&node).text;
    for part in [
        "admin_nic=90:b8:d0:01:02:03,",
        "aggr0_aggr=\"90:b8:d0:01:02:04,90:b8:d0:01:02:05\",aggr0_lacp_mode=active,",
        ",external_nic=aa:bb,",
        ",internal_nic=aggr0,",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let networking = world.scripts().file(&node, "networking.json").unwrap();
    golden("networking-napi.json", std::str::from_utf8(&networking).unwrap());
}

#[test]
fn digests_that_are_not_on_disk_are_computed_and_wrong_ones_are_told() {
    let world = World::new();
    let scripts = world.scripts();
    let until = Instant::now() + Duration::from_secs(20);
    let once = |done: &dyn Fn(&Script) -> bool| loop {
        let script = scripts.boot(&node(SMARTOS)).unwrap();
        if done(&script) {
            return script;
        }
        assert!(Instant::now() < until, "{}", script.text);
        std::thread::sleep(Duration::from_millis(2));
    };
    let hash = format!("{}.hash", world.archive());
    fs::remove_file(world.path(&hash)).unwrap();
    let module = "/bootfs/90b8d0010203/boot_archive.hash type=hash name=ramdisk ||";
    once(&|script| script.text.contains(module));
    let mac = node(SMARTOS).mac();
    let digest = scripts.kept_file(mac, "boot_archive.hash").unwrap().unwrap();
    assert_eq!(digest, digests::sha1_of(b"archive"));
    world.file(&hash, OTHER_DIGEST);
    let script = once(&|script| script.kind == "menu");
    assert!(script.problem.unwrap().contains("is damaged"));
    assert!(script.text.contains("item platform2 Boot platform 20250101T000000Z (SmartOS)"));
    // A rescue system starts without anybody checking the archive (C§4.6).
    let mut rescue = node(SMARTOS);
    rescue.choice.rescue = true;
    let script = scripts.boot(&rescue).unwrap();
    assert!(script.problem.is_none() && script.text.contains("noimport=true"));
    assert!(!script.text.contains("type=hash name=ramdisk"), "{}", script.text);
    // Mended.
    world.file(&hash, &digests::sha1_of(b"archive").to_ascii_uppercase());
    assert_eq!(scripts.boot(&node(SMARTOS)).unwrap().kind, "boot");
}

#[test]
fn what_is_missing_is_said_in_a_menu_with_the_command_that_mends_it() {
    let world = World::new();
    let missing = world.boot(&node("20200101T000000Z"));
    assert_eq!((missing.kind, &*missing.platform), ("menu", "20200101T000000Z"));
    assert!(missing.problem.unwrap().contains("20200101T000000Z is not on the headnode"));
    golden("missing.ipxe", &missing.text.replace(world.dir.path().to_str().unwrap(), "/usbkey"));
    let mut server = node("nonsense");
    server.found.server = Some(Uuid::from_u128(5));
    let text = world.boot(&server).text;
    let words = text.replace("\necho   ", " ");
    assert!(
        words.contains("sdc boot set 00000000-0000-0000-0000-000000000005 --platform"),
        "{text}"
    );
    fs::remove_file(world.path("extra/agents/node.cpio.zst")).unwrap();
    let script = world.boot(&node(LINUX));
    assert!(script.text.contains("the file extra/agents/node.cpio.zst is missing"));
    // Only what can boot is offered.
    assert!(!script.text.contains("(Linux)") && script.text.contains("(SmartOS)"));
    fs::remove_dir_all(world.path("os")).unwrap();
    let script = world.boot(&node("latest"));
    assert!(script.problem.unwrap().contains("no platform image"));
    assert!(!script.text.contains(":rescue") && !script.text.contains("item platform"));
    let grub = world.scripts().grub(&node("latest")).unwrap();
    assert_eq!(grub.kind, "menu");
    assert!(grub.text.contains("configfile /menu.lst.0190B8D0010203"), "{}", grub.text);
}

#[test]
fn a_machine_in_rescue_is_asked_and_boots_without_pools_when_nobody_answers() {
    let world = World::new();
    let mut node = node(SMARTOS);
    node.found.params.kernel_args.insert("noimport".into(), json!(true));
    let script = world.boot(&node);
    assert_eq!(script.kind, "menu");
    golden("rescue.ipxe", &script.text);
    node.choice.rescue = true;
    let script = world.boot(&node);
    assert_eq!((script.kind, script.problem), ("boot", None));
    assert!(script.text.contains("noimport=true"));
    assert!(!script.text.contains("type=hash"), "{}", script.text);
}

#[test]
fn another_platform_can_be_chosen_and_nothing_else() {
    let world = World::new();
    let mut node = node(LINUX);
    node.choice.platform = Some(SMARTOS.to_owned());
    assert!(world.boot(&node).text.contains("/kernel/amd64/unix -B "));
    node.choice.platform = Some("../../etc".to_owned());
    assert_eq!(world.boot(&node).kind, "menu");
    node.choice = Choice { menu: true, ..Choice::default() };
    assert_eq!(world.boot(&node).kind, "menu");
}

#[test]
fn what_ipxe_has_no_room_for_is_left_out_or_refused() {
    let world = World::new();
    let text = world.boot(&node(SMARTOS)).text;
    assert!(
        text.contains("networking.json ||") && !text.contains("networking.json.hash"),
        "{text}"
    );
    assert!(text.contains("no room for the digests"), "{text}");
    let lines = text.lines().filter_map(|line| {
        let line = line.strip_suffix(" || goto failed")?;
        line.strip_prefix("kernel ").or(line.strip_prefix("module "))
    });
    assert!(lines.map(|line| line.len() + 1).sum::<usize>() <= 512, "{text}");
    let mut long = node(SMARTOS);
    long.found.params.kernel_args.insert("x".into(), "y".repeat(300).into());
    let script = world.boot(&long);
    assert!(script.problem.unwrap().contains("too much for iPXE"));
    // Rather than to refuse it, the archive's own digest is left out too.
    let unchecked = (1..300).find_map(|length| {
        let mut node = node(SMARTOS);
        node.found.params.kernel_args.insert("x".into(), "y".repeat(length).into());
        let script = world.boot(&node);
        (script.kind == "boot" && !script.text.contains("type=hash")).then_some(script.text)
    });
    assert!(unchecked.unwrap().contains("echo iPXE has no room for any digest"));
}

#[test]
fn a_machine_that_waits_comes_back_later_and_later() {
    let scripts = World::new().scripts();
    let mac = node("").mac();
    let seconds = |attempt| {
        let text = scripts.hold(mac, attempt).unwrap();
        assert!(text.contains("sdc boot approve 90:b8:d0:01:02:03"), "{text}");
        assert!(text.contains(&format!("?try={}", attempt + 1)), "{text}");
        let sleep = text.lines().find_map(|line| line.strip_prefix("sleep ")).unwrap();
        sleep.parse::<u32>().unwrap()
    };
    assert!(seconds(0) <= 13 && (16..=26).contains(&seconds(1)) && seconds(9) >= 45);
    golden("hold.ipxe", &scripts.hold(mac, 0).unwrap());
    golden("hold.lst", &scripts.grub_hold(mac).unwrap());
    golden(
        "identify.ipxe",
        &scripts.identify(mac, &Choice { attempt: 2, ..Choice::default() }).unwrap(),
    );
    golden("chain.ipxe", &scripts.chain().unwrap());
}

#[test]
fn a_wrong_template_of_the_site_is_told_on_the_machines_console() {
    let world = World::new();
    world.file("config.inc/booter/templates/linux.ipxe.tera", "#!ipxe\necho {{ nothing }}\n");
    let script = world.boot(&node(LINUX));
    assert!(script.problem.unwrap().contains("linux.ipxe.tera"));
    assert_eq!(world.boot(&node(SMARTOS)).kind, "boot");
    // Even when the one that says so is wrong.
    world.file("config.inc/booter/templates/menu.ipxe.tera", "{{");
    assert!(world.boot(&node(LINUX)).text.contains("choose --default retry"));
}

#[test]
fn without_parameters_the_newest_platform_is_booted_and_that_is_said() {
    let world = World::new();
    let params = node("").found.params;
    let mut node = node("");
    node.found = Found::new(params, Origin::Builtin, None, None);
    let script = world.boot(&node);
    assert_eq!((script.kind, &*script.platform), ("boot", LINUX));
    assert!(
        script.text.contains("item --gap -- CNAPI tells no boot parameters"),
        "{}",
        script.text
    );
    let ask = "choose --default go --timeout 5000";
    let (before, _) = script.text.split_once("\nkernel ").unwrap();
    assert!(before.contains(ask) && script.text.contains("\n:menu\n"), "{}", script.text);
    golden("unknown.ipxe", &script.text);
    world.file("os/20270101T000000Z/platform/i86pc/kernel/amd64/unix", "");
    world.file("os/20270101T000000Z/platform/i86pc/amd64/boot_archive", "");
    let grub = world.scripts().grub(&node).unwrap().text;
    assert!(grub.contains("(the newest: no parameters of this machine are known)"), "{grub}");
    // Who has chosen in the menu.
    node.choice.platform = Some(LINUX.to_owned());
    assert!(!world.boot(&node).text.contains(ask));
}
