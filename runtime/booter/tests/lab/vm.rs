//! A machine in QEMU on the booter's network, which boots the probe as a SmartOS kernel.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Lab, ip};

/// The machine's NIC.
pub const VM: &str = "02:00:00:00:01:01";
/// QEMU's status when the probe was content: its exit device makes it from the probe's 16.
const CONTENT: i32 = 33;
/// Thousands of round trips, on a machine that other tests share.
const LIMIT: Duration = Duration::from_secs(400);

/// Runs a program that has to end well; what it printed.
pub fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// A SmartOS platform that has the probe for its kernel, with an archive of this size.
pub fn platform(lab: &Lab, stamp: &str, archive: usize) {
    let platform = lab.path("os").join(stamp).join("platform/i86pc");
    for folder in ["kernel/amd64", "amd64"] {
        fs::create_dir_all(platform.join(folder)).unwrap();
    }
    let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../firmware/probe/build");
    run(Command::new(probe).arg(platform.join("kernel/amd64/unix")));
    let content: Vec<u8> =
        (0..archive).map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    fs::write(platform.join("amd64/boot_archive"), content).unwrap();
}

/// A configuration whose range is the booter's own network, and not the second namespace's.
pub fn config() -> String {
    super::large().replace("=10.99.128.1\n", "=10.99.0.50\n").replace("10.99.255.254", "10.99.0.60")
}

/// Boots a BIOS machine whose card does what this script of iPXE says; the console, up to the probe's
/// content end.
pub fn boot(lab: &Lab, rom: &str) -> String {
    let server = &lab.server;
    ip(&format!("-n {server} tuntap add tap0 mode tap"));
    ip(&format!("-n {server} link set tap0 master br0 up"));
    fs::write(lab.path("rom.ipxe"), rom).unwrap();
    let card = format!("e1000,netdev=n0,mac={VM}");
    let args = [
        "-accel",
        "tcg,thread=multi",
        "-m",
        "512",
        "-no-reboot",
        // The firmware writes what it and iPXE would show on the screen to the serial port.
        "-machine",
        "pc,graphics=off",
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
    let mut machine = lab.start(server, "vm.log", "qemu-system-x86_64", &args);
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
    let console = lab.log("vm.log");
    assert_eq!(status.code(), Some(CONTENT), "{console}\n{}", lab.log("booter.log"));
    console
}

/// Whether the console has a line that begins and ends so.
pub fn has(console: &str, start: &str, end: &str) {
    let mut lines = console.lines().map(str::trim_end);
    let found = lines.any(|line| line.starts_with(start) && line.ends_with(end));
    assert!(found, "{start} … {end}: {console}");
}
