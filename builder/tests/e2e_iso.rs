//! A small ISO image boots by BIOS and UEFI, from a CD and from a USB disk.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use headnode::boot::grub_iso;
use headnode::image::Content;
use headnode::image::iso::{Format, Iso};
use headnode::image::output::{Compression, Output, packed};
use headnode::image::pool::Pool;
use headnode::lab::host::{OVMF_CODE, OVMF_VARS};

const LIMIT: Duration = Duration::from_secs(180);
const MARKER: &str = "ISO-MARKER from the configuration";
const FILE: &str = "ISO-FILE from a file with a long name";

fn image(dir: &Path) -> String {
    let config = format!(
        "serial --unit=0 --speed=115200\nterminal_output serial\necho \"{MARKER}\"\n\
         cat \"/a folder with a long name/A-File.with.a.long.name\"\necho \"root is $root\"\nhalt\n"
    );
    let files: Vec<(String, Content)> = vec![
        (".marker".to_owned(), b"".to_vec().into()),
        ("boot/grub/grub.cfg".to_owned(), config.into_bytes().into()),
        (
            "a folder with a long name/A-File.with.a.long.name".to_owned(),
            format!("{FILE}\n").into(),
        ),
        // So that block numbers are not all small.
        ("ballast".to_owned(), vec![1; 20 << 20].into()),
    ];
    let boot = grub_iso::build(dir, ".marker").unwrap();
    let format =
        Format { volume: "HEADNODE".to_owned(), time: 1_767_323_045, digest: [5; 32], boot };
    let path = dir.join("a.iso");
    let pool = Pool::new(1).unwrap();
    let raw = packed(File::create(&path).unwrap(), Compression::None, &pool).unwrap();
    let mut out = Output::new(vec![raw], |_| ());
    Iso::plan(format, files).unwrap().write(&mut out).unwrap();
    out.finish().unwrap();
    path.to_str().unwrap().to_owned()
}

/// Ends the machine when the test ends.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boots(uefi: bool, usb: bool) {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "256", "-boot", "strict=on"])
        .args(["-serial", "stdio"]);
    if uefi {
        let vars = dir.path().join("vars");
        std::fs::copy(OVMF_VARS, &vars).expect("ci/setup installs ovmf");
        let code = format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}");
        let vars = format!("if=pflash,unit=1,format=raw,file={}", vars.display());
        qemu.args(["-drive", &code, "-drive", &vars]);
    }
    let drive = format!("if=none,id=medium,format=raw,readonly=on,file={image}");
    qemu.args(["-drive", &drive]);
    if usb {
        qemu.args(["-device", "qemu-xhci", "-device", "usb-storage,drive=medium,bootindex=1"]);
    } else {
        qemu.args(["-device", "ide-cd,drive=medium,bootindex=1"]);
    }
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ci/setup installs qemu-system-x86");
    let output = child.stdout.take().unwrap();
    let machine = Machine(child);
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    let started = Instant::now();
    let mut seen = Vec::new();
    let found = |seen: &[String], word: &str| seen.iter().any(|line| line.contains(word));
    while !(found(&seen, MARKER) && found(&seen, FILE) && found(&seen, "root is ")) {
        let left = LIMIT.saturating_sub(started.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => seen.push(line),
            Err(error) => panic!("{error}; the console said:\n{}", seen.join("\n")),
        }
    }
    let root = seen.iter().find(|line| line.contains("root is ")).unwrap();
    // GRUB gives a CD of a BIOS the number that the BIOS does.
    let medium = match (uefi, usb) {
        (_, true) => "root is hd0",
        (true, false) => "root is cd0",
        (false, false) => "root is hd96",
    };
    println!("after {:.1} s: {root}", started.elapsed().as_secs_f64());
    assert!(root.contains(medium), "{root}");
    drop(machine);
}

#[test]
fn e2e_iso_boots_by_bios_from_cd() {
    boots(false, false);
}

#[test]
fn e2e_iso_boots_by_uefi_from_cd() {
    boots(true, false);
}

#[test]
fn e2e_iso_boots_by_bios_from_a_usb_disk() {
    boots(false, true);
}

#[test]
fn e2e_iso_boots_by_uefi_from_a_usb_disk() {
    boots(true, true);
}
