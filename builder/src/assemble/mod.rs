//! Makes an image: parts in, image and manifest out.

mod bundles;
mod inputs;
mod key;
mod loader;
mod menu;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use headnode_model::manifest::{Image, Manifest};

use crate::cli::progress::{Steps, set_length};
use crate::image::layout::Layout;
use crate::image::output::Output;
use crate::manifest;
use crate::source::platform::{self, Kind, Platform};
use crate::source::programs;

pub use inputs::{Inputs, Programs, inputs};

/// The version of the software that goes into images: this workspace's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The file that tells GRUB the manifest's digest, on the key.
pub const MANIFEST_CFG: &str = "boot/grub/manifest.cfg";

/// What a build made.
pub struct Built {
    /// The image.
    pub image: PathBuf,
    /// The manifest beside it.
    pub manifest_path: PathBuf,
    /// The partition map beside it, of images with Triton's layout.
    pub partition_map: Option<PathBuf>,
    /// What it holds.
    pub manifest: Manifest,
    /// Size of the file that holds the image, in bytes.
    pub file_size: u64,
    /// Bytes of the image that are no holes.
    pub mapped: u64,
    /// Bytes that are free on the root partition.
    pub free: u64,
}

/// Makes the image. `work` is an empty folder on the file system of the output; the image is
/// written there and then renamed.
///
/// # Errors
/// When anything fails; nothing is left outside of `work`.
pub fn build(
    inputs: &Inputs,
    output_folder: &Path,
    work: &Path,
    steps: &mut Steps,
) -> anyhow::Result<Built> {
    let programs = match &inputs.programs {
        None => None,
        Some(Programs::Ready(folder)) => Some(folder.clone()),
        Some(Programs::Build(workspace)) => steps.run("Building the programs", |_| {
            let folder = programs::build(workspace)?;
            programs::check(&folder)?;
            Ok(Some(folder))
        })?,
    };
    let platforms = platforms(inputs, work, steps)?;
    let Some(first) = platforms.first() else { bail!("there is no platform") };
    if first.kind == Kind::SmartOs {
        inputs.smartos.check(inputs.loader())?;
    }
    let time = created(first)?;
    let context = menu::context(inputs, &platforms);
    let software = match programs {
        Some(programs) if first.kind == Kind::Linux => steps.run("Packing the bundles", |_| {
            let bundles = bundles::write(inputs, &programs, &context, time, work)?;
            Ok(Some((programs, bundles)))
        })?,
        None if first.kind == Kind::Linux => {
            bail!("the platform {} is Linux, but there are no programs for it", first.stamp)
        }
        _ => None,
    };
    let name = if inputs.boot.is_some() { "Preparing the loader" } else { "Putting GRUB together" };
    let loader = steps.run(name, |_| loader::prepare(inputs, first.kind, work))?;
    let layout = loader.layout();
    let sources = key::Sources { platforms: &platforms, software, context, loader, time };
    let (disk, key_manifest) =
        steps.run("Laying out the key", |_| key::lay_out(inputs, sources))?;
    let default_name = format!("headnode-{VERSION}-{}.img", first.stamp);
    let image = inputs
        .output
        .clone()
        .unwrap_or_else(|| output_folder.join(default_name + inputs.compress.suffix()));
    let temporary = work.join("image");
    let (written, partitions) = steps.run("Writing the image", |bar| {
        set_length(bar, disk.size());
        let file = fs::File::create(&temporary)
            .with_context(|| format!("creating {}", temporary.display()))?;
        let shown = bar.clone();
        let mut out = Output::new(file, inputs.compress, move |bytes| shown.set_position(bytes))?;
        let partitions = disk.write(&mut out)?;
        let written = out.finish().context("writing the image")?;
        written.file.sync_data().context("writing the image")?;
        Ok((written, partitions))
    })?;
    let manifest = Manifest {
        image: Some(Image {
            size: written.size,
            sector_size: 512,
            disk_guid: disk.guid().to_string(),
            partitions,
            ranges: written.ranges,
        }),
        ..key_manifest
    };
    let manifest_path = manifest::beside(&image);
    let temporary_manifest = work.join("image.manifest.json");
    fs::write(&temporary_manifest, manifest::text(&manifest)?).context("writing the manifest")?;
    let partition_map = (layout == Layout::Illumos).then(|| map_beside(&image));
    let temporary_map = work.join("partition.map");
    fs::write(&temporary_map, disk.partition_map()).context("writing the partition map")?;
    // The manifest last: an image without one is seen as unfinished, one with an older image not.
    let mut finished = vec![(&temporary, &image)];
    finished.extend(partition_map.as_ref().map(|map| (&temporary_map, map)));
    finished.push((&temporary_manifest, &manifest_path));
    for (from, to) in finished {
        fs::rename(from, to).with_context(|| format!("creating {}", to.display()))?;
    }
    let file_size = fs::metadata(&image).map_or(0, |meta| meta.len());
    Ok(Built {
        file_size,
        mapped: written.mapped,
        free: disk.free(),
        image,
        manifest_path,
        partition_map,
        manifest,
    })
}

/// Where the partition map of an image is: beside it, with `.partition.map` in place of its suffix.
fn map_beside(image: &Path) -> PathBuf {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let raw = name.strip_suffix(".zst").or_else(|| name.strip_suffix(".gz")).unwrap_or(&name);
    let stem = raw.strip_suffix(".img").unwrap_or(raw);
    image.with_file_name(format!("{stem}.partition.map"))
}

/// Unpacks the platforms; the one that boots comes first, the others in the order given.
fn platforms(inputs: &Inputs, work: &Path, steps: &mut Steps) -> anyhow::Result<Vec<Platform>> {
    let what = if inputs.platforms.len() == 1 { "the platform" } else { "the platforms" };
    let mut platforms: Vec<Platform> = steps.run(&format!("Unpacking {what}"), |bar| {
        let sizes = inputs.platforms.iter().map(|path| fs::metadata(path).map_or(0, |m| m.len()));
        set_length(bar, sizes.sum());
        let mut before = 0;
        let mut unpacked = Vec::new();
        for (number, path) in inputs.platforms.iter().enumerate() {
            let into = work.join(format!("platform-{number}"));
            let mut last = 0;
            let mut progress = |bytes| {
                last = bytes;
                bar.set_position(before + bytes);
            };
            unpacked.push(platform::unpack(path, &into, &mut progress)?);
            before += last;
        }
        Ok(unpacked)
    })?;
    if let Some(wanted) = inputs.default_platform {
        let Some(at) = platforms.iter().position(|platform| platform.stamp == wanted) else {
            let have: Vec<_> = platforms.iter().map(|p| p.stamp.to_string()).collect();
            bail!("the platform {wanted} is to boot, but it is not given: {}", have.join(", "));
        };
        let default = platforms.remove(at);
        platforms.insert(0, default);
    }
    Ok(platforms)
}

/// The time of everything in the image: `SOURCE_DATE_EPOCH`, else the stamp of the platform that
/// boots.
fn created(platform: &Platform) -> anyhow::Result<i64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => match text.parse() {
            Ok(seconds) if (0..=i64::from(u32::MAX)).contains(&seconds) => Ok(seconds),
            _ => bail!("SOURCE_DATE_EPOCH is {text:?}: it must be a number of seconds since 1970"),
        },
        Err(_) => Ok(platform.stamp.unix()),
    }
}
