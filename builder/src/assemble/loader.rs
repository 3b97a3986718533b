//! The boot loader of an image and the firmware that it carries.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use headnode_model::manifest::Firmware;
use headnode_model::paths::KEY_MARKER;
use sha2::{Digest, Sha256};

use super::Inputs;
use super::ipxe::{self, Ipxe};
use super::key::Medium;
use crate::boot::grub::{self, Grub};
use crate::boot::grub_iso;
use crate::boot::illumos::{self, Illumos};
use crate::image::Content;
use crate::image::iso::Boot;
use crate::image::layout::{ESP_LOADER, Layout};
use crate::image::output::hex;
use crate::source::platform::Kind;
use crate::source::platform::loader;
use crate::tree::Tree;

/// What a BIOS starts from an illumos disc, in the loader's tarball (C§1.14).
pub(super) const CDBOOT: &str = "boot/cdboot";

/// A boot loader, ready to be placed.
pub(super) enum Loader {
    /// GRUB.
    Grub(Grub),
    /// The illumos loader.
    Illumos(Illumos),
}

/// Puts the loader together in the folder `work`.
pub(super) fn prepare(inputs: &Inputs, kind: Kind, work: &Path) -> anyhow::Result<Loader> {
    let Some(tarball) = &inputs.boot else { return Ok(Loader::Grub(grub::build(work, kind)?)) };
    let files = loader::unpack(tarball, &work.join("boot"), &mut |_| ())?;
    let prepared = illumos::prepare(files)
        .with_context(|| format!("preparing the loader {}", tarball.display()))?;
    Ok(Loader::Illumos(prepared))
}

impl Loader {
    /// Where the parts of the image lie.
    pub(super) fn layout(&self) -> Layout {
        match self {
            Self::Grub(_) => Layout::Grub,
            Self::Illumos(_) => Layout::Illumos,
        }
    }

    /// Boot code, loader for BIOS, loader for UEFI.
    pub(super) fn parts(&self) -> [&Vec<u8>; 3] {
        match self {
            Self::Grub(grub) => [&grub.boot_code, &grub.core, &grub.efi],
            Self::Illumos(illumos) => [&illumos.boot_code, &illumos.core, &illumos.efi],
        }
    }

    /// How a disc is started.
    pub(super) fn disc(&self, work: &Path) -> anyhow::Result<Boot> {
        match self {
            Self::Grub(_) => Ok(grub_iso::build(work, KEY_MARKER)?),
            Self::Illumos(illumos) => {
                let read = |path: &str| {
                    let item = illumos.files.get(path).with_context(|| {
                        format!(
                            "the illumos loader's tarball lacks {path}, which a disc starts from: \
                             leave out iso, or add the file from a SmartOS ISO"
                        )
                    })?;
                    fs::read(&item.place)
                        .with_context(|| format!("reading the illumos loader's {path}"))
                };
                Ok(Boot::illumos(read(CDBOOT)?, Content::from(illumos.efi.clone())))
            }
        }
    }

    /// Adds the catalogue's firmware to the tree and lists it, with the loader. A disc's loaders lie
    /// at other places, and are told these on the disc; its manifest lists what they are made of.
    pub(super) fn firmware(
        &self,
        inputs: &Inputs,
        ipxe: Option<&Ipxe>,
        medium: Medium,
        tree: &mut Tree,
    ) -> anyhow::Result<Vec<Firmware>> {
        let [_, core, efi] = self.parts();
        let mut list = Vec::new();
        for (entry, version) in &inputs.firmware {
            if tree.get(&entry.path).is_some() {
                // The user brings a file of his own.
                continue;
            }
            if let Some((ipxe, item)) = ipxe.and_then(|ipxe| Some((ipxe, ipxe.program(entry)?))) {
                tree.add_hashed(&entry.path, ipxe::content(item), item.sha256.clone())?;
                list.push(ipxe.listed(entry, item));
                continue;
            }
            let (size, sha256) = match (&entry.file, entry.path.as_str()) {
                (Some(file), path) => {
                    let content = Content::of_file(file)
                        .with_context(|| format!("looking at {}", file.display()))?;
                    let size = content.size();
                    (size, tree.add(path, content)?.sha256.clone())
                }
                (None, "boot:") => of_bytes(core),
                (None, path) if path.strip_prefix("loader:") == Some(ESP_LOADER) => of_bytes(efi),
                (None, path) => bail!(
                    "the firmware catalogue: {:?} has no `file`, and nothing here makes {path:?}",
                    entry.name
                ),
            };
            list.push(Firmware {
                name: entry.name.clone(),
                package: entry.package.clone(),
                version: version.clone(),
                licence: entry.licence.clone(),
                origin: entry.origin.clone(),
                path: entry.path.clone(),
                size,
                sha256,
            });
        }
        if let (Self::Illumos(illumos), Some(tarball)) = (self, &inputs.boot) {
            let name = tarball.file_name().unwrap_or_default().to_string_lossy();
            for (what, path, bytes) in [
                ("illumos loader for BIOS (gptzfsboot)", "boot:".to_owned(), core),
                ("illumos loader for UEFI", format!("loader:{ESP_LOADER}"), efi),
            ] {
                let (size, sha256) = of_bytes(bytes);
                list.push(Firmware {
                    name: what.to_owned(),
                    package: name.to_string(),
                    version: illumos.version.clone(),
                    licence: "BSD-2-Clause AND CDDL-1.0".to_owned(),
                    origin: "https://github.com/TritonDataCenter/illumos-joyent".to_owned(),
                    path,
                    size,
                    sha256,
                });
            }
        }
        if medium == Medium::Iso {
            list.retain(|entry| !entry.path.contains(':'));
        }
        Ok(list)
    }
}

fn of_bytes(bytes: &[u8]) -> (u64, String) {
    (bytes.len() as u64, hex(Sha256::new().chain_update(bytes)))
}
