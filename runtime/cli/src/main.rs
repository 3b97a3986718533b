//! Starts [`sdc_cli::cli::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sdc_cli::cli::run()
}
