//! The booter in a network namespace, and machines in a second one, which holds all their addresses.
#![allow(dead_code)]

pub mod standin;
pub mod vm;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sdc_storm::{Plan, Report, Way, netns};
use tempfile::TempDir;

use crate::common::folder;

/// The booter's address.
pub const SERVER: &str = "10.99.0.7";
/// The machines' namespace's own address.
pub const PEER: &str = "10.99.0.3";

/// A configuration with the range 10.99.128.1 to `last`.
pub fn config(last: &str, lease_seconds: u32) -> String {
    format!(
        "datacenter_name=t\ndns_domain=t\nadmin_nic=02:00:00:00:00:07\nadmin_ip={SERVER}\n\
         admin_netmask=255.255.0.0\ndhcp_range_start=10.99.128.1\ndhcp_range_end={last}\n\
         dhcp_lease_time={lease_seconds}\n"
    )
}

/// For tests that need no certain range.
pub fn large() -> String {
    config("10.99.255.254", 2_592_000)
}

/// The cable between the namespaces.
#[derive(Clone, Copy, PartialEq)]
pub enum Cable {
    Good,
    /// Share of packets lost each way, delay one way in seconds.
    Lossy(f64, f64),
}

pub struct Lab {
    pub dir: TempDir,
    pub server: String,
    pub peer: String,
    pub booter: Option<Child>,
    children: Mutex<Vec<Child>>,
    namespaces: Vec<String>,
}

impl Lab {
    pub fn new(name: &str, cable: Cable) -> Self {
        let server = format!("st-{name}-{}", std::process::id());
        let peer = format!("{server}p");
        let mut lab = Self {
            dir: folder(),
            server: server.clone(),
            peer: peer.clone(),
            booter: None,
            children: Mutex::default(),
            namespaces: Vec::new(),
        };
        // Real loaders' sizes: many blocks of TFTP each.
        fs::write(lab.path("firmware/ipxe/snponly.efi"), vec![1; 173_792]).unwrap();
        lab.namespace(&server);
        lab.namespace(&peer);
        ip(&format!("-n {server} link add br0 address 02:00:00:00:00:07 type bridge"));
        ip(&format!("-n {server} addr add {SERVER}/16 dev br0"));
        ip(&format!("-n {server} link set br0 up"));
        match cable {
            Cable::Good => {
                ip(&format!("-n {server} link add peer0 type veth peer name eth0 netns {peer}"));
            }
            Cable::Lossy(loss, delay) => {
                let code = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/lossy.py");
                let (loss, delay) = (loss.to_string(), delay.to_string());
                lab.spawn(&server, "cable.log", "python3", &[code, "peer0", "eth0", &loss, &delay]);
                lab.wait_for("cable.log", "ready", 20);
                ip(&format!("-n {server} link set eth0 netns {peer}"));
            }
        }
        ip(&format!("-n {server} link set peer0 master br0 up"));
        ip(&format!("-n {peer} link set eth0 up"));
        ip(&format!("-n {peer} addr add {PEER}/16 dev eth0"));
        // All machines' addresses are the second namespace's, behind one neighbour; it does not
        // answer probes for addresses that are still free.
        ip(&format!("-n {server} route add 10.99.128.0/17 via {PEER}"));
        ip(&format!("-n {peer} route add local 10.99.128.0/17 dev eth0"));
        lab.run(&peer, "sysctl", &["-qw", "net.ipv4.conf.eth0.arp_ignore=1"]);
        lab
    }

    /// A further namespace.
    pub fn namespace(&mut self, name: &str) {
        ip(&format!("netns add {name}"));
        self.namespaces.push(name.to_owned());
        ip(&format!("-n {name} link set lo up"));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn start(&self, ns: &str, log: &str, program: &str, args: &[&str]) -> Child {
        let out = File::create(self.path(log)).unwrap();
        Command::new("ip")
            .args(["netns", "exec", ns, program])
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap()
    }

    pub fn spawn(&self, ns: &str, log: &str, program: &str, args: &[&str]) {
        let child = self.start(ns, log, program, args);
        self.children.lock().unwrap().push(child);
    }

    pub fn output(&self, ns: &str, program: &str, args: &[&str]) -> Output {
        Command::new("ip")
            .args(["netns", "exec", ns, program])
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub fn run(&self, ns: &str, program: &str, args: &[&str]) -> String {
        let out = self.output(ns, program, args);
        assert!(out.status.success(), "{program} {args:?}: {out:?}\n{}", self.log("booter.log"));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Writes the settings that are beside the configuration.
    pub fn settings(&self, toml: &str) {
        fs::create_dir_all(self.path("config.inc")).unwrap();
        fs::write(self.path("config.inc/booter.toml"), toml).unwrap();
    }

    /// Starts the booter with a configuration; further arguments may follow.
    pub fn booter(&mut self, config: &str, more: &[&str]) {
        fs::write(self.path("config"), config).unwrap();
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let (config, root, state) = (path("config"), path(""), path("state"));
        let socket = path("operator.sock");
        let mut args = vec!["--config", &config, "--root", &root, "--state", &state];
        args.extend(["--socket", &socket]);
        args.extend(["--interface", "br0"]);
        args.extend(more);
        let program = env!("CARGO_BIN_EXE_sdc-booter");
        self.booter = Some(self.start(&self.server, "booter.log", program, &args));
        self.wait_for("booter.log", "sdc-booter is ready", 30);
    }

    /// The booter's memory in bytes: now (`VmRSS`) or at most (`VmHWM`).
    pub fn memory(&self, which: &str) -> u64 {
        let pid = self.booter.as_ref().unwrap().id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
        line.trim_matches(':').split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn log(&self, name: &str) -> String {
        fs::read(self.path(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    pub fn wait_for(&self, log: &str, text: &str, seconds: u64) -> String {
        self.wait_until(log, seconds, text, |now| now.contains(text))
    }

    pub fn wait_until(
        &self,
        log: &str,
        seconds: u64,
        what: &str,
        done: impl Fn(&str) -> bool,
    ) -> String {
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            let now = self.log(log);
            if done(&now) {
                return now;
            }
            let tail: String = now.chars().rev().take(6000).collect();
            let tail: String = tail.chars().rev().collect();
            assert!(Instant::now() < until, "no {what:?} in {log}:\n…{tail}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Boots machines that broadcast on the second namespace's `eth0`.
    pub fn plan(&self, nodes: u32) -> Plan {
        Plan::new(nodes, Way::Broadcast { interface: "eth0".to_owned() })
    }

    pub fn storm(&self, plan: &Plan) -> Report {
        storm_in(&self.peer, plan)
    }

    /// Boots machines, all of which must come through.
    pub fn boots(&self, plan: &Plan) -> Report {
        let report = self.storm(plan);
        println!("{report}");
        let log = self.log("booter.log");
        let tail: String = log.lines().rev().take(20).collect::<Vec<_>>().join("\n");
        assert!(report.is_good(), "{report}\n{tail}");
        report
    }
}

/// Runs a storm in a namespace.
pub fn storm_in(ns: &str, plan: &Plan) -> Report {
    let plan = plan.clone();
    within(ns, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(sdc_storm::run(&plan)).unwrap()
    })
    .join()
    .unwrap()
}

/// A thread in a namespace.
pub fn within<T: Send + 'static>(
    ns: &str,
    what: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let ns = ns.to_owned();
    std::thread::spawn(move || {
        netns::enter(&ns).unwrap();
        what()
    })
}

impl Drop for Lab {
    fn drop(&mut self) {
        let children = self.children.get_mut().unwrap();
        for child in children.iter_mut().chain(&mut self.booter) {
            let _ = child.kill();
            let _ = child.wait();
        }
        for ns in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

pub fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().unwrap();
    assert!(status.success(), "ip {line}");
}

/// An executable script.
pub fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
