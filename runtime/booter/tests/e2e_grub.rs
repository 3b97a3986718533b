//! GRUB legacy's way: menu, kernel and archive by TFTP alone. No build of pxegrub is to be had here, so
//! GRUB 2 stands in for it: it reads GRUB legacy's menus, and uses the firmware's PXE as pxegrub does.
//! Needs root, iproute2, grub-common, grub-pc-bin, ipxe, qemu-system-x86, gcc.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod lab;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::standin::Standin;
use lab::{Cable, Lab, SERVER, ip, large};

const VM: &str = "02:00:00:00:01:01";
const SMARTOS: &str = "20260301T000000Z";
/// More than what the booter keeps in memory of one file.
const ARCHIVE: usize = 17 << 20;
/// QEMU's status when the probe was content: its exit device makes it from the probe's 16.
const CONTENT: i32 = 33;
/// Seventeen thousand round trips, on a machine that other tests share.
const LIMIT: Duration = Duration::from_secs(400);

/// A platform with the probe for its kernel, and GRUB among the boot programs.
fn prepare(lab: &Lab) {
    let platform = lab.path("os").join(SMARTOS).join("platform/i86pc");
    for folder in ["kernel/amd64", "amd64"] {
        fs::create_dir_all(platform.join(folder)).unwrap();
    }
    let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../firmware/probe/build");
    run(Command::new(probe).arg(platform.join("kernel/amd64/unix")));
    let content: Vec<u8> =
        (0..ARCHIVE).map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    fs::write(platform.join("amd64/boot_archive"), content).unwrap();
    fs::write(
        lab.path("early.cfg"),
        format!(
            "set root=(tftp,{SERVER})\nlegacy_configfile (tftp,{SERVER})/menu.lst.01{}\n",
            VM.replace(':', "")
        ),
    )
    .unwrap();
    run(Command::new("grub-mkimage")
        .args(["-O", "i386-pc-pxe", "-p", "(pxe)/none", "-c", "early.cfg"])
        .args(["-o", "firmware/ipxe/pxegrub"])
        .args(["pxe", "tftp", "normal", "legacycfg", "multiboot", "boot", "serial", "terminal"])
        .current_dir(lab.dir.path()));
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
fn e2e_grub_legacys_menu_boots_smartos_by_tftp_alone() {
    let mut lab = Lab::new("g", Cable::Good);
    prepare(&lab);
    let cnapi = Standin::start(&lab, SMARTOS);
    // Outside of the range that is the second namespace's.
    let config =
        large().replace("=10.99.128.1\n", "=10.99.0.50\n").replace("10.99.255.254", "10.99.0.60");
    lab.booter(&config, &[]);
    let server = lab.server.clone();
    ip(&format!("-n {server} tuntap add tap0 mode tap"));
    ip(&format!("-n {server} link set tap0 master br0 up"));
    // The card's iPXE would be given its own script: this one does what a ROM does whose DHCP answer
    // names pxegrub.
    let script = format!("#!ipxe\ndhcp net0 && chain tftp://{SERVER}/pxegrub\npoweroff\n");
    fs::write(lab.path("rom.ipxe"), script).unwrap();
    let card = format!("e1000,netdev=n0,mac={VM}");
    let args = [
        "-accel",
        "tcg,thread=multi",
        "-m",
        "512",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
        "-netdev",
        "tap,id=n0,ifname=tap0,script=no,downscript=no",
        "-device",
        &card,
        "-kernel",
        "/usr/lib/ipxe/ipxe.lkrn",
        "-initrd",
        "rom.ipxe",
    ];
    let mut machine = lab.start(&server, "vm.log", "qemu-system-x86_64", &args);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = machine.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > LIMIT {
            machine.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    // GRUB 2 puts backslashes before quotes.
    let (console, log) = (lab.log("vm.log").replace("\\x5c", ""), lab.log("booter.log"));
    assert_eq!(status.code(), Some(CONTENT), "{console}\n{log}");
    let has = |start: &str, end: &str| {
        let line =
            console.lines().map(str::trim_end).find(|l| l.starts_with(start) && l.ends_with(end));
        assert!(line.is_some(), "{start} … {end}: {console}");
    };
    has("probe: loader GRUB", "");
    has("probe: cmdline", ",console=ttyb,ttyb-mode=\"115200,8,n,1,-\"");
    has(&format!("probe: module 0 {ARCHIVE} "), " type=rootfs name=ramdisk");
    for path in ["/unix", "/boot_archive"] {
        assert!(
            log.lines().any(|line| line.contains("TFTP complete") && line.contains(path)),
            "{path}: {log}"
        );
    }
    assert!(!log.contains("\"message\":\"HTTP"), "{log}");
    cnapi.stop();
}
