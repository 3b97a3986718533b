//! The parts of a build without any network: from the lock file and the cache.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::cache::Cache;
use super::fetch::{Artefact, Error};
use super::http::{Http, Patience};
use super::lock::{Entry, Lock, Origin};
use super::plan::{asked, folders, locals};
use super::resolve::Resolver;
use super::seen::Seen;
use crate::spec::Spec;
use crate::spec::parts::Env;

/// The parts of a build from the lock file and the cache alone: no network. Every part that the
/// spec asks for must be locked as it asks for it, in the cache, and every file of this machine must
/// have the digest that is locked; of folders, every file that is locked must be there. What the lock
/// file has besides is left out.
///
/// The content of the cache's files is not read here, see [`super::fetch::check_cached`].
///
/// # Errors
/// Everything that is missing or different.
pub fn resolve_locked(
    spec: &Spec,
    env: Env<'_>,
    lock: &Lock,
    cache: &Cache,
) -> Result<Vec<Artefact>, Error> {
    let http = Http::new(Patience::default());
    let resolver = Resolver::new(&http, spec, env);
    let mut problems = Vec::new();
    let mut entries: BTreeMap<&str, &Entry> = BTreeMap::new();
    let mut paths: BTreeMap<String, PathBuf> = locals(spec).into_iter().collect();
    let pinned = lock.by_name();
    for name in paths.keys() {
        match pinned.get(name.as_str()) {
            Some(entry) => drop(entries.insert(&entry.name, entry)),
            None => problems.push(format!("{name} is not in the lock file: run `headnode fetch`")),
        }
    }
    for (key, folder) in folders(spec) {
        problems.extend(gone(key, folder, lock, &paths));
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
    let seen = Seen::open(cache);
    let mut all = Vec::new();
    for entry in entries.into_values() {
        match paths.get(&entry.name).cloned() {
            Some(path) => match seen.digests(&path, None, |_| Ok::<(), io::Error>(())) {
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
    if let Err(error) = seen.save(cache) {
        problems.push(error.to_string());
    }
    if problems.is_empty() { Ok(all) } else { Err(Error(problems)) }
}

/// The files of a folder that are locked, but no longer there: without them, another image would be
/// made.
fn gone(key: &str, folder: &Path, lock: &Lock, paths: &BTreeMap<String, PathBuf>) -> Vec<String> {
    if !folder.exists() {
        return vec![format!("local.{key}: there is no {}", folder.display())];
    }
    let begin = format!("local.{key}.");
    let names = lock.artefacts.iter().map(|entry| &entry.name);
    names
        .filter(|name| name.starts_with(&begin) && !paths.contains_key(*name))
        .map(|name| {
            format!("{name} was locked, but is gone: bring it back, or run `headnode fetch`")
        })
        .collect()
}
