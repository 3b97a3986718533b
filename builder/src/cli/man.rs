//! `headnode man`.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Command;

/// Write the manual's pages
///
/// Without --to the page of one verb, or of the command itself, goes to standard output.
///
/// Examples:
///   headnode man build | man -l -
///   headnode man --to /usr/local/share/man/man1
///
/// Exit codes: 0 done, 1 failed, 2 wrong arguments.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The verb, as: build, or: key new
    verb: Vec<String>,
    /// Write all pages into this folder; pages that exist are replaced
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    to: Option<PathBuf>,
}

/// Runs the verb for the command that it describes.
///
/// # Errors
/// When there is no such verb, or a page cannot be written.
pub fn run(args: &Args, command: Command) -> anyhow::Result<ExitCode> {
    let mut pages = Vec::new();
    collect(command, &[], &mut pages);
    if let Some(folder) = &args.to {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        for (words, page) in &pages {
            let path = folder.join(format!("{}.1", words.join("-")));
            fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
        }
        println!("{} pages in {}", pages.len(), folder.display());
        return Ok(ExitCode::SUCCESS);
    }
    let Some((_, page)) = pages.iter().find(|(words, _)| words.iter().skip(1).eq(&args.verb))
    else {
        bail!("there is no verb {:?}; `headnode help` lists them", args.verb.join(" "));
    };
    std::io::stdout().write_all(page).context("writing the page")?;
    Ok(ExitCode::SUCCESS)
}

/// The pages of a command and of its verbs, each with the words that call it.
fn collect(command: Command, above: &[String], pages: &mut Vec<(Vec<String>, Vec<u8>)>) {
    let mut words = above.to_vec();
    words.push(command.get_name().to_owned());
    let page_name = words.join("-");
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        if verb.get_name() != "help" {
            collect(verb.clone(), &words, pages);
        }
    }
    let page = clap_mangen::Man::new(command.display_name(page_name).bin_name(words.join(" ")));
    let mut text = Vec::new();
    // Writing to memory does not fail.
    if page.render(&mut text).is_ok() {
        pages.push((words, text));
    }
}
