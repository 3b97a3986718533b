//! `headnode verify`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::manifest::signature::PublicKey;
use crate::manifest::verify::{self, Options, Report};
use crate::progress::{Steps, bytes, set_file, set_length};

/// Check an image against its manifest
///
/// Checks the manifest's signature, the partition table, every partition with all that lies around
/// it, and that the key holds the files that the manifest (<image>.manifest.json, or --manifest) lists.
/// Where a partition is damaged the broken files are named; --deep checks every file also where its
/// partition is whole. Without a manifest beside the image, the files are checked by the one on the
/// key itself.
///
/// Archives have no manifest beside them. A tar of the key's files is checked by the manifest in it; the
/// files for a boot server (pxe) by their list of digests and, file by file with --deep, by the manifest
/// of the key that lies packed among them; a platform of SmartOS by its boot archive's hash, which says
/// nothing of its other files: the result tells how many those are; and the file as a whole by the list
/// of digests beside it (<name>.SHA256SUMS), whose signature counts. Links that lead nowhere, and devices,
/// are damage, as no manifest tells of them.
///
/// Takes what `headnode inspect` can read. What is packed is unpacked into the folder for temporary
/// files (TMPDIR) first, 1 TiB at most.
///
/// Personal parts (answers, keys, console: see customize) are told apart: that they are not as built is
/// no damage, but what their readers would refuse is.
///
/// With --public-key the manifest, or an archive's list of digests, must be signed by that key
/// (<manifest>.minisig, <list>.minisig); without, the result tells whether there is a signature, which
/// then is not checked.
///
/// Exit codes: 0 all is well, 1 something is damaged (each file is named), not signed as demanded, or
/// cannot be read, 2 wrong arguments.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The image or archive, as it is or compressed
    image: PathBuf,
    /// The manifest, when it is not beside the image
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The key that must have signed the manifest: its file, or the key itself
    #[arg(long, value_name = "FILE|KEY")]
    public_key: Option<String>,
    /// Check every file by itself
    #[arg(long)]
    deep: bool,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the image cannot be read.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let public_key = args.public_key.as_deref().map(PublicKey::from_argument).transpose()?;
    let options = Options {
        manifest: args.manifest.as_deref(),
        public_key: public_key.as_ref(),
        deep: args.deep,
    };
    let mut steps = Steps::new(args.json);
    let ready = steps.run("Opening the image", |bar| {
        set_file(bar, &args.image);
        verify::open(&args.image, options, &mut |bytes| bar.set_position(bytes))
    })?;
    let report = steps.run("Checking the image", |bar| {
        verify::check(ready, options, &mut |done, total| {
            if total > 0 && bar.length() != Some(total) {
                set_length(bar, total);
            }
            bar.set_position(done);
        })
    })?;
    if args.json {
        let mut told = serde_json::to_value(&report)?;
        told["seconds"] = steps.json();
        println!("{told:#}");
    } else {
        steps.table_if_long();
        print(&report);
    }
    Ok(if report.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report) {
    for damage in &report.damage {
        println!("damaged: {}: {}", damage.what, damage.why);
    }
    for part in &report.personal {
        println!("personal: {part}");
    }
    if let Some(signature) = &report.signature {
        println!("signature: {signature}");
    }
    let verdict = if report.damage.is_empty() { "whole" } else { "DAMAGED" };
    println!(
        "{}: {verdict}; {} files, {} checked by {}",
        report.image.display(),
        report.files,
        bytes(report.bytes),
        report.against
    );
}
