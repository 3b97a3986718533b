//! Checks archives: the key's tree as a tar, the files for a boot server, platforms of anybody.

use std::collections::BTreeMap;
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

/// Checks what is in an archive by the manifest beside it, or by what the archive itself says of its
/// files. Gives back what it was checked against; `None` when it says nothing.
///
/// # Errors
/// When it cannot be read.
pub(super) fn check(
    checker: &mut Checker<'_>,
    archive: &File,
    files: &FileSystem,
    outer: Option<&Manifest>,
) -> anyhow::Result<Option<&'static str>> {
    if let Some(manifest) = outer {
        checker.deep = true;
        checker.compare(archive, files, manifest, &[])?;
        return Ok(Some("the manifest"));
    }
    if files.entry(paths::KEY_MANIFEST).is_some() {
        let manifest = key_manifest(archive, files)?;
        checker.deep = true;
        // The manifest cannot list itself, nor the file that tells its digest.
        let unlisted = [paths::KEY_MANIFEST, crate::assemble::MANIFEST_CFG];
        checker.compare(archive, files, &manifest, &unlisted)?;
        return Ok(Some("the key's own manifest"));
    }
    if pxe::is_pxe(files) {
        checker.sums(archive, files)?;
        checker.packed_key(archive, files)?;
        return Ok(Some("its list of digests and its key's own manifest"));
    }
    let found = checker.hashes(archive, files)?;
    Ok(found.then_some("the hash of its boot archive"))
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

    /// The boot archives by the hashes beside them; whether there are any.
    fn hashes(&mut self, archive: &File, files: &FileSystem) -> anyhow::Result<bool> {
        let by_path: BTreeMap<&str, &Entry> =
            files.files().map(|entry| (entry.path.as_str(), entry)).collect();
        let mut any = false;
        for (path, hash) in &by_path {
            let Some(of) = path.strip_suffix(HASH).filter(|of| of.ends_with("/boot_archive"))
            else {
                continue;
            };
            any = true;
            let Some(entry) = by_path.get(of) else {
                self.add(of, "it is missing");
                continue;
            };
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
        Ok(any)
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
