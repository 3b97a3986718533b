//! The verbs of the command line, one file each: arguments in, calls out, text or JSON out.

pub mod build;
pub mod cache;
pub mod completion;
pub mod customize;
pub mod diff;
pub mod extract;
pub mod fetch;
pub mod flash;
pub mod flash_open;
pub mod inspect;
pub mod interrupt;
pub mod key;
pub mod lab;
pub mod man;
pub mod platform;
pub mod site;
pub mod spec;
pub mod transfers;
pub mod update;
pub mod verify;

pub use crate::progress;

use std::io::IsTerminal;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// Builds headnode images, looks into them, and tries them out.
#[derive(Debug, clap::Parser)]
#[command(version, about, long_about = LONG_ABOUT)]
pub struct Cli {
    /// More about what is done, on standard error; twice for debugging
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

const LONG_ABOUT: &str = "Builds headnode images, looks into them, and tries them out.

An image is a disk: written to a USB key, or given to a virtual machine, it starts the headnode of a
datacenter, which then boots all other machines over the network.

Exit codes: 0 it worked, 1 it failed or what was checked is damaged, 2 wrong arguments; `diff` ends
with 1 for different and 2 for failed.";

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Build(Box<build::Args>),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Diff(diff::Args),
    Customize(customize::Args),
    Extract(extract::Args),
    #[command(hide = true)]
    FlashOpen(flash_open::Args),
    Flash(Box<flash::Args>),
    Key(key::Args),
    Lab(lab::Args),
    Spec(spec::Args),
    Fetch(fetch::Args),
    Update(update::Args),
    /// Look after the cache of fetched parts
    #[command(subcommand)]
    Cache(cache::Verb),
    /// Make platform images
    Platform(platform::Platform),
    Completion(completion::Args),
    Man(man::Args),
}

/// Runs the command line.
pub fn run() -> ExitCode {
    let cli = <Cli as clap::Parser>::parse();
    let level = match cli.verbose {
        0 if matches!(cli.verb, Verb::Lab(_)) => "info",
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    // What it logs as an error comes back as one and is told with its address.
    let level = format!("{level},rustls_platform_verifier=off");
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let result = match cli.verb {
        Verb::Build(args) => build::run(*args),
        Verb::Inspect(args) => inspect::run(args),
        Verb::Verify(args) => verify::run(args),
        Verb::Diff(args) => diff::run(args),
        Verb::Customize(args) => customize::run(args),
        Verb::Extract(args) => extract::run(args),
        Verb::FlashOpen(args) => flash_open::run(&args),
        Verb::Flash(args) => flash::run(*args),
        Verb::Key(args) => key::run(args),
        Verb::Lab(args) => lab::run(args),
        Verb::Completion(args) => completion::run(&args, <Cli as clap::CommandFactory>::command()),
        Verb::Man(args) => man::run(&args, <Cli as clap::CommandFactory>::command()),
        Verb::Spec(args) => spec::run(args),
        Verb::Fetch(args) => fetch::run(args),
        Verb::Update(args) => update::run(args),
        Verb::Cache(verb) => cache::run(verb),
        Verb::Platform(args) => platform::run(args).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("headnode: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line. Many errors tell their cause themselves: it is not told again.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    plain(&text)
}

/// A text as a terminal can be trusted with: names in files and on disks of others may hold control
/// characters, which are told as escapes.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => plain.push(character),
            _ if character.is_control() => plain.extend(character.escape_default()),
            _ => plain.push(character),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let error = anyhow::anyhow!("unknown key \u{1b}[2Jx\u{9b}1m\nsecond line");
        assert_eq!(told(&error), "unknown key \\u{1b}[2Jx\\u{9b}1m\nsecond line");
    }

    #[test]
    fn causes_are_told_once() {
        let cause = std::io::Error::other("no disk");
        let error =
            anyhow::Error::new(crate::tree::Error::Read { path: "a".to_owned(), source: cause });
        let error = error.context("laying out the key");
        assert_eq!(told(&error), "laying out the key: reading the content of \"a\": no disk");
    }
}
