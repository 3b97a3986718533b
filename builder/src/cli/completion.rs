//! `headnode completion`.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use clap_complete::Shell;

/// Print the completions of a shell
///
/// Examples:
///   headnode completion bash > /usr/share/bash-completion/completions/headnode
///   headnode completion zsh > ~/.zfunc/_headnode
///
/// Exit codes: 0 done, 1 failed, 2 wrong arguments.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the verb for the command that it completes.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &Args, mut command: clap::Command) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics when its output is closed.
    let mut text = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut text);
    std::io::stdout().write_all(&text).context("writing the completions")?;
    Ok(ExitCode::SUCCESS)
}
