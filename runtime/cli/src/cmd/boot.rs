//! `sdc boot`.

use clap::{Args, Subcommand};
use headnode_client::{BootTarget, Cnapi};
use serde_json::{Map, Value};

use super::print_json;
use crate::find;
use crate::outcome::{EXIT_CODES, Failure, Result};

/// What to do with boot parameters, and about machines that boot.
#[derive(Debug, Subcommand)]
pub enum Boot {
    /// Show what a server boots with, or what new ones do
    #[command(after_help = EXIT_CODES)]
    Get {
        /// UUID, its beginning, host name, or `default`
        #[arg(default_value = "default")]
        server: String,
    },
    /// Change what a server boots with; what is not named stays. It counts from the next boot
    #[command(after_help = EXIT_CODES)]
    Set(Set),
    #[command(flatten)]
    Boots(super::boot_watch::Boots),
}

/// `sdc boot set`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("change").multiple(true).required(true)))]
pub struct Set {
    /// UUID, its beginning, host name, or `default`
    server: String,
    /// Platform image to boot
    #[arg(long, group = "change", value_name = "STAMP")]
    platform: Option<String>,
    /// Kernel argument to set; may be repeated
    #[arg(long = "arg", group = "change", value_name = "NAME=VALUE")]
    args: Vec<String>,
    /// Kernel argument to remove; may be repeated
    #[arg(long, group = "change", value_name = "NAME")]
    remove_arg: Vec<String>,
    /// Console: serial or vga
    #[arg(long, group = "change", value_name = "KIND")]
    console: Option<String>,
    /// Serial device of the console: ttya to ttyd
    #[arg(long, group = "change", value_name = "DEVICE")]
    serial: Option<String>,
}

async fn target(cnapi: &Cnapi, name: &str) -> Result<BootTarget> {
    match name {
        "default" => Ok(BootTarget::Default),
        name => Ok(BootTarget::Server(find::uuid(cnapi, name).await?)),
    }
}

async fn show(cnapi: &Cnapi, target: BootTarget) -> Result {
    let params = match target {
        BootTarget::Default => Some(cnapi.default_boot_params().await?),
        BootTarget::Server(uuid) => cnapi.boot_params(uuid).await?,
    };
    let params =
        params.ok_or_else(|| Failure::not_found(format!("there is no server {target}")))?;
    print_json(&params)
}

impl Boot {
    /// Does it.
    ///
    /// # Errors
    /// With the exit code that belongs to it.
    pub async fn run(self, cnapi: &Cnapi) -> Result {
        match self {
            Self::Get { server } => show(cnapi, target(cnapi, &server).await?).await,
            Self::Set(set) => {
                let changes = set.changes()?;
                let target = target(cnapi, &set.server).await?;
                cnapi.update_boot_params(target, &changes).await?;
                show(cnapi, target).await
            }
            Self::Boots(boots) => boots.run().await,
        }
    }
}

impl Set {
    fn changes(&self) -> Result<Value> {
        let mut args = Map::new();
        for argument in &self.args {
            let (name, value) = argument
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("--arg {argument}: expected NAME=VALUE")))?;
            args.insert(name.to_owned(), value.into());
        }
        args.extend(self.remove_arg.iter().map(|name| (name.clone(), Value::Null)));
        let mut changes = Map::new();
        if !args.is_empty() {
            changes.insert("kernel_args".to_owned(), args.into());
        }
        for (name, value) in [
            ("platform", &self.platform),
            ("default_console", &self.console),
            ("serial", &self.serial),
        ] {
            if let Some(value) = value {
                changes.insert(name.to_owned(), value.clone().into());
            }
        }
        Ok(Value::Object(changes))
    }
}
