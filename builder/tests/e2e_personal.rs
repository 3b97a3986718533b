//! GRUB's menus take the console that `headnode customize` put into an image: SmartOS' is told by the
//! probe of `firmware/probe`, what the one of a Linux headnode made of it by GRUB's own command line.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/linux.rs"]
mod linux;
#[path = "support/probe.rs"]
mod probe;
#[path = "support/smartos.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use linux::Parts;
use probe::{console, run, uefi};
use support::{built, noise, platform, text};

const STAMP: &str = "20260101T000000Z";

fn customize(image: &Path, args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_headnode"))
        .args(["customize", text(image), "--in-place"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn drive(image: &Path) -> String {
    format!("file={},format=raw,if=virtio,snapshot=on", text(image))
}

#[test]
fn e2e_personal_smartos_boots_with_the_site_s_console() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = support::probe(dir.path());
    let tarball = platform(dir.path(), STAMP, &kernel, &noise(1, 100_003));
    let args = ["--platform", text(&tarball), "--format", "usb,iso", "--console", "ttyS0"];
    built(&dir.path().join("out/"), &[&args[..], &["--timeout", "1"]].concat());
    let version = env!("CARGO_PKG_VERSION");
    let made =
        |end: &str| -> PathBuf { dir.path().join(format!("out/headnode-{version}-{STAMP}{end}")) };
    let (key, disc) = (made(".img"), made(".iso"));
    let bios = |devices: &[&str]| run(&[&["-net", "none"], devices].concat(), &[]).cmdline;
    let drive = drive(&key);
    for (console, expected) in [("ttyS1", "ttyb"), ("ttyS3", "ttyd"), ("tty0", "text")] {
        customize(&key, &["--console", console]);
        let cmdline = bios(&["-drive", &drive]);
        assert!(cmdline.ends_with(&format!(",console={expected}")), "{console}: {cmdline}");
    }
    let firmware = uefi(dir.path());
    let mut args: Vec<&str> = firmware.iter().map(String::as_str).collect();
    args.extend(["-net", "none", "-drive", &drive]);
    let told = run(&args, &[]);
    assert!(told.cmdline.ends_with(",console=text"), "{}", told.cmdline);
    customize(&key, &["--clear"]);
    let cmdline = bios(&["-drive", &drive]);
    assert!(cmdline.ends_with(",console=ttya"), "{cmdline}");
    customize(&disc, &["--console", "ttyS2"]);
    let cmdline = bios(&["-cdrom", text(&disc)]);
    assert!(cmdline.ends_with(",console=ttyc"), "{cmdline}");
}

#[test]
fn e2e_personal_the_menu_of_linux_reads_the_site_s_console() {
    let parts = Parts::new(50_000);
    let image = parts.dir.path().join("a.img");
    parts.build(&image, &["--timeout", "60", "--console", "ttyS0"]);
    let (drive, echo) = (drive(&image), b"echo \"<$default $unit $consoles>\"\r");
    let serial = "console=tty0 console=ttyS0,115200n8";
    for (args, expected) in [
        (&["--clear"][..], format!("<serial 0 {serial}>")),
        (&["--console", "tty0"], "<vga 0 console=ttyS0,115200n8 console=tty0>".to_owned()),
        (&["--console", "ttyS0"], format!("<serial 0 {serial}>")),
    ] {
        customize(&image, args);
        let keys: [(&str, &[u8]); 2] =
            [("highlighted entry will be executed", b"c"), ("grub>", echo)];
        let (said, status) = console(&["-net", "none", "-drive", &drive], &keys, Some(&expected));
        assert_eq!(status, None, "{said}");
    }
    // The second port: the menu itself is there.
    customize(&image, &["--console", "ttyS1"]);
    let keys: [(&str, &[u8]); 2] = [("highlighted entry will be executed", b"c"), ("grub>", echo)];
    let expected = "<serial 1 console=tty0 console=ttyS1,115200n8>";
    // QEMU's first port is taken by a file, so that the test's is the second one.
    let first = format!("file:{}", text(&parts.dir.path().join("first")));
    let (said, status) = probe::console_behind(
        &["-serial", &first],
        &["-net", "none", "-drive", &drive],
        &keys,
        Some(expected),
    );
    assert_eq!(status, None, "{said}");
}
