//! Ending a lab, also one whose supervisor crashed, so that nothing of it is left.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::control::{Request, ask};
use super::paths::{FILES, KEY_FILES, Paths};
use super::process::ProcessId;
use super::spec::{LabSpec, is_name};
use super::state::{State, read_json};

/// How long a supervisor may take to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What `down` leaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keep {
    /// The machines' console logs, the supervisor's log and the recording.
    pub logs: bool,
    /// The disks, too: the lab can be started again by `headnode lab run`.
    pub all: bool,
    /// Remove the lab's own ssh key as well, which images may hold.
    pub no_key: bool,
}

/// What there is in a lab's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No lab.
    Nothing,
    /// A lab that runs.
    Running,
    /// A lab that was ended, with its disks.
    Stopped,
    /// A lab whose supervisor was killed, or which was never finished.
    Crashed,
}

/// Looks what there is in the folder.
///
/// # Errors
/// When its files cannot be read.
pub fn find(paths: &Paths) -> Result<Found> {
    use super::state::Phase;
    if !paths.spec().exists() {
        return Ok(Found::Nothing);
    }
    // A file that cannot be understood is the remains of something.
    let state: Option<State> = read_json(&paths.state()).unwrap_or_default();
    Ok(match state {
        Some(state) if state.supervisor.alive() => Found::Running,
        Some(state) if state.phase == Phase::Stopped => Found::Stopped,
        _ => Found::Crashed,
    })
}

/// Ends the lab and removes its files. Returns `false` when there was no lab.
///
/// # Errors
/// When a process does not end or a file cannot be removed; the message says which.
pub fn down(paths: &Paths, keep: Keep) -> Result<bool> {
    let found = find(paths)?;
    // Without a lab there may still be its remains, such as logs that were kept.
    stop(paths)?;
    if !keep.all {
        remove(paths, keep)?;
    }
    Ok(found != Found::Nothing)
}

/// Ends all processes of the lab.
///
/// # Errors
/// When one does not end.
pub fn stop(paths: &Paths) -> Result<()> {
    let state: Option<State> = read_json(&paths.state()).unwrap_or_default();
    if let Some(state) = &state
        && state.supervisor.alive()
    {
        if let Err(error) = ask(paths, &Request::Stop) {
            tracing::debug!(error = format!("{error:#}"), "the supervisor does not stop by itself");
        } else {
            wait_for_end(state.supervisor);
        }
        state.supervisor.kill().context("ending the lab's supervisor")?;
    }
    // The kernel ends the machines with their supervisor. What follows finds them without it.
    for machine in state.iter().flat_map(|s| s.machines.values()) {
        if let Some(qemu) = machine.qemu {
            qemu.kill()?;
        }
    }
    for process in qemus_in(paths.dir())? {
        process.kill()?;
    }
    Ok(())
}

fn wait_for_end(process: ProcessId) {
    let deadline = Instant::now() + STOP_LIMIT;
    while process.alive() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Every QEMU that works inside this lab's folder.
fn qemus_in(dir: &Path) -> Result<Vec<ProcessId>> {
    let Ok(dir) = dir.canonicalize() else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for entry in std::fs::read_dir("/proc").context("listing processes")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let (Ok(cwd), Ok(program)) = (
            std::fs::read_link(entry.path().join("cwd")),
            std::fs::read_link(entry.path().join("exe")),
        ) else {
            // Gone, or somebody else's.
            continue;
        };
        let is_qemu =
            program.file_name().is_some_and(|n| n.to_string_lossy().starts_with("qemu-system-"));
        if is_qemu && cwd.parent() == Some(&dir) {
            out.extend(ProcessId::of(pid).ok());
        }
    }
    Ok(out)
}

fn remove(paths: &Paths, keep: Keep) -> Result<()> {
    let spec: Option<LabSpec> = read_json(&paths.spec()).unwrap_or_default();
    for dir in machine_dirs(paths)? {
        if keep.logs {
            remove_all_but(&dir, &["console.log", "console.index", "qemu.log"])?;
        } else {
            remove_tree(&dir)?;
        }
    }
    let recordings = spec.map(|s| s.recordings()).unwrap_or_default();
    for record in recordings.iter().filter(|r| !keep.logs && r.starts_with(paths.dir())) {
        remove_file(record)?;
    }
    for name in FILES.iter().filter(|n| !(keep.logs && **n == "supervisor.log")) {
        remove_file(&paths.file(name))?;
    }
    if keep.no_key {
        for name in KEY_FILES {
            remove_file(&paths.file(name))?;
        }
    }
    // Only when nothing is left in it.
    drop(std::fs::remove_dir(paths.dir()));
    Ok(())
}

/// The machines' folders: by name, so that remains without a `lab.json` are found too, and nothing
/// else ever is.
pub fn machine_dirs(paths: &Paths) -> Result<Vec<std::path::PathBuf>> {
    let entries = match std::fs::read_dir(paths.dir()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("listing {}", paths.dir().display()))?,
    };
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("listing {}", paths.dir().display()))?;
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        if is_dir && entry.file_name().to_str().is_some_and(is_machine_name) {
            out.push(entry.path());
        }
    }
    Ok(out)
}

fn is_machine_name(name: &str) -> bool {
    let node = name.strip_prefix("node").is_some_and(|n| n.parse::<u8>().is_ok());
    is_name(name) && (name == super::spec::HEADNODE || node)
}

/// Refuses a folder that holds something that is not a lab's.
///
/// # Errors
/// Names the first such thing.
pub fn check_folder(paths: &Paths, record: Option<&Path>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(paths.dir()) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let known = name.to_str().is_some_and(|name| {
            FILES.contains(&name) || KEY_FILES.contains(&name) || is_machine_name(name)
        });
        let recording = record.is_some_and(|r| r == entry.path())
            || entry.path().extension().is_some_and(|e| e == "pcap");
        if !known && !recording {
            bail!(
                "the folder {} holds {}, which is no part of a lab; name another with --dir",
                paths.dir().display(),
                name.to_string_lossy()
            );
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_all_but(dir: &Path, keep: &[&str]) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|n| keep.contains(&n)) {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}
