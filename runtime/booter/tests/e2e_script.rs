//! iPXE runs our scripts: the probe of `firmware/probe` boots as a SmartOS kernel and tells what it
//! was given, in a QEMU machine without any privileges.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use common::{Source, World, folder, start_with};
use headnode_model::boot::BootParams;
use sdc_booter::settings::{BESIDE_CONFIG, File};
use tokio::process::Command;
use uuid::Uuid;

const SMARTOS: &str = "20260301T000000Z";
const UUID: Uuid = Uuid::from_u128(0x99);
const SCRIPT: &str = "/boot.ipxe.01525400123456";
/// Booting takes some seconds on an idle machine; the tests share theirs.
const LIMIT: Duration = Duration::from_secs(240);
/// QEMU's status when the probe was content: its exit device makes it from the probe's 16.
const CONTENT: i32 = 33;
/// The firmware's iPXE, whose limits are upstream's.
const IPXE: &str = "/boot/ipxe.lkrn";

async fn probe(file: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../firmware/probe/build");
    let status = Command::new(source).arg(file).status().await.unwrap();
    assert!(status.success());
}

async fn world(params: BootParams) -> World {
    let dir = folder();
    let platform = dir.path().join("os").join(SMARTOS).join("platform/i86pc");
    for folder in ["kernel/amd64", "amd64"] {
        fs::create_dir_all(platform.join(folder)).unwrap();
    }
    probe(&platform.join("kernel/amd64/unix")).await;
    fs::write(platform.join("amd64/boot_archive"), "archive").unwrap();
    let path = dir.path().join(BESIDE_CONFIG);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // QEMU's own network gives addresses; the booter sees the machine as itself.
    fs::write(&path, "[dhcp]\nmode = \"proxy\"\n").unwrap();
    let source = Arc::new(Source { known: Some((UUID, params)), ..Source::default() });
    start_with(dir, source, File::read(&path).unwrap()).await
}

/// Has iPXE go to a script of the booter, until the probe ends the machine: the console.
async fn boot(world: &World, path: &str) -> String {
    // For a machine in QEMU's own network the host's loopback has this address.
    let (_, script) = world.get(path).await;
    let base = world.url("");
    let port = base.rsplit(':').next().unwrap();
    let script = script.replace(&base, &format!("http://10.0.2.2:{port}"));
    let script = script.replacen("#!ipxe\n", "#!ipxe\ndhcp\n", 1);
    let file = world.dir.path().join("script.ipxe");
    fs::write(&file, &script).unwrap();
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=multi", "-m", "512", "-no-reboot", "-display", "none"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-serial", "stdio"])
        .args(["-netdev", "user,id=n", "-device", "e1000,netdev=n,mac=52:54:00:12:34:56"])
        .args(["-kernel", IPXE, "-initrd"])
        .arg(&file)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("it hangs").unwrap();
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(CONTENT), "{script}\n{console}");
    console
}

#[tokio::test]
async fn e2e_ipxe_hands_the_kernel_all_that_the_script_names() {
    let mut params = BootParams {
        platform: SMARTOS.to_owned(),
        default_console: "serial".to_owned(),
        serial: "ttya".to_owned(),
        ..BootParams::default()
    };
    params.kernel_args.insert("a".into(), "m1,m2 x".into());
    params.kernel_flags.insert("-v".into(), true.into());
    let world = world(params).await;
    // There is no digest beside the archive: it is computed once the first script has been asked for.
    let query = format!("{SCRIPT}?uuid={UUID}");
    let until = std::time::Instant::now() + common::LIMIT;
    while !world.get(&query).await.1.contains("type=hash name=ramdisk") {
        assert!(std::time::Instant::now() < until);
    }
    let console = boot(&world, &query).await;
    let cmdline = "unix -v -B a=\"m1,m2 x\",admin_nic=52:54:00:12:34:56,\
        hostname=52-54-00-12-34-56,console=ttya,ttya-mode=\"115200,8,n,1,-\"";
    assert!(console.contains(cmdline), "{console}");
    for module in
        [" type=rootfs name=ramdisk", " type=hash name=ramdisk", " type=file name=networking.json"]
    {
        assert!(
            console.lines().any(|line| line.trim_end().ends_with(module)),
            "{module}: {console}"
        );
    }
}
