//! Processes that must not outlive the supervisor, and the proof that a process id is still ours.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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

    /// Ends it at once, if it still runs, and waits until it is gone with all its threads: until then
    /// it holds its files and their locks.
    ///
    /// # Errors
    /// When it may not be ended, or is still there after 10 s.
    pub fn kill(self) -> Result<()> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        // Looked at after the handle is open: from here on the id cannot change its owner. What is
        // left of a process may still have threads.
        if stat(self.pid).is_none_or(|(_, started)| started != self.started) {
            return Ok(());
        }
        match pidfd_send_signal(&handle, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("ending process {}", self.pid));
            }
        }
        // The handle becomes readable when the last thread has ended (pidfd_open(2)).
        let mut waited = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
        let begin = Instant::now();
        while begin.elapsed() < KILL_LIMIT {
            match poll(&mut waited, PollTimeout::from(1000_u16)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => {
                    return Err(error).with_context(|| format!("waiting for process {}", self.pid));
                }
            }
        }
        bail!("process {} does not end although it was killed", self.pid)
    }
}

/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// When a process started; `None` when there is no such process, or only its remains.
fn start_time(pid: u32) -> Option<u64> {
    stat(pid).filter(|(state, _)| !matches!(state, 'Z' | 'X')).map(|(_, started)| started)
}

/// State and start time: fields 3 and 22 of `/proc/PID/stat`.
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
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

    /// The first thread of a killed process may be gone long before the others are.
    #[test]
    fn a_killed_process_has_let_go_of_its_locks() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("lock");
        let file = std::fs::File::create(&lock).unwrap();
        for _ in 0..20 {
            // Python's threads, so that there are some; the lock is the parent's.
            let script = "import fcntl, sys, threading, time\n\
                f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX)\n\
                [threading.Thread(target=time.sleep, args=(600,)).start() for _ in range(50)]\n\
                print('locked', flush=True); time.sleep(600)";
            let mut child = Command::new("python3")
                .args(["-c", script])
                .arg(&lock)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = [0; 6];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
            assert!(file.try_lock().is_err());
            let id = ProcessId::of(child.id()).unwrap();
            id.kill().unwrap();
            file.try_lock().unwrap();
            file.unlock().unwrap();
            child.wait().unwrap();
        }
    }
}
