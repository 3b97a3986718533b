//! `headnode flash-open`, which `headnode flash` starts as root where its user has no right to write
//! to a disk.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::flash::device::helper;

/// Open a disk for `headnode flash`, which talks to this over standard input
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The disk
    device: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// When standard input is no socket, or what comes over it is not understood.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let input = std::io::stdin();
    let is_socket = rustix::net::sockopt::socket_domain(input.as_fd()).is_ok();
    if input.is_terminal() || !is_socket {
        anyhow::bail!(
            "standard input is no socket of `headnode flash`, which runs this itself; where sudo is \
             told to log input (log_input), run `headnode flash` as root"
        );
    }
    let socket =
        UnixStream::from(input.as_fd().try_clone_to_owned().context("keeping the socket")?);
    helper::serve(&socket, &args.device).context("talking to `headnode flash`")?;
    Ok(ExitCode::SUCCESS)
}
