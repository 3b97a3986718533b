//! A SmartOS-shaped platform boots in QEMU from the key (BIOS, UEFI) and from the network, and its
//! kernel, the probe of `firmware/probe`, tells what it was given.
//!
//! What these tests found, with Debian 12's loaders:
//! - iPXE (1.0.0+git-20190125.36a4c85, which is upstream's code) does pass `type=` and `name=` on: a
//!   module's command line is its URL, a blank, and the arguments of `module`. It loads the 64-bit
//!   ELF file by the load addresses of its multiboot 1 header. So SmartOS needs no fork of iPXE for
//!   its modules (C§4.4 has this as not verified). Upstream's limits are 8 modules, and 512 bytes for
//!   all command lines together, URLs included; what is more is cut off.
//! - GRUB (2.06) leaves the file's name out of the command line and puts a backslash before quotes,
//!   so that `-B ttya-mode="115200,8,n,1,-"` cannot be said by it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/smartos.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use support::{built, hash_text, noise, platform, text};

const NEW: &str = "20260101T000000Z";
const OLD: &str = "20250601T120000Z";
const OVMF: &str = "/usr/share/OVMF";
/// Booting takes about 10 s on an idle machine; the tests share theirs.
const LIMIT: Duration = Duration::from_secs(240);
/// QEMU's status when the probe was content: its exit device makes it from the probe's 16.
const CONTENT: i32 = 33;

/// What the probe told.
#[derive(Debug, Default)]
struct Told {
    protocol: String,
    loader: String,
    cmdline: String,
    firmware: String,
    framebuffer: String,
    modules: Vec<Module>,
}

#[derive(Debug, PartialEq)]
struct Module {
    size: usize,
    sha256: String,
    args: String,
}

fn module(content: &[u8], args: &str) -> Module {
    let hash = Sha256::digest(content);
    let sha256 = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Module { size: content.len(), sha256, args: args.to_owned() }
}

/// QEMU, ended when the test ends.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a machine until the probe ends it, and returns what that told. When the console shows a
/// word, a key is sent.
fn run(args: &[&str], keys: &[(&str, &[u8])]) -> Told {
    let begin = Instant::now();
    let (console, status) = console(args, keys, None);
    assert_eq!(status, Some(CONTENT), "{console}");
    let told = parse(&console);
    println!("{told:#?}\n{:.1} s", begin.elapsed().as_secs_f64());
    told
}

/// Runs a machine until its console shows a word or it ends by itself: the console, and in the
/// latter case QEMU's status.
fn console(args: &[&str], keys: &[(&str, &[u8])], until: Option<&str>) -> (String, Option<i32>) {
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-m", "512", "-no-reboot", "-display", "none"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-serial", "stdio"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap_or_else(|error| panic!("qemu-system-x86_64: {error}; ci/setup installs it"));
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut machine = Machine(child);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(part) = output.fill_buf().map(<[u8]>::to_vec) {
            if part.is_empty() || sender.send(part.clone()).is_err() {
                return;
            }
            output.consume(part.len());
        }
    });
    let begin = Instant::now();
    let mut console = Vec::new();
    let mut keys = keys.iter();
    let mut next = keys.next();
    loop {
        match receiver.recv_timeout(LIMIT.saturating_sub(begin.elapsed())) {
            Ok(part) => console.extend(part),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("nothing after {LIMIT:?}:\n{}", String::from_utf8_lossy(&console))
            }
        }
        if let Some((word, key)) = next
            && String::from_utf8_lossy(&console).contains(word)
        {
            input.write_all(key).unwrap();
            input.flush().unwrap();
            next = keys.next();
        }
        if until.is_some_and(|word| String::from_utf8_lossy(&console).contains(word)) {
            return (String::from_utf8_lossy(&console).into_owned(), None);
        }
    }
    let status = machine.0.wait().unwrap();
    (String::from_utf8_lossy(&console).into_owned(), status.code())
}

fn parse(console: &str) -> Told {
    let mut told = Told::default();
    let mut done = false;
    let mut count = None;
    for line in console.lines().filter_map(|line| line.trim_end().strip_prefix("probe: ")) {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "protocol" => told.protocol = value.to_owned(),
            "loader" => told.loader = value.to_owned(),
            "cmdline" => told.cmdline = value.to_owned(),
            "firmware" => told.firmware = value.to_owned(),
            "framebuffer" => told.framebuffer = value.to_owned(),
            "modules" => count = value.parse().ok(),
            "module" => {
                let parts: Vec<&str> = value.splitn(4, ' ').collect();
                assert_eq!(parts[0], told.modules.len().to_string(), "{line}");
                told.modules.push(Module {
                    size: parts[1].parse().unwrap(),
                    sha256: parts[2].to_owned(),
                    args: parts[3].to_owned(),
                });
            }
            "done" => done = true,
            _ => panic!("{line}\n{console}"),
        }
    }
    assert!(done && count == Some(told.modules.len()), "{console}");
    told
}

/// A key with two platforms.
struct Key {
    dir: tempfile::TempDir,
    image: PathBuf,
    /// The boot archives of the new platform and of the old one.
    archives: [Vec<u8>; 2],
}

impl Key {
    fn new(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = support::probe(dir.path());
        let archives = [noise(1, 5_000_003), noise(2, 1_000_000)];
        let new = platform(dir.path(), NEW, &kernel, &archives[0]);
        let old = platform(dir.path(), OLD, &kernel, &archives[1]);
        let image = dir.path().join("a.img");
        let platforms = ["--platform", text(&new), "--platform", text(&old)];
        built(&image, &[&platforms[..], args].concat());
        Self { dir, image, archives }
    }

    fn drive(&self) -> String {
        format!("file={},format=raw,if=virtio,snapshot=on", text(&self.image))
    }

    fn bios(&self, keys: &[(&str, &[u8])]) -> Told {
        run(&["-net", "none", "-drive", &self.drive()], keys)
    }

    fn uefi(&self, keys: &[(&str, &[u8])]) -> Told {
        let vars = self.dir.path().join("vars.fd");
        fs::copy(format!("{OVMF}/OVMF_VARS_4M.fd"), &vars)
            .unwrap_or_else(|error| panic!("{OVMF}: {error}; ci/setup installs it"));
        let code = format!("if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd");
        let vars = format!("if=pflash,format=raw,file={}", text(&vars));
        let drive = self.drive();
        run(&["-net", "none", "-drive", &code, "-drive", &vars, "-drive", &drive], keys)
    }

    /// The modules as illumos wants them (C§4.4), from the platform of this index.
    fn modules(&self, index: usize, with_hash: bool) -> Vec<Module> {
        let archive = &self.archives[index];
        let path = format!("{}/i86pc/amd64/boot_archive", folder(index));
        let mut modules = vec![module(archive, &format!("{path} type=rootfs name=ramdisk"))];
        if with_hash {
            let args = format!("{path}.hash type=hash name=ramdisk");
            modules.push(module(hash_text(archive).as_bytes(), &args));
        }
        let modes = ["ttya", "ttyb", "ttyc", "ttyd"];
        let environment = modes.map(|port| format!("{port}-mode=115200,8,n,1,-\0")).concat();
        let args = "/boot/smartos.env type=environment name=environment";
        modules.push(module(environment.as_bytes(), args));
        modules
    }
}

fn folder(index: usize) -> &'static str {
    ["/os/20260101t000000z/platform", "/os/20250601t120000z/platform"][index]
}

fn kernel(index: usize) -> String {
    format!("{}/i86pc/kernel/amd64/unix", folder(index))
}

const DOWN: &[u8] = b"\x1b[B";

fn down(times: usize) -> Vec<u8> {
    [DOWN.repeat(times), b"\r".to_vec()].concat()
}

#[test]
fn e2e_probe_key_boots_on_bios() {
    let key = Key::new(&["--console", "ttyS0", "--timeout", "60"]);
    let menu = "highlighted entry will be executed";
    let told = key.bios(&[(menu, b"\r")]);
    assert_eq!(told.protocol, "multiboot1");
    assert!(told.loader.starts_with("GRUB 2."), "{}", told.loader);
    let properties = "headnode=true,smt_enabled=true,console=ttya";
    assert_eq!(told.cmdline, format!("{} -B {properties}", kernel(0)));
    assert_eq!(told.modules, key.modules(0, true));

    // Third entry: back to the platform before.
    let told = key.bios(&[(menu, &down(2))]);
    assert_eq!(told.cmdline, format!("{} -B {properties}", kernel(1)));
    assert_eq!(told.modules, key.modules(1, true));
    // Fourth: rescue, without the hash.
    let told = key.bios(&[(menu, &down(3))]);
    assert_eq!(told.cmdline, format!("{} -B {properties},noimport=true", kernel(0)));
    assert_eq!(told.modules, key.modules(0, false));
    // Sixth: the kernel debugger.
    let told = key.bios(&[(menu, &down(5))]);
    assert_eq!(told.cmdline, format!("{} -k -d -B {properties}", kernel(0)));
    assert_eq!(told.modules, key.modules(0, true));
}

#[test]
fn e2e_probe_key_boots_on_uefi() {
    // Without a key pressed, on the screen and with Triton's serial port.
    let key = Key::new(&["--console", "tty0"]);
    let told = key.uefi(&[]);
    assert_eq!((&*told.protocol, &*told.firmware), ("multiboot2", "efi64"));
    assert!(told.loader.starts_with("GRUB 2."), "{}", told.loader);
    assert!(!told.framebuffer.is_empty(), "illumos' console on UEFI needs a framebuffer");
    let properties = "headnode=true,smt_enabled=true,console=text";
    assert_eq!(told.cmdline, format!("{} -B {properties}", kernel(0)));
    assert_eq!(told.modules, key.modules(0, true));
}

#[test]
fn e2e_probe_a_damaged_kernel_is_not_started() {
    let key = Key::new(&["--console", "ttyS0"]);
    let from = fs::read(&key.image).unwrap();
    let probe = fs::read(key.dir.path().join("probe")).unwrap();
    // The new platform's kernel is the second one: the key's files are sorted by path.
    let at: Vec<usize> = (0..from.len() - probe.len())
        .step_by(512)
        .filter(|at| from[*at..].starts_with(&probe))
        .collect();
    assert_eq!(at.len(), 2);
    let mut bytes = from;
    bytes[at[1] + probe.len() - 1] ^= 1;
    fs::write(&key.image, bytes).unwrap();
    let args = ["-net", "none", "-drive", &key.drive()];
    let (console, status) = console(&args, &[], Some("Nothing was started"));
    assert_eq!(status, None, "{console}");
    assert!(console.contains(&format!("{} is damaged", kernel(0))), "{console}");
    assert!(!console.contains("probe: "), "{console}");
}

/// What QEMU's TFTP server gives: a platform and a boot script with the lines of C§4.4.
fn netboot(dir: &Path) -> (PathBuf, Vec<u8>) {
    let root = dir.join("tftp");
    let below = root.join(format!("os/{NEW}/platform"));
    let archive = noise(7, 2_000_000);
    for (path, content) in support::platform_files(NEW, &support::probe(dir), &archive) {
        let file = below.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    fs::write(root.join("networking.json"), "{}\n").unwrap();
    let base = format!("tftp://${{next-server}}/os/{NEW}/platform/i86pc");
    let script = format!(
        "#!ipxe\n\
         kernel {base}/kernel/amd64/unix -B headnode=true,console=ttyb,ttyb-mode=\"115200,8,n,1,-\"\n\
         module {base}/amd64/boot_archive type=rootfs name=ramdisk\n\
         module {base}/amd64/boot_archive.hash type=hash name=ramdisk\n\
         module tftp://${{next-server}}/networking.json type=file name=networking.json\n\
         boot\n"
    );
    fs::write(root.join("boot.ipxe"), script).unwrap();
    (root, archive)
}

#[test]
fn e2e_probe_upstream_ipxe_passes_types_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let (root, archive) = netboot(dir.path());
    let user = format!("user,id=n,tftp={},bootfile=boot.ipxe", text(&root));
    let told = run(&["-netdev", &user, "-device", "e1000,netdev=n", "-boot", "n"], &[]);
    assert_eq!(told.protocol, "multiboot1");
    assert!(told.loader.starts_with("iPXE "), "{}", told.loader);
    let base = format!("tftp://10.0.2.2/os/{NEW}/platform/i86pc");
    let properties = "headnode=true,console=ttyb,ttyb-mode=\"115200,8,n,1,-\"";
    assert_eq!(told.cmdline, format!("{base}/kernel/amd64/unix -B {properties}"));
    let path = format!("{base}/amd64/boot_archive");
    let hash = hash_text(&archive);
    assert_eq!(
        told.modules,
        [
            module(&archive, &format!("{path} type=rootfs name=ramdisk")),
            module(hash.as_bytes(), &format!("{path}.hash type=hash name=ramdisk")),
            module(b"{}\n", "tftp://10.0.2.2/networking.json type=file name=networking.json"),
        ]
    );
}
