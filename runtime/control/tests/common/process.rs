//! The program as a process of its own, and machines to register with it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use headnode_client::Cnapi;
use headnode_model::sysinfo::Sysinfo;
use uuid::Uuid;

use super::{CONFIG, sysinfo};

pub fn command(folder: &Path) -> Command {
    command_on(folder, "127.0.0.1:0")
}

pub fn command_on(folder: &Path, address: &str) -> Command {
    std::fs::write(folder.join("config"), CONFIG).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sdc-control"));
    command
        .arg("--config")
        .arg(folder.join("config"))
        .arg("--database")
        .arg(folder.join("control.db"))
        .arg("--platforms")
        .arg(folder.join("os"))
        .args(["--listen", address])
        .env_remove("RUST_LOG")
        .env_remove("NOTIFY_SOCKET");
    command
}

/// A running program; killed when the test ends.
pub struct Process {
    pub child: Child,
    pub cnapi: Cnapi,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = loop {
            let line = lines.next().expect("the program ended").unwrap();
            if line.contains("\"ready\"") {
                break line;
            }
        };
        // Whoever is not read from blocks.
        std::thread::spawn(move || lines.for_each(drop));
        let log: serde_json::Value = serde_json::from_str(&ready).unwrap();
        let url = format!("http://{}", log["address"].as_str().unwrap());
        Self { child, cnapi: Cnapi::new(&url).unwrap() }
    }

    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap()
    }

    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn machine(n: u32) -> Sysinfo {
    let mut value = sysinfo(0, None);
    value["UUID"] = Uuid::from_u128(u128::from(n) + 1).to_string().into();
    value["Hostname"] = format!("node-{n}").into();
    let mac = format!("02:01:{:02x}:{:02x}:{:02x}:01", n >> 16 & 255, n >> 8 & 255, n & 255);
    value["Network Interfaces"]["eth0"]["MAC Address"] = mac.into();
    value["Network Interfaces"].as_object_mut().unwrap().remove("eth1");
    serde_json::from_value(value).unwrap()
}
