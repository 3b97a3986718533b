//! The files that a build makes: the disk as raw image and as disks of virtual machines in one pass, the
//! disc, the files for a boot server, the tar.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use headnode_model::manifest::{Image, Manifest, Partition};
use headnode_model::paths;
use indicatif::ProgressBar;

use super::key::{Key, Sources};
use super::loader::Loader;
use super::{Inputs, VERSION, boot_archive, menu};
use crate::boot::smartos;
use crate::image::Content;
use crate::image::archive;
use crate::image::disk::{Disk, Parts};
use crate::image::iso::{self, Boot, Iso};
use crate::image::output::{self, Compression, ImageSink, Output, Written};
use crate::image::pool::Pool;
use crate::image::pxe;
use crate::image::qcow2::Qcow2;
use crate::image::vmdk::{Vmdk, blank};
use crate::image::vmx::Machine;
use crate::manifest::PACKED;
use crate::personal::telling;
use crate::progress::{Steps, set_length};
use crate::source::platform::Kind;
use crate::spec::{Format, Size};
use crate::tree::overlay::Entry;
use crate::tree::{self, bundle};

/// Names in the boot server's files.
pub(crate) const PXE_BUNDLE: &str = "headnode.cpio.zst";
pub(crate) const PXE_KEY: &str = "key.cpio.zst";
/// A second name of the disc's archive, the one that setup asks the boot server for.
pub(crate) const PXE_DISC: &str = "fulliso.tgz";

/// A file that a build makes.
#[derive(Debug, Clone)]
pub struct Made {
    /// Which format it belongs to; `None` for what goes with all of them.
    pub format: Option<Format>,
    /// Its name.
    pub name: String,
    /// Where it lies until the build is whole.
    pub(super) place: PathBuf,
    /// Whether it is the image itself, not something beside it.
    pub image: bool,
    /// Its SHA-256 in hex, when it was hashed while it was written.
    pub(super) sha256: Option<String>,
}

/// The files that a build has made so far, in its work folder.
pub(super) struct Outputs<'a> {
    work: &'a Path,
    /// Beginning of all names.
    pub stem: String,
    /// The name of the first image, when the user chose it.
    chosen: Option<String>,
    /// The files.
    pub made: Vec<Made>,
}

impl<'a> Outputs<'a> {
    pub(super) fn new(inputs: &Inputs, stamp: &str, work: &'a Path) -> anyhow::Result<Self> {
        let mut stem = format!("headnode-{VERSION}-{stamp}");
        let chosen = inputs.output.as_ref().filter(|path| !is_folder(path));
        let chosen = chosen.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        if let Some(name) = &chosen {
            if inputs.formats.len() > 1 {
                bail!(
                    "--output {name} names one file, but there will be several: name a folder, with \
                     a / at its end"
                );
            }
            stem = stem_of(name).to_owned();
        }
        Ok(Self { work, stem, chosen, made: Vec::new() })
    }

    /// The name of a format's image.
    pub(super) fn name(&self, format: Format, inputs: &Inputs) -> String {
        self.chosen.clone().unwrap_or_else(|| match format {
            Format::Usb => format!("{}.img{}", self.stem, inputs.compress.suffix()),
            Format::Iso => format!("{}.iso", self.stem),
            Format::Pxe => format!("{}-pxe.tgz", self.stem),
            Format::Qcow2 => format!("{}.qcow2", self.stem),
            Format::Vmdk => format!("{}.vmdk", self.stem),
            Format::Tar => format!("{}.tgz", self.stem),
        })
    }

    /// A new file.
    pub(super) fn create(
        &mut self,
        format: Option<Format>,
        name: String,
        image: bool,
    ) -> anyhow::Result<File> {
        let place = self.work.join(format!("made-{}", self.made.len()));
        let file = File::options().read(true).write(true).create_new(true).open(&place);
        let file = file.with_context(|| format!("creating {}", place.display()))?;
        self.made.push(Made { format, name, place, image, sha256: None });
        Ok(file)
    }

    /// A file with this text.
    pub(super) fn add(
        &mut self,
        format: Option<Format>,
        name: String,
        text: &[u8],
    ) -> anyhow::Result<()> {
        use std::io::Write as _;
        let doing = format!("writing {name}");
        self.create(format, name, false)?.write_all(text).context(doing)
    }

    /// Notes the digest of a format's raw image.
    fn hashed(&mut self, format: Format, done: &Done) {
        let image = |made: &&mut Made| made.image && made.format == Some(format);
        if let Some(made) = self.made.iter_mut().find(image) {
            made.sha256.clone_from(&done.sha256);
        }
    }

    /// Moves everything to its place. A manifest comes after the image that it belongs to: an image
    /// without one is seen as unfinished, one with an older image not.
    pub(super) fn publish(&self, folder: &Path) -> anyhow::Result<Vec<(Made, PathBuf)>> {
        let mut order: Vec<&Made> = self.made.iter().collect();
        order.sort_by_key(|made| !made.image);
        let mut published = Vec::new();
        for made in order {
            let place = folder.join(&made.name);
            fs::rename(&made.place, &place)
                .with_context(|| format!("creating {}", place.display()))?;
            published.push((made.clone(), place));
        }
        Ok(published)
    }
}

/// Whether the user means a folder.
pub fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().to_string_lossy().ends_with('/')
}

/// A file's name without the endings of images.
pub(crate) fn stem_of(name: &str) -> &str {
    let raw = PACKED.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    [".img", ".iso", ".qcow2", ".vmdk", ".tgz"]
        .iter()
        .find_map(|end| raw.strip_suffix(end))
        .unwrap_or(raw)
}

/// The formats that are one disk.
pub(super) const DISKS: [Format; 3] = [Format::Usb, Format::Qcow2, Format::Vmdk];

/// What was written of an image.
pub(super) struct Done {
    /// The image as manifests tell it.
    pub image: Image,
    /// Bytes that are no holes.
    pub mapped: u64,
    /// SHA-256 of the raw image, in hex, when it was asked for.
    sha256: Option<String>,
}

fn finish(
    steps: &mut Steps,
    name: &str,
    sinks: Vec<Box<dyn ImageSink>>,
    size: u64,
    guid: String,
    raw: bool,
    write: impl FnOnce(&mut Output) -> anyhow::Result<Vec<Partition>>,
) -> anyhow::Result<Done> {
    let (written, partitions): (Written, _) = steps.run(name, |bar: &ProgressBar| {
        set_length(bar, size);
        let shown = bar.clone();
        let mut out = Output::new(sinks, move |bytes| shown.set_position(bytes));
        if raw {
            out.hash_whole().context("writing the image")?;
        }
        let partitions = write(&mut out)?;
        let written = out.finish().context("writing the image")?;
        for file in &written.files {
            file.sync_data().context("writing the image")?;
        }
        Ok((written, partitions))
    })?;
    let Written { size, mapped, ranges, mut personal, sha256, .. } = written;
    for part in &mut personal {
        part.sha256 = part.sha256.take().and_then(|sha256| telling(&part.path, sha256));
    }
    Ok(Done {
        image: Image { size, sector_size: 512, disk_guid: guid, partitions, ranges, personal },
        mapped,
        sha256,
    })
}

/// Plans the disk.
pub(super) fn plan_disk(inputs: &Inputs, loader: &Loader, key: &Key) -> anyhow::Result<Disk> {
    let [boot_code, core, efi] = loader.parts();
    Ok(Disk::plan(Parts {
        layout: loader.layout(),
        boot_code: boot_code.clone(),
        core: core.clone(),
        efi: efi.clone(),
        files: key.tree.files(),
        digest: key.digest,
        time: key.manifest.created,
        size: match inputs.size {
            Size::Auto => None,
            Size::Bytes(bytes) => Some(bytes),
        },
    })?)
}

/// Writes all formats that are a disk, in one pass.
pub(super) fn write_disk(
    inputs: &Inputs,
    disk: &Disk,
    pool: &Arc<Pool>,
    outputs: &mut Outputs<'_>,
    steps: &mut Steps,
) -> anyhow::Result<Done> {
    let mut sinks: Vec<Box<dyn ImageSink>> = Vec::new();
    for format in DISKS.into_iter().filter(|format| inputs.formats.contains(format)) {
        let name = outputs.name(format, inputs);
        let file = outputs.create(Some(format), name.clone(), true)?;
        sinks.push(match format {
            Format::Qcow2 => Box::new(Qcow2::new(file, Arc::clone(pool))),
            Format::Vmdk => {
                Box::new(Vmdk::new(file, &name, Arc::clone(pool)).context("beginning the vmdk")?)
            }
            _ => output::packed(file, inputs.compress, pool).context("beginning the image")?,
        });
    }
    let guid = disk.guid().to_string();
    let raw = inputs.formats.contains(&Format::Usb) && inputs.compress == Compression::None;
    let write = |out: &mut Output| Ok(disk.write(out)?);
    let done = finish(steps, "Writing the image", sinks, disk.size(), guid, raw, write)?;
    outputs.hashed(Format::Usb, &done);
    Ok(done)
}

/// Writes the disc.
pub(super) fn write_iso(
    inputs: &Inputs,
    key: &Key,
    boot: Boot,
    pool: &Arc<Pool>,
    outputs: &mut Outputs<'_>,
    steps: &mut Steps,
) -> anyhow::Result<Done> {
    let format = iso::Format {
        volume: "HEADNODE".to_owned(),
        time: key.manifest.created,
        digest: key.digest,
        boot,
    };
    let disc = Iso::plan(format, key.tree.files())?;
    let name = outputs.name(Format::Iso, inputs);
    let file = outputs.create(Some(Format::Iso), name, true)?;
    let sink = output::packed(file, Compression::None, pool)?;
    let guid = disc.guid().map(|guid| guid.to_string()).unwrap_or_default();
    let write = |out: &mut Output| Ok(disc.write(out)?);
    let done = finish(steps, "Writing the disc", vec![sink], disc.size(), guid, true, write)?;
    outputs.hashed(Format::Iso, &done);
    Ok(done)
}

/// Writes the key's files as a tar.
pub(super) fn write_tar(
    inputs: &Inputs,
    key: &Key,
    pool: &Arc<Pool>,
    outputs: &mut Outputs<'_>,
) -> anyhow::Result<()> {
    let name = outputs.name(Format::Tar, inputs);
    let file = outputs.create(Some(Format::Tar), name, true)?;
    let files = key.tree.files();
    let file = archive::write_tgz(&files, key.manifest.created, file, Arc::clone(pool))?;
    file.sync_data().context("writing the tar")
}

/// Writes what a boot server needs to start this headnode over the network. A Linux headnode gets its
/// key as an archive of its own beside the platform; one of SmartOS the disc's tree, which its setup
/// fetches (C§1.14).
pub(super) fn write_pxe(
    inputs: &Inputs,
    sources: &Sources,
    keys: (&Key, Option<&Key>),
    pool: &Arc<Pool>,
    outputs: &mut Outputs<'_>,
    work: &Path,
) -> anyhow::Result<()> {
    let first = sources.first()?;
    let (key, disc) = keys;
    let time = key.manifest.created;
    let platform = first.files.iter().map(|(path, item)| {
        let content = Content::File { path: item.place.clone(), size: item.size };
        (path.clone(), content)
    });
    let of_file = |path: &Path| {
        Content::of_file(path).with_context(|| format!("looking at {}", path.display()))
    };
    let mut platform: BTreeMap<String, Content> = platform.collect();
    let mut links = Vec::new();
    let (os, more, initrds, parameters) = match first.kind {
        Kind::Linux => {
            let bundles = sources.software.iter().flat_map(|(_, bundles)| bundles);
            let bundle = bundles.into_iter().find(|(path, _)| *path == paths::BUNDLE_HEADNODE);
            let (_, bundle) = bundle.context("there is no bundle of our software")?;
            let folder = paths::KEY_IN_RAM.trim_start_matches('/');
            let file = |(path, content)| {
                (format!("{folder}/{path}"), Entry::File { content, executable: false })
            };
            let entries: BTreeMap<_, _> = key.tree.files().into_iter().map(file).collect();
            let packed = work.join(PXE_KEY);
            bundle::write(&entries, u32::try_from(time).unwrap_or(0), &packed)
                .context("packing the key for the boot server")?;
            let mut parameters = vec![
                "headnode=true".to_owned(),
                "triton_installer=ipxe".to_owned(),
                format!("headnode.manifest=sha256:{}", key.manifest_sha256),
            ];
            parameters.extend(menu::linux_consoles(inputs).split(' ').map(str::to_owned));
            parameters.push("loglevel=4".to_owned());
            let more = vec![
                (PXE_BUNDLE.to_owned(), of_file(bundle)?),
                (PXE_KEY.to_owned(), of_file(&packed)?),
            ];
            let initrds = vec![PXE_BUNDLE.to_owned(), PXE_KEY.to_owned()];
            (pxe::Os::Linux, more, initrds, parameters)
        }
        Kind::SmartOs => {
            let disc = disc.context("there is no disc for the installer")?;
            let name = format!("fulliso-{VERSION}-{}.tgz", first.stamp);
            links.push((PXE_DISC.to_owned(), name.clone()));
            let packed = work.join(PXE_DISC);
            let file = File::create(&packed).context("packing the disc for the installer")?;
            archive::write_tgz(&disc.tree.files(), time, file, Arc::clone(pool))?;
            let url = inputs.iso_url.as_deref();
            let changed = boot_archive::with_installer(first, &disc.tree, url, &name, time, work)?;
            platform.extend(changed);
            let smt = inputs.smartos.smt;
            let mut parameters = vec![
                "headnode=true".to_owned(),
                format!("smt_enabled={smt}"),
                "triton_installer=ipxe".to_owned(),
            ];
            let more = inputs.smartos.properties.iter();
            parameters.extend(more.map(|property| smartos::dash_b(std::slice::from_ref(property))));
            (pxe::Os::Smartos, vec![(name, of_file(&packed)?)], vec![], parameters)
        }
    };
    let parts = pxe::Parts {
        os,
        stamp: first.stamp.to_string(),
        platform: platform.into_iter().collect(),
        more,
        links: links.clone(),
        initrds,
        base: String::new(),
        console: inputs.smartos.console.to_owned(),
        parameters,
    };
    let files = pxe::bundle(parts, &inputs.overlays)?;
    let name = outputs.name(Format::Pxe, inputs);
    let file = outputs.create(Some(Format::Pxe), name, true)?;
    archive::write_tgz_with_links(&files, &links, time, file, Arc::clone(pool))?
        .sync_data()
        .context("writing the boot server's files")
}

/// Writes the rest of the VMware machine that the vmdk belongs to: the empty disk for its pool, and
/// the description of it all.
pub(super) fn write_machine(
    inputs: &Inputs,
    kind: Kind,
    outputs: &mut Outputs<'_>,
) -> anyhow::Result<()> {
    let disk = outputs.name(Format::Vmdk, inputs);
    let pool = format!("{}-zpool.vmdk", outputs.stem);
    let mut file = outputs.create(Some(Format::Vmdk), pool.clone(), false)?;
    let wishes = &inputs.machine;
    blank::write(&mut file, &pool, wishes.pool_gib()).with_context(|| format!("writing {pool}"))?;
    let guest = match kind {
        Kind::Linux => "debian12-64",
        Kind::SmartOs => "solaris11-64",
    };
    let machine = Machine::coal("headnode", [&disk, &pool], guest, wishes);
    let name = format!("{}.vmx", outputs.stem);
    outputs.add(Some(Format::Vmdk), name, machine.vmx(&inputs.overlays)?.as_bytes())
}

/// SHA-256 of a file, in hex.
pub(super) fn digest_of(path: &Path) -> anyhow::Result<String> {
    let content = Content::of_file(path);
    let digest = content.and_then(|content| tree::digest(&content));
    digest.with_context(|| format!("reading {}", path.display()))
}

/// The manifest of an image.
pub(super) fn manifest_of(key: &Key, done: &Done) -> Manifest {
    Manifest { image: Some(done.image.clone()), ..key.manifest.clone() }
}
