//! A SmartOS node from its first packet on: DHCP, iPXE by TFTP, DHCP again, its script, and all that the
//! script names, by HTTP and by TFTP; the probe of `firmware/probe` tells what it was given.
//! Needs root, iproute2, ipxe, qemu-system-x86, gcc.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod lab;

use std::fs;
use std::process::Command;

use lab::standin::Standin;
use lab::vm::{self, VM, has, run};
use lab::{Cable, Lab, SERVER};

const SMARTOS: &str = "20260301T000000Z";
const ARCHIVE: usize = 3 << 20;

/// Boots, and looks at what the kernel got.
fn boots(lab: &Lab) -> String {
    // A card's ROM whose DHCP answer names this program: the card's own iPXE would be given the script.
    let rom = format!("#!ipxe\ndhcp net0 && chain tftp://{SERVER}/undionly.kpxe\npoweroff\n");
    let console = vm::boot(lab, &rom);
    has(&console, "probe: loader iPXE", "");
    let cmdline = format!(
        "unix -B admin_nic={VM},hostname={},console=ttyb,ttyb-mode=\"115200,8,n,1,-\"",
        VM.replace(':', "-")
    );
    has(&console, "probe: cmdline", &cmdline);
    let file = lab.path("os").join(SMARTOS).join("platform/i86pc/amd64/boot_archive");
    let sha256 = run(Command::new("sha256sum").arg(file));
    let sha256 = sha256.split(' ').next().unwrap();
    let archive = format!("probe: module 0 {ARCHIVE} {sha256} ");
    has(&console, &archive, " type=rootfs name=ramdisk");
    has(&console, "probe: module 1 40 ", " type=hash name=ramdisk");
    has(&console, "probe: module 2 ", " type=file name=networking.json");
    console
}

/// The digest is on disk, as a platform has it.
fn prepare(lab: &Lab) {
    vm::platform(lab, SMARTOS, ARCHIVE);
    let archive = lab.path("os").join(SMARTOS).join("platform/i86pc/amd64/boot_archive");
    let digest = run(Command::new("sha1sum").arg(&archive));
    fs::write(archive.with_extension("hash"), &digest[..40]).unwrap();
    let program = lab.path("firmware/ipxe/undionly.kpxe");
    fs::copy("/usr/lib/ipxe/undionly.kpxe", program).unwrap();
}

#[test]
fn e2e_smartos_boots_by_ipxe_on_bios() {
    let mut lab = Lab::new("o", Cable::Good);
    prepare(&lab);
    let cnapi = Standin::start(&lab, SMARTOS);
    lab.booter(&vm::config(), &[]);
    boots(&lab);
    let log = lab.log("booter.log");
    let offers = log.lines().filter(|line| line.contains("DHCP offer")).count();
    assert!(offers >= 2 && log.contains("undionly.kpxe"), "{log}");
    cnapi.stop();
}

#[test]
fn e2e_smartos_boots_by_tftp_where_the_site_wants_it() {
    let mut lab = Lab::new("ot", Cable::Good);
    prepare(&lab);
    let cnapi = Standin::start(&lab, SMARTOS);
    lab.settings("[script]\nscheme = \"tftp\"\n");
    lab.booter(&vm::config(), &[]);
    boots(&lab);
    let log = lab.log("booter.log");
    for path in ["/unix", "/boot_archive", "/networking.json"] {
        let by_tftp = |line: &str| line.contains("TFTP complete") && line.contains(path);
        assert!(log.lines().any(by_tftp), "{path}: {log}");
    }
    cnapi.stop();
}

#[test]
fn e2e_smartos_boots_without_parameters_after_a_menu_that_says_so() {
    let mut lab = Lab::new("om", Cable::Good);
    prepare(&lab);
    // Nobody is CNAPI here.
    lab.booter(&vm::config(), &[]);
    let console = boots(&lab);
    assert!(console.contains("has no parameters for this machine"), "{console}");
    assert!(console.contains(&format!("Boot platform {SMARTOS}, the newest")), "{console}");
}
