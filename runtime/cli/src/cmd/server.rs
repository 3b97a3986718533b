//! `sdc server`.

use std::time::Duration;

use clap::{Args, Subcommand};
use headnode_client::{Cnapi, ServerQuery};
use serde_json::Value;

use super::{print_json, setup};
use crate::outcome::{EXIT_CODES, Failure, Result, say};
use crate::{find, follow, table};

/// How long `--wait` waits for a reboot: servers with much memory test it for minutes.
const REBOOT_LIMIT: Duration = Duration::from_secs(1800);

/// What to do with servers.
#[derive(Debug, Subcommand)]
pub enum Server {
    /// List servers, headnode first
    #[command(after_help = EXIT_CODES)]
    List(List),
    /// Show all that is known of a server, as JSON or by field
    #[command(after_help = EXIT_CODES)]
    Get(Get),
    /// Set servers up: pool, datasets, ready for instances
    #[command(after_help = EXIT_CODES)]
    Setup(setup::Setup),
    /// Reboot a server
    #[command(after_help = EXIT_CODES)]
    Reboot(Reboot),
    /// Forget a server that is gone for good; one that still runs comes back by itself
    #[command(after_help = EXIT_CODES)]
    Forget {
        /// UUID, its beginning, or host name
        server: String,
    },
}

/// `sdc server list`.
#[derive(Debug, Args)]
pub struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Fields to show, separated by commas: any of CNAPI's server object
    #[arg(
        short = 'o',
        long,
        value_delimiter = ',',
        value_name = "FIELDS",
        default_value = "hostname,uuid,status,setup,headnode,ram,current_platform,admin_ip"
    )]
    fields: Vec<String>,
    /// Leave out the headings
    #[arg(short = 'H', long)]
    no_headings: bool,
    /// Only servers that are set up, or are not
    #[arg(long, value_name = "BOOL")]
    setup: Option<bool>,
}

/// `sdc server get`.
#[derive(Debug, Args)]
pub struct Get {
    /// UUID, its beginning, or host name
    server: String,
    /// Print only this field: a name, or a path as sysinfo.Zpool
    #[arg(short = 'o', long, value_name = "FIELD")]
    field: Option<String>,
    /// Print JSON; without it, texts are printed bare
    #[arg(long)]
    json: bool,
}

/// `sdc server reboot`.
#[derive(Debug, Args)]
pub struct Reboot {
    /// UUID, its beginning, or host name
    server: String,
    /// Wait until the server is back
    #[arg(short, long)]
    wait: bool,
}

impl Server {
    /// Does it.
    ///
    /// # Errors
    /// With the exit code that belongs to it.
    pub async fn run(self, cnapi: &Cnapi) -> Result {
        match self {
            Self::List(list) => list.run(cnapi).await,
            Self::Get(get) => get.run(cnapi).await,
            Self::Setup(setup) => setup.run(cnapi).await,
            Self::Reboot(reboot) => reboot.run(cnapi).await,
            Self::Forget { server } => {
                let server = find::server(cnapi, &server).await?;
                cnapi.delete_server(server.uuid).await?;
                say!("{} ({}) is forgotten", server.hostname, server.uuid)?;
                Ok(())
            }
        }
    }
}

impl List {
    async fn run(self, cnapi: &Cnapi) -> Result {
        // The short list needs no sysinfo, but for the address.
        let extras = vec!["all".to_owned()];
        let query = ServerQuery { setup: self.setup, extras, ..ServerQuery::default() };
        let mut servers = cnapi.list_servers_json(&query).await?;
        servers.sort_by_key(|server| {
            let text = |field: &str| server[field].as_str().unwrap_or_default().to_owned();
            (server["headnode"] != Value::Bool(true), text("hostname"), text("uuid"))
        });
        if self.json {
            return print_json(&servers);
        }
        if servers.is_empty() {
            eprintln!("no servers; a machine appears here once it has booted from the network");
            return Ok(());
        }
        let mut known = true;
        let mut rows = Vec::new();
        for server in &servers {
            rows.push(self.fields.iter().map(|field| cell(server, field)).collect());
        }
        for field in &self.fields {
            if servers.iter().all(|server| lookup(server, field).is_none()) && optional(field) {
                eprintln!("sdc: no server has a field {field:?}");
                known = false;
            }
        }
        let headings: Vec<String> = self.fields.iter().map(|f| f.to_ascii_uppercase()).collect();
        let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
        let text = table::render(&headings, &rows);
        let skip = usize::from(self.no_headings);
        text.lines().skip(skip).try_for_each(|line| say!("{line}"))?;
        if known {
            Ok(())
        } else {
            Err(Failure::usage("see `sdc server get --json` for all fields"))
        }
    }
}

/// Whether a field that no server has is a mistake: some are there only at times.
fn optional(field: &str) -> bool {
    !["admin_ip", "last_boot", "last_heartbeat", "next_reboot"].contains(&field)
}

/// A field by name or path; `admin_ip` is short for the one in sysinfo.
fn lookup<'a>(server: &'a Value, field: &str) -> Option<&'a Value> {
    if field == "admin_ip" {
        return server.get("sysinfo")?.get("Admin IP");
    }
    server.get(field).or_else(|| field.split('.').try_fold(server, |value, key| value.get(key)))
}

fn cell(server: &Value, field: &str) -> String {
    match lookup(server, field) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => if *flag { "yes" } else { "no" }.to_owned(),
        Some(other) => other.to_string(),
    }
}

impl Get {
    async fn run(self, cnapi: &Cnapi) -> Result {
        let uuid = find::uuid(cnapi, &self.server).await?;
        let server = cnapi.get_server_json(uuid).await?;
        let server =
            server.ok_or_else(|| Failure::not_found(format!("there is no server {uuid}")))?;
        let Some(field) = self.field else { return print_json(&server) };
        match lookup(&server, &field) {
            None => Err(Failure::not_found(format!("the server has no field {field:?}"))),
            Some(Value::String(text)) if !self.json => {
                say!("{text}")?;
                Ok(())
            }
            Some(value) => print_json(value),
        }
    }
}

impl Reboot {
    async fn run(self, cnapi: &Cnapi) -> Result {
        let server = find::server(cnapi, &self.server).await?;
        let id = cnapi.reboot_server(server.uuid).await?;
        if !self.wait {
            say!("{} reboots; sdc task watch {id}", server.hostname)?;
            return Ok(());
        }
        let task = follow::task(cnapi, id, None, REBOOT_LIMIT).await?;
        say!("{}", follow::end(&task, &format!("reboot of {}", server.hostname))?)?;
        Ok(())
    }
}
