//! Other people's clients: dhclient, udhcpc, perfdhcp, tftp-hpa, atftp, curl. Needs root, iproute2,
//! isc-dhcp-client, udhcpc, kea-admin (perfdhcp), tftp-hpa, atftp, curl.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod lab;

use std::fs;

use common::{STAMP, kpxe};
use lab::{Cable, Lab, SERVER, config, ip, large, script};

#[test]
fn e2e_dhclient_gets_renews_and_gives_back_an_address() {
    let mut lab = Lab::new("c", Cable::Good);
    // The shortest lease, which is renewed after half of it.
    lab.booter(&config("10.99.255.254", 60), &[]);
    let peer = lab.peer.clone();
    let hook = lab.path("hook");
    script(&hook, "#!/bin/sh\necho \"hook $reason $new_ip_address\"\n");
    let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
    let (hook, leases, pid) = (path("hook"), path("dhclient.leases"), path("dhclient.pid"));
    let conf = path("dhclient.conf");
    let class = "send vendor-class-identifier \"PXEClient:Arch:00000:UNDI:002001\";\n";
    fs::write(&conf, format!("{class}request subnet-mask, dhcp-server-identifier;\n")).unwrap();
    let files = ["-4", "-v", "-sf", &hook, "-lf", &leases, "-pf", &pid, "-cf", &conf];
    let mut args = vec!["-d"];
    args.extend(files);
    args.push("eth0");
    lab.spawn(&peer, "dhclient.log", "dhclient", &args);
    lab.wait_for("dhclient.log", "hook BOUND 10.99.", 30);
    let log = lab.wait_for("dhclient.log", "hook RENEW 10.99.", 60);
    let of = |word: &str| {
        let line = log.lines().find_map(|line| line.strip_prefix(word)).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(of("hook BOUND"), of("hook RENEW"));
    assert!(!log.contains("DHCPNAK"), "{log}");
    let mut args = vec!["-r"];
    args.extend(files);
    args.push("eth0");
    lab.run(&peer, "dhclient", &args);
    // Given back, it is still this machine's when it comes again. In the foreground: a daemon's
    // first process ends before the one that remains has written its files.
    let mut args = vec!["-d", "-1"];
    args.extend(files);
    args.push("eth0");
    lab.spawn(&peer, "again.log", "dhclient", &args);
    let again = lab.wait_for("again.log", "hook BOUND 10.99.", 30);
    let bound = again.lines().find_map(|line| line.strip_prefix("hook BOUND")).unwrap().trim();
    assert_eq!(bound, of("hook BOUND"), "{again}");
}

#[test]
fn e2e_udhcpc_gets_and_renews_an_address() {
    let mut lab = Lab::new("u", Cable::Good);
    lab.booter(&large(), &[]);
    let hook = lab.path("hook");
    script(&hook, "#!/bin/sh\necho \"hook $1 $ip $siaddr $boot_file\"\n");
    let hook = hook.to_str().unwrap().to_owned();
    let peer = lab.peer.clone();
    let args = [
        "-f",
        "-i",
        "eth0",
        "-s",
        &hook,
        "-V",
        "PXEClient:Arch:00000:UNDI:002001",
        "-O",
        "bootfile",
    ];
    let mut client = lab.start(&peer, "udhcpc.log", "udhcpc", &args);
    lab.wait_for("udhcpc.log", "hook bound 10.99.", 30);
    lab.run(&peer, "kill", &["-USR1", &client.id().to_string()]);
    let log = lab.wait_for("udhcpc.log", "hook renew 10.99.", 30);
    client.kill().unwrap();
    client.wait().unwrap();
    let of = |word: &str| {
        let line = log.lines().find_map(|line| line.strip_prefix(word)).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(of("hook bound"), of("hook renew"));
    assert!(of("hook bound").contains(SERVER), "{log}");
}

#[test]
fn e2e_other_interfaces_get_no_answer() {
    let mut lab = Lab::new("i", Cable::Good);
    let (server, other) = (lab.server.clone(), format!("{}o", lab.server));
    lab.namespace(&other);
    ip(&format!("-n {server} link add other0 type veth peer name eth0 netns {other}"));
    ip(&format!("-n {server} addr add 10.97.0.1/24 dev other0"));
    ip(&format!("-n {server} link set other0 up"));
    ip(&format!("-n {other} link set eth0 up"));
    ip(&format!("-n {other} addr add 10.97.0.2/24 dev eth0"));
    lab.booter(&large(), &[]);
    let hook = lab.path("hook");
    script(&hook, "#!/bin/sh\necho \"hook $1 $ip\"\n");
    let hook = hook.to_str().unwrap().to_owned();
    let class = "PXEClient:Arch:00000:UNDI:002001";
    let once = ["-n", "-q", "-f", "-t", "3", "-T", "1", "-i", "eth0", "-s", &hook, "-V", class];
    let out = lab.output(&other, "udhcpc", &once);
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(!out.status.success() && said.contains("hook leasefail"), "{said}");
    let get = |ip: &str| ["-sS", "-m", "5", &format!("http://{ip}/healthz")].map(str::to_owned);
    let curl = |ns: &str, ip: &str| {
        let args = get(ip);
        lab.output(ns, "curl", &args.each_ref().map(String::as_str)).status.success()
    };
    assert!(!curl(&other, "10.97.0.1"));
    let tftp = ["5", "tftp", "-m", "binary", "10.97.0.1", "-c", "get", "undionly.kpxe", "there"];
    lab.output(&other, "timeout", &tftp);
    assert!(fs::read(lab.path("there")).unwrap_or_default().is_empty());
    assert!(!lab.log("booter.log").contains("\"DHCP "), "{}", lab.log("booter.log"));
    // The same questions are answered where it serves.
    let peer = lab.peer.clone();
    let out = lab.output(&peer, "udhcpc", &once);
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success() && said.contains("hook bound 10.99."), "{said}");
    assert!(curl(&peer, SERVER));
}

#[test]
fn e2e_perfdhcp_sees_no_drops() {
    let mut lab = Lab::new("p", Cable::Good);
    lab.booter(&large(), &[]);
    // "PXEClient" and the architecture of UEFI; 100 exchanges a second, of 1000 machines.
    let class = "60,505845436c69656e74";
    let args = ["-4", "-l", "eth0", "-r", "100", "-R", "1000", "-n", "1000", "-W", "2000000"];
    let mut args = args.to_vec();
    args.extend(["-o", class, "-o", "93,0007", SERVER]);
    let peer = lab.peer.clone();
    let out = lab.output(&peer, "perfdhcp", &args);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let figures = |what: &str| -> Vec<u64> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(what));
        lines.filter_map(|line| line.trim_matches([':', ' ']).parse().ok()).collect()
    };
    let drops = figures("drops");
    assert_eq!(drops, [0, 0], "{out:?}\n{text}");
    assert!(figures("received packets").iter().all(|count| *count >= 990), "{text}");
}

#[test]
fn e2e_tftp_hpa_atftp_and_curl_fetch_files() {
    let mut lab = Lab::new("f", Cable::Good);
    lab.booter(&large(), &[]);
    let peer = lab.peer.clone();
    let big = vec![1; 173_792];
    lab.run(&peer, "tftp", &["-m", "binary", SERVER, "-c", "get", "undionly.kpxe", "hpa"]);
    assert!(fs::read(lab.path("hpa")).unwrap() == kpxe());
    for (options, name) in [
        (&[][..], "plain"),
        (&["--option", "blksize 1428", "--option", "tsize 0"][..], "blksize"),
        (&["--option", "blksize 1428", "--option", "windowsize 16"][..], "window"),
    ] {
        let mut args = options.to_vec();
        args.extend(["-g", "-r", "snponly.efi", "-l", name, SERVER]);
        lab.run(&peer, "atftp", &args);
        assert!(fs::read(lab.path(name)).unwrap() == big, "{name}");
    }
    lab.run(&peer, "curl", &["-sf", "-o", "curl", &format!("tftp://{SERVER}/snponly.efi")]);
    assert!(fs::read(lab.path("curl")).unwrap() == big);
    let url = format!("http://{SERVER}/os/{STAMP}/platform/x86_64/initrd");
    lab.run(&peer, "curl", &["-sf", "-o", "whole", &url]);
    assert!(fs::read(lab.path("whole")).unwrap() == vec![7; 3_000_000]);
    lab.run(&peer, "curl", &["-sf", "-r", "2999990-", "-o", "end", &url]);
    assert_eq!(fs::read(lab.path("end")).unwrap().len(), 10);
    let head = lab.run(&peer, "curl", &["-sfI", &url]).to_lowercase();
    assert!(head.contains("content-length: 3000000"), "{head}");
    assert!(head.contains("accept-ranges: bytes"), "{head}");
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: "));
    let etag = format!("If-None-Match: {}", etag.expect("an ETag").trim());
    let again =
        lab.run(&peer, "curl", &["-s", "-o", "none", "-w", "%{http_code}", "-H", &etag, &url]);
    assert_eq!(again, "304");
}
