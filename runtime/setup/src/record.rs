//! What setup remembers on the key while there is no pool to remember it on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use headnode_model::paths;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// How far the pool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No disk was touched.
    #[default]
    Untouched,
    /// The disks listed are being made into the pool: whatever is on them now is ours.
    PoolCreating,
    /// The pool and its datasets are there.
    PoolReady,
}

/// The record on the key, `private/setup.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Id of this setup; the pool carries it too.
    pub id: String,
    /// When setup began, RFC 3339.
    pub start_time: String,
    /// How far the pool is.
    pub phase: Phase,
    /// The disks of the pool, see `Disk::identity`.
    #[serde(default)]
    pub disks: Vec<String>,
}

/// A path on the mounted key.
pub fn on_key(path: &str) -> PathBuf {
    Path::new(paths::KEY_MOUNT).join(path)
}

/// A path in the key's copy on the pool.
pub fn on_pool(path: &str) -> PathBuf {
    Path::new(paths::USBKEY).join(path)
}

impl Record {
    /// Reads the record of the mounted key; `None` when there is none that can be read.
    ///
    /// FAT has no journal: a power cut within the rename may leave only the temporary file, which
    /// was synced before and is then taken.
    ///
    /// # Errors
    /// When the key cannot be read.
    pub fn load(machine: &dyn Machine) -> Result<Option<Self>> {
        let path = on_key(paths::KEY_SETUP_STATE);
        for path in [path.clone(), headnode_node::file::temporary(&path)] {
            if let Some(bytes) = machine.read(&path)? {
                match serde_json::from_slice(&bytes) {
                    Ok(record) => return Ok(Some(record)),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "reading the record of setup")
                    }
                }
            }
        }
        Ok(None)
    }

    /// Writes the record to the mounted key.
    ///
    /// # Errors
    /// When the key cannot be written to.
    pub fn save(&self, machine: &dyn Machine) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).context("encoding the record of setup")?;
        write_key(machine, paths::KEY_SETUP_STATE, &bytes)
    }
}

/// Writes one file to the key, which is writable only meanwhile.
///
/// # Errors
/// When the key cannot be written to, as when its write protection is on.
pub fn write_key(machine: &dyn Machine, path: &str, bytes: &[u8]) -> Result<()> {
    machine.key_writable(true).with_context(|| {
        format!("making the key writable for {path} (is its write protection on?)")
    })?;
    let written = machine.write(&on_key(path), bytes, 0o600);
    let closed = machine.key_writable(false).context("making the key read-only again");
    written.with_context(|| format!("writing {path} to the key"))?;
    closed
}
