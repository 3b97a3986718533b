//! `headnode diff`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::contents::Contents;
use crate::diff::{self, Diff, show};
use crate::progress::{Steps, set_file, set_length};

/// Tell what changed between two images
///
/// Compares versions, platforms, packages, programs, firmware, partitions and all files; of small
/// texts the changed lines are shown, except below a folder private/. Takes what `headnode inspect` can read;
/// both need not be of one format. What is packed is unpacked into the folder for temporary files
/// (TMPDIR) first, 1 TiB at most each.
///
/// Exit codes: 0 the same, 1 different, 2 an image cannot be read or wrong arguments.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The older image or archive
    old: PathBuf,
    /// The newer image or archive
    new: PathBuf,
    /// Tell it as Markdown for release notes
    #[arg(long, conflicts_with = "json")]
    notes: bool,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the verb. Errors are told here: their exit code differs from other verbs', as that of
/// `diff` does.
///
/// # Errors
/// Never.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    Ok(match compare(&args) {
        Ok(diff) if diff.same => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("headnode: {error:#}");
            ExitCode::from(2)
        }
    })
}

fn compare(args: &Args) -> anyhow::Result<Diff> {
    let mut steps = Steps::new(args.json || args.notes);
    let mut open = |path: &PathBuf| {
        steps.run(&format!("Opening {}", path.display()), |bar| {
            set_file(bar, path);
            Contents::open(path, &mut |bytes| bar.set_position(bytes))
                .with_context(|| format!("reading {}", path.display()))
        })
    };
    let (old, new) = (open(&args.old)?, open(&args.new)?);
    let diff = steps.run("Comparing", |bar| {
        diff::diff(&old, &new, &mut |done, total| {
            if bar.length() != Some(total) {
                set_length(bar, total);
            }
            bar.set_position(done);
        })
        .context("comparing the images")
    })?;
    if args.json {
        let mut told = serde_json::to_value(&diff)?;
        told["seconds"] = steps.json();
        println!("{told:#}");
    } else if args.notes {
        print!("{}", show::notes(&diff)?);
    } else {
        steps.table_if_long();
        print!("{}", show::Table(&diff));
    }
    Ok(diff)
}
