//! Makes an image: parts in, image and manifest out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use headnode_model::manifest::Platform as ManifestPlatform;
use headnode_model::manifest::{FORMAT, Firmware, Image, Manifest, Service};
use headnode_model::{paths, ports};
use sha2::{Digest, Sha256};

use crate::boot::grub;
use crate::cli::progress::{Steps, set_length};
use crate::image::Content;
use crate::image::disk::{Disk, ESP_LOADER, Parts};
use crate::image::output::{self, Compression, Output, hex};
use crate::image::pool::Pool;
use crate::manifest;
use crate::source::firmware::{self, Catalogue};
use crate::source::platform::{self, Platform};
use crate::source::programs::{self, PROGRAMS};
use crate::spec::{Console, Size, Spec};
use crate::tree::overlay::{self, Entry};
use crate::tree::{Tree, bundle};

/// The version of the software that goes into images: this workspace's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Seconds that the boot menu waits by default: enough to reach a key, short in an unattended boot.
const MENU_TIMEOUT: u16 = 2;
/// Folder of the checksums that GRUB checks, on the key; one file each, so that the menu can name
/// what is damaged. CRC-32, because GRUB's SHA-256 takes longer than reading the key: under TCG on a
/// busy machine 77 MiB take 8.7 s to read by the BIOS, 9.6 s with CRC-32, 21 s with SHA-256. It finds
/// damage as well; who can change files on purpose could change their digests here too. SHA-256 is
/// first boot's, against the manifest whose digest the kernel is told.
const SUMS: &str = "boot/sums";
/// The file that tells GRUB the manifest's digest, on the key.
pub const MANIFEST_CFG: &str = "boot/grub/manifest.cfg";

/// Everything that a build needs, found and looked at.
pub struct Inputs {
    /// The platform's tarball.
    pub platform: PathBuf,
    /// Folder of ready programs, or else the workspace to build them in.
    pub programs: Programs,
    /// Folder of overlays.
    pub overlays: PathBuf,
    /// The firmware and the versions of its packages.
    pub firmware: Vec<(firmware::Entry, String)>,
    /// Answers to first boot's questions.
    pub answers: Option<PathBuf>,
    /// Keys that may log in as root.
    pub authorized_keys: Option<PathBuf>,
    /// Where the image goes, when it is named.
    pub output: Option<PathBuf>,
    /// How it is packed.
    pub compress: Compression,
    /// Its size.
    pub size: Size,
    /// The console of the default menu entry.
    pub console: Console,
    /// Seconds that the menu waits.
    pub timeout: u16,
}

/// Where our programs come from.
pub enum Programs {
    /// They lie in this folder.
    Ready(PathBuf),
    /// They are built in this workspace.
    Build(PathBuf),
}

/// What a build made.
pub struct Built {
    /// The image.
    pub image: PathBuf,
    /// The manifest beside it.
    pub manifest_path: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
    /// Size of the file that holds the image, in bytes.
    pub file_size: u64,
    /// Bytes of the image that are no holes.
    pub mapped: u64,
    /// Bytes that are free on the root partition.
    pub free: u64,
}

/// Finds all inputs; everything that is missing is told at once.
///
/// # Errors
/// When anything is missing.
pub fn inputs(spec: Spec) -> anyhow::Result<Inputs> {
    let mut problems = Vec::new();
    let mut packages: Vec<String> = Vec::new();
    let workspace = programs::workspace();
    for (what, package) in grub::missing() {
        problems.push(format!("{what} is missing"));
        packages.push(package.to_owned());
    }
    let platform = spec.platform.or_else(|| platform::newest(Path::new("out")));
    match &platform {
        None => problems.push(
            "there is no platform: give one with --platform, or make one in out/ with \
             `headnode platform build`"
                .to_owned(),
        ),
        Some(path) if !path.is_file() => {
            problems.push(format!("the platform {} does not exist", path.display()));
        }
        Some(_) => {}
    }
    let programs = match (spec.runtime_dir, &workspace) {
        (Some(folder), _) => {
            if let Err(error) = programs::check(&folder) {
                problems.push(error.to_string());
            }
            Some(Programs::Ready(folder))
        }
        (None, Some(workspace)) => Some(Programs::Build(workspace.clone())),
        (None, None) => {
            problems.push(
                "the programs sdc, sdc-agent, sdc-booter, sdc-control and sdc-setup are not at \
                 hand: start this command within the source tree, where it builds them, or give \
                 their folder with --runtime-dir"
                    .to_owned(),
            );
            None
        }
    };
    let in_tree = |name: &str| workspace.as_ref().map(|workspace| workspace.join(name));
    let overlays = spec.overlays.or_else(|| in_tree("overlays"));
    if overlays.as_ref().is_none_or(|folder| !folder.join("key").is_dir()) {
        problems.push(match &overlays {
            Some(folder) => format!("{} is no folder of overlays: it lacks key/", folder.display()),
            None => "there are no overlays: give their folder with --overlays".to_owned(),
        });
    }
    let catalogue = spec.firmware.or_else(|| in_tree(firmware::CATALOGUE));
    let found = match catalogue.map(|path| firmware::read(&path)) {
        None => {
            problems.push("there is no firmware catalogue: give it with --firmware".to_owned());
            Vec::new()
        }
        Some(Err(error)) => {
            problems.push(error.to_string());
            Vec::new()
        }
        Some(Ok(catalogue)) => versions(catalogue, &mut problems, &mut packages),
    };
    for (what, path) in
        [("answers file", &spec.answer_file), ("authorized keys file", &spec.authorized_keys)]
    {
        if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
            problems.push(format!("the {what} {} does not exist", path.display()));
        }
    }
    if let Some(path) = spec.answer_file.as_ref().filter(|path| path.is_file()) {
        let parsed = fs::read(path).map_err(|error| error.to_string()).and_then(|text| {
            serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(&text)
                .map_err(|error| error.to_string())
        });
        if let Err(error) = parsed {
            problems.push(format!("the answers file {}: {error}", path.display()));
        }
    }
    let (Some(platform), Some(programs), Some(overlays), true) =
        (platform, programs, overlays, problems.is_empty())
    else {
        packages.sort();
        packages.dedup();
        let mut text = format!("the build lacks what it needs:\n  {}", problems.join("\n  "));
        if !packages.is_empty() {
            text.push_str(&format!("\nInstall with: apt-get install {}", packages.join(" ")));
        }
        bail!(text);
    };
    Ok(Inputs {
        platform,
        programs,
        overlays,
        firmware: found,
        answers: spec.answer_file,
        authorized_keys: spec.authorized_keys,
        output: spec.output,
        compress: spec.compress.unwrap_or_default(),
        size: spec.size.unwrap_or_default(),
        console: spec.console.unwrap_or_default(),
        timeout: spec.timeout.unwrap_or(MENU_TIMEOUT),
    })
}

fn versions(
    catalogue: Catalogue,
    problems: &mut Vec<String>,
    packages: &mut Vec<String>,
) -> Vec<(firmware::Entry, String)> {
    let mut found = Vec::new();
    for entry in catalogue.firmware {
        if let Some(file) = entry.file.as_ref().filter(|file| !file.is_file()) {
            problems.push(format!("{} ({}) is missing", file.display(), entry.name));
            packages.push(entry.package);
            continue;
        }
        match firmware::package_version(&entry.package) {
            Some(version) => found.push((entry, version)),
            None => {
                problems.push(format!("the Debian package {} is not installed", entry.package));
                packages.push(entry.package);
            }
        }
    }
    found
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
        Programs::Ready(folder) => folder.clone(),
        Programs::Build(workspace) => steps.run("Building the programs", |_| {
            let folder = programs::build(workspace)?;
            programs::check(&folder)?;
            Ok(folder)
        })?,
    };
    let platform = steps.run("Unpacking the platform", |bar| {
        set_length(bar, fs::metadata(&inputs.platform).map_or(0, |meta| meta.len()));
        let into = work.join("platform");
        Ok(platform::unpack(&inputs.platform, &into, &mut |bytes| bar.set_position(bytes))?)
    })?;
    let time = created(&platform)?;
    let context = context(inputs, &platform);
    let bundles =
        steps.run("Packing the bundles", |_| bundles(inputs, &programs, &context, time, work))?;
    let grub = steps.run("Putting GRUB together", |_| Ok(grub::build(work)?))?;
    let (disk, key_manifest) = steps.run("Laying out the key", |_| {
        lay_out(inputs, &platform, &programs, bundles, context, grub, time)
    })?;
    let default_name = format!("headnode-{VERSION}-{}.img", platform.stamp);
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
        let sink = output::packed(file, inputs.compress, &Pool::for_this_machine()?)?;
        let mut out = Output::new(vec![sink], move |bytes| shown.set_position(bytes));
        let partitions = disk.write(&mut out)?;
        let written = out.finish().context("writing the image")?;
        for file in &written.files {
            file.sync_data().context("writing the image")?;
        }
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
    let text = manifest::text(&manifest)?;
    let temporary_manifest = work.join("image.manifest.json");
    fs::write(&temporary_manifest, text).context("writing the manifest")?;
    // The manifest last: an image without one is seen as unfinished, one with an older image not.
    fs::rename(&temporary, &image).with_context(|| format!("creating {}", image.display()))?;
    fs::rename(&temporary_manifest, &manifest_path)
        .with_context(|| format!("creating {}", manifest_path.display()))?;
    let file_size = fs::metadata(&image).map_or(0, |meta| meta.len());
    Ok(Built {
        file_size,
        mapped: written.mapped,
        free: disk.free(),
        image,
        manifest_path,
        manifest,
    })
}

/// The time of everything in the image: `SOURCE_DATE_EPOCH`, else the platform's stamp.
fn created(platform: &Platform) -> anyhow::Result<i64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => match text.parse() {
            Ok(seconds) if (0..=i64::from(u32::MAX)).contains(&seconds) => Ok(seconds),
            _ => bail!("SOURCE_DATE_EPOCH is {text:?}: it must be a number of seconds since 1970"),
        },
        Err(_) => Ok(platform.stamp.unix()),
    }
}

/// What templates may use.
fn context(inputs: &Inputs, platform: &Platform) -> tera::Context {
    let mut context = tera::Context::new();
    context.insert("version", VERSION);
    context.insert("stamp", &platform.stamp.to_string());
    context.insert("console", inputs.console.name());
    context.insert("timeout", &inputs.timeout);
    let ports = BTreeMap::from([
        ("tftp", ports::TFTP),
        ("booter_http", ports::BOOTER_HTTP),
        ("cnapi", ports::CNAPI),
        ("agent", ports::AGENT),
    ]);
    context.insert("ports", &ports);
    context
}

/// Writes both bundles into `work`: their paths on the key and their files.
fn bundles(
    inputs: &Inputs,
    programs: &Path,
    context: &tera::Context,
    time: i64,
    work: &Path,
) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    let mtime = u32::try_from(time).unwrap_or(0);
    let mut bundles = Vec::new();
    for (name, on_key) in [("headnode", paths::BUNDLE_HEADNODE), ("node", paths::BUNDLE_NODE)] {
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

/// Puts the key's tree together and plans the disk.
fn lay_out(
    inputs: &Inputs,
    platform: &Platform,
    programs: &Path,
    bundles: Vec<(&'static str, PathBuf)>,
    mut context: tera::Context,
    grub: grub::Grub,
    time: i64,
) -> anyhow::Result<(Disk, Manifest)> {
    let mut tree = Tree::default();
    let of_file = |path: &Path| {
        Content::of_file(path).with_context(|| format!("looking at {}", path.display()))
    };
    tree.add(paths::KEY_MARKER, "")?;
    tree.add("version", format!("{VERSION}\n"))?;
    let os = format!("{}/{}", paths::PLATFORMS, platform.stamp.key_name());
    for (path, place) in &platform.files {
        tree.add(format!("{os}/{path}"), of_file(place)?)?;
    }
    for (path, file) in &bundles {
        tree.add(*path, of_file(file)?)?;
    }
    if let Some(answers) = &inputs.answers {
        tree.add(paths::ANSWERS, of_file(answers)?)?;
    }
    if let Some(keys) = &inputs.authorized_keys {
        tree.add(paths::AUTHORIZED_KEYS, of_file(keys)?)?;
    }
    let firmware = firmware_list(inputs, &grub, &mut tree)?;
    let [kernel, initrd] = platform::LINUX.map(|path| format!("{os}/{path}"));
    let bundle = paths::BUNDLE_HEADNODE.to_owned();
    let mut checked = Vec::new();
    for (name, path) in [("kernel", &kernel), ("platform", &initrd), ("headnode", &bundle)] {
        let Some(item) = tree.get(path) else { bail!("the key lacks {path}") };
        let sum = item.content.crc32().with_context(|| format!("reading {path}"))?;
        let sums = format!("{SUMS}/{name}.crc32");
        tree.add(sums.clone(), format!("{sum:08x}  {path}\n"))?;
        let file = [("sums", &sums), ("path", path)];
        checked.push(BTreeMap::from(file.map(|(key, value)| (key, value.to_owned()))));
    }
    context.insert("checked", &checked);
    context.insert("kernel", &kernel);
    context.insert("initrd", &initrd);
    context.insert("bundle", &bundle);
    let mut own = BTreeMap::new();
    overlay::read(&inputs.overlays.join("key"), &context, &mut own)?;
    for (path, entry) in own {
        match entry {
            Entry::File { content, .. } => tree.add(path, content)?,
            Entry::Symlink(_) => bail!("overlays/key/{path}: FAT has no symbolic links"),
        };
    }
    let manifest = Manifest {
        format: FORMAT,
        name: "headnode".to_owned(),
        version: VERSION.to_owned(),
        created: time,
        platforms: vec![ManifestPlatform {
            stamp: platform.stamp,
            os: "linux".to_owned(),
            description: platform.description.clone(),
        }],
        services: services(programs)?,
        firmware,
        files: tree.manifest_files(),
        image: None,
    };
    let on_key = manifest::text(&manifest)?;
    let sha256 = tree.add(paths::KEY_MANIFEST, on_key)?.sha256.clone();
    tree.add(MANIFEST_CFG, format!("set manifest=sha256:{sha256}\n"))?;
    // The one beside the image also lists the two files that the one within it cannot.
    let manifest = Manifest { files: tree.manifest_files(), ..manifest };
    let mut digest = tree.digest();
    for part in [&grub.boot_code, &grub.core, &grub.efi] {
        digest.update(part);
    }
    let disk = Disk::plan(Parts {
        boot_code: grub.boot_code,
        core: grub.core,
        efi: grub.efi,
        files: tree.into_files(),
        digest: digest.finalize().into(),
        time,
        size: match inputs.size {
            Size::Auto => None,
            Size::Bytes(bytes) => Some(bytes),
        },
    })?;
    Ok((disk, manifest))
}

/// Adds the firmware to the tree and lists it.
fn firmware_list(
    inputs: &Inputs,
    grub: &grub::Grub,
    tree: &mut Tree,
) -> anyhow::Result<Vec<Firmware>> {
    let mut list = Vec::new();
    for (entry, version) in &inputs.firmware {
        let of_bytes = |bytes: &[u8]| (bytes.len() as u64, hex(Sha256::new().chain_update(bytes)));
        let (size, sha256) = match (&entry.file, entry.path.as_str()) {
            (Some(file), path) => {
                let content = Content::of_file(file)
                    .with_context(|| format!("looking at {}", file.display()))?;
                let size = content.size();
                (size, tree.add(path, content)?.sha256.clone())
            }
            (None, "boot:") => of_bytes(&grub.core),
            (None, path) if path.strip_prefix("loader:") == Some(ESP_LOADER) => of_bytes(&grub.efi),
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
    Ok(list)
}

fn services(programs: &Path) -> anyhow::Result<Vec<Service>> {
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
    PROGRAMS.iter().map(service).collect()
}
