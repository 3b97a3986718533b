//! `sdc server setup`: of one server, or of a room full of them.

use std::sync::Arc;

use clap::Args;
use headnode_client::{Cnapi, ServerQuery, SetupParams};
use headnode_model::server::{Server, ServerStatus};
use headnode_model::timing::SERVER_SETUP_LIMIT;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::outcome::{Failure, Result, say};
use crate::{find, follow, table};

/// How many setups of `--all` run at a time.
const PARALLEL: usize = 64;

/// `sdc server setup`.
#[derive(Debug, Args)]
pub struct Setup {
    /// UUIDs, their beginnings, or host names
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    servers: Vec<String>,
    /// All servers that run and are not set up
    #[arg(long)]
    all: bool,
    /// Wait until they are set up and show each step
    #[arg(short, long)]
    wait: bool,
    /// Host name for the server; only with one server
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    hostname: Option<String>,
    /// Layout of the pool: single, mirror, raidz1, raidz2, raidz3 [default: by number of disks]
    #[arg(long, value_name = "LAYOUT")]
    disk_layout: Option<String>,
}

impl Setup {
    /// Does it.
    pub async fn run(self, cnapi: &Cnapi) -> Result {
        if self.hostname.is_some() && self.servers.len() > 1 {
            return Err(Failure::usage("--hostname goes with one server only"));
        }
        let servers = self.chosen(cnapi).await?;
        if servers.is_empty() {
            say!("all running servers are set up")?;
            return Ok(());
        }
        let params = SetupParams {
            hostname: self.hostname.clone(),
            disk_layout: self.disk_layout.clone(),
            ..SetupParams::default()
        };
        let several = servers.len() > 1;
        let slots = Arc::new(Semaphore::new(PARALLEL));
        let mut work = JoinSet::new();
        for server in servers {
            let (cnapi, params) = (cnapi.clone(), params.clone());
            let (wait, slots) = (self.wait, Arc::clone(&slots));
            work.spawn(async move {
                let _slot = slots.acquire().await;
                let result = one(&cnapi, &server, &params, wait, several).await;
                (server, result)
            });
        }
        let mut results = Vec::new();
        while let Some(done) = work.join_next().await {
            results.push(done.map_err(|error| Failure::failed(error.to_string()))?);
        }
        match results.pop() {
            Some((_, result)) if !several => result.and_then(|line| say!("{line}")),
            last => summary(results.into_iter().chain(last).collect()),
        }
    }

    async fn chosen(&self, cnapi: &Cnapi) -> Result<Vec<Server>> {
        if self.all {
            let query = ServerQuery { setup: Some(false), ..ServerQuery::default() };
            let mut servers = cnapi.list_servers(&query).await?;
            // The headnode is sdc-setup's; it may be seen before CNAPI knows that it is done.
            servers.retain(|server| !server.headnode);
            for server in servers.iter().filter(|s| s.status != ServerStatus::Running) {
                eprintln!("{} ({}) is not running and is left out", server.hostname, server.uuid);
            }
            servers.retain(|server| server.status == ServerStatus::Running);
            return Ok(servers);
        }
        let mut servers: Vec<Server> = Vec::new();
        for name in &self.servers {
            let server = find::server(cnapi, name).await?;
            if servers.iter().all(|known| known.uuid != server.uuid) {
                servers.push(server);
            }
        }
        Ok(servers)
    }
}

/// Sets one server up; returns what to say of it.
async fn one(
    cnapi: &Cnapi,
    server: &Server,
    params: &SetupParams,
    wait: bool,
    several: bool,
) -> Result<String> {
    let name = &server.hostname;
    let Some(id) = cnapi.setup_server(server.uuid, params).await? else {
        return Ok(format!("{name} is set up already"));
    };
    if !wait {
        return Ok(format!("setup of {name} begins; sdc task watch {id}"));
    }
    let label = several.then_some(name.as_str());
    let task = follow::task(cnapi, id, label, SERVER_SETUP_LIMIT).await?;
    follow::end(&task, &format!("setup of {name}"))
}

fn summary(mut results: Vec<(Server, Result<String>)>) -> Result {
    results.sort_by(|a, b| a.0.hostname.cmp(&b.0.hostname));
    let row = |(server, result): &(Server, Result<String>)| {
        let (state, text) = match result {
            Ok(text) => ("ok", text.clone()),
            Err(failure) => ("FAILED", failure.first_line().to_owned()),
        };
        vec![server.hostname.clone(), server.uuid.to_string(), state.to_owned(), text]
    };
    let rows: Vec<_> = results.iter().map(row).collect();
    say!("{}", table::render(&["HOSTNAME", "UUID", "SETUP", "RESULT"], &rows))?;
    match results.iter().filter(|(_, result)| result.is_err()).count() {
        0 => Ok(()),
        failed => Err(Failure::failed(format!("{failed} of {} setups failed", results.len()))),
    }
}
