//! Starts [`sdc_control::cli::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    match sdc_control::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sdc-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}
