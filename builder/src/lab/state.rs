//! What runs: the file by which other processes, and a later `lab down`, know the lab's processes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use super::process::ProcessId;
use super::switch::Link;

/// How many starts of a machine are remembered.
const BOOTS: usize = 100;

/// How far the lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The supervisor switches the machines on.
    Starting,
    /// All machines that start with the lab were switched on.
    Running,
    /// The lab was ended properly; its disks are kept.
    Stopped,
}

/// Whether a machine has power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// Its QEMU runs.
    On,
    /// It does not.
    Off,
}

impl std::fmt::Display for Power {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Power::On { "on" } else { "off" })
    }
}

/// One start of a machine: by power or by reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// 1 for the first.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// How long the console's log was at that moment, bytes.
    pub console_offset: u64,
}

/// One machine's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineState {
    /// Whether it has power.
    pub power: Power,
    /// Its QEMU.
    pub qemu: Option<ProcessId>,
    /// Its last starts, oldest first.
    pub boots: Vec<Boot>,
    /// How its QEMU ended last.
    pub ended: Option<String>,
    /// Its link's impairments.
    pub link: Link,
}

impl Default for MachineState {
    fn default() -> Self {
        Self {
            power: Power::Off,
            qemu: None,
            boots: Vec::new(),
            ended: None,
            link: Link::default(),
        }
    }
}

impl MachineState {
    /// Notes a start at this moment.
    pub fn booted(&mut self, console_offset: u64) {
        let number = self.boots.last().map_or(1, |b| b.number + 1);
        if self.boots.len() == BOOTS {
            self.boots.remove(0);
        }
        self.boots.push(Boot { number, at_ms: now_ms(), console_offset });
    }
}

/// The lab's state, as `state.json` keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The supervisor.
    pub supervisor: ProcessId,
    /// How far the lab is.
    pub phase: Phase,
    /// When the supervisor started, in milliseconds since 1970.
    pub since_ms: u64,
    /// The machines by name.
    pub machines: BTreeMap<String, MachineState>,
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Replaces a JSON file in one step: a reader sees the old one or the new one, never a part.
///
/// # Errors
/// What the file system says.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let write = || -> Result<()> {
        let dir = path.parent().context("the path has no folder")?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Reads a JSON file; `None` when there is none.
///
/// # Errors
/// When it cannot be read or holds something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("reading {}", path.display()))?,
    };
    let value = serde_json::from_slice(&bytes)
        .with_context(|| format!("understanding {}", path.display()))?;
    Ok(Some(value))
}
