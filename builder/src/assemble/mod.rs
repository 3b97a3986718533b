//! Makes an image: parts in, image and manifest out.

mod boot_archive;
mod bundles;
mod early;
mod inputs;
mod ipxe;
mod key;
mod lists;
mod loader;
mod menu;
mod outputs;
mod records;
mod slots;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;
use headnode_model::manifest::Manifest;

use crate::image::pool::Pool;
use crate::progress::{Steps, set_length};
use crate::source::fetch;
use crate::source::platform::{self, Kind, Platform};
use crate::source::programs;
use crate::spec::Format;

use key::{Medium, Sources};
use outputs::{DISKS, Outputs};
use records::Crates;

pub use early::check;
pub use inputs::{Inputs, Programs, inputs};
pub use ipxe::Tarball as IpxeTarball;
pub use outputs::{Made, is_folder};
pub(crate) use outputs::{PXE_BUNDLE, PXE_DISC, PXE_KEY, stem_of};

/// The version of the software that goes into images: this workspace's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The file that tells GRUB the manifest's digest, on the key.
pub const MANIFEST_CFG: &str = "boot/grub/manifest.cfg";

/// What a build made.
pub struct Built {
    /// All files with their places, the images first.
    pub files: Vec<(Made, PathBuf)>,
    /// The manifest of the disk, or of the disc when that is all there is; without the image when
    /// there is neither.
    pub manifest: Manifest,
    /// Bytes of the image that are no holes.
    pub mapped: u64,
    /// Bytes that are free on the disk's root partition.
    pub free: Option<u64>,
}

impl Built {
    /// The place of the first file of this kind.
    pub fn place(&self, is: impl Fn(&Made) -> bool) -> Option<&Path> {
        self.files.iter().find(|(made, _)| is(made)).map(|(_, place)| place.as_path())
    }
}

/// Makes the files. `work` is an empty folder on the file system of the output; everything is
/// written there and then renamed into `folder`.
///
/// # Errors
/// When anything fails; nothing is left outside of `work`.
pub fn build(
    inputs: &Inputs,
    folder: &Path,
    work: &Path,
    steps: &mut Steps,
) -> anyhow::Result<Built> {
    if inputs.artefacts.iter().any(|artefact| artefact.held.is_some()) {
        steps.run("Checking the fetched parts", |_| Ok(fetch::check_cached(&inputs.artefacts)?))?;
    }
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
    let (kind, time) = (first.kind, created(first)?);
    early::warn(inputs, first)?;
    let mut outputs = Outputs::new(inputs, &first.stamp.to_string(), work)?;
    let software = match programs {
        Some(programs) if kind == Kind::Linux => steps.run("Packing the bundles", |_| {
            let context = menu::context(inputs, &inputs.smartos, &platforms, false);
            let bundles = bundles::write(inputs, &programs, &context, time, work)?;
            Ok(Some((programs, bundles)))
        })?,
        None if kind == Kind::Linux => {
            bail!("the platform {} is Linux, but there are no programs for it", first.stamp)
        }
        _ => None,
    };
    let crates = Crates::ask(inputs, software.is_some())?;
    let name = if inputs.boot.is_some() { "Preparing the loader" } else { "Putting GRUB together" };
    let loader = steps.run(name, |_| loader::prepare(inputs, kind, work))?;
    let ipxe = match &inputs.ipxe {
        Some(tarball) => Some(ipxe::unpack(tarball, &work.join("ipxe"))?),
        None => None,
    };
    let triton = match &inputs.checkout {
        Some(checkout) => checkout.files(&work.join("sdc-headnode"))?,
        None => Vec::new(),
    };
    let sources = Sources { platforms, software, ipxe, triton, time };
    let wants = |format: Format| inputs.formats.contains(&format);
    let wants_disk = DISKS.into_iter().any(wants);
    let (key, disc) = steps.run("Laying out the key", |_| {
        let mut known = lists::Known::default();
        let key = key::lay_out(inputs, &sources, &loader, Medium::Disk, &mut known)?;
        let disc = (wants(Format::Iso) || (wants(Format::Pxe) && kind == Kind::SmartOs))
            .then(|| key::lay_out(inputs, &sources, &loader, Medium::Iso, &mut known))
            .transpose()?;
        Ok((key, disc))
    })?;
    early::warn_of_scripts(kind, &key.tree);
    let pool = Pool::for_this_machine()?;
    let mut free = None;
    let mut mapped = 0;
    let mut whole = None;
    if wants_disk {
        let disk = outputs::plan_disk(inputs, &loader, &key)?;
        let done = outputs::write_disk(inputs, &disk, &pool, &mut outputs, steps)?;
        let manifest = outputs::manifest_of(&key, &done);
        for format in DISKS.into_iter().filter(|format| wants(*format)) {
            records::of_image(inputs, format, &manifest, &done, &mut outputs)?;
        }
        if wants(Format::Usb) {
            let name = format!("{}.partition.map", outputs.stem);
            outputs.add(Some(Format::Usb), name, disk.partition_map().as_bytes())?;
        }
        if wants(Format::Vmdk) {
            outputs::write_machine(inputs, kind, &mut outputs)?;
        }
        free = Some(disk.free());
        mapped = done.mapped;
        whole = Some(manifest);
    }
    if let Some(disc) = disc.as_ref().filter(|_| wants(Format::Iso)) {
        let boot = loader.disc(work)?;
        let done = outputs::write_iso(inputs, disc, boot, &pool, &mut outputs, steps)?;
        let manifest = outputs::manifest_of(disc, &done);
        records::of_image(inputs, Format::Iso, &manifest, &done, &mut outputs)?;
        mapped = if wants_disk { mapped } else { done.mapped };
        whole.get_or_insert(manifest);
    }
    if wants(Format::Pxe) {
        steps.run("Packing for boot servers", |_| {
            outputs::write_pxe(inputs, &sources, (&key, disc.as_ref()), &pool, &mut outputs, work)
        })?;
    }
    if wants(Format::Tar) {
        steps.run("Writing the tar", |_| outputs::write_tar(inputs, &key, &pool, &mut outputs))?;
    }
    let manifest = whole.unwrap_or(key.manifest);
    steps.run("Writing the records", |_| {
        records::of_build(inputs, &sources, crates, &manifest, &mut outputs)
    })?;
    let files = crate::cli::interrupt::undisturbed(|| outputs.publish(folder))?;
    Ok(Built { files, manifest, mapped, free })
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
