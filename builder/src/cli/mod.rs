//! The verbs of the command line, one file each: arguments in, calls out, text or JSON out.

pub mod build;
pub mod inspect;
pub mod interrupt;
pub mod progress;
pub mod verify;

use std::process::ExitCode;

/// Builds, inspects and checks headnode images.
#[derive(Debug, clap::Parser)]
#[command(version, about, long_about = LONG_ABOUT)]
pub struct Cli {
    /// More about what is done, on standard error; twice for debugging
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

const LONG_ABOUT: &str = "Builds, inspects and checks headnode images.

An image is a disk: written to a USB key, or given to a virtual machine, it starts the headnode of a
datacenter, which then boots all other machines over the network.

Exit codes: 0 it worked, 1 it failed or what was checked is damaged, 2 wrong arguments.";

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Build(build::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
}

/// Runs the command line.
pub fn run() -> ExitCode {
    let cli = <Cli as clap::Parser>::parse();
    let level = match cli.verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
    let result = match cli.verb {
        Verb::Build(args) => build::run(args),
        Verb::Inspect(args) => inspect::run(args),
        Verb::Verify(args) => verify::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("headnode: {error:#}");
            ExitCode::FAILURE
        }
    }
}
