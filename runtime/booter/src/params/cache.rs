//! The last parameters of each machine, one JSON file per MAC.
//!
//! Files are replaced as a whole ([`durable`]), so that a crash leaves the old or the new ones. There
//! is a most of them: the parameters of unknown machines that were used longest ago go first, those
//! of the datacenter's servers never, but of each server some NICs only.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Answer, Nics};
use crate::durable;

/// Larger files are none of ours: parameters have at most some modules of 4 KiB (C§4.2).
const SIZE_LIMIT: u64 = 4 << 20;
/// Unknown machines that were not heard of for so long are forgotten (C§4.2).
const AGE_LIMIT: Duration = Duration::from_secs(604_800);
/// Most MACs of one server: NICs that it boots by.
const NICS: usize = 16;
/// Machines of one lock share it while their files are written.
const LOCKS: usize = 16;

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
    /// The server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Uuid>,
    /// Its network, as NAPI had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nics: Option<Nics>,
}

impl Cached {
    /// What is kept of an answer; `before` is what was kept so far.
    pub(super) fn new(answer: Answer, before: Option<&Self>) -> Self {
        let Answer { params, server, nics, nics_unknown } = answer;
        let nics = if nics_unknown { before.and_then(|b| b.nics.clone()) } else { nics };
        Self { params, known_server: server.is_some(), server, nics }
    }
}

/// What is kept in memory of a file.
#[derive(Debug, Clone, Copy)]
struct About {
    known: bool,
    /// The server.
    server: Option<Uuid>,
    /// When the machine last booted; of a server also when CNAPI last told the same.
    at: SystemTime,
}

/// A folder of cached parameters. Clones share it.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    most: usize,
    index: Mutex<HashMap<MacAddr, About>>,
    /// A file is written by one at a time.
    writing: [Mutex<()>; LOCKS],
}

impl Cache {
    /// The cache in the state folder, of at most `most` machines; makes its folder, and cleans up
    /// what a crash has left. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(state: &Path, most: usize) -> io::Result<Self> {
        let folder = state.join("cache");
        fs::create_dir_all(&folder)?;
        let mut index = HashMap::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.starts_with('.') && name.ends_with(".new") {
                // Half a file, from a crash while it was written.
                let _ = fs::remove_file(&path);
                continue;
            }
            let Some(Ok(mac)) = name.strip_suffix(".json").map(str::parse) else { continue };
            let at = fs::metadata(&path).and_then(|about| about.modified());
            let (known, server) = match read(&path) {
                Ok(cached) => cached.map_or((false, None), |c| (c.known_server, c.server)),
                // It is told when the machine boots. Nobody can say whose it was: it is kept.
                Err(_) => (true, None),
            };
            index.insert(mac, About { known, server, at: at.unwrap_or(SystemTime::UNIX_EPOCH) });
        }
        let (index, writing) = (Mutex::new(index), std::array::from_fn(|_| Mutex::default()));
        let cache = Self(Arc::new(Inner { folder, most, index, writing }));
        cache.0.forget_old(SystemTime::now());
        Ok(cache)
    }

    /// The cached parameters of a machine. A damaged file is logged and counts as none.
    pub async fn get(&self, mac: MacAddr) -> Option<Cached> {
        // Strangers cost no look at the disk.
        if !self.0.index().contains_key(&mac) {
            return None;
        }
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || inner.get(mac)).await.ok().flatten()
    }

    /// Keeps the parameters of a machine. A failure is logged: it costs the cache only.
    pub async fn put(&self, mac: MacAddr, cached: Cached) {
        let inner = Arc::clone(&self.0);
        let put = move || inner.put(mac, &cached, SystemTime::now());
        if let Err(error) = tokio::task::spawn_blocking(put).await {
            tracing::error!(%mac, "keeping boot parameters: {error}");
        }
    }

    /// Notes that a machine boots with what is kept of it.
    pub(super) async fn used(&self, mac: MacAddr) {
        if !self.0.index().contains_key(&mac) {
            return;
        }
        let inner = Arc::clone(&self.0);
        let date = move || inner.date(mac, SystemTime::now());
        if let Err(error) = tokio::task::spawn_blocking(date).await {
            tracing::error!(%mac, "noting that boot parameters were used: {error}");
        }
    }

    /// Brings the parameters of a machine up to date, when some are kept.
    pub(super) async fn refresh(&self, mac: MacAddr, answer: Answer) {
        if !self.0.index().contains_key(&mac) {
            return;
        }
        let inner = Arc::clone(&self.0);
        let refresh = move || {
            let before = inner.get(mac);
            let now = Cached::new(answer, before.as_ref());
            let same = before.as_ref() == Some(&now);
            // An unknown machine is as old as its last boot, whatever CNAPI says of all unknown ones.
            let booted =
                inner.index().get(&mac).map(|about| about.at).filter(|_| !now.known_server);
            match (same, booted) {
                (true, Some(_)) => {}
                (true, None) => inner.date(mac, SystemTime::now()),
                (false, at) => inner.put(mac, &now, at.unwrap_or_else(SystemTime::now)),
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(refresh).await {
            tracing::error!(%mac, "refreshing boot parameters: {error}");
        }
    }

    /// Drops unknown machines that were not heard of for a week (C§4.2).
    pub(super) async fn forget_old(&self) {
        let inner = Arc::clone(&self.0);
        let forget = move || inner.forget_old(SystemTime::now());
        if let Err(error) = tokio::task::spawn_blocking(forget).await {
            tracing::error!("dropping old boot parameters: {error}");
        }
    }

    /// The machines that have parameters, the datacenter's servers first.
    pub fn machines(&self) -> Vec<MacAddr> {
        let index = self.0.index();
        let mut all: Vec<(bool, MacAddr)> =
            index.iter().map(|(mac, about)| (!about.known, *mac)).collect();
        drop(index);
        all.sort_unstable();
        all.into_iter().map(|(_, mac)| mac).collect()
    }
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, HashMap<MacAddr, About>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, mac: MacAddr) -> PathBuf {
        self.folder.join(format!("{}.json", mac.dashed()))
    }

    fn get(&self, mac: MacAddr) -> Option<Cached> {
        let path = self.path(mac);
        read(&path).unwrap_or_else(|error| {
            tracing::error!(file = %path.display(), "cached boot parameters are not used: {error}");
            None
        })
    }

    /// Keeps parameters of a machine that booted `at` this time.
    fn put(&self, mac: MacAddr, cached: &Cached, at: SystemTime) {
        let lock = usize::from(mac.0[5]) % LOCKS;
        let _one = self.writing.get(lock).map(|l| l.lock().unwrap_or_else(PoisonError::into_inner));
        let path = self.path(mac);
        if !self.make_room(mac, cached.known_server) {
            tracing::debug!(%mac, "the cache is full of servers: an unknown machine is not kept");
            return;
        }
        if let Some(server) = cached.server {
            self.make_room_of(mac, server);
        }
        let text = serde_json::to_vec_pretty(cached).map_err(io::Error::from);
        match text.and_then(|text| durable::replace(&path, &text)) {
            Ok(()) => {
                let (known, server) = (cached.known_server, cached.server);
                self.index().insert(mac, About { known, server, at });
                self.date(mac, at);
            }
            Err(error) => {
                tracing::error!(file = %path.display(), "keeping boot parameters: {error}");
            }
        }
    }

    fn date(&self, mac: MacAddr, at: SystemTime) {
        if let Some(about) = self.index().get_mut(&mac) {
            about.at = at;
        }
        // So that a restart knows it too; it costs nothing but its age.
        let file = File::options().append(true).open(self.path(mac));
        if let Err(error) = file.and_then(|file| file.set_modified(at)) {
            tracing::debug!(%mac, "noting when a machine booted: {error}");
        }
    }

    /// Whether there is room for the machine, after the oldest unknown one was dropped.
    fn make_room(&self, mac: MacAddr, known: bool) -> bool {
        let mut index = self.index();
        if index.len() < self.most || index.contains_key(&mac) {
            return true;
        }
        let unknown = index.iter().filter(|(_, about)| !about.known);
        let oldest = unknown.min_by_key(|(mac, about)| (about.at, **mac)).map(|(mac, _)| *mac);
        let Some(oldest) = oldest else { return known };
        index.remove(&oldest);
        drop(index);
        self.remove(oldest);
        true
    }

    /// Drops the oldest of a server's MACs when it has too many: whose UUID a machine claims to have
    /// is not proved.
    fn make_room_of(&self, mac: MacAddr, server: Uuid) {
        let mut index = self.index();
        let of_server = index.iter().filter(|(own, a)| a.server == Some(server) && **own != mac);
        let (count, oldest) = (of_server.clone().count(), of_server.min_by_key(|(_, a)| a.at));
        let Some(oldest) = oldest.map(|(mac, _)| *mac).filter(|_| count >= NICS) else { return };
        index.remove(&oldest);
        drop(index);
        self.remove(oldest);
    }

    fn forget_old(&self, now: SystemTime) {
        let old = |about: &About| now.duration_since(about.at).is_ok_and(|age| age > AGE_LIMIT);
        let gone: Vec<MacAddr> = self
            .index()
            .extract_if(|_, about| !about.known && old(about))
            .map(|(m, _)| m)
            .collect();
        for mac in gone {
            self.remove(mac);
        }
    }

    fn remove(&self, mac: MacAddr) {
        let path = self.path(mac);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %path.display(), "dropping old boot parameters: {error}");
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Cached>> {
    let size = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        about => about?.len(),
    };
    if size > SIZE_LIMIT {
        return Err(io::Error::other("the file is far too large"));
    }
    Ok(Some(serde_json::from_slice(&fs::read(path)?)?))
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
