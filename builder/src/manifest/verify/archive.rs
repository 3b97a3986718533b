//! Checks archives: the key's tree as a tar, the files for a boot server, platforms of anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use anyhow::{Context, bail};
use headnode_model::manifest::Manifest;
use headnode_model::paths;
use sha1::{Digest as _, Sha1};

use super::{Checker, key_manifest};
use crate::assemble::PXE_KEY;
use crate::contents::{Entry, Extents, FileSystem, pxe};
use crate::image::pxe::SUMS;
use crate::image::reader::MAX_UNPACKED;
use crate::manifest::sums;

/// The largest list or script that is read, in bytes.
const MAX_TEXT: u64 = 1 << 20;
/// How a script names the key's manifest.
const NAMES: &str = "headnode.manifest=sha256:";
/// What a SmartOS platform has beside its boot archive: its SHA-1 (C§1.10).
const HASH: &str = ".hash";
/// Where a SmartOS platform has it, below its folder.
const BOOT_ARCHIVE: &str = "i86pc/amd64/boot_archive";

/// More platforms than this are in no archive.
const MAX_PLATFORMS: usize = 100;

/// What an archive was checked by.
pub(super) struct By {
    /// For people.
    pub what: &'static str,
    /// Number of files that it says nothing of.
    unchecked: usize,
}

impl By {
    fn all(what: &'static str) -> Option<Self> {
        Some(Self { what, unchecked: 0 })
    }

    /// What it was checked by, and what was not checked; for people.
    pub(super) fn told(&self) -> String {
        match self.unchecked {
            0 => self.what.to_owned(),
            1 => format!("{} (1 other file was not checked: nothing tells its digest)", self.what),
            n => format!(
                "{} ({n} other files were not checked: nothing tells their digests)",
                self.what
            ),
        }
    }
}

/// Checks what is in an archive by the manifest beside it, or by what the archive itself says of its
/// files; beside them is told what was left out of it. Gives back what it was checked by; `None` when it
/// says nothing.
///
/// # Errors
/// When it cannot be read.
pub(super) fn check(
    checker: &mut Checker<'_>,
    archive: &File,
    (files, left_out): (&FileSystem, &[String]),
    outer: Option<&Manifest>,
) -> anyhow::Result<Option<By>> {
    let by = if let Some(manifest) = outer {
        checker.deep = true;
        checker.compare(archive, files, manifest, &[])?;
        By::all("the manifest")
    } else if files.entry(paths::KEY_MANIFEST).is_some() {
        let manifest = key_manifest(archive, files)?;
        checker.deep = true;
        // The manifest cannot list itself, nor the file that tells its digest.
        let unlisted = [paths::KEY_MANIFEST, crate::assemble::MANIFEST_CFG];
        checker.compare(archive, files, &manifest, &unlisted)?;
        By::all("the key's own manifest")
    } else if pxe::is_pxe(files) {
        checker.sums(archive, files)?;
        checker.packed_key(archive, files)?;
        By::all("its list of digests and its key's own manifest")
    } else if are_platforms(files) {
        let checked = checker.hashes(archive, files)?;
        let unchecked = files.files().count().saturating_sub(checked);
        return Ok(Some(By { what: "the hash of its boot archive", unchecked }));
    } else {
        return Ok(None);
    };
    // Who unpacks the archive gets them, though nothing tells of them.
    for what in left_out {
        checker.add("the archive", what);
    }
    Ok(by)
}

/// Whether all files are those of platforms that have a hash beside their boot archives: of a key, the
/// hashes would say next to nothing.
fn are_platforms(files: &FileSystem) -> bool {
    let hashes = files.files().filter_map(|entry| entry.path.strip_suffix(HASH));
    let roots: BTreeSet<&str> =
        hashes.filter_map(|path| path.strip_suffix(BOOT_ARCHIVE)).take(MAX_PLATFORMS).collect();
    // `os` has the platforms of a key.
    let right = |root: &&str| root.ends_with('/') && !root.starts_with("os/");
    let below = |path: &str| roots.iter().any(|root| path.starts_with(root));
    !roots.is_empty() && roots.iter().all(right) && files.files().all(|entry| below(&entry.path))
}

impl Checker<'_> {
    /// The files by the list of digests that lies among them: all of them, and no others.
    fn sums(&mut self, archive: &File, files: &FileSystem) -> anyhow::Result<()> {
        let mut found: BTreeMap<&str, &Entry> =
            files.files().map(|entry| (entry.path.as_str(), entry)).collect();
        let Some(list) = found.remove(SUMS) else {
            self.add(SUMS, "it is missing");
            return Ok(());
        };
        let list = sums::parse(&text(archive, list)?);
        let total = found.values().fold(0, |sum: u64, entry| sum.saturating_add(entry.size));
        self.done = 0;
        for listed in &list {
            let Some(path) = listed.name.as_deref() else { continue };
            let Some(entry) = found.remove(path) else {
                self.add(path, "it is missing, or listed twice");
                continue;
            };
            match &entry.extents {
                Err(why) => self.add(path, why),
                Ok(extents) => {
                    self.files += 1;
                    self.bytes += entry.size;
                    if self.hash(&mut &*archive, extents, total)? != listed.sha256 {
                        self.add(path, "its content is not what was written");
                    }
                }
            }
        }
        for path in found.into_keys() {
            self.add(path, format!("{SUMS} does not list it"));
        }
        Ok(())
    }

    /// The key that lies packed among the files for a boot server, and that their script names its
    /// manifest.
    fn packed_key(&mut self, archive: &File, files: &FileSystem) -> anyhow::Result<()> {
        let Some(entry) = pxe::key_of(files) else {
            self.add("the key", "it is missing: the machine would find no headnode on it");
            return Ok(());
        };
        let progress = &mut |done| (self.progress)(done, entry.size);
        let key = match pxe::key(archive, entry, MAX_UNPACKED, self.deep, progress) {
            Ok(key) => key,
            Err(error) => {
                self.add(&entry.path, error.to_string());
                return Ok(());
            }
        };
        if let Some(script) = pxe::script(files) {
            let text = text(archive, script)?;
            let mut told = text.split(NAMES).skip(1).map(|rest| {
                rest.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap_or_default()
            });
            // SmartOS is not told, as nothing there would look at it.
            if entry.path == PXE_KEY && !text.contains(NAMES) {
                self.add(&script.path, "it does not name the manifest of the key");
            } else if told.any(|told| told != key.sha256) {
                self.add(&script.path, "it names another manifest than that of the key");
            }
        }
        let mut found = key.files;
        for file in &key.manifest.files {
            let path = format!("{}!{}", entry.path, file.path);
            let Some((size, sha256)) = found.remove(&file.path) else {
                self.add(path, "it is missing");
                continue;
            };
            self.files += 1;
            self.bytes += size;
            if size != file.size {
                self.add(path, format!("it has {size} bytes instead of {}", file.size));
            } else if let (Some(found), Some(told)) = (&sha256, &file.sha256)
                && found != told
            {
                self.add(path, "its content is not what was written");
            }
        }
        for path in found.into_keys() {
            if ![paths::KEY_MANIFEST, crate::assemble::MANIFEST_CFG].contains(&path.as_str()) {
                self.add(format!("{}!{path}", entry.path), "the manifest does not list it");
            }
        }
        Ok(())
    }

    /// The boot archives by the hashes beside them; how many files those are, hashes among them.
    fn hashes(&mut self, archive: &File, files: &FileSystem) -> anyhow::Result<usize> {
        let by_path: BTreeMap<&str, &Entry> =
            files.files().map(|entry| (entry.path.as_str(), entry)).collect();
        let mut checked = 0;
        for (path, hash) in &by_path {
            let Some(of) = path.strip_suffix(HASH).filter(|of| of.ends_with(BOOT_ARCHIVE)) else {
                continue;
            };
            checked += 1;
            let Some(entry) = by_path.get(of) else {
                self.add(of, "it is missing");
                continue;
            };
            checked += 1;
            let told = text(archive, hash)?;
            self.files += 1;
            self.bytes += entry.size;
            match &entry.extents {
                Err(why) => self.add(of, why),
                Ok(extents) => {
                    let mut sha1 = Sha1::new();
                    let mut data = Extents::new(archive, extents);
                    let mut buffer = vec![0; 1 << 20];
                    loop {
                        use std::io::Read as _;
                        let part = match data.read(&mut buffer).context("reading the archive")? {
                            0 => break,
                            count => buffer.get(..count).unwrap_or_default(),
                        };
                        sha1.update(part);
                        self.done += part.len() as u64;
                        (self.progress)(self.done, entry.size);
                    }
                    let sha1: String =
                        sha1.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                    if !told.trim().eq_ignore_ascii_case(&sha1) {
                        self.add(of, format!("its SHA-1 is not what {path} says"));
                    }
                }
            }
        }
        Ok(checked)
    }
}

/// A small text of the archive.
fn text(archive: &File, entry: &Entry) -> anyhow::Result<String> {
    use std::io::Read as _;
    if entry.size > MAX_TEXT {
        bail!("{} has {} bytes, which cannot be", entry.path, entry.size);
    }
    let extents = entry.extents.as_ref().map_err(|why| anyhow::anyhow!(why.clone()))?;
    let mut bytes = Vec::new();
    let read = Extents::new(archive, extents).read_to_end(&mut bytes);
    read.with_context(|| format!("reading {}", entry.path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
