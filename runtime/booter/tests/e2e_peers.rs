//! The booter in a network namespace of its own, with real peers: curl, tftp-hpa, dnsmasq as a second
//! DHCP server, firmware in QEMU, and tshark that decodes what they say. Needs root, iproute2, curl,
//! tftp-hpa, dnsmasq-base, tshark, qemu-system-x86, ovmf and ipxe.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{STAMP, folder, kpxe};
use tempfile::TempDir;

const CONFIG: &str = "datacenter_name=t\ndns_domain=t\nadmin_nic=02:00:00:00:00:07\n\
    admin_ip=10.99.99.7\nadmin_netmask=255.255.255.0\ndhcp_range_start=10.99.99.38\n\
    dhcp_range_end=10.99.99.253\n";

/// A headnode's namespace with a bridge, and a second machine's beside it.
struct Lab {
    dir: TempDir,
    name: String,
    peer: String,
    children: Vec<Child>,
}

impl Lab {
    fn new(name: &str) -> Self {
        let name = format!("sb-{name}-{}", std::process::id());
        let lab = Self { dir: folder(), peer: format!("{name}p"), name, children: Vec::new() };
        let (ns, peer) = (lab.name.as_str(), lab.peer.as_str());
        for line in [
            format!("netns add {ns}"),
            format!("netns add {peer}"),
            format!("-n {ns} link add br0 address 02:00:00:00:00:07 type bridge"),
            format!("-n {ns} addr add 10.99.99.7/24 dev br0"),
            format!("-n {ns} link set br0 up"),
            format!("-n {ns} link set lo up"),
            format!("-n {ns} link add peer0 type veth peer name eth0 netns {peer}"),
            format!("-n {ns} link set peer0 master br0 up"),
            format!("-n {peer} link set eth0 up"),
            format!("-n {peer} addr add 10.99.99.3/24 dev eth0"),
            format!("-n {ns} tuntap add tap0 mode tap"),
            format!("-n {ns} link set tap0 master br0 up"),
        ] {
            ip(&line);
        }
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&mut self, ns: &str, log: &str, program: &str, args: &[&str]) {
        let out = File::create(self.path(log)).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", ns, program])
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    fn booter(&mut self) {
        fs::write(self.path("config"), CONFIG).unwrap();
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let (config, root, state) = (path("config"), path(""), path("state"));
        let socket = path("operator.sock");
        let args = ["--config", &config, "--root", &root, "--state", &state, "--socket", &socket];
        let ns = self.name.clone();
        self.spawn(&ns, "booter.log", env!("CARGO_BIN_EXE_sdc-booter"), &args);
        self.wait_for("booter.log", "sdc-booter is ready", 20);
    }

    /// dnsmasq on the second machine gives addresses, and nothing to boot.
    fn dnsmasq(&mut self) {
        let peer = self.peer.clone();
        let leases = format!("--dhcp-leasefile={}", self.path("dnsmasq.leases").display());
        let args = [
            "-d",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=eth0",
            "--no-ping",
            "--user=root",
            "--dhcp-range=10.99.99.20,10.99.99.30",
            "--dhcp-broadcast",
            "--dhcp-authoritative",
            &leases,
        ];
        self.spawn(&peer, "dnsmasq.log", "dnsmasq", &args);
        self.wait_for("dnsmasq.log", "DHCP, IP range", 20);
    }

    fn vm(&mut self, firmware: &str) {
        let vars = self.path("vars");
        let mut args: Vec<String> =
            ["-accel", "tcg,thread=multi", "-machine", "q35", "-m", "512", "-display", "none"]
                .map(str::to_owned)
                .to_vec();
        let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
        add(&["-uuid", "564d2a1c-2f3b-4c5d-8e9f-001122334455"]);
        add(&["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no"]);
        // Without its ROM the card is driven by the firmware itself, as a server's is.
        let rom = if firmware == "uefi" { ",romfile=" } else { "" };
        let card = format!("virtio-net-pci,netdev=n0,mac=02:00:00:00:01:01,bootindex=1{rom}");
        add(&["-device", &card, "-device", "virtio-rng-pci"]);
        if firmware == "uefi" {
            fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars).unwrap();
            let code = "/usr/share/OVMF/OVMF_CODE_4M.fd";
            add(&["-drive", &format!("if=pflash,format=raw,readonly=on,file={code}")]);
            add(&["-drive", &format!("if=pflash,format=raw,file={}", vars.display())]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ns = self.name.clone();
        self.spawn(&ns, "vm.log", "qemu-system-x86_64", &args);
    }

    fn wait_for(&self, log: &str, text: &str, seconds: u64) -> String {
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            let now = fs::read_to_string(self.path(log)).unwrap();
            if now.contains(text) {
                return now;
            }
            assert!(Instant::now() < until, "no {text:?} in {log}:\n{now}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for ns in [&self.name, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().unwrap();
    assert!(status.success(), "ip {line}");
}

#[test]
fn e2e_curl_and_tftp_hpa_fetch_files() {
    let mut lab = Lab::new("f");
    lab.booter();
    let run = |program: &str, args: &[&str]| {
        let out = Command::new("ip")
            .args(["netns", "exec", &lab.peer, program])
            .args(args)
            .current_dir(lab.dir.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{program} {args:?}: {out:?}");
        out.stdout
    };
    let url = format!("http://10.99.99.7/os/{STAMP}/platform/x86_64/initrd");
    assert_eq!(run("curl", &["-sf", &url]).len(), 3_000_000);
    assert_eq!(run("curl", &["-sf", "-r", "5-9", &url]).len(), 5);
    run("tftp", &["-m", "binary", "10.99.99.7", "-c", "get", "undionly.kpxe", "got"]);
    assert!(fs::read(lab.path("got")).unwrap() == kpxe());
}

#[test]
fn e2e_a_second_dhcp_server_is_named() {
    let mut lab = Lab::new("d");
    lab.booter();
    lab.dnsmasq();
    // A PXE client asks: both servers answer.
    lab.vm("bios");
    lab.wait_for("booter.log", "two DHCP servers: 10.99.99.3", 60);
    // Later than the other's: it asks first whether the address is in use.
    lab.wait_for("booter.log", "DHCP offer", 20);
}

#[test]
fn e2e_firmware_gets_to_the_kernel() {
    for firmware in ["bios", "uefi"] {
        let mut lab = Lab::new(firmware);
        for name in ["undionly.kpxe", "snponly.efi"] {
            let to = lab.path("firmware/ipxe").join(name);
            fs::copy(PathBuf::from("/usr/lib/ipxe").join(name), to).unwrap();
        }
        lab.booter();
        let capture = lab.path("boot.pcapng").to_str().unwrap().to_owned();
        let ns = lab.name.clone();
        lab.spawn(&ns, "tshark.log", "tshark", &["-i", "br0", "-w", &capture]);
        let tshark = lab.children.len() - 1;
        lab.wait_for("tshark.log", "Capturing on", 30);
        lab.vm(firmware);
        let log = lab.wait_for("booter.log", "platform/x86_64/vmlinuz", 240);
        assert!(log.contains("564d2a1c-2f3b-4c5d-8e9f-001122334455"), "{log}");
        assert_eq!(log.contains("TFTP complete"), firmware == "uefi", "{log}");
        // By SIGINT, else the last packets are missing.
        let pid = lab.children[tshark].id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        lab.children[tshark].wait().unwrap();
        let decoded = |filter: &str| {
            let args = ["-r", &capture, "-Y", filter, "-V"];
            let out = Command::new("tshark").args(args).output().unwrap();
            assert!(out.status.success(), "{out:?}");
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        for protocol in ["dhcp.option.dhcp == 5", "http.request"] {
            assert!(!decoded(protocol).is_empty(), "{firmware}: no {protocol} was captured");
        }
        let malformed = decoded("_ws.malformed");
        assert!(malformed.is_empty(), "{firmware}: {malformed}");
    }
}

#[test]
fn e2e_firmware_boots_beside_another_dhcp_server() {
    for firmware in ["bios", "uefi"] {
        let mut lab = Lab::new(&format!("p{firmware}"));
        for name in ["undionly.kpxe", "snponly.efi"] {
            let to = lab.path("firmware/ipxe").join(name);
            fs::copy(PathBuf::from("/usr/lib/ipxe").join(name), to).unwrap();
        }
        fs::create_dir_all(lab.path("config.inc")).unwrap();
        fs::write(lab.path("config.inc/booter.toml"), "[dhcp]\nmode = \"proxy\"\n").unwrap();
        lab.dnsmasq();
        lab.booter();
        lab.vm(firmware);
        let log = lab.wait_for("booter.log", "platform/x86_64/vmlinuz", 180);
        assert!(log.contains("DHCP proxy") && !log.contains("two DHCP servers"), "{log}");
        let given = fs::read_to_string(lab.path("dnsmasq.leases")).unwrap();
        assert!(given.contains("02:00:00:00:01:01"), "{given}");
    }
}
