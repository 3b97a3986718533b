//! The command line, and the process around the service: logs, signals, readiness.

use std::io::IsTerminal;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;
use headnode_model::config::{Config, Headnode};
use headnode_model::{paths, ports};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use utoipa::OpenApi;

use crate::jobs::Limits;
use crate::service::Service;
use crate::store;

/// Threads that serve calls. Two are enough for hundreds of machines, and each costs memory.
const THREADS: usize = 2;

/// The control plane of a datacenter: CNAPI's core on an embedded database.
///
/// Machines register here, get their boot parameters, are set up and rebooted. The service reads
/// the headnode's configuration, listens on the admin address, and keeps its state in one SQLite
/// file or in PostgreSQL. It logs to standard error; RUST_LOG chooses how much (default: info).
/// SIGTERM ends it gracefully; jobs that are under way are continued at the next start.
#[derive(Debug, Parser)]
#[command(name = "sdc-control", version)]
struct Args {
    /// The headnode's configuration, lines of KEY=VALUE
    #[arg(long, value_name = "FILE", default_value = paths::USBKEY_CONFIG)]
    config: PathBuf,
    /// Address and port to listen on [default: the configuration's admin_ip, port 8010]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Database: a file for SQLite, or postgres://USER:PASSWORD@HOST/NAME
    #[arg(long, value_name = "PATH|URL", default_value = paths::CONTROL_DB, env = "SDC_CONTROL_DATABASE", hide_env_values = true)]
    database: String,
    /// Folder of platform images
    #[arg(long, value_name = "FOLDER", default_value_os_t = PathBuf::from(paths::USBKEY).join(paths::PLATFORMS))]
    platforms: PathBuf,
    /// Check the configuration and exit: 0 when it is good, 1 with all that is wrong
    #[arg(long)]
    check_config: bool,
    /// Print the OpenAPI description of all calls and exit
    #[arg(long)]
    openapi: bool,
}

/// Does what the command line says.
///
/// # Errors
/// With one line that says what is wrong and what to do.
pub fn run() -> Result<()> {
    let args = Args::parse();
    if args.openapi {
        let text = crate::api::openapi::Description::openapi().to_pretty_json();
        println!("{}", text.context("encoding the description")?);
        return Ok(());
    }
    let site = read_config(&args)?;
    if args.check_config {
        println!("{} is good: datacenter {}", args.config.display(), site.datacenter_name);
        return Ok(());
    }
    log()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        // Only the list of platforms is read in blocking threads.
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("starting threads")?;
    runtime.block_on(serve(args, site))
}

fn read_config(args: &Args) -> Result<Headnode> {
    let path = args.config.display();
    let text = std::fs::read_to_string(&args.config).with_context(|| format!("reading {path}"))?;
    let config = Config::parse(&text).with_context(|| format!("reading {path}"))?;
    config.headnode().with_context(|| format!("reading {path}"))
}

/// Logs for people on a terminal, JSON lines for a journal.
fn log() -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    };
    match started {
        Ok(()) => Ok(()),
        Err(error) => bail!("starting the log: {error}"),
    }
}

async fn serve(args: Args, site: Headnode) -> Result<()> {
    let address = args
        .listen
        .unwrap_or_else(|| SocketAddr::V4(SocketAddrV4::new(site.admin_ip, ports::CNAPI)));
    let store = store::open(&args.database).await?;
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("listening on {address}: is the admin NIC up, or another sdc-control running?")
    })?;
    let address = listener.local_addr().context("asking for the listening address")?;
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("waiting for signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            tracing::info!("stopping");
            if let Err(error) = crate::notify::notify("STOPPING=1") {
                tracing::warn!(%error, "telling systemd");
            }
            stop.cancel();
        });
    }
    let service = Service { store, site, platforms: args.platforms, limits: Limits::default() };
    let ready = || {
        tracing::info!(%address, database = "open", "ready");
        if let Err(error) = crate::notify::notify("READY=1") {
            tracing::warn!(%error, "telling systemd");
        }
    };
    service.run(listener, stop, ready).await?;
    tracing::info!("stopped");
    Ok(())
}
