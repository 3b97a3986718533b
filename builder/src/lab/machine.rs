//! One machine's QEMU, from power-on to its end. Used by the supervisor's main thread only.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::json;

use super::paths::connect;
use super::process::{ProcessId, spawn_bound};
use super::qemu;
use super::qmp::Qmp;
use super::spec::{LabSpec, MachineSpec};

/// How long QEMU may take until it answers; a busy host starts several at once.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long QEMU may hold a stick that was pulled out.
const UNPLUG_LIMIT: Duration = Duration::from_secs(10);

/// A QEMU that runs.
pub struct Running {
    /// Its process.
    pub id: ProcessId,
    handle: OwnedFd,
    qmp: Qmp,
    /// The stick that is plugged in, by its name in QEMU.
    stick: Option<String>,
    sticks: u32,
}

impl Running {
    /// Switches the machine on. `on_reset` is called when the guest resets itself, `on_exit` with
    /// words when QEMU has ended.
    ///
    /// # Errors
    /// When QEMU does not start; with what it said.
    pub fn start(
        lab: &LabSpec,
        machine: &MachineSpec,
        dir: &Path,
        on_reset: impl Fn() + Send + 'static,
        on_exit: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self> {
        let folder = dir.join(&machine.name);
        let log_path = folder.join("qemu.log");
        let mut log = File::options().create(true).append(true).open(&log_path)?;
        let before = log.seek(SeekFrom::End(0))?;
        let arguments = qemu::arguments(lab, machine, dir);
        tracing::debug!(machine = machine.name, line = arguments.join(" "), "starting QEMU");
        let mut command = Command::new(super::host::QEMU);
        command
            .args(arguments)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let control = folder.join(qemu::CONTROL_SOCKET);
        // A socket left by a killed QEMU would be found before the new one listens.
        drop(std::fs::remove_file(&control));
        let (mut child, handle) = spawn_bound(&mut command).context("starting QEMU")?;
        let id = ProcessId::of(child.id()).or_else(|_| said(&log_path, before))?;
        std::thread::Builder::new()
            .name(format!("wait-{}", machine.name))
            .spawn(move || on_exit(child.wait().map_or_else(|e| e.to_string(), describe)))?;
        let deadline = Instant::now() + START_LIMIT;
        let stream = loop {
            match connect(&control) {
                Ok(stream) => break stream,
                Err(_) if !id.alive() => return said(&log_path, before),
                Err(error) if Instant::now() > deadline => {
                    drop(id.kill());
                    return Err(error).context("QEMU does not listen on its control socket");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let qmp = Qmp::new(stream, move |event, data| {
            if event == "RESET"
                && data.get("guest").and_then(serde_json::Value::as_bool) == Some(true)
            {
                on_reset();
            }
        });
        match qmp {
            Ok(qmp) => Ok(Self { id, handle, qmp, stick: None, sticks: 0 }),
            Err(_) if !id.alive() => said(&log_path, before),
            Err(error) => {
                drop(id.kill());
                Err(error)
            }
        }
    }

    /// Pulls the plug.
    ///
    /// # Errors
    /// When the process may not be ended.
    pub fn kill(&self) -> Result<()> {
        match pidfd_send_signal(&self.handle, Signal::KILL) {
            // It has ended by itself meanwhile.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context("ending QEMU"),
        }
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn press_power(&mut self) -> Result<()> {
        self.qmp.execute("system_powerdown", json!({})).map(drop)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn press_reset(&mut self) -> Result<()> {
        self.qmp.execute("system_reset", json!({})).map(drop)
    }

    /// Plugs a USB stick in, and gives its serial number, which is the file's name without its end:
    /// it stays the same when the stick is plugged in again.
    ///
    /// # Errors
    /// When there is one already, the machine has no USB, or the file cannot be used.
    pub fn plug(&mut self, file: &Path) -> Result<String> {
        if self.stick.is_some() {
            bail!("a stick is plugged in already: `lab unplug` pulls it out");
        }
        self.sticks += 1;
        let name = format!("stick{}", self.sticks);
        self.qmp.execute(
            "blockdev-add",
            json!({
                "driver": "raw", "node-name": name, "discard": "unmap",
                "file": {"driver": "file", "filename": file, "discard": "unmap"},
            }),
        )?;
        let serial = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let device = json!({
            "driver": "usb-storage", "bus": "usb.0", "id": name, "drive": name, "serial": serial,
            "removable": true,
        });
        if let Err(error) = self.qmp.execute("device_add", device) {
            drop(self.qmp.execute("blockdev-del", json!({"node-name": name})));
            return Err(error).context(
                "plugging the stick in (machines that boot from a key have USB, others do not)",
            );
        }
        self.stick = Some(name);
        Ok(serial)
    }

    /// Pulls the stick out.
    ///
    /// # Errors
    /// When there is none, or QEMU keeps it.
    pub fn unplug(&mut self) -> Result<()> {
        let name = self.stick.take().context("no stick is plugged in")?;
        self.qmp.execute("device_del", json!({"id": name}))?;
        let deadline = Instant::now() + UNPLUG_LIMIT;
        // Its transfers under way end first.
        while let Err(error) = self.qmp.execute("blockdev-del", json!({"node-name": name})) {
            if Instant::now() > deadline {
                return Err(error).context("letting go of the stick's file");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Tells the guest whether its admin NIC has a carrier.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn set_carrier(&mut self, up: bool) -> Result<()> {
        self.qmp.execute("set_link", json!({ "name": "nic0", "up": up })).map(drop)
    }
}

/// The error of a QEMU that ended at once: what it wrote.
fn said<T>(log: &PathBuf, from: u64) -> Result<T> {
    let mut text = String::new();
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(from))?;
    file.take(4096).read_to_string(&mut text)?;
    bail!("QEMU ended at once: {}", text.trim().replace('\n', "\n  "))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "switched itself off".to_owned(),
        (Some(code), _) => format!("QEMU ended with status {code}"),
        (None, Some(9)) => "killed".to_owned(),
        (None, signal) => format!("QEMU was ended by signal {}", signal.unwrap_or_default()),
    }
}
