//! A SmartOS-shaped platform boots in QEMU from every medium that `headnode build` makes, and its
//! kernel, the probe of `firmware/probe`, tells what it was given: from the key and the disc (BIOS,
//! UEFI), from the boot server's files, and as a compute node of a network by the key's own iPXE.
//!
//! What these tests found, with Debian 12's loaders:
//! - iPXE (1.0.0+git-20190125.36a4c85, which is upstream's code) does pass `type=` and `name=` on: a
//!   module's command line is its URL, a blank, and the arguments of `module`. It loads the 64-bit
//!   ELF file by the load addresses of its multiboot 1 header. So SmartOS needs no fork of iPXE for
//!   its modules (C§4.4 has this as not verified). Upstream's limits are 8 modules, and 512 bytes for
//!   all command lines together, URLs included; what is more is cut off. On UEFI machines it cannot
//!   start multiboot kernels at all.
//! - GRUB (2.06) leaves the file's name out of the command line and puts a backslash before quotes,
//!   so that `-B ttya-mode="115200,8,n,1,-"` cannot be said by it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/probe.rs"]
mod probe;
#[path = "support/smartos.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use probe::{Module, Told, console, module, run, uefi};
use support::{built, hash_text, noise, platform, text, verify};

const NEW: &str = "20260101T000000Z";
const OLD: &str = "20250601T120000Z";

/// What a build with two platforms made.
struct Media {
    dir: tempfile::TempDir,
    /// The boot archives of the new platform and of the old one.
    archives: [Vec<u8>; 2],
}

impl Media {
    fn new(formats: &str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = support::probe(dir.path());
        let archives = [noise(1, 5_000_003), noise(2, 1_000_000)];
        let new = platform(dir.path(), NEW, &kernel, &archives[0]);
        let old = platform(dir.path(), OLD, &kernel, &archives[1]);
        let given = ["--platform", text(&new), "--platform", text(&old), "--format", formats];
        built(&dir.path().join("out/"), &[&given[..], args].concat());
        Self { dir, archives }
    }

    fn made(&self, end: &str) -> PathBuf {
        let version = env!("CARGO_PKG_VERSION");
        self.dir.path().join(format!("out/headnode-{version}-{NEW}{end}"))
    }

    fn bios(&self, devices: &[&str], keys: &[(&str, &[u8])]) -> Told {
        run(&[&["-net", "none"], devices].concat(), keys)
    }

    fn uefi(&self, devices: &[&str]) -> Told {
        let firmware = uefi(self.dir.path());
        let firmware: Vec<&str> = firmware.iter().map(String::as_str).collect();
        run(&[&firmware[..], &["-net", "none"], devices].concat(), &[])
    }

    /// A module of a platform's boot archive, or of the archive's hash.
    fn archive(&self, index: usize, path: &str) -> Module {
        module(&self.archives[index], &format!("{path} type=rootfs name=ramdisk"))
    }

    fn hash(&self, index: usize, path: &str) -> Module {
        let text = hash_text(&self.archives[index]);
        module(text.as_bytes(), &format!("{path}.hash type=hash name=ramdisk"))
    }

    /// The modules as illumos wants them (C§4.4), from the platform in this folder.
    fn modules(&self, index: usize, folder: &str, with_hash: bool) -> Vec<Module> {
        let path = format!("{folder}/i86pc/amd64/boot_archive");
        let mut modules = vec![self.archive(index, &path)];
        if with_hash {
            modules.push(self.hash(index, &path));
        }
        let modes = ["ttya", "ttyb", "ttyc", "ttyd"];
        let environment = modes.map(|port| format!("{port}-mode=115200,8,n,1,-\0")).concat();
        let args = "/boot/smartos.env type=environment name=environment";
        modules.push(module(environment.as_bytes(), args));
        modules
    }
}

fn drive(image: &Path) -> String {
    format!("file={},format=raw,if=virtio,snapshot=on", text(image))
}

/// The platforms' folders on the key, which is FAT, and on the disc.
const ON_KEY: [&str; 2] = ["/os/20260101t000000z/platform", "/os/20250601t120000z/platform"];
const ON_DISC: &str = "/os/20260101T000000Z/platform";

fn kernel(folder: &str) -> String {
    format!("{folder}/i86pc/kernel/amd64/unix")
}

fn down(times: usize) -> Vec<u8> {
    [b"\x1b[B".repeat(times), b"\r".to_vec()].concat()
}

#[test]
fn e2e_probe_key_boots_on_bios() {
    let key = Media::new("usb", &["--console", "ttyS0", "--timeout", "60"]);
    let drive = drive(&key.made(".img"));
    let bios = |keys: &[u8]| {
        key.bios(&["-drive", &drive], &[("highlighted entry will be executed", keys)])
    };
    let told = bios(b"\r");
    assert_eq!(told.protocol, "multiboot1");
    assert!(told.loader.starts_with("GRUB 2."), "{}", told.loader);
    let properties = "headnode=true,smt_enabled=true,console=ttya";
    assert_eq!(told.cmdline, format!("{} -B {properties}", kernel(ON_KEY[0])));
    assert_eq!(told.modules, key.modules(0, ON_KEY[0], true));

    // From the default entry, the first one of the headnode: two down, back to the platform before.
    let told = bios(&down(2));
    assert_eq!(told.cmdline, format!("{} -B {properties}", kernel(ON_KEY[1])));
    assert_eq!(told.modules, key.modules(1, ON_KEY[1], true));
    // Rescue, without the hash.
    let told = bios(&down(3));
    assert_eq!(told.cmdline, format!("{} -B {properties},noimport=true", kernel(ON_KEY[0])));
    assert_eq!(told.modules, key.modules(0, ON_KEY[0], false));
    // The kernel debugger.
    let told = bios(&down(5));
    assert_eq!(told.cmdline, format!("{} -k -d -B {properties}", kernel(ON_KEY[0])));
    assert_eq!(told.modules, key.modules(0, ON_KEY[0], true));
}

#[test]
fn e2e_probe_key_boots_on_uefi() {
    // Without a key pressed, on the screen and with Triton's serial port.
    let key = Media::new("usb", &["--console", "tty0"]);
    let told = key.uefi(&["-drive", &drive(&key.made(".img"))]);
    assert_eq!((&*told.protocol, &*told.firmware), ("multiboot2", "efi64"));
    assert!(told.loader.starts_with("GRUB 2."), "{}", told.loader);
    assert!(!told.framebuffer.is_empty(), "illumos' console on UEFI needs a framebuffer");
    let properties = "headnode=true,smt_enabled=true,console=text";
    assert_eq!(told.cmdline, format!("{} -B {properties}", kernel(ON_KEY[0])));
    assert_eq!(told.modules, key.modules(0, ON_KEY[0], true));
}

#[test]
fn e2e_probe_disc_and_boot_server_s_files_boot() {
    let media = Media::new("iso,pxe", &["--timeout", "0"]);
    let disc = media.made(".iso");
    let cd = format!("if=none,id=medium,format=raw,readonly=on,file={}", text(&disc));
    let as_cd = ["-drive", &cd, "-device", "ide-cd,drive=medium,bootindex=1"];
    let as_usb =
        ["-drive", &cd, "-device", "qemu-xhci", "-device", "usb-storage,drive=medium,bootindex=1"];
    for (devices, on_uefi) in
        [(&as_cd[..], false), (&as_cd[..], true), (&as_usb[..], false), (&as_usb[..], true)]
    {
        let told = if on_uefi { media.uefi(devices) } else { media.bios(devices, &[]) };
        assert_eq!(told.protocol, if on_uefi { "multiboot2" } else { "multiboot1" });
        assert_eq!(told.firmware, if on_uefi { "efi64" } else { "" });
        // C§1.11 and C§1.14: how setup finds the disc, and never the network by default.
        let properties = "headnode=true,smt_enabled=true,triton_installer=iso,console=ttyb";
        assert_eq!(told.cmdline, format!("{} -B {properties}", kernel(ON_DISC)));
        assert_eq!(told.modules, media.modules(0, ON_DISC, true));
    }
    verify(&disc);

    let root = media.dir.path().join("served");
    fs::create_dir(&root).unwrap();
    support::run("tar", &["-xzf", text(&media.made("-pxe.tgz")), "-C", text(&root)]);
    let user = format!("user,id=n,tftp={},bootfile=triton-installer.ipxe", text(&root));
    let told = run(&["-netdev", &user, "-device", "e1000,netdev=n", "-boot", "n"], &[]);
    assert_eq!(told.protocol, "multiboot1");
    let folder = format!("tftp://10.0.2.2/{NEW}/platform");
    let properties = "console=ttyb,ttyb-mode=\"115200,8,n,1,-\",headnode=true,smt_enabled=true,\
        triton_installer=ipxe";
    assert_eq!(told.cmdline, format!("{} -B {properties}", kernel(&folder)));
    let path = format!("{folder}/i86pc/amd64/boot_archive");
    assert_eq!(told.modules, [media.archive(0, &path), media.hash(0, &path)]);
    // Six folders above the kernel, setup fetches the disc's tree (C§1.14).
    let unix = root.join(kernel(&format!("{NEW}/platform")));
    assert!(unix.is_file() && unix.ancestors().nth(6).unwrap().join("fulliso.tgz").is_file());
    support::run("sh", &["-euc", "cd \"$1\"; sha256sum --strict -c SHA256SUMS", "sh", text(&root)]);
}

#[test]
fn e2e_probe_a_damaged_kernel_is_not_started() {
    let key = Media::new("usb", &["--console", "ttyS0"]);
    let image = key.made(".img");
    let from = fs::read(&image).unwrap();
    let probe = fs::read(key.dir.path().join("probe")).unwrap();
    // The new platform's kernel is the second one: the key's files are sorted by path.
    let at: Vec<usize> = (0..from.len() - probe.len())
        .step_by(512)
        .filter(|at| from[*at..].starts_with(&probe))
        .collect();
    assert_eq!(at.len(), 2);
    let mut bytes = from;
    bytes[at[1] + probe.len() - 1] ^= 1;
    fs::write(&image, bytes).unwrap();
    let args = ["-net", "none", "-drive", &drive(&image)];
    let (console, status) = console(&args, &[], Some("Nothing was started"));
    assert_eq!(status, None, "{console}");
    assert!(console.contains(&format!("{} is damaged", kernel(ON_KEY[0]))), "{console}");
    assert!(!console.contains("probe: "), "{console}");
}

/// What QEMU's TFTP server gives: a platform, a boot script with the lines of C§4.4 for BIOS machines,
/// and a word for UEFI ones.
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
    let script = "#!ipxe\necho Network boot on ${platform}, ${buildarch}\nsleep 600\n";
    fs::write(root.join("uefi.ipxe"), script).unwrap();
    (root, archive)
}

/// By default as the build was told, without a key pressed: GRUB starts the key's iPXE, which finds
/// what the network has for this machine.
#[test]
fn e2e_probe_key_boots_a_compute_node_from_the_network() {
    let spec = tempfile::tempdir().unwrap();
    let file = spec.path().join("build.spec");
    fs::write(&file, "{\"ipxe\": true, \"timeout\": 0}").unwrap();
    let key = Media::new("usb", &["--spec", text(&file)]);
    let drive = drive(&key.made(".img"));
    let (root, archive) = netboot(key.dir.path());
    let net = |file: &str| format!("user,id=n,tftp={},bootfile={file}", text(&root));
    // No ROM: what boots from the network is on the key.
    let (card, netdev) = ("virtio-net-pci,netdev=n,romfile=", net("boot.ipxe"));
    let told = run(&["-drive", &drive, "-netdev", &netdev, "-device", card], &[]);
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

    let firmware = uefi(key.dir.path());
    let firmware: Vec<&str> = firmware.iter().map(String::as_str).collect();
    let netdev = net("uefi.ipxe");
    // The firmware must start the key: it has the network's own boot entries, too.
    let medium = format!("if=none,id=key,format=raw,snapshot=on,file={}", text(&key.made(".img")));
    let disk = "virtio-blk-pci,drive=key,bootindex=1";
    let devices = ["-drive", &medium, "-device", disk, "-netdev", &netdev, "-device", card];
    let word = "Network boot on efi, x86_64";
    let (said, status) = console(&[&firmware[..], &devices].concat(), &[], Some(word));
    assert_eq!(status, None, "{said}");
}
