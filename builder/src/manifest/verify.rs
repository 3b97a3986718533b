//! Checks an image against its manifest: its signature, every partition and mapped range, and the
//! list of files; file by file where a partition is broken, or when that is wanted.

mod archive;
mod disk;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use headnode_model::manifest::Manifest;
use headnode_model::paths;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::personal::Part;
use super::signature::{self, PublicKey, Status};
use super::sums::{self, List};
use crate::boot::grub_iso;
use crate::contents::open::Opened;
use crate::contents::{self, Entry, FileSystem};
use crate::image::disk::{ROOT_NUMBER, ROOT_START};
use crate::image::gpt::Table;
use crate::image::output::{BLOCK, hex};
use crate::image::packing::Packing;
use crate::image::reader::{Form, ImageFile, MAX_UNPACKED};
use crate::image::{Content, SECTOR, iso};

/// Loaders on discs that the manifest does not list.
const DISC_LOADERS: [&str; 4] =
    [grub_iso::BIOS_PATH, grub_iso::ESP_PATH, "boot/cdboot", "boot/efiboot.img"];
/// The largest manifest that is read from an image, in bytes.
const MAX_MANIFEST: u64 = 64 << 20;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The image.
    pub image: PathBuf,
    /// The manifest that it was checked against; absent when only the key's own one was there.
    pub manifest: Option<PathBuf>,
    /// What it was checked against, for people.
    pub against: String,
    /// Who signed that manifest, or the list of digests beside an archive; absent when there is
    /// neither.
    pub signature: Option<Status>,
    /// Number of files that were checked.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The personal parts of the image, each whole; that they are not as built is no damage.
    pub personal: Vec<Part>,
    /// What is damaged; empty when all is well.
    pub damage: Vec<Damage>,
}

/// Something that is not as the manifest says.
#[derive(Debug, Serialize)]
pub struct Damage {
    /// A path on the key, or a part of the disk.
    pub what: String,
    /// In which way.
    pub why: String,
}

/// What is to be checked, and against what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// The manifest, when it is not beside the image.
    pub manifest: Option<&'a Path>,
    /// The key that must have signed the manifest.
    pub public_key: Option<&'a PublicKey>,
    /// Whether every file is checked by itself, although its partition is whole.
    pub deep: bool,
}

/// An image that was opened to be checked.
pub struct Ready {
    path: PathBuf,
    opened: Opened,
    /// Where the manifest is or should be.
    beside: PathBuf,
    text: Option<Vec<u8>>,
    outer: Option<Manifest>,
    /// The list of digests beside it, when it is packed or an archive.
    list: Option<List>,
}

/// Opens an image, and what lies beside it. `progress` is called with the bytes of the file that have
/// been read so far.
///
/// A packed image is unpacked into an unnamed sparse file first, as its parts are read in the order
/// of the manifest.
///
/// # Errors
/// When the image or its manifest cannot be read.
pub fn open(
    path: &Path,
    options: Options<'_>,
    progress: &mut dyn FnMut(u64),
) -> anyhow::Result<Ready> {
    let beside = options.manifest.map_or_else(|| super::beside(path), Path::to_owned);
    let reading = || format!("reading {}", beside.display());
    let text = match std::fs::read(&beside) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && options.manifest.is_none() => None,
        Err(error) => return Err(error).with_context(reading),
    };
    let outer = text.as_deref().map(Manifest::parse).transpose().with_context(reading)?;
    let whole = outer.as_ref().and_then(|manifest| manifest.image.as_ref());
    // A longer one is damaged in any case; some of the rest is unpacked so that it is seen.
    let limit = whole.map_or(MAX_UNPACKED, |whole| limit_of(whole.size));
    let opened = match whole {
        // Whatever else the file may look like: only as the disk that it tells of it can be checked.
        Some(_) => Opened::disk(path, limit, progress),
        None => contents::open::open(path, limit, progress),
    };
    let opened = opened.with_context(|| format!("reading {}", path.display()))?;
    if let (Some(whole), Some(manifest)) = (whole, options.manifest)
        && opened.image.size != whole.size
        && contents::open::is_tar(&opened.image)?
    {
        bail!(
            "{} is the manifest of a disk image of {} bytes, and {} is an archive: leave --manifest \
             out, as what an archive is checked by lies in it",
            manifest.display(),
            whole.size,
            path.display()
        );
    }
    let packed = !matches!(opened.image.form, Form::Raw(Packing::None));
    let list = (opened.is_archive() || packed).then(|| sums::beside(path)).flatten();
    Ok(Ready { path: path.to_owned(), opened, beside, text, outer, list })
}

/// How much is unpacked of an image that should have `size` bytes.
fn limit_of(size: u64) -> u64 {
    size.saturating_add(BLOCK as u64).min(MAX_UNPACKED)
}

/// Checks an opened image. `progress` is called with the bytes looked at so far and those in all; 0 when
/// that is not known.
///
/// # Errors
/// When the image cannot be read at all, or there is no manifest to check it against. What is
/// merely damaged is in the report.
pub fn check(
    ready: Ready,
    options: Options<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Report> {
    let Ready { path, opened, beside, text, outer, list } = ready;
    let path = path.as_path();
    let archived = opened.is_archive();
    let Opened { mut image, tree, inside, left_out, notes } = opened;
    let mut checker = Checker {
        damage: Vec::new(),
        personal: Vec::new(),
        done: 0,
        files: 0,
        bytes: 0,
        deep: options.deep,
        progress,
    };
    let signature = match (&text, options.public_key) {
        (Some(text), key) => Some(signature::check(&beside, text, key)?),
        (None, key) => match (list.as_ref().filter(|_| archived), key) {
            // No manifest is written for archives: the list of digests vouches for them.
            (Some(list), key) => Some(signature::check(&list.path, list.text.as_bytes(), key)?),
            (None, None) => None,
            (None, Some(_)) => bail!(
                "{} is missing{}: without it the signature cannot be checked",
                beside.display(),
                if archived {
                    ", and so is a list of digests (SHA256SUMS) that has it"
                } else {
                    ""
                }
            ),
        },
    };
    if let Some(Status::Bad { why }) = &signature {
        checker.add("the signature", why);
    }
    let mut against = match (&outer, &inside) {
        (Some(_), _) => beside.display().to_string(),
        (None, None) => {
            "the key's own manifest (there is none beside the image, so partitions and \
                         loaders were not checked)"
                .to_owned()
        }
        (None, Some(disk)) => format!(
            "the own manifest of the key on {disk}, which lies in the archive (partitions and \
             loaders were not checked)"
        ),
    };
    let mut broken_parts = Vec::new();
    if let Some(files) = &tree {
        let by = archive::check(&mut checker, &image.file, (files, &left_out), outer.as_ref())?;
        if outer.is_none() {
            against = match (by, &list) {
                (Some(by), None) => by.told(),
                (Some(by), Some(list)) => format!("{}, and {}", by.what, list.path.display()),
                (None, Some(list)) => list.path.display().to_string(),
                (None, None) => bail!(
                    "{}: there is nothing to check it by: the archive holds no manifest and no \
                     digests, and there is neither {} nor a SHA256SUMS beside it{}",
                    path.display(),
                    beside.display(),
                    notes.iter().map(|note| format!("; {note}")).collect::<String>()
                ),
            };
        }
    } else {
        broken_parts = checker.disk(&mut image, outer.as_ref())?;
    }
    if let Some(list) = &list
        && crate::tree::digest(&Content::of_file(path)?)? != list.sha256
    {
        // What lies between its packed parts is in no manifest.
        checker.add("the file", "its SHA-256 is not what the list of digests beside it says");
    }
    // A broken part in which every file is whole is broken elsewhere.
    if checker.damage.iter().all(|damage| damage.what == "the signature") {
        checker.damage.extend(broken_parts);
    }
    Ok(Report {
        image: path.to_owned(),
        manifest: outer.is_some().then_some(beside),
        against,
        signature,
        files: checker.files,
        bytes: checker.bytes,
        personal: checker.personal,
        damage: checker.damage,
    })
}

struct Checker<'a> {
    damage: Vec<Damage>,
    personal: Vec<Part>,
    done: u64,
    files: usize,
    bytes: u64,
    deep: bool,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Checker<'_> {
    fn add(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.damage.push(Damage { what: what.into(), why: why.into() });
    }

    /// The files of the key.
    fn key(
        &mut self,
        image: &ImageFile,
        table: Option<&Table>,
        outer: Option<&Manifest>,
    ) -> anyhow::Result<()> {
        let disc = is_disc(image);
        let opened = if disc {
            contents::disc(&image.file, image.size)
        } else {
            let (start, length) = place(image, table, ROOT_NUMBER, ROOT_START);
            contents::fat(&image.file, start, length)
        };
        let files = match opened {
            Ok(files) => files,
            Err(error) if outer.is_none() => {
                let nothing = || !disc && contents::fat(&image.file, 0, image.size).is_err();
                return Err(error).context(match table {
                    None if nothing() => {
                        "neither partitions, nor a file system, nor an archive are in it: this is no \
                         image, or its beginning is damaged"
                    }
                    _ => {
                        "reading the key: there is no manifest beside the image, and none can be \
                         read from it"
                    }
                });
            }
            Err(error) => {
                self.add("the key's file system", error.to_string());
                return Ok(());
            }
        };
        let inner = match outer {
            Some(_) => None,
            None => Some(key_manifest(&image.file, &files)?),
        };
        let Some(manifest) = outer.or(inner.as_ref()) else { return Ok(()) };
        // A disc's loaders are told their place on it: only the disc's own digests know them. The
        // manifest on the key cannot list itself, nor the file that tells its digest.
        let mut unlisted = if disc { DISC_LOADERS.to_vec() } else { Vec::new() };
        if outer.is_none() {
            unlisted.extend([paths::KEY_MANIFEST, crate::assemble::MANIFEST_CFG]);
        }
        self.compare(&image.file, &files, manifest, &unlisted)
    }

    /// Files with those of a manifest, but for some that it cannot list.
    fn compare(
        &mut self,
        disk: &File,
        files: &FileSystem,
        manifest: &Manifest,
        unlisted: &[&str],
    ) -> anyhow::Result<()> {
        let mut found: BTreeMap<&str, &Entry> =
            files.files().map(|entry| (entry.path.as_str(), entry)).collect();
        let hashed = manifest.files.iter().filter(|file| self.deep && file.sha256.is_some());
        let total = hashed.fold(0, |sum: u64, file| sum.saturating_add(file.size));
        self.done = 0;
        for file in &manifest.files {
            let Some(entry) = found.remove(file.path.as_str()) else {
                self.add(&file.path, "it is missing");
                continue;
            };
            if entry.size != file.size {
                self.add(
                    &file.path,
                    format!("it has {} bytes instead of {}", entry.size, file.size),
                );
                continue;
            }
            let extents = match &entry.extents {
                Ok(extents) => extents,
                Err(error) => {
                    self.add(&file.path, error);
                    continue;
                }
            };
            self.files += 1;
            self.bytes += file.size;
            let Some(sha256) = file.sha256.as_ref().filter(|_| self.deep) else {
                continue;
            };
            if self.hash(&mut &*disk, extents, total)? != *sha256 {
                self.add(&file.path, "its content is not what was written");
            }
        }
        for path in found.into_keys() {
            if !unlisted.contains(&path) {
                self.add(path, "the manifest does not list it");
            }
        }
        Ok(())
    }

    /// SHA-256 over parts of the disk, in hex.
    fn hash(
        &mut self,
        disk: &mut (impl Read + Seek),
        extents: &[(u64, u64)],
        total: u64,
    ) -> anyhow::Result<String> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        for (offset, length) in extents {
            disk.seek(SeekFrom::Start(*offset)).context("reading the image")?;
            let mut left = *length;
            while left > 0 {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let part = buffer.get_mut(..count).unwrap_or_default();
                disk.read_exact(part).context("reading the image")?;
                hash.update(part);
                left -= count as u64;
                self.done += count as u64;
                (self.progress)(self.done, total);
            }
        }
        Ok(hex(hash))
    }
}

/// Where a partition is, in bytes: by the table, or where our builds put it.
fn place(image: &ImageFile, table: Option<&Table>, number: u32, usual: u64) -> (u64, u64) {
    let found = table.and_then(|table| table.partitions.iter().find(|(n, _)| *n == number));
    match found {
        Some((_, partition)) => (partition.start * SECTOR, partition.sectors * SECTOR),
        None => (usual * SECTOR, image.size.saturating_sub(usual * SECTOR)),
    }
}

/// Whether the image is a disc: ISO 9660, from its 17th block on.
fn is_disc(image: &ImageFile) -> bool {
    use std::os::unix::fs::FileExt as _;
    let mut mark = [0; 5];
    image.file.read_exact_at(&mut mark, 16 * iso::BLOCK + 1).is_ok() && mark == *b"CD001"
}

/// The manifest that lies on the key.
///
/// # Errors
/// When there is none, or it is damaged.
fn key_manifest(disk: &File, files: &FileSystem) -> anyhow::Result<Manifest> {
    use std::os::unix::fs::FileExt as _;
    let Some(entry) = files.entry(paths::KEY_MANIFEST).filter(|entry| !entry.folder) else {
        bail!("the key holds no {}: this is no image of a headnode", paths::KEY_MANIFEST);
    };
    if entry.size > MAX_MANIFEST {
        bail!("the key's {} has {} bytes, which cannot be", entry.path, entry.size);
    }
    let extents = entry.extents.as_ref().map_err(|why| anyhow::anyhow!(why.clone()));
    let mut text = Vec::new();
    for (offset, length) in extents.context("reading the key's manifest")? {
        let begin = text.len();
        text.resize(begin + usize::try_from(*length).unwrap_or(0), 0);
        let part = text.get_mut(begin..).unwrap_or_default();
        disk.read_exact_at(part, *offset).context("reading the key's manifest")?;
    }
    Manifest::parse(&text).context("reading the key's manifest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_manifest_makes_more_be_unpacked_than_an_image_may_have() {
        assert_eq!(limit_of(1 << 30), (1 << 30) + BLOCK as u64);
        for size in [MAX_UNPACKED, MAX_UNPACKED + 1, u64::MAX] {
            assert_eq!(limit_of(size), MAX_UNPACKED);
        }
    }
}
