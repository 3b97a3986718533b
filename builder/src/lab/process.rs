//! Processes that must not outlive the supervisor, and the proof that a process id is still ours.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process, told apart from a later one with the same id by the moment it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: u32,
    /// When it started: clock ticks since the machine's boot, field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl ProcessId {
    /// The running process with this id.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(pid: u32) -> Result<Self> {
        let started = start_time(pid).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, started })
    }

    /// Whether it still runs.
    pub fn alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Ends it at once, if it still runs, and waits until it is gone.
    ///
    /// # Errors
    /// When it may not be ended, or is still there after 10 s.
    pub fn kill(self) -> Result<()> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        // Looked at after the handle is open: from here on the id cannot change its owner.
        if !self.alive() {
            return Ok(());
        }
        pidfd_send_signal(&handle, Signal::KILL)
            .with_context(|| format!("ending process {}", self.pid))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.alive() {
            if Instant::now() > deadline {
                bail!("process {} does not end although it was killed", self.pid);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Field 22 of `/proc/PID/stat`; `None` when there is no such process, or only its remains.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Starts a process that the kernel kills when the calling thread ends, whatever ends it. Call it
/// from the program's main thread.
///
/// # Errors
/// When it cannot be started.
pub fn spawn_bound(command: &mut Command) -> std::io::Result<(Child, OwnedFd)> {
    let parent = rustix::process::getpid();
    let bind = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the line above.
        if rustix::process::getppid() != Some(parent) {
            return Err(std::io::Error::other("the supervisor has ended"));
        }
        // The supervisor waits for signals with them blocked, which a child would inherit.
        nix::sys::signal::SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only the async-signal-safe system calls
    // prctl, getppid and sigprocmask; it allocates only when it fails, right before the child ends.
    unsafe { command.pre_exec(bind) };
    let mut child = command.spawn()?;
    let handle = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| std::io::Error::other("the child has no process id"))
        .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
    match handle {
        Ok(handle) => Ok((child, handle)),
        Err(error) => {
            drop(child.kill());
            drop(child.wait());
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_id_and_start() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(id.alive());
        let other = ProcessId { started: id.started + 1, ..id };
        assert!(!other.alive());
        other.kill().unwrap();
        assert!(id.alive(), "a process with another start time was ended");
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        id.kill().unwrap();
        assert!(!id.alive());
        reaper.join().unwrap();
    }
}
