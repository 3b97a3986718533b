//! The last parameters of each machine, one JSON file per MAC.

use std::io;
use std::path::{Path, PathBuf};

use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use serde::{Deserialize, Serialize};

use crate::durable;

/// Larger files are none of ours: parameters have at most some modules of 4 KiB (C§4.2).
const SIZE_LIMIT: u64 = 1 << 20;

/// The parameters of a machine and how CNAPI had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cached {
    /// What it boots with.
    #[serde(flatten)]
    pub params: BootParams,
    /// Whether they were those of a server of the datacenter, not the ones of all others: such a
    /// machine needs no approval while CNAPI is down. Files of older versions do not tell.
    #[serde(default)]
    pub known_server: bool,
}

/// A folder of cached parameters.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache in the state folder; makes its folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("cache");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// The cached parameters of a machine. A damaged file is logged and counts as none.
    pub async fn get(&self, mac: MacAddr) -> Option<Cached> {
        let path = self.path(mac);
        let read = move || match read(&path) {
            Ok(params) => params,
            Err(error) => {
                tracing::error!(file = %path.display(), "cached boot parameters are not used: {error}");
                None
            }
        };
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    /// Keeps the parameters of a machine. A failure is logged: it costs the cache only.
    pub async fn put(&self, mac: MacAddr, cached: Cached) {
        let path = self.path(mac);
        let write = move || {
            let text = serde_json::to_vec_pretty(&cached).map_err(io::Error::from);
            if let Err(error) = text.and_then(|text| durable::replace(&path, &text)) {
                tracing::error!(file = %path.display(), "keeping boot parameters: {error}");
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(write).await {
            tracing::error!(%mac, "keeping boot parameters: {error}");
        }
    }

    fn path(&self, mac: MacAddr) -> PathBuf {
        self.folder.join(format!("{}.json", mac.dashed()))
    }
}

fn read(path: &Path) -> io::Result<Option<Cached>> {
    let size = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        about => about?.len(),
    };
    if size > SIZE_LIMIT {
        return Err(io::Error::other("the file is far too large"));
    }
    Ok(Some(serde_json::from_slice(&std::fs::read(path)?)?))
}
