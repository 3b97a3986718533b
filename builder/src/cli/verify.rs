//! `headnode verify`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::progress::{Steps, bytes, set_length};
use crate::manifest::verify::{self, Report};

/// Check an image against its manifest
///
/// Reads every partition, every mapped range and every file of the key and compares them with the
/// manifest beside the image (<image>.manifest.json, or --manifest). Without one, the files are
/// checked by the manifest on the key itself. Compressed images are unpacked into the folder for
/// temporary files first.
///
/// Exit codes: 0 all is well, 1 something is damaged (each file is named) or cannot be read.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The image: raw, .zst or .gz
    image: PathBuf,
    /// The manifest, when it is not beside the image
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the image cannot be read.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut steps = Steps::new(args.json);
    let report = steps.run("Checking the image", |bar| {
        verify::verify(&args.image, args.manifest.as_deref(), &mut |done, total| {
            if total > 0 && bar.length() != Some(total) {
                set_length(bar, total);
            }
            bar.set_position(done);
        })
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(if report.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report) {
    for damage in &report.damage {
        println!("damaged: {}: {}", damage.what, damage.why);
    }
    let against = match &report.manifest {
        Some(path) => format!("by {}", path.display()),
        None => "by the key's own manifest (there is none beside the image, so partitions and \
                 loaders were not checked)"
            .to_owned(),
    };
    let verdict = if report.damage.is_empty() { "whole" } else { "DAMAGED" };
    println!(
        "{}: {verdict}; {} files, {} checked {against}",
        report.image.display(),
        report.files,
        bytes(report.bytes)
    );
}
