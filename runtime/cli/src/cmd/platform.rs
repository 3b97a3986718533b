//! `sdc platform`.

use clap::Subcommand;
use headnode_client::{Cnapi, ServerQuery};

use super::print_json;
use crate::outcome::{EXIT_CODES, Result, say};
use crate::table;

/// What to do with platform images.
#[derive(Debug, Subcommand)]
pub enum Platform {
    /// List the platform images, and how many servers run and will boot each
    #[command(after_help = EXIT_CODES)]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Platform {
    /// Does it.
    ///
    /// # Errors
    /// With the exit code that belongs to it.
    pub async fn run(self, cnapi: &Cnapi) -> Result {
        let Self::List { json } = self;
        let platforms = cnapi.list_platforms().await?;
        if json {
            return print_json(&platforms);
        }
        let servers = cnapi.list_servers(&ServerQuery::default()).await?;
        let default = cnapi.default_boot_params().await?.platform;
        let rows: Vec<_> = platforms
            .iter()
            .map(|(stamp, platform)| {
                let same = |other: &str| other.eq_ignore_ascii_case(stamp);
                let running = servers.iter().filter(|s| same(&s.current_platform)).count();
                let next = servers.iter().filter(|s| same(&s.boot_platform)).count();
                let mark = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
                vec![
                    stamp.clone(),
                    platform.os.clone().unwrap_or_default(),
                    mark(platform.latest == Some(true)),
                    mark(same(&default)),
                    running.to_string(),
                    next.to_string(),
                ]
            })
            .collect();
        say!(
            "{}",
            table::render(&["PLATFORM", "OS", "LATEST", "DEFAULT", "RUNNING", "NEXT BOOT"], &rows)
        )?;
        Ok(())
    }
}
