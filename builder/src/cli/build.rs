//! `headnode build`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use super::fetch::{self, Place, Transfer};
use super::interrupt;
use crate::assemble::{self, Built, Made};
use crate::progress::{Steps, bytes};
use crate::source::fetch::JOBS;
use crate::source::http::Patience;
use crate::source::lock::{self, Lock};
use crate::source::locked::resolve_locked;
use crate::source::plan::Update;
use crate::spec::parts::process_env;
use crate::spec::{self, Format, Spec};

/// Build headnode images
///
/// Takes a platform, our own programs, overlays and boot firmware, and makes one tree of files for a
/// boot key, and of that all formats that are wanted: a disk image that boots on BIOS and UEFI
/// machines (usb), a disc that is good for USB keys too (iso), disks of virtual machines (qcow2,
/// vmdk), files for a boot server (pxe), a tar. Neither root nor mounts are needed, and the same inputs
/// give the same bytes.
///
/// Beside each image goes its manifest with the SHA-256 of everything in it; with all of them a bill of
/// materials (CycloneDX), where everything came from (SLSA provenance), and digests. With --sign they
/// are signed as minisign does. Passwords of the answers go into images as hashes only.
///
/// What is to be built may also be told by a file of JSON, build.spec, whose keys are the flags'
/// names (and `answer-file` for --answers) and more: see `headnode spec`. Flags win over the file.
/// Parts that it names are fetched first and pinned by the lock file, as `headnode fetch` does; with
/// --locked nothing but what the lock file pins is taken, and no network is used; what a flag names is
/// taken as it is.
///
/// Exit codes: 0 everything was made, 1 it was not and nothing is left behind, 2 wrong arguments.
///
/// Examples:
///   headnode build
///   headnode build --answers answers.json --authorized-keys ~/.ssh/id_ed25519.pub
///   headnode build --format usb,iso,qcow2 --compress zstd --output release/ --sign release.key
///   headnode build --platform platform-20260101T000000Z.tgz --boot boot-20260101T000000Z.tgz
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// File that tells what to build; by default build.spec when it exists
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    #[command(flatten)]
    flags: Spec,
    /// The lock file that pins the spec's parts
    #[arg(long, value_name = "FILE", default_value = lock::DEFAULT)]
    lock: PathBuf,
    /// Take only what the lock file pins, and use no network
    #[arg(long)]
    locked: bool,
    #[command(flatten)]
    cache: Place,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the images cannot be made.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let default = Path::new(spec::DEFAULT);
    let file = args.spec.or_else(|| default.is_file().then(|| default.to_owned()));
    let base = file.map(|path| Spec::read(&path)).transpose()?.unwrap_or_default();
    let spec = args.flags.or(base.clone());
    if let Err(problems) = spec.features(&process_env) {
        anyhow::bail!(problems.join("\n"));
    }
    assemble::check(&spec)?;
    let parts = &spec.parts;
    let mut steps = Steps::new(args.json);
    let artefacts = if args.locked {
        let lock = Lock::read(&args.lock)?;
        let lock = lock.with_context(|| {
            format!("{} is missing: make it with `headnode fetch`", args.lock.display())
        })?;
        let cache = args.cache.open()?;
        steps.run("Comparing the parts with the lock file", |_| {
            Ok(resolve_locked(&base, &process_env, &lock, &cache)?)
        })?
    } else if parts.zones.is_empty()
        && parts.files.is_empty()
        && parts.extra_files.is_empty()
        && parts.sdc_headnode.is_none()
    {
        Vec::new()
    } else {
        let transfer = Transfer { patience: Patience::default(), jobs: JOBS, quiet: args.json };
        let nothing = Update::Nothing;
        fetch::pin_spec(&base, &args.lock, &args.cache, &nothing, transfer, &mut steps)?.0
    };
    let inputs = assemble::inputs(spec, artefacts)?;
    let folder = match &inputs.output {
        Some(path) if assemble::is_folder(path) => path.clone(),
        Some(file) => match file.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => anyhow::bail!("{} is no name for an image", file.display()),
        },
        None => PathBuf::from("out"),
    };
    interrupt::watch()?;
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    clear_remains(&folder);
    let work = tempfile::Builder::new()
        .prefix(WORK)
        .tempdir_in(&folder)
        .with_context(|| format!("creating a working folder in {}", folder.display()))?;
    let _alive = mark(work.path())
        .with_context(|| format!("marking the working folder in {}", folder.display()))?;
    interrupt::remove_on_interrupt(work.path().to_owned());
    let built = assemble::build(&inputs, &folder, work.path(), &mut steps).map_err(|error| {
        // What fails because an interruption took the folder away is not told as a failure.
        interrupt::undisturbed(|| explain_full(error, &folder, work.path()))
    })?;
    drop(work);
    if args.json {
        println!("{:#}", report(&built, &steps));
    } else {
        steps.table();
        print(&built);
    }
    Ok(ExitCode::SUCCESS)
}

fn report(built: &Built, steps: &Steps) -> Value {
    let image = built.manifest.image.as_ref();
    let first = built.files.iter().find(|(made, _)| made.image);
    let is_manifest = |made: &Made| made.name.ends_with(".manifest.json");
    let file = |(made, place): &(Made, PathBuf)| {
        json!({
            "path": place,
            "format": made.format,
            "image": made.image,
            "size": fs::metadata(place).map_or(0, |meta| meta.len()),
        })
    };
    json!({
        "image": first.map(|(_, place)| place),
        "manifest": built.place(is_manifest),
        "partition_map": built.place(|made| made.name.ends_with(".partition.map")),
        "files": built.files.iter().map(file).collect::<Vec<_>>(),
        "size": image.map(|image| image.size),
        "file_size": first.and_then(|(_, place)| fs::metadata(place).ok()).map(|meta| meta.len()),
        "mapped": built.mapped,
        "free": built.free,
        "disk_guid": image.map(|image| &image.disk_guid),
        "seconds": steps.json(),
        "peak_rss": peak_rss(),
    })
}

fn print(built: &Built) {
    for (made, place) in built.files.iter().filter(|(made, _)| made.image) {
        let size = fs::metadata(place).map_or(0, |meta| meta.len());
        println!("{}  {}", place.display(), bytes(size));
        if made.format == Some(Format::Usb)
            && let (Some(image), Some(free)) = (&built.manifest.image, built.free)
        {
            println!(
                "  {} disk, {} of it data; {} free on the key",
                bytes(image.size),
                bytes(built.mapped),
                bytes(free)
            );
        }
    }
    let beside: Vec<_> = built.files.iter().filter(|(made, _)| !made.image).collect();
    println!("with");
    for (_, place) in beside {
        println!("  {}", place.display());
    }
}

/// Beginning of the names of working folders.
const WORK: &str = ".headnode-build-";
/// The file in a working folder that is locked as long as its build lives.
const ALIVE: &str = "alive";

/// Locks a working folder. The file gets its name only when it is locked, so that no other build
/// finds it otherwise.
fn mark(work: &Path) -> io::Result<fs::File> {
    let early = work.join("alive.new");
    let file = fs::File::create(&early)?;
    file.lock()?;
    fs::rename(early, work.join(ALIVE))?;
    Ok(file)
}

/// Removes working folders of builds that were killed. What cannot be removed is no reason not to build.
fn clear_remains(folder: &Path) {
    for item in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = item.path();
        if !item.file_name().to_string_lossy().starts_with(WORK) {
            continue;
        }
        let Ok(file) = fs::File::open(path.join(ALIVE)) else { continue };
        if file.try_lock().is_ok()
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), %error, "removing what a killed build left");
        }
    }
}

/// The most memory that this process held, in bytes.
fn peak_rss() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// One clear line for a full file system, whichever step found it so.
fn explain_full(error: anyhow::Error, folder: &Path, work: &Path) -> anyhow::Error {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let kind =
        error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    let what = match kind {
        Some(StorageFull) => "is full",
        Some(QuotaExceeded) => "has no more room for this user (quota)",
        Some(FileTooLarge) => "does not take files of this size",
        _ => return error,
    };
    let held = held(work);
    let free = rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    anyhow::anyhow!(
        "the file system of {} (mounted on {}) {what}: {} were written, {} are free; \
         free more, or put the image elsewhere with --output",
        folder.display(),
        mount_point(folder).display(),
        bytes(held),
        bytes(free),
    )
}

/// Bytes that the files of a folder take.
fn held(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(items) = fs::read_dir(folder) else { return 0 };
    items
        .filter_map(|item| {
            let item = item.ok()?;
            let meta = item.metadata().ok()?;
            Some(if meta.is_dir() { held(&item.path()) } else { meta.blocks() * 512 })
        })
        .sum()
}

/// The folder that the file system of a folder is mounted on.
fn mount_point(folder: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let own = device(&folder);
    let within = folder.ancestors().take_while(|above| device(above) == own);
    within.last().unwrap_or(&folder).to_owned()
}
