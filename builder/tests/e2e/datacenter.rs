//! What the end-to-end tests share: the images that `ci/e2e` has built, labs that leave nothing
//! behind, and questions to a running datacenter.
//!
//! The environment names what was built: `HEADNODE_E2E_IMAGES` is a folder with `good.img`, its
//! other formats and the bad ones, `HEADNODE_E2E_LABS` a folder for labs, `HEADNODE_E2E_PROGRAM` the `headnode` program.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use headnode::lab::{Lab, Options};
use serde_json::Value;

fn environment(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(value) => PathBuf::from(value),
        None => panic!("{name} is not set: run the end-to-end tests with ci/e2e, which sets it"),
    }
}

/// One of the images that `ci/e2e` has built.
pub fn image(name: &str) -> PathBuf {
    let path = environment("HEADNODE_E2E_IMAGES").join(name);
    assert!(path.exists(), "{} is missing: run the tests with ci/e2e", path.display());
    path
}

/// The program `headnode` that `ci/e2e` has built.
pub fn program() -> PathBuf {
    environment("HEADNODE_E2E_PROGRAM")
}

/// Options of a lab in a folder of its own, with an image that `ci/e2e` has built.
pub fn options(image_name: &str, lab: &str) -> Options {
    let mut options = Options::new(image(image_name), environment("HEADNODE_E2E_LABS").join(lab));
    options.name = lab.to_owned();
    options.program = Some(environment("HEADNODE_E2E_PROGRAM"));
    options.ssh_key = Some(environment("HEADNODE_E2E_IMAGES").join("id_ed25519"));
    options
}

/// Prints a measured figure beside the one that is aimed at.
pub fn figure(what: &str, seconds: f64, aim: f64) {
    let verdict = if seconds < aim { "" } else { "  MISSED" };
    println!("FIGURE {what}: {seconds:.1} s (aim: < {aim:.0} s){verdict}");
}

/// A running datacenter. Its console logs are kept when the test fails.
pub struct Datacenter {
    /// The machines.
    pub lab: Lab,
}

impl Datacenter {
    /// Starts a lab.
    pub fn up(options: &Options) -> Self {
        std::fs::create_dir_all(options.dir.parent().unwrap()).unwrap();
        Self { lab: Lab::up(options).unwrap_or_else(|error| panic!("{error:#}")) }
    }

    /// Waits for a console line of the machine's current run; gives the seconds since power-on.
    pub fn wait(&self, machine: &str, regex: &str, limit: Duration) -> f64 {
        let seen = self.lab.machine(machine).wait_console(regex, limit);
        seen.unwrap_or_else(|error| panic!("{error:#}")).seconds
    }

    /// How many times the machine was started or reset.
    pub fn boots(&self, machine: &str) -> u64 {
        self.lab.machine(machine).boot().map_or(0, |boot| boot.number)
    }

    /// Waits for the machine's start after number `before`, then for a console line of that run;
    /// gives the seconds between them.
    pub fn wait_next_boot(&self, machine: &str, before: u64, regex: &str, limit: Duration) -> f64 {
        let machine = self.lab.machine(machine);
        let seen = machine
            .wait_boot(before + 1, limit)
            .and_then(|boot| machine.wait_console_from(&boot, regex, limit));
        seen.unwrap_or_else(|error| panic!("{error:#}")).seconds
    }

    /// Runs a command on the headnode and gives what it printed.
    pub fn headnode(&self, command: &str) -> String {
        self.on("headnode", command)
    }

    /// Runs a command on a machine and gives what it printed.
    pub fn on(&self, machine: &str, command: &str) -> String {
        let done = self.lab.machine(machine).ssh(command);
        done.unwrap_or_else(|error| panic!("{machine}: {command}: {error:#}")).stdout
    }

    /// Waits until the agent of a machine's current run has said something. Not by the console: what is
    /// written there while the login prompt takes it over may be lost.
    pub fn wait_said(&self, machine: &str, text: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        let machine = self.lab.machine(machine);
        machine.wait_ssh(limit).unwrap_or_else(|error| panic!("{error:#}"));
        loop {
            let said = match machine.ssh("journalctl -b -u sdc-agent -o cat") {
                Ok(out) => out.stdout,
                Err(error) => format!("{error:#}"),
            };
            if said.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?} in: {said}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Tells the headnode to reboot: `wait_next_boot` sees that it does.
    pub fn reboot_headnode(&self) {
        let done = self.lab.machine("headnode").ssh("systemctl reboot");
        // The server of the connection may be gone before the command's end.
        if let Err(error) = done.map_err(|error| format!("{error:#}")) {
            assert!(error.contains("closed by remote host"), "{error}");
        }
    }

    /// The servers as `GET /servers` tells them, once `wanted` holds.
    pub fn wait_servers(&self, limit: Duration, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let last = match self.lab.machine("headnode").ssh("sdc server list --json") {
                Ok(out) => {
                    let servers: Vec<Value> = serde_json::from_str(&out.stdout).unwrap();
                    if wanted(&servers) {
                        return servers;
                    }
                    out.stdout
                }
                // The headnode may be rebooting.
                Err(error) => format!("{error:#}"),
            };
            assert!(Instant::now() < deadline, "not within {} s; last: {last}", limit.as_secs());
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Prints and checks the resident memory of the headnode's three services together.
    pub fn memory_of_services(&self) {
        let mut total = 0;
        for service in ["sdc-booter", "sdc-control", "sdc-agent"] {
            let show = format!("systemctl show -P MainPID {service}");
            let status = self.headnode(&format!("grep VmRSS /proc/$({show})/status"));
            let kib: u64 = status.split_whitespace().nth(1).unwrap().parse().unwrap();
            println!("FIGURE resident memory of {service}: {:.1} MB", kib as f64 / 1024.0);
            total += kib;
        }
        let megabytes = total as f64 / 1024.0;
        println!("FIGURE resident memory of the three services: {megabytes:.1} MB (aim: < 60 MB)");
        assert!(megabytes < 60.0, "the services use {megabytes:.1} MB together");
    }
}

impl Drop for Datacenter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lab.keep_logs();
        }
    }
}
