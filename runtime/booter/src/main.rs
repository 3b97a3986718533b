//! `sdc-booter`: boots the machines of the admin network, or of any rack.

mod command;
mod start;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use std::io::{IsTerminal, Write};
use tracing_subscriber::EnvFilter;

use command::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.example_config {
        return print(sdc_booter::alone::EXAMPLE.as_bytes());
    }
    if args.man_page {
        return man_page();
    }
    start_log();
    match start::run(&args) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(bytes: &[u8]) -> ExitCode {
    match std::io::stdout().write_all(bytes) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(_) => ExitCode::FAILURE,
    }
}

fn man_page() -> ExitCode {
    let page = clap_mangen::Man::new(Args::command()).section("8").manual("sdc-booter");
    let mut bytes = Vec::new();
    match page.render(&mut bytes) {
        Ok(()) => print(&bytes),
        Err(_) => ExitCode::FAILURE,
    }
}

fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().flatten_event(true).init();
    }
}
