//! Fetches files into the cache, several at a time, and pins them.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::cache::{About, Cache, Object};
use super::digest::Digests;
use super::http::{Head, Http};
use super::imgmanifest;
use super::lock::{Entry, Kind, Lock, Origin};
use super::packing;
use super::resolve::Wanted;
use super::seen::Seen;
use super::watch::Watch;

/// Files that are transferred at the same time, when nothing else is said.
pub const JOBS: usize = 4;

/// Everything that went wrong; all parts are tried before.
#[derive(Debug, thiserror::Error)]
#[error("{}", text(.0))]
pub struct Error(pub Vec<String>);

fn text(problems: &[String]) -> String {
    match problems {
        [one] => one.clone(),
        all => format!("{} things went wrong:\n  {}", all.len(), all.join("\n  ")),
    }
}

/// A part that is there.
#[derive(Debug, Clone, Serialize)]
pub struct Artefact {
    /// What the lock file says of it.
    #[serde(flatten)]
    pub entry: Entry,
    /// Where it is on this machine.
    pub path: PathBuf,
    /// Keeps it in the cache.
    #[serde(skip)]
    pub held: Option<Object>,
}

impl Artefact {
    /// What it is.
    pub fn kind(&self) -> Option<Kind> {
        Kind::of(&self.entry.name)
    }

    /// What it is for, when it is an entry of `files`: its name there, without the `-debug` of a
    /// DEBUG build (`platform`, `platboot`, `platimages`, `ipxe`, `sdcadm`, `agents`, …).
    pub fn role(&self) -> Option<String> {
        match self.kind() {
            Some(Kind::File(name)) => {
                Some(name.strip_suffix("-debug").map_or(name.clone(), str::to_owned))
            }
            _ => None,
        }
    }

    /// The last part of its address.
    pub fn file_name(&self) -> &str {
        let path = self.entry.url.split(['?', '#']).next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        // Files of this machine have no folder in their address.
        name.strip_prefix("file:").unwrap_or(name)
    }
}

/// Sees transfers begin.
pub trait Board: Sync {
    /// One begins; the watcher is dropped when it ends.
    fn begin(&self, name: &str) -> Box<dyn Watch + '_>;
}

/// Nobody looks.
pub struct NoBoard;

impl Board for NoBoard {
    fn begin(&self, _: &str) -> Box<dyn Watch + '_> {
        Box::new(super::watch::Unwatched)
    }
}

/// Runs `work` on all items, on some threads.
pub(super) fn side_by_side<T: Send, R: Send>(
    items: VecDeque<T>,
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<(T, R)> {
    let count = items.len();
    let queue = Mutex::new(items);
    let done = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, count.max(1)) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(item) = next else { return };
                    let result = work(&item);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((item, result));
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Brings all files into the cache; those of this machine stay where they are.
///
/// # Errors
/// Everything that went wrong; the other files are in the cache then.
pub fn fetch(
    wanted: Vec<Wanted>,
    cache: &Cache,
    http: &Http,
    jobs: usize,
    board: &dyn Board,
) -> Result<Vec<Artefact>, Error> {
    // The largest first, so that none is left for the end.
    let mut sorted = wanted;
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.name.cmp(&b.name)));
    let (mut all, mut problems) = (Vec::new(), Vec::new());
    let seen = Seen::open(cache);
    let work = |wanted: &Wanted| one(wanted, cache, &seen, http, board);
    for (wanted, result) in side_by_side(sorted.into(), jobs, work) {
        match result {
            Ok(artefact) => all.push(artefact),
            Err(why) => problems.push(format!("{}: {why}", wanted.name)),
        }
    }
    if let Err(error) = seen.save(cache) {
        problems.push(error.to_string());
    }
    problems.sort();
    if !problems.is_empty() {
        return Err(Error(problems));
    }
    all.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    Ok(all)
}

/// Reads the parts that come from the cache, where they may have lain for long, and compares them
/// with their SHA-256. Those of this machine were read when they were resolved.
///
/// # Errors
/// Every one that is damaged or cannot be read.
pub fn check_cached(artefacts: &[Artefact]) -> Result<(), Error> {
    let cached = artefacts.iter().filter(|artefact| artefact.held.is_some()).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut problems: Vec<String> = Vec::new();
    for (artefact, digests) in
        side_by_side(cached, threads, |artefact: &&Artefact| Digests::of_file(&artefact.path, None))
    {
        let Entry { name, sha256, .. } = &artefact.entry;
        let path = artefact.path.display();
        match digests {
            Ok(digests) if digests.sha256 == *sha256 => {}
            Ok(_) => problems.push(format!(
                "{name}: the cache's {path} is damaged: run `headnode cache verify --repair`, then \
                 `headnode fetch`"
            )),
            Err(error) => problems.push(format!("{name}: reading {path}: {error}")),
        }
    }
    problems.sort();
    if problems.is_empty() { Ok(()) } else { Err(Error(problems)) }
}

fn one(
    wanted: &Wanted,
    cache: &Cache,
    seen: &Seen,
    http: &Http,
    board: &dyn Board,
) -> Result<Artefact, String> {
    let entry = |digests: (String, u64)| Entry {
        name: wanted.name.clone(),
        version: wanted.version.clone(),
        source: wanted.source,
        url: wanted.url.clone(),
        size: digests.1,
        sha256: digests.0,
        digest: wanted.digest.as_ref().map(ToString::to_string),
        origin: wanted.origin.clone(),
        asked: wanted.asked.clone(),
    };
    if let Some(path) = wanted.path.clone() {
        // Packed files are tested the first time only, too.
        let digests = seen
            .digests(&path, wanted.digest.as_ref(), |digests| {
                examine(wanted, &path, digests).map_err(Wrong::Content)
            })
            .map_err(|wrong| wrong.told(&path))?;
        check(wanted, &digests)?;
        let entry = entry((digests.sha256, digests.size));
        return Ok(Artefact { entry, path, held: None });
    }
    let object = from_net(wanted, cache, http, board)?;
    let path = object.path.clone();
    let entry = entry((object.sha256.clone(), object.size));
    Ok(Artefact { entry, path, held: Some(object) })
}

/// Why a file of this machine cannot be used.
enum Wrong {
    Read(io::Error),
    Content(String),
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl Wrong {
    fn told(self, path: &Path) -> String {
        match self {
            Self::Read(error) => format!("reading {}: {error}", path.display()),
            Self::Content(why) => why,
        }
    }
}

fn from_net(
    wanted: &Wanted,
    cache: &Cache,
    http: &Http,
    board: &dyn Board,
) -> Result<Object, String> {
    let told = |error: super::cache::Error| error.to_string();
    let about = About {
        name: wanted.name.clone(),
        version: wanted.version.clone(),
        url: wanted.url.clone(),
    };
    let known = keys(wanted, wanted.head.as_ref());
    let there = || -> Result<Option<Object>, String> {
        if let Some(sha256) = &wanted.sha256 {
            return cache.get(sha256).map_err(told);
        }
        for key in &known {
            if let Some(object) = cache.known(key).map_err(told)? {
                return Ok(Some(object));
            }
        }
        Ok(None)
    };
    if let Some(object) = there()? {
        return Ok(object);
    }
    let watch = board.begin(&wanted.name);
    let small = wanted.source == Origin::Imgapi && wanted.name.ends_with(".imgmanifest");
    if wanted.bytes.is_some() || small {
        let bytes = match &wanted.bytes {
            Some(bytes) => bytes.clone(),
            None => {
                let text = http
                    .text(&wanted.url, &[("accept-version", "~2")])
                    .map_err(|error| error.to_string())?;
                imgmanifest::for_key(&text).map_err(|why| format!("{}: {why}", wanted.url))?
            }
        };
        let digests = Digests::of(bytes.as_slice(), wanted.digest.as_ref())
            .map_err(|error| error.to_string())?;
        check(wanted, &digests)?;
        return cache.put(&bytes, &about).map_err(told);
    }
    let id = format!("{} {}", wanted.url, known.first().map(String::as_str).unwrap_or_default());
    let slot = cache
        .slot(&id, || watch.trouble("another process fetches it; waiting for that"))
        .map_err(told)?;
    if let Some(object) = there()? {
        return Ok(object);
    }
    let mut again = true;
    loop {
        let resumed = slot.file().metadata().is_ok_and(|meta| meta.len() > 0);
        let head = http
            .download(&wanted.url, wanted.size, &slot, watch.as_ref())
            .map_err(|error| error.to_string())?;
        let digests = Digests::of_file(slot.path(), wanted.digest.as_ref())
            .map_err(|error| slot.error("reading", error).to_string())?;
        match examine(wanted, slot.path(), &digests) {
            Ok(()) => {
                let keys = keys(wanted, Some(&head));
                return slot.commit(&digests.sha256, &keys, &about).map_err(told);
            }
            // What was resumed may be older than the list of digests: once from the start.
            Err(why) if resumed && again => {
                watch.trouble(&format!("{why}; fetching it anew"));
                again = false;
                slot.begin().map_err(told)?;
            }
            Err(why) => {
                slot.begin().map_err(told)?;
                return Err(format!("{}: {why}", wanted.url));
            }
        }
    }
}

/// Under which keys the cache knows a file before its SHA-256 is known.
fn keys(wanted: &Wanted, head: Option<&Head>) -> Vec<String> {
    match (&wanted.digest, head) {
        (Some(digest), _) => vec![digest.to_string()],
        (None, Some(Head { validator: Some(validator), size })) => {
            vec![format!("{} {validator} {}", wanted.url, size.unwrap_or_default())]
        }
        _ => Vec::new(),
    }
}

/// Checks a file against everything that is known of it.
fn examine(wanted: &Wanted, path: &Path, digests: &Digests) -> Result<(), String> {
    check(wanted, digests)?;
    match wanted.packing {
        Some(packing) => packing::test(path, packing)
            .map_err(|why| format!("its digest is right, but it is damaged: {why}")),
        None => Ok(()),
    }
}

fn check(wanted: &Wanted, digests: &Digests) -> Result<(), String> {
    if let Some(size) = wanted.size.filter(|size| *size != digests.size) {
        return Err(format!("it has {} bytes, but should have {size}", digests.size));
    }
    if let (Some(digest), Some(is)) = (&wanted.digest, &digests.like)
        && digest != is
    {
        return Err(format!("its digest is {is}, but its source says {digest}: it is damaged"));
    }
    if let Some(sha256) = wanted.sha256.as_ref().filter(|sha256| **sha256 != digests.sha256) {
        let is = &digests.sha256;
        return Err(format!(
            "its SHA-256 is {is}, but {sha256} is pinned: its source changed it; look why before \
             you run `headnode update`"
        ));
    }
    Ok(())
}

/// The lock file of some parts.
pub fn lock_of(artefacts: &[Artefact]) -> Lock {
    Lock {
        artefacts: artefacts.iter().map(|artefact| artefact.entry.clone()).collect(),
        ..Lock::default()
    }
}
