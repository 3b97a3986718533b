//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use headnode_client::Cnapi;
use headnode_model::boot::KernelParams;
use headnode_model::config::Config;
use headnode_model::{paths, ports};
use headnode_node::sysinfo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use uuid::Uuid;

use crate::daemon::Service;
use crate::linux::boot::{self, REGISTERED};
use crate::linux::{self, LinuxMachine};
use crate::report::TIMEOUTS;
use crate::steps::{Ended, Steps, console};

/// How often the console hears that CNAPI does not answer.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// The hand of the control plane on every machine.
///
/// Without a subcommand it runs as a daemon. On a compute node it first brings up the admin NIC,
/// fetches node.config from the headnode and imports the pool; on a headnode sdc-setup has done
/// that. Then it registers the machine with CNAPI, sends heartbeats and status, and serves tasks
/// on port 5309 of the admin address:
///
///   POST /tasks, GET /tasks/:id, GET /history, POST /pause, POST /resume, GET /ping,
///   GET /metrics, GET /healthz
///
/// Exit status: 0 stopped or checked well, 1 failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "sdc-agent", version)]
pub struct Cli {
    /// Check configuration and kernel parameters, say what is wrong, and end.
    #[arg(long)]
    check_config: bool,
    /// Configuration file; the default is /usbkey/config on a headnode and
    /// /opt/smartdc/config/node.config on a compute node.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Verb {
    /// Print what this machine tells of itself, as JSON, and end.
    Sysinfo,
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("sdc-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn init_log() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() { log.init() } else { log.json().init() }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let params = sysinfo::kernel_params(Path::new("/"));
    let path = cli.config.unwrap_or_else(|| {
        PathBuf::from(if params.headnode() { paths::USBKEY_CONFIG } else { paths::NODE_CONFIG })
    });
    if cli.check_config {
        return check(&params, &path);
    }
    match cli.command {
        Some(Verb::Sysinfo) => {
            let config = read_config(&path).unwrap_or_default();
            let (uuid, mac) = identify(&params, &config)?;
            let text = serde_json::to_string_pretty(&linux::collect(uuid, mac, &config))?;
            println!("{text}");
            Ok(())
        }
        None => {
            // One thread: the agent mostly waits, and its memory is not the customer's.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("starting the event loop")?.block_on(daemon(&params, &path))
        }
    }
}

fn read_config(path: &Path) -> anyhow::Result<Config> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Config::parse(&text).with_context(|| format!("reading {}", path.display()))
}

fn check(params: &KernelParams, path: &Path) -> anyhow::Result<()> {
    let config = read_config(path)?;
    let role = if params.headnode() {
        config.headnode()?;
        "headnode"
    } else {
        config.typed::<String>("datacenter_name")?;
        "compute node"
    };
    println!("{}: good for a {role}", path.display());
    Ok(())
}

fn identify(
    params: &KernelParams,
    config: &Config,
) -> anyhow::Result<(Uuid, Option<headnode_model::net::MacAddr>)> {
    let mac = params.admin_nic().or_else(|| config.typed("admin_nic").ok());
    let identity = linux::identity(params, linux::pool_uuid(), mac)?;
    for warning in &identity.warnings {
        tracing::warn!("{warning}");
    }
    Ok((identity.uuid, mac))
}

async fn daemon(params: &KernelParams, path: &Path) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let (steps, started) = if params.headnode() {
        (Steps::new(&[REGISTERED], console()), headnode(params, path)?)
    } else {
        let steps = Steps::new(&boot::STEPS, console());
        let started = tokio::select! {
            started = boot::start(params, &steps) => started?,
            () = stopped(stop.clone()) => return Ok(()),
        };
        (steps, started)
    };
    let address = (started.admin_ip, ports::AGENT);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {}:{}", address.0, address.1))?;
    let cnapi = Cnapi::with_timeouts(&started.cnapi_url, TIMEOUTS)?;
    let machine = Arc::new(started.machine);
    let service = Service { machine, cnapi, listener, tasks: linux::TASKS.into() };
    let url = started.cnapi_url;
    service
        .run(stopped(stop), |known| drop(tokio::spawn(await_registration(known, steps, url))))
        .await
}

/// The headnode: sdc-setup has brought it up.
fn headnode(params: &KernelParams, path: &Path) -> anyhow::Result<boot::Started> {
    let config = read_config(path)?;
    let admin_ip = config.headnode()?.admin_ip;
    let (uuid, mac) = identify(params, &config)?;
    if let Err(error) = linux::keep_uuid(uuid) {
        tracing::warn!("{error:#}");
    }
    let cnapi_url = config.cnapi_url();
    let cnapi_url = cnapi_url.unwrap_or_else(|| format!("http://{admin_ip}:{}", ports::CNAPI));
    Ok(boot::Started { machine: LinuxMachine::new(uuid, mac, config), admin_ip, cnapi_url })
}

/// The step `registered`: done when CNAPI knows this machine.
async fn await_registration(mut known: watch::Receiver<bool>, steps: Steps, url: String) {
    let step = steps.begin(REGISTERED);
    loop {
        let waited = tokio::time::timeout(TELL_EVERY, known.wait_for(|known| *known)).await;
        match waited {
            Ok(Ok(_)) => break,
            // The agent stops.
            Ok(Err(_)) => return,
            Err(_) => step.message(format!("CNAPI at {url} has not taken this server yet")),
        }
    }
    step.end::<String>(Ok(Ended::Done(format!("CNAPI at {url}")))).ok();
}

/// Turns true at SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let (told, stop) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        told.send_replace(true);
    });
    Ok(stop)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender lives until it has told; an error means the same as its word.
    let _ = stop.wait_for(|stop| *stop).await;
}
