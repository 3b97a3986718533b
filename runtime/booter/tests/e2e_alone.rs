//! The program without a headnode in a network namespace: machines of different hosts and groups, one
//! of them firmware in QEMU; the user that it runs as. Needs root, iproute2, udhcpc, curl, tftp-hpa,
//! qemu-system-x86, ovmf, ipxe, dnsmasq-base.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod lab;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lab::{Cable, Lab, PEER, SERVER, ip, script};

/// The NIC of the machine in QEMU.
const VM: &str = "02:00:00:00:01:01";

/// Boot files below `root`, and a configuration with further lines.
fn configure(lab: &Lab, top: &str, more: &str) {
    let root = lab.path("root");
    fs::create_dir_all(root.join("debian")).unwrap();
    fs::write(root.join("debian/linux"), "the kernel").unwrap();
    fs::write(root.join("debian/initrd.gz"), "the disk").unwrap();
    fs::write(root.join("web.ipxe"), "#!ipxe\necho {hostname} at {ip} of {server} with ${mac}\n")
        .unwrap();
    fs::write(root.join("pxelinux.0"), "the loader").unwrap();
    // The folder is the test's alone otherwise, and the program may be another user.
    open_to_all(lab.dir.path());
    let path = |name: &str| lab.path(name).display().to_string();
    let text = format!(
        "address = \"{SERVER}\"\nroot = \"{}\"\nstate = \"{}\"\nsocket = \"{}\"\n{top}\n\
         [[network]]\nname = \"rack\"\nsubnet = \"10.99.0.0/16\"\n\
         ranges = [{{ first = \"10.99.128.1\", last = \"10.99.128.99\" }}]\n\
         gateway = \"10.99.0.254\"\nroutes = [{{ to = \"172.16.0.0/12\", via = \"10.99.0.253\" }}]\n\
         [default]\nkernel = \"debian/linux\"\ninitrd = \"debian/initrd.gz\"\narguments = \"host={{mac}}\"\n\
         [group.web]\nscript = \"web.ipxe\"\n[group.old]\nbootfile = \"pxelinux.0\"\n\
         [[host]]\nmac = \"02:00:00:00:0a:01\"\nhostname = \"web1\"\nip = \"10.99.128.201\"\ngroup = \"web\"\n\
         [[host]]\nmac = \"02:00:00:00:0a:02\"\ngroup = \"old\"\n{more}",
        path("root"),
        path("state"),
        path("run/operator.sock"),
    );
    fs::write(lab.path("booter.toml"), text).unwrap();
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn start(lab: &mut Lab) {
    let config = lab.path("booter.toml").display().to_string();
    let args = ["--config", config.as_str()];
    let program = env!("CARGO_BIN_EXE_sdc-booter");
    lab.booter = Some(lab.start(&lab.server, "booter.log", program, &args));
    lab.wait_for("booter.log", "sdc-booter is ready", 30);
}

/// Boots a machine with this NIC in the second namespace as far as its boot file; its address and that.
fn machine(lab: &Lab, mac: &str) -> (String, String) {
    let hook = lab.path("hook");
    script(
        &hook,
        "#!/bin/sh\nif [ \"$1\" = bound ]; then\necho \"bound $ip $boot_file\"\necho \"routes $staticroutes\"\n\
         ip addr add \"$ip/16\" dev eth0\nfi\n",
    );
    let peer = lab.peer.as_str();
    ip(&format!("-n {peer} link set eth0 address {mac}"));
    let hook = hook.to_str().unwrap();
    let class = "PXEClient:Arch:00000:UNDI:002001";
    let args =
        ["-n", "-q", "-f", "-t", "10", "-i", "eth0", "-s", hook, "-V", class, "-O", "bootfile"];
    let args = [&args[..], &["-O", "staticroutes"]].concat();
    let said = lab.run(peer, "udhcpc", &args);
    assert!(said.contains("routes 172.16.0.0/12 10.99.0.253 0.0.0.0/0 10.99.0.254"), "{said}");
    let line = said.lines().find_map(|line| line.strip_prefix("bound ")).unwrap();
    let (address, file) = line.split_once(' ').unwrap();
    (address.to_owned(), file.to_owned())
}

/// A machine in QEMU on the booter's network.
fn vm(lab: &Lab, firmware: &str) {
    let server = lab.server.as_str();
    ip(&format!("-n {server} tuntap add tap0 mode tap"));
    ip(&format!("-n {server} link set tap0 master br0 up"));
    let mut args = vec!["-accel", "tcg,thread=multi", "-machine", "q35", "-m", "512"];
    args.extend(["-display", "none", "-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no"]);
    // Without its ROM the card is driven by the firmware itself, as a server's is.
    let rom = if firmware == "uefi" { ",romfile=" } else { "" };
    let card = format!("virtio-net-pci,netdev=n0,mac={VM},bootindex=1{rom}");
    args.extend(["-device", &card, "-device", "virtio-rng-pci"]);
    let vars = lab.path("vars");
    let drives = [
        "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd".to_owned(),
        format!("if=pflash,format=raw,file={}", vars.display()),
    ];
    if firmware == "uefi" {
        fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars).unwrap();
        args.extend(drives.iter().flat_map(|drive| ["-drive", drive.as_str()]));
    }
    lab.spawn(server, "vm.log", "qemu-system-x86_64", &args);
}

fn get(lab: &Lab, path: &str) -> String {
    lab.run(&lab.peer, "curl", &["-sf", "-m", "20", &format!("http://{SERVER}{path}")])
}

#[test]
fn e2e_alone_hosts_groups_and_all_others_boot_their_own() {
    let mut lab = Lab::new("al", Cable::Good);
    configure(&lab, "", "");
    start(&mut lab);

    let (address, file) = machine(&lab, "02:00:00:00:0a:01");
    // iPXE's program is the one that Debian's package has brought.
    assert_eq!((address.as_str(), file.as_str()), ("10.99.128.201", "undionly.kpxe"));
    lab.run(&lab.peer, "tftp", &["-m", "binary", SERVER, "-c", "get", "undionly.kpxe", "got"]);
    assert!(fs::read(lab.path("got")).unwrap() == fs::read("/usr/lib/ipxe/undionly.kpxe").unwrap());
    let own = get(&lab, "/boot.ipxe.01020000000A01");
    assert_eq!(own, format!("#!ipxe\necho web1 at 10.99.128.201 of {SERVER} with ${{mac}}\n"));

    let (_, file) = machine(&lab, "02:00:00:00:0a:02");
    assert_eq!(file, "pxelinux.0");
    lab.run(&lab.peer, "tftp", &["-m", "binary", SERVER, "-c", "get", "pxelinux.0", "loader"]);
    assert_eq!(lab.log("loader"), "the loader");

    // What such a loader asks for then.
    lab.run(&lab.peer, "tftp", &["-m", "binary", SERVER, "-c", "get", "debian/linux", "linux"]);
    assert_eq!(lab.log("linux"), "the kernel");

    let (address, file) = machine(&lab, "02:00:00:00:0a:03");
    assert!(address.starts_with("10.99.128.") && file == "undionly.kpxe", "{address} {file}");
    let other = get(&lab, "/boot.ipxe.01020000000A03");
    let line = format!(
        "\nkernel http://{SERVER}/files/debian/linux initrd=initrd.gz host=02:00:00:00:0a:03 || goto failed\n"
    );
    assert!(other.contains(&line), "{other}");
    assert_eq!(get(&lab, "/files/debian/linux"), "the kernel");
    assert_eq!(get(&lab, "/files/debian/initrd.gz"), "the disk");
    // What is served is root, and nothing beside it.
    for path in ["/files/../booter.toml", "/booter.toml", "/state/leases.log"] {
        let url = format!("http://{SERVER}{path}");
        assert!(!lab.output(&lab.peer, "curl", &["-sf", "--path-as-is", &url]).status.success());
    }
    assert_ne!(PEER, address);
}

#[test]
fn e2e_alone_the_program_becomes_its_user_and_keeps_its_files() {
    let mut lab = Lab::new("au", Cable::Good);
    configure(&lab, "user = \"nobody\"", "");
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    // What root left there at an earlier start.
    fs::create_dir_all(lab.path("state")).unwrap();
    fs::write(lab.path("state/admission"), "02:00:00:00:0a:09 deny 7 root stolen\n").unwrap();
    for round in 0..2 {
        start(&mut lab);
        let (address, _) = machine(&lab, "02:00:00:00:0a:03");
        let pid = lab.booter.as_ref().unwrap().id();
        let tasks: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).unwrap().collect();
        // One may end meanwhile.
        let statuses: Vec<String> = tasks
            .into_iter()
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
            .collect();
        assert!(statuses.len() >= 3);
        for status in statuses {
            let of = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
                line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
            };
            for (key, id) in [("Uid:", nobody.uid.as_raw()), ("Gid:", nobody.gid.as_raw())] {
                assert_eq!(of(key), vec![id.to_string(); 4], "{status}");
            }
            assert!(!of("Groups:").contains(&"0".to_owned()), "{status}");
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                assert_eq!(of(set), ["0000000000000000"], "{status}");
            }
            assert_eq!(of("NoNewPrivs:"), ["1"], "{status}");
        }
        let leases = lab.log("state/leases") + &lab.log("state/leases.log");
        assert!(leases.contains("02:00:00:00:0a:03") && leases.contains(&address), "{leases}");
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        let entries = fs::read_dir(lab.path("state")).unwrap().map(|entry| entry.unwrap().path());
        let all: Vec<_> =
            entries.chain([lab.path("state"), lab.path("run/operator.sock")]).collect();
        assert!(all.len() > 3, "{all:?}");
        for path in all {
            assert_eq!(owner(&path), nobody.uid.as_raw(), "{}, start {round}", path.display());
        }
        // An operator's decision is written too: as the user, who is not root any more.
        let socket = lab.path("run/operator.sock").display().to_string();
        let approve = [
            "-sf",
            "--unix-socket",
            &socket,
            "-H",
            "Content-Type: application/json",
            "-d",
            "{\"who\":\"root\",\"note\":\"\"}",
            "http://x/boots/02:00:00:00:0a:04/approve",
        ];
        lab.run(&lab.server, "curl", &approve);
        assert!(lab.log("state/admission").contains("02:00:00:00:0a:04 approve"));
        let mut booter = lab.booter.take().unwrap();
        lab.run(&lab.server, "kill", &[&pid.to_string()]);
        assert!(booter.wait().unwrap().success());
        // The user could remove its socket.
        assert!(!lab.path("run/operator.sock").exists(), "{}", lab.log("booter.log"));
    }
}

#[test]
fn e2e_alone_a_bios_machine_boots_a_kernel_with_its_disk() {
    let mut lab = Lab::new("av", Cable::Good);
    // Its address is outside of the range, which is the second namespace's. iPXE in the form of a Linux kernel; its RAM disk is a script, which comes back to tell that it
    // was run.
    let more = format!(
        "[[host]]\nmac = \"{VM}\"\nip = \"10.99.0.50\"\nkernel = \"ipxe.lkrn\"\ninitrd = \"arrived.ipxe\"\n"
    );
    configure(&lab, "", &more);
    fs::copy("/usr/lib/ipxe/ipxe.lkrn", lab.path("root/ipxe.lkrn")).unwrap();
    let arrived =
        format!("#!ipxe\ndhcp && imgfetch http://{SERVER}/files/arrived/${{net0/mac}}\npoweroff\n");
    fs::write(lab.path("root/arrived.ipxe"), arrived).unwrap();
    start(&mut lab);
    vm(&lab, "bios");
    let log = lab.wait_for("booter.log", "files/arrived/", 240);
    let after = |before: &str, text: &str| {
        let at = log.find(before).unwrap_or_else(|| panic!("no {before:?} in {log}"));
        assert!(log[at..].contains(text), "no {text:?} after {before:?}: {log}");
    };
    after("boot script", "/files/ipxe.lkrn");
    after("/files/ipxe.lkrn", "/files/arrived.ipxe");
    assert!(log.contains(VM), "{log}");
}

#[test]
fn e2e_alone_uefi_firmware_boots_beside_another_dhcp_server() {
    let mut lab = Lab::new("ap", Cable::Good);
    configure(&lab, "", "[dhcp]\nmode = \"proxy\"\n");
    // dnsmasq on the second machine gives addresses, and nothing to boot.
    let leases = format!("--dhcp-leasefile={}", lab.path("dnsmasq.leases").display());
    let mut args = vec!["-d", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--no-ping"];
    args.extend(["--user=root", "--dhcp-range=10.99.0.20,10.99.0.30", "--dhcp-broadcast", &leases]);
    lab.spawn(&lab.peer, "dnsmasq.log", "dnsmasq", &args);
    lab.wait_for("dnsmasq.log", "DHCP, IP range", 20);
    start(&mut lab);
    vm(&lab, "uefi");
    let log = lab.wait_for("booter.log", "files/debian/linux", 240);
    assert!(log.contains("DHCP proxy") && !log.contains("DHCP ack"), "{log}");
    assert!(log.contains("snponly.efi"), "{log}");
    let given = lab.log("dnsmasq.leases");
    assert!(given.contains(VM), "{given}");
}
