//! The agent's command; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sdc_agent::cli::main()
}
