//! `headnode cache`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::json;

use super::fetch::Place;
use super::progress::bytes;
use crate::source::lock::Lock;
use crate::source::upkeep::{Keep, days_ago};
use crate::spec::Size;

/// A verb of the cache.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// List what is in the cache, the most recently used first
    Ls(Ls),
    /// Delete what is old or too much
    ///
    /// What a running build uses and what the lock files given name is never deleted.
    Gc(Gc),
    /// Read everything and compare it with its SHA-256; exit code 1 when something is damaged
    Verify(Verify),
}

/// `headnode cache ls`.
#[derive(Debug, clap::Args)]
pub struct Ls {
    #[command(flatten)]
    place: Place,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// `headnode cache gc`.
#[derive(Debug, clap::Args)]
pub struct Gc {
    /// Delete what was not used for so many days
    #[arg(long, value_name = "DAYS")]
    keep_days: Option<u64>,
    /// Delete the least recently used until this size is left: a number with MiB, GiB, MB or GB
    #[arg(long, value_name = "SIZE")]
    max_size: Option<Size>,
    /// Lock file whose parts stay; may be given several times
    #[arg(long, value_name = "FILE")]
    lock: Vec<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// `headnode cache verify`.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Delete what is damaged, so that it is fetched again
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    place: Place,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the cache cannot be read or changed.
pub fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Ls(args) => ls(&args),
        Verb::Gc(args) => gc(&args),
        Verb::Verify(args) => verify(&args),
    }
}

fn ls(args: &Ls) -> anyhow::Result<ExitCode> {
    let all = args.place.open()?.list()?;
    let total: u64 = all.iter().map(|object| object.size).sum();
    if args.json {
        println!("{:#}", json!({"objects": all, "total": total}));
        return Ok(ExitCode::SUCCESS);
    }
    for object in &all {
        let short = object.sha256.get(..12).unwrap_or_default();
        let about = &object.about;
        let used = time::OffsetDateTime::from_unix_timestamp(object.used.try_into().unwrap_or(0));
        let used = used.map(|used| used.date().to_string()).unwrap_or_default();
        println!("{short}  {:>10}  {used}  {} {}", bytes(object.size), about.name, about.version);
    }
    println!("{} files, {}", all.len(), bytes(total));
    Ok(ExitCode::SUCCESS)
}

fn gc(args: &Gc) -> anyhow::Result<ExitCode> {
    let most = match args.max_size {
        Some(Size::Auto) => bail!("--max-size must be a number with MiB, GiB, MB or GB"),
        Some(Size::Bytes(bytes)) => Some(bytes),
        None => None,
    };
    if args.keep_days.is_none() && most.is_none() {
        bail!("say what may go: --keep-days DAYS, --max-size SIZE, or both");
    }
    let mut digests = BTreeSet::new();
    for path in &args.lock {
        let lock = Lock::read(path)?;
        let lock = lock.with_context(|| format!("there is no lock file {}", path.display()))?;
        digests.extend(lock.artefacts.into_iter().map(|entry| entry.sha256));
    }
    let keep = Keep { since: args.keep_days.map(days_ago), bytes: most, digests };
    let cleaned = args.place.open()?.clean(&keep)?;
    if args.json {
        println!("{:#}", json!(cleaned));
        return Ok(ExitCode::SUCCESS);
    }
    let freed: u64 = cleaned.deleted.iter().map(|object| object.size).sum();
    for object in &cleaned.in_use {
        println!("in use: {} {}", object.sha256, object.about.name);
    }
    println!(
        "{} files and {} broken-off transfers deleted, {} freed, {} left",
        cleaned.deleted.len(),
        cleaned.partial,
        bytes(freed),
        bytes(cleaned.left)
    );
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &Verify) -> anyhow::Result<ExitCode> {
    let cache = args.place.open()?;
    let all = cache.list()?;
    let mut damaged = Vec::new();
    for object in &all {
        if !cache.verify(&object.sha256, args.repair)? {
            damaged.push(object);
        }
    }
    if args.json {
        let report = json!({"checked": all.len(), "damaged": damaged, "deleted": args.repair});
        println!("{report:#}");
    } else {
        for object in &damaged {
            let deleted = if args.repair { ", deleted" } else { "" };
            eprintln!("damaged{deleted}: {} {}", object.sha256, object.about.name);
        }
        println!("{} files checked, {} damaged", all.len(), damaged.len());
    }
    Ok(if damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
