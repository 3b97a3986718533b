//! Fetches what a build.spec means into the cache, several files at a time, and pins it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::cache::{About, Cache, Object};
use super::digest::Digests;
use super::http::{Head, Http, Watch};
use super::imgmanifest;
use super::lock::{Entry, Kind, Lock, Origin};
use super::packing;
use super::resolve::{self, Asked, Resolver, Wanted};
use crate::spec::Spec;
use crate::spec::parts::Env;

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

    /// The last part of its address.
    pub fn file_name(&self) -> &str {
        let path = self.entry.url.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

/// Which parts are asked for anew although the lock file has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Update {
    /// None.
    #[default]
    Nothing,
    /// All.
    All,
    /// Those with these names: of zones, of files, or as in the lock file.
    Named(BTreeSet<String>),
}

impl Update {
    fn covers(&self, asked: Asked<'_>) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Named(names) => {
                let kind = if asked.zone { "zone" } else { "file" };
                names.contains(asked.name) || names.contains(&format!("{kind}.{}", asked.name))
            }
        }
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
        Box::new(super::http::Unwatched)
    }
}

/// The zones and files of a spec that take part in the build.
///
/// # Errors
/// What is wrong with the features.
pub fn asked<'a>(spec: &'a Spec, env: Env<'_>) -> Result<Vec<Asked<'a>>, Error> {
    let features = spec.features(env).map_err(Error)?;
    let of = |parts: &'a BTreeMap<String, crate::spec::parts::Part>, zone| {
        parts.iter().map(move |(name, part)| Asked { name, part, zone })
    };
    let all = of(&spec.parts.zones, true).chain(of(&spec.parts.files, false));
    Ok(all.filter(|asked| asked.part.wanted(&features)).collect())
}

/// Files of this machine that the spec names and that go into the image, by key. The answers and
/// the signing key are left out: a lock file is public, and a digest of secrets is a way to guess.
pub fn locals(spec: &Spec) -> Vec<(String, PathBuf)> {
    let parts = &spec.parts;
    let single = [
        ("authorized-keys", &spec.authorized_keys),
        ("control-bundle", &parts.control_bundle),
        ("platform", &spec.platform),
    ];
    let mut all: Vec<(String, PathBuf)> = single
        .into_iter()
        .filter_map(|(key, path)| Some((format!("local.{key}"), path.clone()?)))
        .collect();
    for (number, platform) in parts.platforms.iter().enumerate() {
        all.extend(platform.path.clone().map(|path| (format!("local.platforms.{number}"), path)));
    }
    for (name, path) in &parts.extra_files {
        all.push((format!("local.extra-files.{name}"), path.clone()));
    }
    all
}

/// Finds out which files are wanted; what the lock file has is not asked for anew.
///
/// # Errors
/// Everything that is wrong.
pub fn plan(
    spec: &Spec,
    env: Env<'_>,
    old: Option<&Lock>,
    update: &Update,
    http: &Http,
    jobs: usize,
) -> Result<Vec<Wanted>, Error> {
    let parts = asked(spec, env)?;
    let mut problems = unknown_names(&parts, update);
    let resolver = Resolver::new(http, spec, env);
    let mut all: BTreeMap<String, Wanted> = BTreeMap::new();
    let mut open: VecDeque<Asked<'_>> = VecDeque::new();
    for part in parts {
        let names = Resolver::names(part);
        let kept = old.filter(|_| !update.covers(part));
        match kept.and_then(|lock| lock.part(&names, &resolver.asked(part))) {
            Some(entries) => {
                for entry in entries {
                    let mut wanted = again(entry);
                    if entry.source == Origin::File {
                        match resolver.place(part, &entry.url) {
                            Ok(path) => wanted.path = Some(path),
                            Err(why) => {
                                problems.push(format!("{}: {why}", part.name));
                                break;
                            }
                        }
                    }
                    all.insert(entry.name.clone(), wanted);
                }
            }
            None => open.push_back(part),
        }
    }
    for (part, result) in side_by_side(open, jobs, |part| resolver.part(*part)) {
        let kind = if part.zone { "zone" } else { "file" };
        match result {
            Ok(wanted) => {
                if let Some(first) = wanted.first().filter(|_| part.zone)
                    && let Err(why) = resolver.origins(part.name, first, &mut all)
                {
                    problems.push(why);
                }
                all.extend(wanted.into_iter().map(|wanted| (wanted.name.clone(), wanted)));
            }
            Err(why) => problems.push(format!("{kind} {}: {why}", part.name)),
        }
    }
    for (name, path) in locals(spec) {
        if path.is_file() {
            all.insert(name.clone(), resolve::file(name, "", &path, String::new()));
        } else {
            problems.push(format!("{name}: there is no file {}", path.display()));
        }
    }
    if problems.is_empty() { Ok(all.into_values().collect()) } else { Err(Error(problems)) }
}

fn unknown_names(parts: &[Asked<'_>], update: &Update) -> Vec<String> {
    let Update::Named(names) = update else { return Vec::new() };
    let known = |name: &str| {
        let only = Update::Named(BTreeSet::from([name.to_owned()]));
        parts.iter().any(|part| only.covers(*part))
    };
    let all = parts.iter().map(|part| part.name);
    names
        .iter()
        .filter(|name| !known(name))
        .map(|name| match crate::spec::keys::nearest(name, all.clone()) {
            Some(near) => format!("the build has no part {name:?}, did you mean {near:?}?"),
            None => format!("the build has no part {name:?}"),
        })
        .collect()
}

/// What the lock file says, wanted exactly so.
fn again(entry: &Entry) -> Wanted {
    let mut wanted = Wanted::new(entry.name.clone(), &entry.asked, entry.source, entry.url.clone());
    wanted.version.clone_from(&entry.version);
    wanted.size = Some(entry.size);
    wanted.sha256 = Some(entry.sha256.clone());
    wanted.digest = entry.digest.as_ref().and_then(|digest| digest.parse().ok());
    wanted.origin.clone_from(&entry.origin);
    wanted
}

/// Runs `work` on all items, on some threads.
fn side_by_side<T: Send, R: Send>(
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
    for (wanted, result) in
        side_by_side(sorted.into(), jobs, |wanted| one(wanted, cache, http, board))
    {
        match result {
            Ok(artefact) => all.push(artefact),
            Err(why) => problems.push(format!("{}: {why}", wanted.name)),
        }
    }
    problems.sort();
    if !problems.is_empty() {
        return Err(Error(problems));
    }
    all.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    Ok(all)
}

fn one(wanted: &Wanted, cache: &Cache, http: &Http, board: &dyn Board) -> Result<Artefact, String> {
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
        let digests = Digests::of_file(&path)
            .map_err(|error| format!("reading {}: {error}", path.display()))?;
        examine(wanted, &path, &digests)?;
        let entry = entry((digests.sha256, digests.size));
        return Ok(Artefact { entry, path, held: None });
    }
    let object = from_net(wanted, cache, http, board)?;
    let path = object.path.clone();
    let entry = entry((object.sha256.clone(), object.size));
    Ok(Artefact { entry, path, held: Some(object) })
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
        check(wanted, &Digests::of_bytes(&bytes))?;
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
        let digests = Digests::of_file(slot.path())
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
    if let Some(digest) = wanted.digest.as_ref().filter(|digest| digests.like(digest) != **digest) {
        let is = digests.like(digest);
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

/// The parts of a build from the lock file and the cache alone: no network. Every part that the
/// spec asks for must be locked as it asks for it, in the cache, and every file of this machine must
/// have the digest that is locked. What the lock file has besides is left out.
///
/// The content of the cache's files is not read here: whoever copies them compares the SHA-256
/// (`headnode cache verify` reads all).
///
/// # Errors
/// Everything that is missing or different.
pub fn resolve_locked(
    spec: &Spec,
    env: Env<'_>,
    lock: &Lock,
    cache: &Cache,
) -> Result<Vec<Artefact>, Error> {
    let http = Http::new(super::http::Patience::default());
    let resolver = Resolver::new(&http, spec, env);
    let mut problems = Vec::new();
    let mut entries: BTreeMap<&str, &Entry> = BTreeMap::new();
    let mut paths: BTreeMap<String, PathBuf> = locals(spec).into_iter().collect();
    for name in paths.keys() {
        match lock.get(name) {
            Some(entry) => drop(entries.insert(&entry.name, entry)),
            None => problems.push(format!("{name} is not in the lock file: run `headnode fetch`")),
        }
    }
    for part in asked(spec, env)? {
        let asked = resolver.asked(part);
        let names = Resolver::names(part);
        match lock.part(&names, &asked) {
            Some(found) => {
                for entry in found {
                    if entry.source == Origin::File {
                        match resolver.place(part, &entry.url) {
                            Ok(path) => drop(paths.insert(entry.name.clone(), path)),
                            Err(why) => {
                                problems.push(format!("{}: {why}", part.name));
                                break;
                            }
                        }
                    }
                    entries.insert(&entry.name, entry);
                }
            }
            None => {
                let was = names.first().and_then(|name| lock.get(name));
                let why = match was {
                    None => "is not in the lock file".to_owned(),
                    Some(was) if was.asked != asked => {
                        format!("is locked as {:?}, but the spec asks for {asked:?}", was.asked)
                    }
                    Some(_) => "is locked without the images that it is made from".to_owned(),
                };
                problems.push(format!("{} {why}: run `headnode fetch`", part.name));
            }
        }
    }
    let mut all = Vec::new();
    for entry in entries.into_values() {
        match paths.get(&entry.name).cloned() {
            Some(path) => match Digests::of_file(&path) {
                Ok(digests) if digests.sha256 == entry.sha256 => {
                    all.push(Artefact { entry: entry.clone(), path, held: None });
                }
                Ok(_) => problems.push(format!(
                    "{}: {} is not the file that was locked: run `headnode update`",
                    entry.name,
                    path.display()
                )),
                Err(error) => {
                    problems.push(format!("{}: reading {}: {error}", entry.name, path.display()));
                }
            },
            None => match cache.get(&entry.sha256) {
                Ok(Some(object)) if object.size == entry.size => {
                    let path = object.path.clone();
                    all.push(Artefact { entry: entry.clone(), path, held: Some(object) });
                }
                Ok(Some(object)) => problems.push(format!(
                    "{}: in the cache it has {} bytes instead of {}: run `headnode cache verify \
                     --repair`, then `headnode fetch`",
                    entry.name, object.size, entry.size
                )),
                Ok(None) => {
                    problems
                        .push(format!("{} is not in the cache: run `headnode fetch`", entry.name));
                }
                Err(error) => problems.push(error.to_string()),
            },
        }
    }
    if problems.is_empty() { Ok(all) } else { Err(Error(problems)) }
}
