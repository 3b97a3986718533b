//! `headnode extract`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;

use crate::contents::Contents;
use crate::extract;
use crate::progress::{Steps, bytes, set_file, set_length};

/// Take files out of an image
///
/// PATH is a file or folder of the key, or of another partition with its name before a colon, as
/// loader:efi/boot/bootx64.efi; without any, everything is taken. Takes what `headnode inspect` can
/// read, so also tar archives; of one that holds a disk image, that image's files. What is packed is
/// unpacked into the folder for temporary files (TMPDIR) first, 1 TiB at most.
///
/// Nothing is written outside of --to, symbolic links in it are not followed, and files that exist
/// stay as they are unless --force is given.
///
/// Exit codes: 0 done, 1 failed (what was written before stays), 2 wrong arguments.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The image or archive, as it is or compressed
    image: PathBuf,
    /// What to take out; everything when there are none
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// Folder to write to; made when it is missing
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    to: Option<PathBuf>,
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
    /// List what would be taken, and take nothing
    #[arg(long)]
    list: bool,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the image cannot be read, lacks a path, or a file cannot be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut steps = Steps::new(args.json || args.list);
    let contents = steps.run("Opening the image", |bar| {
        set_file(bar, &args.image);
        Contents::open(&args.image, &mut |bytes| bar.set_position(bytes))
            .with_context(|| format!("reading {}", args.image.display()))
    })?;
    let items = extract::select(&contents, &args.paths)?;
    let files = items.iter().filter(|item| !item.entry.folder);
    let total: u64 = files.clone().map(|item| item.entry.size).sum();
    if let (Some(to), false) = (&args.to, args.list) {
        steps.run("Writing files", |bar| {
            set_length(bar, total);
            extract::extract(&contents, &items, to, args.force, &mut |done| bar.set_position(done))
                .with_context(|| format!("taking files out of {}", args.image.display()))
        })?;
    }
    if args.json {
        let list: Vec<_> = items
            .iter()
            .map(|item| {
                let kind = if item.entry.folder { "folder" } else { "file" };
                json!({"path": item.name, "kind": kind, "size": item.entry.size})
            })
            .collect();
        let to = args.to.as_ref().filter(|_| !args.list);
        println!(
            "{:#}",
            json!({"image": args.image, "to": to, "bytes": total, "items": list,
                               "seconds": steps.json()})
        );
    } else if args.list {
        for item in &items {
            let slash = if item.entry.folder { "/" } else { "" };
            println!("{:>12}  {}{slash}", item.entry.size, item.name);
        }
    } else if let Some(to) = &args.to {
        steps.table_if_long();
        println!("{} files, {} in {}", files.count(), bytes(total), to.display());
    }
    Ok(ExitCode::SUCCESS)
}
