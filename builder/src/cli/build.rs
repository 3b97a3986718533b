//! `headnode build`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;

use super::interrupt;
use crate::assemble::{self, Built};
use crate::progress::{Steps, bytes};
use crate::spec::parts::process_env;
use crate::spec::{self, Spec};

/// Build a headnode image
///
/// Takes a platform, our own programs, overlays and boot firmware, and makes one disk image that
/// boots on BIOS and UEFI machines, with a manifest beside it. The platform is the reference one or
/// SmartOS, which brings its own software; GRUB boots either, the illumos loader SmartOS. Neither
/// root nor mounts are needed, and the same inputs give the same bytes.
///
/// What is to be built may also be told by a file of JSON, build.spec, whose keys are the flags'
/// names (and `answer-file` for --answers) and more: see `headnode spec`. Flags win over the file.
///
/// Examples:
///   headnode build
///   headnode build --answers answers.json --authorized-keys ~/.ssh/id_ed25519.pub
///   headnode build --platform out/platform-20260101T000000Z.tgz --compress zstd
///   headnode build --platform platform-20260101T000000Z.tgz --boot boot-20260101T000000Z.tgz --size 8gb
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// File that tells what to build; by default build.spec when it exists
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    #[command(flatten)]
    flags: Spec,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the image cannot be made.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let default = Path::new(spec::DEFAULT);
    let file = args.spec.or_else(|| default.is_file().then(|| default.to_owned()));
    let base = file.map(|path| Spec::read(&path)).transpose()?.unwrap_or_default();
    let spec = args.flags.or(base);
    if let Err(problems) = spec.features(&process_env) {
        anyhow::bail!(problems.join("\n"));
    }
    let inputs = assemble::inputs(spec)?;
    let folder = match &inputs.output {
        Some(file) if file.is_dir() => anyhow::bail!("{} is a folder", file.display()),
        Some(file) => match file.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => anyhow::bail!("{} is no name for an image", file.display()),
        },
        None => PathBuf::from("out"),
    };
    interrupt::watch()?;
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let work = tempfile::Builder::new()
        .prefix(".headnode-build-")
        .tempdir_in(&folder)
        .with_context(|| format!("creating a working folder in {}", folder.display()))?;
    interrupt::remove_on_interrupt(work.path().to_owned());
    let mut steps = Steps::new(args.json);
    let built = assemble::build(&inputs, &folder, work.path(), &mut steps)
        .map_err(|error| explain_full(error, &folder, work.path()))?;
    drop(work);
    if args.json {
        let report = json!({
            "image": built.image,
            "manifest": built.manifest_path,
            "partition_map": built.partition_map,
            "size": built.manifest.image.as_ref().map(|image| image.size),
            "file_size": built.file_size,
            "mapped": built.mapped,
            "free": built.free,
            "disk_guid": built.manifest.image.as_ref().map(|image| &image.disk_guid),
            "seconds": steps.times().iter().map(|(name, took)| json!({"step": name, "seconds": took.as_secs_f64()})).collect::<Vec<_>>(),
            "peak_rss": peak_rss(),
        });
        println!("{report:#}");
    } else {
        steps.table();
        print(&built);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(built: &Built) {
    let size = built.manifest.image.as_ref().map_or(0, |image| image.size);
    println!("{}", built.image.display());
    println!(
        "  {} disk, {} of it data, {} in the file; {} free on the key",
        bytes(size),
        bytes(built.mapped),
        bytes(built.file_size),
        bytes(built.free)
    );
    println!("  manifest: {}", built.manifest_path.display());
    if let Some(map) = &built.partition_map {
        println!("  partition map: {}", map.display());
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
