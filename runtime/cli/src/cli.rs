//! The command line.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use headnode_client::{Cnapi, Timeouts};
use headnode_model::config::Config;
use headnode_model::paths;

use crate::cmd;
use crate::outcome::{EXIT_CODES, Failure, Result};

/// Look at and command the machines of this datacenter.
///
/// A machine that boots from the network appears in `sdc server list` by itself. `sdc server setup`
/// makes its pool and readies it for instances.
#[derive(Debug, Parser)]
#[command(name = "sdc", version, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Base URL of CNAPI [default: from /usbkey/config]
    #[arg(long, global = true, value_name = "URL", env = "SDC_CNAPI_URL")]
    cnapi_url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Servers: list, look, set up, reboot
    #[command(subcommand)]
    Server(cmd::server::Server),
    /// Platform images that servers can boot
    #[command(subcommand)]
    Platform(cmd::platform::Platform),
    /// What servers boot with, and machines on their way
    #[command(subcommand)]
    Boot(cmd::boot::Boot),
    /// Tasks: setups and reboots, how far they are
    #[command(subcommand)]
    Task(cmd::task::Task),
    /// Whether the services of this headnode work, one line each
    #[command(after_help = EXIT_CODES)]
    Status(cmd::status::Status),
    /// Print the completion script for a shell: sdc completion bash > /etc/bash_completion.d/sdc
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("starting: {error}")).report(),
    };
    match runtime.block_on(dispatch(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn dispatch(cli: Cli) -> Result {
    if let Command::Completion { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "sdc", &mut std::io::stdout());
        return Ok(());
    }
    // The booter works without CNAPI, so its commands do as well.
    if let Command::Boot(cmd::boot::Boot::Boots(command)) = cli.command {
        return command.run().await;
    }
    let cnapi = connect(&cli.global)?;
    match cli.command {
        Command::Server(command) => command.run(&cnapi).await,
        Command::Platform(command) => command.run(&cnapi).await,
        Command::Boot(command) => command.run(&cnapi).await,
        Command::Task(command) => command.run(&cnapi).await,
        Command::Status(command) => command.run(&cnapi).await,
        Command::Completion { .. } => Ok(()),
    }
}

/// CNAPI where the command line, the environment or the configuration says.
fn connect(global: &Global) -> Result<Cnapi> {
    let timeouts = Timeouts { connect: Duration::from_secs(3), total: Duration::from_secs(15) };
    let url = match &global.cnapi_url {
        Some(url) => url.clone(),
        None => configured_url().map_err(|error| {
            Failure::usage(format!(
                "{error:#}\n  not on a headnode? give --cnapi-url or set SDC_CNAPI_URL"
            ))
        })?,
    };
    Cnapi::with_timeouts(&url, timeouts).map_err(|error| Failure::usage(error.to_string()))
}

fn configured_url() -> anyhow::Result<String> {
    let path = paths::USBKEY_CONFIG;
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let config = Config::parse(&text).with_context(|| format!("reading {path}"))?;
    config.cnapi_url().with_context(|| format!("{path} has neither cnapi_client_url nor admin_ip"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
