//! The command `headnode`: parse and dispatch, nothing else.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, writes and tries out headnode images.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// A datacenter in QEMU: a headnode from an image, and blank nodes that boot from the network
    Lab(headnode::cli::lab::Args),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    let Verb::Lab(args) = Cli::parse().verb;
    match headnode::cli::lab::run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("headnode: {error:#}");
            ExitCode::FAILURE
        }
    }
}
