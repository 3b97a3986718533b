//! `headnode fetch`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use super::interrupt;
use super::progress::{Steps, bytes};
use super::transfers::Transfers;
use crate::platform::default_cache;
use crate::source::cache::Cache;
use crate::source::fetch::{self, Artefact};
use crate::source::http::{Http, Patience};
use crate::source::lock::{self, Change, Lock};
use crate::source::plan::{self, Update};
use crate::spec::parts::process_env;
use crate::spec::{self, Spec};

/// Fetch the parts that build.spec names, and pin them in the lock file
///
/// What the lock file has is fetched exactly so; what is new in the spec is looked up and added, and
/// what is no longer asked for is dropped. `headnode update` moves on to newer builds.
///
/// Files come from Manta, IMGAPI, web servers, or folders of this machine. Transfers are resumed,
/// also by a later run. A file of the cache is never fetched twice. Files of this machine that the
/// spec names by top-level keys are pinned as they are now.
///
/// Examples:
///   headnode fetch
///   headnode fetch --spec release.spec --lock release.lock --jobs 8
///   SOURCE_BITS_DIR=/bits headnode fetch --feature debug-platform
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    pub(super) common: Common,
}

/// What fetch and update share.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// File that tells what to build
    #[arg(long, value_name = "FILE", default_value = spec::DEFAULT)]
    spec: PathBuf,
    /// The lock file
    #[arg(long, value_name = "FILE", default_value = lock::DEFAULT)]
    lock: PathBuf,
    /// Switch a feature of the spec on; may be given several times
    #[arg(long, value_name = "NAME")]
    feature: Vec<String>,
    /// Switch a feature of the spec off; may be given several times
    #[arg(long, value_name = "NAME")]
    no_feature: Vec<String>,
    #[command(flatten)]
    cache: Place,
    /// Files that are transferred at the same time
    #[arg(long, value_name = "COUNT", default_value_t = fetch::JOBS as u16, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Attempts in a row that bring nothing before a transfer is given up
    #[arg(long, value_name = "COUNT", default_value_t = Patience::default().attempts)]
    attempts: u32,
    /// Seconds that a server may be silent
    #[arg(long, value_name = "SECONDS", default_value_t = Patience::default().stall.as_secs_f64())]
    stall: f64,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    pub(super) json: bool,
}

/// Where the cache is.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// The cache [default: $XDG_CACHE_HOME/headnode or ~/.cache/headnode]
    #[arg(long, value_name = "DIR", env = "HEADNODE_CACHE")]
    cache: Option<PathBuf>,
}

impl Place {
    /// Opens it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(&self) -> anyhow::Result<Cache> {
        let folder = self.cache.clone().or_else(default_cache);
        let folder =
            folder.context("finding a place for the cache: neither HOME nor --cache is set")?;
        Ok(Cache::open(&folder)?)
    }
}

/// Runs the verb.
///
/// # Errors
/// When a part cannot be fetched; all of them are told.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let common = args.common;
    let mut steps = Steps::new(common.json);
    let (artefacts, changes, fetched) = pin(&common, &Update::Nothing, &mut steps)?;
    if common.json {
        let report = json!({"lock": common.lock, "artefacts": artefacts, "changes": changes,
                            "fetched": fetched, "seconds": steps.json()});
        println!("{report:#}");
    } else {
        steps.table_if_long();
        let size: u64 = artefacts.iter().map(|artefact| artefact.entry.size).sum();
        let lock = common.lock.display();
        println!("{} parts, {}, pinned by {lock}", artefacts.len(), bytes(size));
    }
    Ok(ExitCode::SUCCESS)
}

/// Fetches and writes the lock file. Parts, what changed in the lock file, bytes transferred.
///
/// # Errors
/// When a part cannot be fetched; the lock file stays as it was then.
pub(super) fn pin(
    common: &Common,
    update: &Update,
    steps: &mut Steps,
) -> anyhow::Result<(Vec<Artefact>, Vec<Change>, u64)> {
    let spec = read_spec(&common.spec, &common.feature, &common.no_feature)?;
    let stall = Duration::try_from_secs_f64(common.stall)
        .ok()
        .filter(|stall| !stall.is_zero())
        .context("reading --stall: it must be more than 0 seconds")?;
    let attempts = common.attempts.max(1);
    let transfer = Transfer {
        patience: Patience { attempts, stall, ..Patience::default() },
        jobs: usize::from(common.jobs),
        quiet: common.json,
    };
    pin_spec(&spec, &common.lock, &common.cache, update, transfer, steps)
}

/// How files are transferred.
pub(super) struct Transfer {
    /// What servers may do.
    pub patience: Patience,
    /// How many at the same time.
    pub jobs: usize,
    /// Whether nothing is shown.
    pub quiet: bool,
}

/// As [`pin`], of a spec that was read already.
///
/// # Errors
/// As [`pin`].
pub(super) fn pin_spec(
    spec: &Spec,
    lock_file: &Path,
    cache: &Place,
    update: &Update,
    transfer: Transfer,
    steps: &mut Steps,
) -> anyhow::Result<(Vec<Artefact>, Vec<Change>, u64)> {
    let Transfer { patience, jobs, quiet } = transfer;
    let old = Lock::read(lock_file)?;
    let cache = cache.open()?;
    let http = Http::new(patience);
    interrupt::watch_transfers()?;
    let wanted = steps.run("Looking up the parts", |_| {
        Ok(plan::plan(spec, &process_env, old.as_ref(), update, &http, jobs)?)
    })?;
    let board = Transfers::new(quiet);
    // It shows what it does by itself.
    let artefacts = steps.time("Fetching and reading the parts", || {
        let artefacts = fetch::fetch(wanted, &cache, &http, jobs, &board);
        board.finish();
        Ok(artefacts?)
    })?;
    let lock = fetch::lock_of(&artefacts);
    let changes = lock::changes(&old.clone().unwrap_or_default(), &lock);
    if old.as_ref() != Some(&lock) {
        lock.write(lock_file)?;
    }
    Ok((artefacts, changes, board.transferred()))
}

fn read_spec(file: &Path, on: &[String], off: &[String]) -> anyhow::Result<Spec> {
    let spec = Spec::read(file)?;
    let flags = Spec { feature: on.to_vec(), no_feature: off.to_vec(), ..Spec::default() };
    Ok(flags.or(spec))
}
