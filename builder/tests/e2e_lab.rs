//! The lab with real QEMUs, but without an operating system: a boot sector that says a word.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use headnode::lab::control::{LinkChange, PowerAction};
use headnode::lab::state::Power;
use headnode::lab::{Accel, Firmware, Lab, Options, admin_mac};

const LIMIT: Duration = Duration::from_secs(90);

/// A disk whose boot sector writes `LAB-MARKER` to the first serial port and halts.
fn image(dir: &Path) -> PathBuf {
    let text = b"LAB-MARKER booted\r\n\0";
    let mut code = vec![
        0xfa, 0x31, 0xc0, 0x8e, 0xd8, // cli; ds = 0
        0xbe, 0x16, 0x7c, // si = text
        0xba, 0xf8, 0x03, // dx = the serial port
        0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, // write bytes up to the 0
        0xf4, 0xeb, 0xfd, // halt
    ];
    assert_eq!(code.len(), 0x16);
    code.extend_from_slice(text);
    code.resize(510, 0);
    code.extend_from_slice(&[0x55, 0xaa]);
    code.resize(1 << 20, 0);
    let path = dir.join("image.img");
    std::fs::write(&path, code).unwrap();
    path
}

fn options(root: &Path, name: &str) -> Options {
    Options {
        name: name.to_owned(),
        disks: vec![64 << 20],
        node_disks: vec![64 << 20],
        memory: 128,
        node_memory: 384,
        accel: Accel::Tcg,
        program: Some(env!("CARGO_BIN_EXE_headnode").into()),
        ..Options::new(image(root), root.join(name))
    }
}

fn headnode(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_headnode"))
        .args(["lab", "--dir"])
        .arg(dir)
        .args(arguments)
        .output()
        .unwrap()
}

/// Processes that work in the lab's folder or are named with it.
fn processes_of(dir: &Path) -> usize {
    let inside = |pid: &Path| {
        let cwd = std::fs::read_link(pid.join("cwd")).unwrap_or_default();
        let line = std::fs::read(pid.join("cmdline")).unwrap_or_default();
        cwd.starts_with(dir) || String::from_utf8_lossy(&line).contains(dir.to_str().unwrap())
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(|e| inside(&e.path())).count()
}

#[test]
fn e2e_lab_machines_boot_lose_power_and_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let options = Options { nodes: 1, ..options(root.path(), "one") };
    let before = std::fs::read(&options.image).unwrap();
    let lab = Lab::up(&options).unwrap();
    let headnode_ = lab.headnode();
    let seen = headnode_.wait_console("LAB-MARKER", LIMIT).unwrap();
    assert_eq!(seen.line, "LAB-MARKER booted");
    assert!(seen.seconds > 0.0 && seen.seconds < LIMIT.as_secs_f64());

    headnode_.power_kill().unwrap();
    assert_eq!(headnode_.state().unwrap().power, Power::Off);
    assert!(headnode_.power_kill().unwrap_err().to_string().contains("off already"));
    let text = headnode_.wait_console("NEVER", LIMIT).unwrap_err().to_string();
    assert!(text.contains("off (killed)") && text.contains("LAB-MARKER"), "{text}");
    headnode_.power_on().unwrap();
    headnode_.wait_console("LAB-MARKER", LIMIT).unwrap();
    assert_eq!(headnode_.boot().unwrap().number, 2);
    headnode_.power(PowerAction::Reset).unwrap();
    headnode_.wait_boot(3, LIMIT).unwrap();
    headnode_.wait_console("LAB-MARKER", LIMIT).unwrap();

    // The same over the command line.
    let dir = lab.dir().to_owned();
    let out = headnode(&dir, &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(status["machines"][0]["admin_mac"], "52:54:00:00:00:01");
    assert_eq!(status["machines"][1]["admin_mac"], admin_mac(1).to_string());
    assert_eq!(status["machines"][0]["power"], "on");
    let out = headnode(&dir, &["wait", "headnode", "--console", "MARKER", "--json"]);
    let seen: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(seen["line"], "LAB-MARKER booted");
    let out = headnode(&dir, &["logs", "headnode", "--grep", "MARKER"]);
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), 3);
    let out = headnode(&dir, &["up", options.image.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("a lab runs in"));
    let out = headnode(&dir, &["power", "node7", "on"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("it has headnode, node1"));

    lab.down().unwrap();
    assert_eq!(processes_of(&dir), 0);
    assert!(!dir.exists());
    assert_eq!(std::fs::read(&options.image).unwrap(), before, "the image was written to");
}

#[test]
fn e2e_lab_nothing_is_left_after_the_supervisor_was_killed() {
    let root = tempfile::tempdir().unwrap();
    let options = options(root.path(), "crash");
    let lab = Lab::up(&options).unwrap();
    let dir = lab.dir().to_owned();
    lab.headnode().wait_console("LAB-MARKER", LIMIT).unwrap();
    lab.status().unwrap().state.supervisor.kill().unwrap();
    // The kernel ends the machines; `down` finds what is left, and says nothing of it.
    assert!(headnode(&dir, &["status"]).status.code() == Some(1));
    let out = headnode(&dir, &["down"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(processes_of(&dir), 0);
    assert!(!dir.exists());
    drop(lab);
}

#[test]
fn e2e_lab_two_labs_run_side_by_side() {
    let root = tempfile::tempdir().unwrap();
    let one = Lab::up(&options(root.path(), "left")).unwrap();
    let two = Lab::up(&options(root.path(), "right")).unwrap();
    assert_ne!(one.forwarded(22).unwrap(), two.forwarded(22).unwrap());
    let dir = one.dir().to_owned();
    drop(one);
    assert!(!dir.exists());
    two.headnode().wait_console("LAB-MARKER", LIMIT).unwrap();
}

#[test]
fn e2e_lab_bad_input_is_told_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("bad");
    let out = headnode(&dir, &["up", "/nonexistent.img"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("/nonexistent.img"));
    let image = image(root.path());
    let image = image.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("{}:80", taken.local_addr().unwrap().port());
    let out = headnode(&dir, &["up", image, "--forward", &forward]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("name a free port"));
    assert!(!dir.exists());
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("thesis.txt"), "precious").unwrap();
    let out = headnode(&dir, &["up", image, "--accel", "tcg"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("thesis.txt"));
    assert!(headnode(&dir, &["down"]).status.success());
    assert!(dir.join("thesis.txt").exists());
    assert!(!headnode(&dir, &["status"]).status.success());
}

/// QEMU's built-in DHCP and TFTP server, plugged into the headnode's port of the switch.
struct Server(Child);

impl Server {
    fn start(lab: &Lab, folder: &Path, file: &str) -> Self {
        lab.headnode().power_kill().unwrap();
        let folder = folder.display();
        let child = Command::new("qemu-system-x86_64")
            .args(["-machine", "none", "-nodefaults", "-display", "none"])
            .args(["-netdev", &format!("user,id=u,restrict=on,tftp={folder},bootfile={file}")])
            .args(["-netdev", "hubport,id=h1,hubid=0,netdev=u"])
            .args(["-netdev", "stream,id=s,server=off,addr.type=unix,addr.path=net.sock"])
            .args(["-netdev", "hubport,id=h2,hubid=0,netdev=s"])
            .current_dir(lab.dir().join("headnode"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let this = Self(child);
        let begin = std::time::Instant::now();
        while !lab.status().unwrap().ports["headnode"].connected {
            assert!(begin.elapsed() < LIMIT, "the DHCP server does not join the switch");
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn boots_from_the_network(firmware: Firmware, file: &str, driver: &str) {
    let root = tempfile::tempdir().unwrap();
    let tftp = root.path().join("tftp");
    std::fs::create_dir(&tftp).unwrap();
    std::fs::copy(Path::new("/usr/lib/ipxe").join(file), tftp.join(file)).unwrap();
    let record = root.path().join("net.pcap");
    let options = Options {
        nodes: 1,
        nodes_off: true,
        firmware,
        record: Some(record.clone()),
        ..options(root.path(), "net")
    };
    let lab = Lab::up(&options).unwrap();
    let server = Server::start(&lab, &tftp, file);
    let node = lab.machine("node1");
    // A cut link at first: the firmware must try until it is joined.
    node.link(LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
    node.power_on().unwrap();
    node.wait_console("PXE", LIMIT).unwrap();
    node.link(LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
    let seen = node.wait_console(driver, LIMIT).unwrap();
    println!("{file} runs {:.1} s after power-on", seen.seconds);
    node.wait_console("Next server: 10.0.2.2", LIMIT).unwrap();
    let status = lab.status().unwrap();
    let ip = status.ports["node1"].addresses[&admin_mac(1).to_string()];
    assert_eq!(ip.unwrap().to_string(), "10.0.2.15");
    drop(server);
    drop(lab);
    // Class PXEClient without iPXE's user class first, and with it later (option 77, RFC 3004).
    let packets = std::fs::read(&record).unwrap();
    let at = |bytes: &[u8]| packets.windows(bytes.len()).position(|w| w == bytes);
    let ipxe = at(b"\x4d\x04iPXE").unwrap();
    assert!(at(b"PXEClient:Arch:000").unwrap() < ipxe);
    assert!(at(file.as_bytes()).unwrap() < ipxe);
}

#[test]
fn e2e_lab_a_bios_node_loads_undionly_like_a_plain_pxe_rom() {
    boots_from_the_network(Firmware::Bios, "undionly.kpxe", "using undionly");
}

#[test]
fn e2e_lab_a_uefi_node_loads_snponly() {
    boots_from_the_network(Firmware::Uefi, "snponly.efi", "using SNP");
}

/// Waits until the recording holds a frame that has all of these in it.
fn wait_frame(recording: &Path, parts: &[&[u8]]) {
    let begin = std::time::Instant::now();
    loop {
        let bytes = std::fs::read(recording).unwrap();
        let mut rest = bytes.get(24..).unwrap_or_default();
        while let Some((head, body)) = rest.split_first_chunk::<16>() {
            let length = u32::from_le_bytes(head[8..12].try_into().unwrap());
            let Some(frame) = body.get(..length as usize) else { break };
            if parts.iter().all(|part| frame.windows(part.len()).any(|w| w == *part)) {
                return;
            }
            rest = &body[length as usize..];
        }
        assert!(begin.elapsed() < LIMIT, "no such frame in {}", recording.display());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn e2e_lab_a_node_boots_by_http_and_another_sits_in_a_rack() {
    let root = tempfile::tempdir().unwrap();
    let record = root.path().join("traffic.pcap");
    let lab = Lab::up(&Options {
        nodes: 2,
        rack_nodes: 1,
        node_firmware: vec![Firmware::UefiHttp, Firmware::Bios],
        record: Some(record.clone()),
        ..options(root.path(), "rack")
    })
    .unwrap();
    let (http, racked) = (admin_mac(1).0, admin_mac(2).0);
    lab.machine("node1").wait_console(">>Start HTTP Boot over IPv4", LIMIT).unwrap();
    // x86-64 UEFI by HTTP is architecture 16 (IANA, "Processor Architecture Types").
    wait_frame(&record, &[&http, b"HTTPClient:Arch:00016:"]);
    wait_frame(&root.path().join("traffic-rack1.pcap"), &[&racked, b"PXEClient"]);
    // The router looks for the headnode to pass that on; this one has no operating system to answer.
    let question =
        [&[0x52, 0x54, 0, 0, 2, 1, 10, 99, 99, 1][..], &[0; 6], &[10, 99, 99, 7]].concat();
    wait_frame(&record, &[&question]);
    let stray = std::fs::read(&record).unwrap();
    assert!(!stray.windows(6).any(|w| w == racked), "a frame of the rack is on the admin network");
    lab.down().unwrap();
}
