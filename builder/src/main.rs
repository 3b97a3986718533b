//! The command `headnode`.

use clap::{Parser, Subcommand};

/// Builds headnode images and everything that goes into them.
#[derive(Parser)]
#[command(name = "headnode", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make platform images
    Platform(headnode::cli::platform::Platform),
}

fn main() -> std::process::ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Platform(args) => headnode::cli::platform::run(args),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
