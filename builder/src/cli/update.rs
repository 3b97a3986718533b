//! `headnode update`.

use std::process::ExitCode;

use serde_json::json;

use super::fetch::{Common, pin};
use super::progress::{Steps, bytes};
use crate::source::lock::Change;
use crate::source::plan::Update;

/// Move the lock file on to the newest builds, and tell what changed
///
/// Without names all parts are looked up anew. The parts are fetched, so that the lock file never
/// names what cannot be had.
///
/// Examples:
///   headnode update
///   headnode update cnapi platform
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Zones and files of the spec; where both have the name, zone.NAME or file.NAME
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// Runs the verb.
///
/// # Errors
/// When a part cannot be looked up or fetched; the lock file stays as it was then.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let update = match args.names.is_empty() {
        true => Update::All,
        false => Update::Named(args.names.into_iter().collect()),
    };
    let mut steps = Steps::new(args.common.json);
    let (artefacts, changes, fetched) = pin(&args.common, &update, &mut steps)?;
    if args.common.json {
        let report = json!({"changes": changes, "parts": artefacts.len(), "fetched": fetched,
                            "seconds": steps.json()});
        println!("{report:#}");
        return Ok(ExitCode::SUCCESS);
    }
    steps.table_if_long();
    for change in &changes {
        println!("{}", told(change));
    }
    let same = artefacts.len() - changes.iter().filter(|change| change.is.is_some()).count();
    println!("{} changed, {same} as they were", changes.len());
    Ok(ExitCode::SUCCESS)
}

fn told(change: &Change) -> String {
    let side = |side: &Option<(String, u64)>| match side {
        Some((version, size)) if version.is_empty() => bytes(*size),
        Some((version, size)) => format!("{version} ({})", bytes(*size)),
        None => "nothing".to_owned(),
    };
    format!("{}: {} → {}", change.name, side(&change.was), side(&change.is))
}
