//! The command `headnode`.

use std::process::ExitCode;

fn main() -> ExitCode {
    headnode::cli::run()
}
