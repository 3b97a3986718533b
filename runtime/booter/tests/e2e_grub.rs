//! GRUB legacy's way: menu, kernel and archive by TFTP alone. No build of pxegrub is to be had here, so
//! GRUB 2 stands in for it: it reads GRUB legacy's menus, and uses the firmware's PXE as pxegrub does.
//! Needs root, iproute2, grub-common, grub-pc-bin, ipxe, qemu-system-x86, gcc.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod lab;

use std::fs;
use std::process::Command;

use lab::standin::Standin;
use lab::vm::{self, VM, has, run};
use lab::{Cable, Lab, SERVER};

const SMARTOS: &str = "20260301T000000Z";
/// More than what the booter keeps in memory of one file.
const ARCHIVE: usize = 17 << 20;

/// GRUB among the boot programs.
fn grub(lab: &Lab) {
    let mac = VM.replace(':', "");
    let menu = format!("legacy_configfile (tftp,{SERVER})/menu.lst.01{mac}");
    fs::write(lab.path("early.cfg"), format!("set root=(tftp,{SERVER})\n{menu}\n")).unwrap();
    run(Command::new("grub-mkimage")
        .args(["-O", "i386-pc-pxe", "-p", "(pxe)/none", "-c", "early.cfg"])
        .args(["-o", "firmware/ipxe/pxegrub"])
        .args(["pxe", "tftp", "normal", "legacycfg", "multiboot", "boot", "serial", "terminal"])
        .current_dir(lab.dir.path()));
}

#[test]
fn e2e_grub_legacys_menu_boots_smartos_by_tftp_alone() {
    let mut lab = Lab::new("g", Cable::Good);
    vm::platform(&lab, SMARTOS, ARCHIVE);
    grub(&lab);
    let cnapi = Standin::start(&lab, SMARTOS);
    lab.booter(&vm::config(), &[]);
    // The card's iPXE would be given its own script: this one does what a ROM does whose DHCP answer
    // names pxegrub.
    let rom = format!("#!ipxe\ndhcp net0 && chain tftp://{SERVER}/pxegrub\npoweroff\n");
    // GRUB 2 puts backslashes before quotes.
    let (console, log) = (vm::boot(&lab, &rom).replace("\\x5c", ""), lab.log("booter.log"));
    has(&console, "probe: loader GRUB", "");
    has(&console, "probe: cmdline", ",console=ttyb,ttyb-mode=\"115200,8,n,1,-\"");
    has(&console, &format!("probe: module 0 {ARCHIVE} "), " type=rootfs name=ramdisk");
    for path in ["/unix", "/boot_archive"] {
        assert!(
            log.lines().any(|line| line.contains("TFTP complete") && line.contains(path)),
            "{path}: {log}"
        );
    }
    assert!(!log.contains("\"message\":\"HTTP"), "{log}");
    cnapi.stop();
}
