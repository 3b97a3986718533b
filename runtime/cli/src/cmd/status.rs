//! `sdc status`: one line per service.

use std::time::Duration;

use clap::Args;
use headnode_client::{Agent, Cnapi, ServerQuery, Timeouts};
use headnode_model::ports;
use headnode_model::server::ServerStatus;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use super::print_json;
use crate::outcome::{Failure, Result, say};
use crate::table;

/// How long a service may take to say that it works.
const PATIENCE: Duration = Duration::from_secs(3);

/// `sdc status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

struct Line {
    service: &'static str,
    place: String,
    state: std::result::Result<String, String>,
}

impl Status {
    /// Does it.
    ///
    /// # Errors
    /// When one of the services does not work.
    pub async fn run(self, cnapi: &Cnapi) -> Result {
        let host = host(cnapi.base_url());
        let lines = [control(cnapi).await, booter(&host).await, agent(&host).await];
        let state = |line: &Line| if line.state.is_ok() { "ok" } else { "DOWN" };
        let text = |line: &Line| line.state.clone().unwrap_or_else(|error| error);
        if self.json {
            let list: Vec<_> = lines
                .iter()
                .map(|l| json!({"service": l.service, "url": l.place, "ok": l.state.is_ok(), "detail": text(l)}))
                .collect();
            print_json(&list)?;
        } else {
            let rows: Vec<_> = lines
                .iter()
                .map(|l| vec![l.service.to_owned(), state(l).to_owned(), l.place.clone(), text(l)])
                .collect();
            say!("{}", table::render(&["SERVICE", "STATE", "URL", "DETAIL"], &rows))?;
        }
        match lines.iter().find(|line| line.state.is_err()) {
            None => Ok(()),
            Some(line) => Err(Failure::failed(format!(
                "{0} does not work: systemctl status {0}; journalctl -u {0}",
                line.service
            ))),
        }
    }
}

/// The host in a base URL.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_owned()
}

async fn control(cnapi: &Cnapi) -> Line {
    let state = match cnapi.ping().await {
        Err(error) => Err(error.to_string()),
        Ok(_) => match cnapi.list_servers(&ServerQuery::default()).await {
            Err(error) => Err(error.to_string()),
            Ok(servers) => {
                let running = servers.iter().filter(|s| s.status == ServerStatus::Running).count();
                Ok(format!("{} servers, {running} running", servers.len()))
            }
        },
    };
    Line { service: "sdc-control", place: cnapi.base_url().to_owned(), state }
}

/// The booter's `/healthz`, asked by hand: its answer is no JSON.
async fn booter(host: &str) -> Line {
    let place = format!("http://{host}:{}", ports::BOOTER_HTTP);
    let ask = async {
        let mut stream = TcpStream::connect((host, ports::BOOTER_HTTP)).await?;
        let request = format!("GET /healthz HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let state = match timeout(PATIENCE, ask).await {
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(answer)) => {
            let first = answer.lines().next().unwrap_or_default();
            let code = first.split(' ').nth(1).unwrap_or_default();
            if code == "200" {
                Ok("healthy".to_owned())
            } else {
                Err(format!("answered {first:?}"))
            }
        }
    };
    Line { service: "sdc-booter", place, state }
}

/// The headnode's own agent: any answer to a task that is not there will do.
async fn agent(host: &str) -> Line {
    let place = format!("http://{host}:{}", ports::AGENT);
    let timeouts = Timeouts { connect: PATIENCE, total: PATIENCE };
    let state = match Agent::with_timeouts(&place, timeouts) {
        Err(error) => Err(error.to_string()),
        Ok(agent) => match agent.get_task(Uuid::nil()).await {
            Ok(_) => Ok("answers".to_owned()),
            // A refusal is an answer too.
            Err(error) if error.status().is_some_and(|status| status < 500) => {
                Ok("answers".to_owned())
            }
            Err(error) => Err(error.to_string()),
        },
    };
    Line { service: "sdc-agent", place, state }
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn hosts_of_urls() {
        for url in ["http://10.0.0.7:8010", "http://10.0.0.7", "http://10.0.0.7:8010/x"] {
            assert_eq!(host(url), "10.0.0.7");
        }
    }
}
