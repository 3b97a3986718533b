//! Which files a build.spec means: those of the lock file, and for the rest the sources are asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use super::checkout;
use super::fetch::{Error, side_by_side};
use super::folder;
use super::http::Http;
use super::lock::{Entry, Lock, Origin};
use super::programs::PROGRAMS;
use super::resolve::{Asked, Resolver, Wanted};
use crate::spec::Spec;
use crate::spec::parts::Env;

/// The spec's key for Triton's own part of a key.
const CHECKOUT: &str = "sdc-headnode";

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

/// Files of this machine that the spec names and that go into the image, by key; of folders all
/// their files. The answers and the signing key are left out: a lock file is public, and a digest of
/// secrets is a way to guess. What comes from the workspace because the spec says nothing is pinned
/// by the workspace's own version.
pub fn locals(spec: &Spec) -> Vec<(String, PathBuf)> {
    let parts = &spec.parts;
    let single = [
        ("authorized-keys", &spec.authorized_keys),
        ("boot", &spec.boot),
        ("control-bundle", &parts.control_bundle),
        ("firmware", &spec.firmware),
    ];
    let mut all: Vec<(String, PathBuf)> = single
        .into_iter()
        .filter_map(|(key, path)| Some((format!("local.{key}"), path.clone()?)))
        .collect();
    for (number, path) in spec.platform.iter().enumerate() {
        all.push((format!("local.platform.{number}"), path.clone()));
    }
    for (number, platform) in parts.platforms.iter().enumerate() {
        all.extend(platform.path.clone().map(|path| (format!("local.platforms.{number}"), path)));
    }
    for (name, path) in &parts.extra_files {
        all.push((format!("local.extra-files.{name}"), path.clone()));
    }
    for (key, folder) in folders(spec) {
        let files = if key == CHECKOUT { checkout::local(folder) } else { below(folder) };
        all.extend(files.into_iter().map(|(name, path)| {
            let dot = if name.is_empty() { "" } else { "." };
            (format!("local.{key}{dot}{name}"), path)
        }));
    }
    if let Some(folder) = &spec.runtime_dir {
        all.extend(PROGRAMS.iter().map(|program| {
            (format!("local.runtime-dir.{}", program.name), folder.join(program.name))
        }));
    }
    all
}

/// Folders that the spec names and of which every file is pinned by itself, with their keys. That of a
/// checkout may be a tarball instead, which is one file.
pub fn folders(spec: &Spec) -> impl Iterator<Item = (&'static str, &Path)> {
    let parts = &spec.parts;
    let all = [
        ("overlays", &spec.overlays),
        ("sapi-config", &parts.sapi_config),
        (CHECKOUT, &parts.sdc_headnode),
    ];
    all.into_iter().filter_map(|(key, path)| Some((key, path.as_deref()?)))
}

/// The files below a folder and their paths there, sorted. A folder that cannot be read is found by who
/// reads its files.
fn below(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for item in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match item.file_type() {
                Ok(kind) if kind.is_dir() => open.push(item.path()),
                Ok(kind) if kind.is_file() => files.push(item.path()),
                _ => {}
            }
        }
    }
    files.sort();
    let named = |path: PathBuf| {
        let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
        (name, path)
    };
    files.into_iter().map(named).collect()
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
            all.insert(name.clone(), folder::file(name, "", &path, String::new()));
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
