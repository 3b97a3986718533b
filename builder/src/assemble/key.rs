//! Lays out the key: its file tree, from all parts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use headnode_model::manifest::Platform as ManifestPlatform;
use headnode_model::manifest::{FORMAT, Manifest};
use headnode_model::paths;
use headnode_model::personal::Part;
use sha2::Digest;

use super::ipxe::{self, Ipxe};
use super::lists::{self, Known};
use super::loader::{self as boot_loader, Loader};
use super::menu::{self, ENVIRONMENT};
use super::slots::Slots;
use super::{Inputs, MANIFEST_CFG, VERSION, bundles};
use crate::answers;
use crate::boot::smartos::Property;
use crate::image::Content;
use crate::manifest;
use crate::source::platform::tarball::Item;
use crate::source::platform::{Kind, LINUX, Platform, SMARTOS};
use crate::tree::Tree;
use crate::tree::overlay::{self, Entry};

/// Folder of the checksums that GRUB checks, on the key; one file each, so that the menu can name
/// what is damaged. CRC-32, because GRUB's SHA-256 takes longer than reading the key: under TCG on a
/// busy machine 77 MiB take 8.7 s to read by the BIOS, 9.6 s with CRC-32, 21 s with SHA-256. It finds
/// damage as well; who can change files on purpose could change their digests here too. SHA-256 is
/// first boot's, against the manifest whose digest the kernel is told.
const SUMS: &str = "boot/sums";

/// Everything that goes into the key, made and unpacked.
pub(super) struct Sources {
    /// The platforms; the first one boots.
    pub platforms: Vec<Platform>,
    /// The folder of our programs and the bundles made of them, for keys that boot the reference
    /// platform.
    pub software: Option<(PathBuf, Vec<(&'static str, PathBuf)>)>,
    /// iPXE, when it does not come from Debian.
    pub ipxe: Option<Ipxe>,
    /// What Triton's own headnode has on its key, by path; keys that boot SmartOS only.
    pub triton: Vec<(String, Content)>,
    /// The time of everything.
    pub time: i64,
}

impl Sources {
    /// The platform that boots.
    pub(super) fn first(&self) -> anyhow::Result<&Platform> {
        self.platforms.first().context("there is no platform")
    }
}

/// What the key's tree lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    /// A disk, whose FAT file system can be written to.
    Disk,
    /// A disc.
    Iso,
}

/// The key as data.
pub(super) struct Key {
    /// Its files.
    pub tree: Tree,
    /// Its manifest, without the image; it also lists the files that the one on the key cannot.
    pub manifest: Manifest,
    /// SHA-256 of the manifest on the key, in hex.
    pub manifest_sha256: String,
    /// SHA-256 over all content but the personal parts', the loader's parts included; identifiers are
    /// derived from it.
    pub digest: [u8; 32],
}

/// Puts the key's tree together. `loader` is the one that starts it, of which a disc has its own;
/// `known` saves that the same files are read for both.
pub(super) fn lay_out(
    inputs: &Inputs,
    sources: &Sources,
    loader: &Loader,
    medium: Medium,
    known: &mut Known,
) -> anyhow::Result<Key> {
    let first = sources.first()?;
    let mut smartos = inputs.smartos.clone();
    if medium == Medium::Iso {
        // What is installed from boots nothing else, and is found by this (C§1.11).
        smartos.ipxe = false;
        smartos
            .properties
            .push(Property { name: "triton_installer".to_owned(), value: "iso".to_owned() });
    }
    // Discs, and pools that are filled from one, have platforms under the names that Triton has them.
    let with_case = medium == Medium::Iso && first.kind == Kind::SmartOs;
    let mut context = menu::context(inputs, &smartos, &sources.platforms, with_case);
    let mut tree = if with_case { Tree::with_case() } else { Tree::default() };
    tree.add(paths::KEY_MARKER, "")?;
    tree.add("version", format!("{VERSION}\n"))?;
    for platform in &sources.platforms {
        add_platform(platform, with_case, &mut tree)?;
    }
    for (path, file) in sources.software.iter().flat_map(|(_, bundles)| bundles) {
        tree.add(*path, of_file(file)?)?;
    }
    let mut slots = Slots::new(loader);
    if let Some(keys) = &inputs.authorized_keys {
        slots.take(paths::AUTHORIZED_KEYS, &of_file(keys)?)?;
    }
    // They were all read by now, see `fetch::check_cached`.
    let fetched = inputs.artefacts.iter();
    let hashed: HashMap<&Path, &str> =
        fetched.map(|a| (a.path.as_path(), a.entry.sha256.as_str())).collect();
    let mut extra = BTreeSet::new();
    for (path, content) in &inputs.extra {
        let path = if first.kind == Kind::SmartOs { path.to_lowercase() } else { path.clone() };
        let known = match content {
            Content::File { path, .. } => hashed.get(path.as_path()),
            Content::Bytes(_) | Content::Personal(_) => None,
        };
        match known {
            _ if slots.take(&path, content)? => {}
            Some(sha256) => tree.add_hashed(path.clone(), content.clone(), (*sha256).to_owned())?,
            None => tree.add(path.clone(), content.clone()).map(|_| ())?,
        }
        extra.insert(path);
    }
    for (path, content) in &sources.triton {
        if extra.insert(path.clone()) && !slots.holds(path) && !slots.take(path, content)? {
            tree.add(path.clone(), content.clone())?;
        }
    }
    let firmware = loader.firmware(inputs, sources.ipxe.as_ref(), medium, &mut tree)?;
    let mut brought = extra;
    if let Some(ipxe) = sources.ipxe.as_ref().filter(|_| first.kind == Kind::SmartOs) {
        for (path, item) in &ipxe.files {
            let path = format!("{}/{path}", ipxe::FOLDER);
            if tree.get(&path).is_none() {
                add_item(&mut tree, path.clone(), item)?;
                brought.insert(path);
            }
        }
    }
    match first.kind {
        Kind::Linux => linux_sums(first, &mut tree, &mut context)?,
        Kind::SmartOs => {
            if matches!(loader, Loader::Grub(_)) {
                smartos_sums(&sources.platforms, with_case, &mut tree)?;
                tree.add(ENVIRONMENT, smartos.environment())?;
            }
        }
    }
    for (path, entry) in overlays(inputs, first.kind, loader, &context)? {
        match entry {
            Entry::File { .. } if brought.contains(&path) => {}
            Entry::File { content, .. } => {
                if !slots.take(&path, &content)? {
                    tree.add(path, content)?;
                }
            }
            Entry::Symlink(_) => bail!("the overlays of the key hold {path}: FAT has no links"),
        }
    }
    if let Loader::Illumos(illumos) = loader {
        // What the key has of its own replaces the loader's.
        for (path, item) in &illumos.files {
            let placed = medium == Medium::Iso && path == boot_loader::CDBOOT;
            if tree.get(path).is_none() && !placed && !slots.holds(path) {
                let content = Content::File { path: item.place.clone(), size: item.size };
                if !slots.take(path, &content)? {
                    add_item(&mut tree, path.clone(), item)?;
                }
            }
        }
    }
    if inputs.answers.is_some() && slots.holds(paths::ANSWERS) {
        bail!("two parts of the image bring the file {:?}", paths::ANSWERS);
    }
    slots.add(&mut tree)?;
    if first.kind == Kind::SmartOs {
        lists::add(first, &mut tree, known)?;
    }
    let services = match &sources.software {
        Some((programs, _)) => bundles::services(inputs, programs)?,
        None => Vec::new(),
    };
    let listed = |platform: &Platform| ManifestPlatform {
        stamp: platform.stamp,
        os: platform.kind.name().to_owned(),
        description: platform.description.clone(),
    };
    let manifest = Manifest {
        format: FORMAT,
        name: "headnode".to_owned(),
        version: VERSION.to_owned(),
        created: sources.time,
        platforms: sources.platforms.iter().map(listed).collect(),
        services,
        firmware,
        files: tree.manifest_files(),
        image: None,
    };
    let on_key = manifest::text(&manifest)?;
    let manifest_sha256 = tree.add(paths::KEY_MANIFEST, on_key)?.sha256.clone();
    if first.kind == Kind::Linux {
        tree.add(MANIFEST_CFG, format!("set manifest=sha256:{manifest_sha256}\n"))?;
    }
    if let Some(file) = &inputs.answers {
        // The salts follow from all that no site changes: the same as `headnode customize` makes.
        let seed = manifest_sha256.as_bytes();
        tree.set_personal(Part::Answers, &answers::read(file, inputs.passwords, seed)?)?;
    }
    // The one beside the image also lists the files that the one within it cannot.
    let manifest = Manifest { files: tree.manifest_files(), ..manifest };
    let mut digest = tree.digest();
    for part in loader.parts() {
        digest.update(part);
    }
    Ok(Key { tree, manifest, manifest_sha256, digest: digest.finalize().into() })
}

fn of_file(path: &Path) -> anyhow::Result<Content> {
    Content::of_file(path).with_context(|| format!("looking at {}", path.display()))
}

fn add_item(tree: &mut Tree, path: String, item: &Item) -> anyhow::Result<()> {
    let content = Content::File { path: item.place.clone(), size: item.size };
    Ok(tree.add_hashed(path, content, item.sha256.clone())?)
}

fn add_platform(platform: &Platform, with_case: bool, tree: &mut Tree) -> anyhow::Result<()> {
    let stamp = menu::folder(platform, with_case);
    let folder = format!("{}/{stamp}", paths::PLATFORMS);
    for (path, item) in &platform.files {
        // Names of the tarball are unique without their case, see `tarball`.
        let path = if with_case { path.clone() } else { path.to_lowercase() };
        add_item(tree, format!("{folder}/{path}"), item).with_context(|| {
            format!("adding the platform {}; was it given twice?", platform.stamp)
        })?;
    }
    if let Some(password) = &platform.root_password {
        add_item(tree, format!("{}/root.password.{stamp}", paths::KEY_PRIVATE), password)?;
    }
    Ok(())
}

/// The overlays of the key, rendered.
fn overlays(
    inputs: &Inputs,
    kind: Kind,
    loader: &Loader,
    context: &tera::Context,
) -> anyhow::Result<BTreeMap<String, Entry>> {
    let folders: &[&str] = match (kind, loader) {
        (Kind::Linux, _) => &["key"],
        (Kind::SmartOs, Loader::Grub(_)) => &["smartos/key", "smartos/grub"],
        (Kind::SmartOs, Loader::Illumos(_)) => &["smartos/key", "smartos/loader"],
    };
    let mut own = BTreeMap::new();
    for folder in folders {
        let folder = inputs.overlays.join(folder);
        if !folder.is_dir() {
            bail!("the overlays lack the folder {}", folder.display());
        }
        overlay::read(&folder, context, &mut own)?;
    }
    Ok(own)
}

/// Checksums of what a Linux platform starts from; templates find them and its files.
fn linux_sums(
    platform: &Platform,
    tree: &mut Tree,
    context: &mut tera::Context,
) -> anyhow::Result<()> {
    let os = format!("{}/{}", paths::PLATFORMS, platform.stamp.key_name());
    let [kernel, initrd] = LINUX.map(|path| format!("{os}/{path}"));
    let bundle = paths::BUNDLE_HEADNODE.to_owned();
    let mut checked = Vec::new();
    for (name, path) in [("kernel", &kernel), ("platform", &initrd), ("headnode", &bundle)] {
        let sums = format!("{SUMS}/{name}.crc32");
        add_sum(tree, sums.clone(), path)?;
        let file = [("sums", &sums), ("path", path)];
        checked.push(BTreeMap::from(file.map(|(key, value)| (key, value.to_owned()))));
    }
    context.insert("checked", &checked);
    context.insert("kernel", &kernel);
    context.insert("initrd", &initrd);
    context.insert("bundle", &bundle);
    Ok(())
}

/// Checksums of SmartOS kernels, which check everything else by themselves.
fn smartos_sums(platforms: &[Platform], with_case: bool, tree: &mut Tree) -> anyhow::Result<()> {
    for platform in platforms.iter().filter(|platform| platform.kind == Kind::SmartOs) {
        let stamp = menu::folder(platform, with_case);
        let kernel = format!("{}/{stamp}/{}", paths::PLATFORMS, SMARTOS[0]);
        add_sum(tree, format!("{SUMS}/{stamp}.crc32"), &kernel)?;
    }
    Ok(())
}

fn add_sum(tree: &mut Tree, sums: String, path: &str) -> anyhow::Result<()> {
    let Some(item) = tree.get(path) else { bail!("the key lacks {path}") };
    let sum = item.content.crc32().with_context(|| format!("reading {path}"))?;
    tree.add(sums, format!("{sum:08x}  {path}\n"))?;
    Ok(())
}
