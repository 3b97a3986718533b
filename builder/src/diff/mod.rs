//! What changed between two images: files, packages, programs, firmware, partitions, configuration.
//!
//! Contents are compared byte by byte, not by what manifests say of them. A text is shown only where
//! no secret can be: never below a folder `private/`, and without values of keys named like secrets.

pub mod bundle;
mod parts;
pub mod show;
mod text;

use std::collections::BTreeMap;
use std::io::{self, Read};

use headnode_model::paths;
use serde::Serialize;

use crate::contents::survey::{is_stamp, place, survey};
use crate::contents::{Contents, Entry, Error};

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Whether nothing did.
    pub same: bool,
    /// Versions of the images, from their manifests or `version` files.
    pub version: Change<Option<String>>,
    /// Sizes of the disks in bytes.
    pub size: Change<u64>,
    /// Platforms, by stamp.
    pub platforms: Sets,
    /// Debian packages of the platforms.
    pub packages: Sets,
    /// Our programs.
    pub programs: Sets,
    /// Boot loaders and firmware.
    pub firmware: Sets,
    /// Partitions: their places and sizes.
    pub partitions: Sets,
    /// Files.
    pub files: Files,
}

/// A value in both images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Change<T> {
    /// In the first one.
    pub old: T,
    /// In the second one.
    pub new: T,
}

/// Named things that each have a version or the like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sets {
    /// Only in the second image.
    pub added: BTreeMap<String, String>,
    /// Only in the first image.
    pub removed: BTreeMap<String, String>,
    /// In both, but not the same.
    pub changed: BTreeMap<String, Change<String>>,
}

impl Sets {
    /// What changed between two tables.
    pub fn of(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Self {
        let only = |these: &BTreeMap<String, String>, others: &BTreeMap<String, String>| {
            let mut these = these.clone();
            these.retain(|name, _| !others.contains_key(name));
            these
        };
        let changed = old.iter().filter_map(|(name, value)| {
            let other = new.get(name).filter(|other| *other != value)?;
            Some((name.clone(), Change { old: value.clone(), new: other.clone() }))
        });
        Self { added: only(new, old), removed: only(old, new), changed: changed.collect() }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Files that changed. Where both images have one platform, of different stamps, its folder counts
/// as the same, and is called `os/<platform>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Files {
    /// Only in the second image: path and size in bytes.
    pub added: BTreeMap<String, u64>,
    /// Only in the first image.
    pub removed: BTreeMap<String, u64>,
    /// In both, with other content.
    pub changed: BTreeMap<String, File>,
    /// How many are the same.
    pub same: usize,
}

/// A file with other content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct File {
    /// Sizes in bytes.
    pub size: Change<u64>,
    /// What changed in a small text, in the unified format.
    pub diff: Option<String>,
    /// Why its content could not be compared, when that is so.
    pub problem: Option<String>,
}

/// Compares two images. `progress` is called with the bytes compared so far and those in all.
///
/// # Errors
/// When an image cannot be read.
pub fn diff(
    old: &Contents,
    new: &Contents,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Diff, Error> {
    let [old_survey, new_survey] = [survey(old)?, survey(new)?];
    let (old_known, new_known) = (parts::Known::of(old), parts::Known::of(new));
    let version = |known: &parts::Known, survey: &crate::contents::survey::Survey| {
        known.version.clone().or_else(|| survey.version.clone())
    };
    let platforms = |known: &parts::Known, survey: &crate::contents::survey::Survey| {
        let mut table: BTreeMap<_, _> = survey
            .platforms
            .iter()
            .map(|p| (p.stamp.to_ascii_uppercase(), p.os.to_owned()))
            .collect();
        table.extend(known.platforms.clone());
        table
    };
    let files = files(old, new, progress)?;
    let mut diff = Diff {
        same: false,
        version: Change {
            old: version(&old_known, &old_survey),
            new: version(&new_known, &new_survey),
        },
        size: Change { old: old.image.size, new: new.image.size },
        platforms: Sets::of(
            &platforms(&old_known, &old_survey),
            &platforms(&new_known, &new_survey),
        ),
        packages: Sets::of(&old_known.packages, &new_known.packages),
        programs: Sets::of(&old_known.programs, &new_known.programs),
        firmware: Sets::of(&old_known.firmware, &new_known.firmware),
        partitions: Sets::of(&parts::partitions(old), &parts::partitions(new)),
        files,
    };
    let sets = [&diff.platforms, &diff.packages, &diff.programs, &diff.firmware, &diff.partitions];
    let files = &diff.files;
    diff.same = diff.version.old == diff.version.new
        && diff.size.old == diff.size.new
        && sets.iter().all(|set| set.is_empty())
        && files.added.is_empty()
        && files.removed.is_empty()
        && files.changed.is_empty();
    Ok(diff)
}

/// The files of an image by the names under which they are compared.
fn named<'a>(contents: &'a Contents, platform: Option<&str>) -> BTreeMap<String, &'a Entry> {
    let mut named = BTreeMap::new();
    for part in &contents.parts {
        for entry in part.files.iter().flat_map(|files| files.files()) {
            let mut name = place(contents, part, &entry.path);
            if let Some(rest) = platform.and_then(|folder| name.strip_prefix(folder)) {
                let above = platform.and_then(|folder| folder.rsplit_once('/'));
                let above = above.map(|(above, _)| format!("{above}/")).unwrap_or_default();
                name = format!("{above}<platform>{rest}");
            }
            named.insert(name, entry);
        }
    }
    named
}

/// The folder of the platform, `os/<stamp>`, when the key has one only; at the top in archives for boot
/// servers (`<stamp>`) and of platforms (`platform-<stamp>`).
fn only_platform(contents: &Contents) -> Option<String> {
    let prefix = format!("{}/", paths::PLATFORMS);
    let files = contents.key()?.files.as_ref()?;
    let mut folders = files.entries.iter().filter(|entry| {
        let top = || entry.path.strip_prefix("platform-").unwrap_or(&entry.path);
        let below = entry.path.strip_prefix(&prefix);
        entry.folder && (below.is_some_and(|rest| !rest.contains('/')) || is_stamp(top()))
    });
    let first = folders.next()?;
    folders.next().is_none().then(|| first.path.clone())
}

fn files(
    old: &Contents,
    new: &Contents,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Files, Error> {
    let platforms = [only_platform(old), only_platform(new)];
    let paired = matches!(&platforms, [Some(a), Some(b)] if a != b);
    let [a, b] = platforms.map(|platform| platform.filter(|_| paired));
    let stamp = |folder: &String| {
        let last = folder.rsplit('/').next().unwrap_or_default();
        last.strip_prefix("platform-").unwrap_or(last).to_owned()
    };
    let stamps = a.as_ref().map(stamp).zip(b.as_ref().map(stamp));
    let (old_files, new_files) = (named(old, a.as_deref()), named(new, b.as_deref()));
    let total: u64 = old_files
        .iter()
        .filter(|(name, entry)| new_files.get(*name).is_some_and(|e| e.size == entry.size))
        .map(|(_, entry)| entry.size)
        .sum();
    let mut found = Files::default();
    let mut done = 0;
    for (name, entry) in &old_files {
        let Some(other) = new_files.get(name) else {
            found.removed.insert(name.clone(), entry.size);
            continue;
        };
        let size = Change { old: entry.size, new: other.size };
        let equal = entry.size == other.size;
        let equal = if equal {
            equal_content(old, entry, new, other, &mut |bytes| {
                done += bytes;
                progress(done, total);
            })
        } else {
            Ok(false)
        };
        match equal {
            Ok(true) => found.same += 1,
            Ok(false) => {
                let diff = text::diff(name, (old, entry), (new, other), stamps.as_ref());
                if bundle::is_bundle(name) {
                    found.bundle(name, (old, entry), (new, other), stamps.as_ref());
                }
                found.changed.insert(name.clone(), File { size, diff, problem: None });
            }
            Err(error) => {
                let problem = Some(error.to_string());
                found.changed.insert(name.clone(), File { size, diff: None, problem });
            }
        }
    }
    for (name, entry) in new_files {
        if !old_files.contains_key(&name) {
            found.added.insert(name, entry.size);
        }
    }
    Ok(found)
}

impl Files {
    /// Adds the files of a bundle, as `bundle/….cpio.zst!PATH`. One that cannot be read is told as
    /// changed, like any other file.
    fn bundle(
        &mut self,
        name: &str,
        old: (&Contents, &Entry),
        new: (&Contents, &Entry),
        stamps: Option<&(String, String)>,
    ) {
        let list = |(contents, entry): (&Contents, &Entry)| bundle::read(contents.reader(entry)?);
        let (Ok(old), Ok(mut new)) = (list(old), list(new)) else { return };
        for (path, file) in old {
            let inner = format!("{name}!{path}");
            let Some(other) = new.remove(&path) else {
                self.removed.insert(inner, file.size);
                continue;
            };
            if file.same(&other) {
                self.same += 1;
                continue;
            }
            let diff = match (&file.text, &other.text) {
                _ if file.digest == other.digest => {
                    Some(format!("mode {:o} → {:o}\n", file.mode, other.mode))
                }
                (Some(a), Some(b)) if !text::is_private(&inner) => {
                    Some(text::unified(&inner, a, b, stamps))
                }
                _ => None,
            };
            let size = Change { old: file.size, new: other.size };
            self.changed.insert(inner, File { size, diff, problem: None });
        }
        self.added
            .extend(new.into_iter().map(|(path, file)| (format!("{name}!{path}"), file.size)));
    }
}

/// Compares two files of the same size.
fn equal_content(
    old: &Contents,
    entry: &Entry,
    new: &Contents,
    other: &Entry,
    progress: &mut dyn FnMut(u64),
) -> io::Result<bool> {
    let (mut a, mut b) = (old.reader(entry)?, new.reader(other)?);
    let (mut left, mut right) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let mut rest = entry.size;
    while rest > 0 {
        let count = usize::try_from(rest).unwrap_or(usize::MAX).min(left.len());
        let (left, right) =
            (left.get_mut(..count).unwrap_or_default(), right.get_mut(..count).unwrap_or_default());
        a.read_exact(left)?;
        b.read_exact(right)?;
        progress(count as u64);
        if left != right {
            // The rest need not be read, but counts as looked at.
            progress(rest - count as u64);
            return Ok(false);
        }
        rest -= count as u64;
    }
    Ok(true)
}
