//! Our own software: the bundles that are laid over the reference platform.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use headnode_model::manifest::Service;
use headnode_model::paths;

use super::{Inputs, VERSION};
use crate::diff::bundle as unpacked;
use crate::image::Content;
use crate::source::programs::{self, PROGRAMS};
use crate::tree::bundle;
use crate::tree::overlay::{self, Entry};

/// Writes both bundles into `work`: their paths on the key and their files.
pub(super) fn write(
    inputs: &Inputs,
    programs: &Path,
    context: &tera::Context,
    time: i64,
    work: &Path,
) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    let mtime = u32::try_from(time).unwrap_or(0);
    let mut bundles = Vec::new();
    for (name, on_key) in [("headnode", paths::BUNDLE_HEADNODE), ("node", paths::BUNDLE_NODE)] {
        if let Some(own) = inputs.control_bundle.as_ref().filter(|_| name == "headnode") {
            check(own)?;
            bundles.push((on_key, own.clone()));
            continue;
        }
        let mut entries = BTreeMap::new();
        overlay::read(&inputs.overlays.join("common"), context, &mut entries)?;
        let own = inputs.overlays.join("reference").join(name);
        overlay::read(&own, context, &mut entries)?;
        for program in PROGRAMS.iter().filter(|program| name == "headnode" || program.node) {
            let path = format!("{}/{}", program.folder, program.name);
            let source = programs.join(program.name);
            let content = Content::of_file(&source)
                .with_context(|| format!("looking at {}", source.display()))?;
            if entries.insert(path.clone(), Entry::File { content, executable: true }).is_some() {
                bail!("the overlays hold {path:?}, which is the place of a program");
            }
        }
        let file = work.join(format!("{name}.cpio.zst"));
        bundle::write(&entries, mtime, &file).with_context(|| format!("packing {on_key}"))?;
        bundles.push((on_key, file));
    }
    Ok(bundles)
}

/// Whether a bundle of others is one: Linux panics at boot when it is damaged.
fn check(bundle: &Path) -> anyhow::Result<()> {
    let shown = bundle.display();
    let file = File::open(bundle).with_context(|| format!("reading the control bundle {shown}"))?;
    let files = unpacked::read(file).with_context(|| {
        format!("reading the control bundle {shown}, which must be a zstd cpio archive (newc)")
    })?;
    if files.is_empty() {
        bail!("the control bundle {shown} holds no files");
    }
    Ok(())
}

/// The software as the manifest lists it: our programs, or those for compute nodes and the bundle of
/// others for the headnode.
pub(super) fn services(inputs: &Inputs, programs: &Path) -> anyhow::Result<Vec<Service>> {
    let service = |program: &programs::Program| {
        let path = programs.join(program.name);
        let content =
            Content::of_file(&path).with_context(|| format!("looking at {}", path.display()))?;
        Ok(Service {
            name: program.name.to_owned(),
            version: VERSION.to_owned(),
            size: content.size(),
            sha256: crate::tree::digest(&content)
                .with_context(|| format!("reading {}", path.display()))?,
        })
    };
    let Some(bundle) = &inputs.control_bundle else {
        return PROGRAMS.iter().map(service).collect();
    };
    let content =
        Content::of_file(bundle).with_context(|| format!("looking at {}", bundle.display()))?;
    let others = Service {
        name: "control-bundle".to_owned(),
        version: bundle.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        size: content.size(),
        sha256: crate::tree::digest(&content)
            .with_context(|| format!("reading {}", bundle.display()))?,
    };
    let mut services: Vec<Service> =
        PROGRAMS.iter().filter(|program| program.node).map(service).collect::<Result<_, _>>()?;
    services.push(others);
    Ok(services)
}
