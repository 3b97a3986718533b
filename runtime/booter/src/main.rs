//! `sdc-booter`: boots the machines of the admin network.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use headnode_client::Cnapi;
use headnode_model::config::{Config, Problem, Problems};
use headnode_model::{net::MacAddr, paths};
use sdc_booter::params::Directory;
use sdc_booter::settings::{BESIDE_CONFIG, File, Ports, Settings};
use sdc_booter::{Booter, Sockets, net, networks, notify};
use std::io::IsTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Boots machines over the network: DHCP and TFTP hand out iPXE, HTTP a boot script per machine,
/// the platform image and the node's software.
///
/// Reads the headnode's configuration (keys admin_ip, admin_netmask, admin_nic, admin_gateway,
/// dhcp_range_start, dhcp_range_end, dhcp_lease_time, dns_resolvers). Answers machines that boot
/// by PXE or UEFI HTTP only. config.inc/booter.toml in the root folder, when it is there, adds
/// networks behind relays, admission, limits and TLS; SIGHUP has it read again. Goes on booting known machines while CNAPI is down.
///
/// Exit codes: 0 stopped by a signal, or the check found nothing; 1 could not start or failed;
/// 2 wrong arguments; 3 the configuration is wrong.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The headnode's configuration file
    #[arg(long, value_name = "FILE", default_value = paths::USBKEY_CONFIG)]
    config: PathBuf,
    /// Folder with os/, extra/ and firmware/ipxe/
    #[arg(long, value_name = "DIR", default_value = paths::USBKEY)]
    root: PathBuf,
    /// Folder for leases and cached boot parameters
    #[arg(long, value_name = "DIR", default_value = paths::BOOTER_STATE)]
    state: PathBuf,
    /// NIC to serve on [default: the one with the address admin_ip, else with the MAC admin_nic]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// CNAPI's base URL [default: the key cnapi_client_url, else port 8010 of admin_ip]
    #[arg(long, value_name = "URL")]
    cnapi: Option<String>,
    /// Unix socket of the operator's interface (`sdc boot list`)
    #[arg(long, value_name = "FILE", default_value = headnode_model::booter::SOCKET)]
    socket: PathBuf,
    /// Report all problems of configuration and files, and end
    #[arg(long)]
    check_config: bool,
    /// UDP port of the DHCP server
    #[arg(long, value_name = "PORT", default_value_t = Ports::default().dhcp_server, hide_short_help = true)]
    dhcp_port: u16,
    /// UDP port of DHCP clients
    #[arg(long, value_name = "PORT", default_value_t = Ports::default().dhcp_client, hide_short_help = true)]
    dhcp_client_port: u16,
    /// UDP port of the TFTP server
    #[arg(long, value_name = "PORT", default_value_t = Ports::default().tftp, hide_short_help = true)]
    tftp_port: u16,
    /// TCP port of the HTTP server
    #[arg(long, value_name = "PORT", default_value_t = Ports::default().http, hide_short_help = true)]
    http_port: u16,
    /// Address that DHCP replies to machines without an address are sent to
    #[arg(long, value_name = "IP", default_value_t = Ipv4Addr::BROADCAST, hide_short_help = true)]
    broadcast: Ipv4Addr,
}

/// The exit code of a wrong configuration.
const WRONG_CONFIG: u8 = 3;

fn main() -> ExitCode {
    let args = Args::parse();
    start_log();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().flatten_event(true).init();
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(&args.config)
        .with_context(|| format!("reading {}", args.config.display()))?;
    let (mut settings, config) = match Settings::from_config(&text, &args.root, &args.state) {
        Ok(found) => found,
        Err(problems) => return Ok(report(args, &problems.0)),
    };
    settings.ports = Ports {
        dhcp_server: args.dhcp_port,
        dhcp_client: args.dhcp_client_port,
        tftp: args.tftp_port,
        http: args.http_port,
    };
    settings.broadcast = args.broadcast;
    settings.socket = Some(args.socket.clone());
    settings.more = match File::read(&args.root.join(BESIDE_CONFIG)) {
        Ok(more) => more,
        Err(error) => {
            let key = BESIDE_CONFIG.to_owned();
            return Ok(report(args, &[Problem { key, message: error.to_string() }]));
        }
    };
    let mut problems = settings.problems();
    let mut fatal = settings.more.problems();
    fatal.extend(networks::problems(&settings.networks()));
    match interface(args, &settings, &config) {
        Ok(name) => settings.interface = Some(name),
        Err(error) => {
            fatal.push(Problem { key: "admin_nic".to_owned(), message: error.to_string() });
        }
    }
    let url = args.cnapi.clone().or_else(|| config.cnapi_url()).unwrap_or_default();
    let cnapi = match Cnapi::new(&url) {
        Ok(cnapi) => Some(cnapi),
        Err(error) => {
            let key = "cnapi_client_url".to_owned();
            fatal.push(Problem { key, message: error.to_string() });
            None
        }
    };
    if args.check_config {
        problems.extend(fatal);
        return Ok(report(args, &problems));
    }
    let Some(cnapi) = cnapi.filter(|_| fatal.is_empty()) else { return Ok(report(args, &fatal)) };
    for problem in &problems {
        // Not fatal: an operator may bring the missing files while the booter runs.
        tracing::warn!("{problem}");
    }
    // Two workers: one node's download must not hold up another's DHCP.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(settings, cnapi))
}

fn interface(args: &Args, settings: &Settings, config: &Config) -> anyhow::Result<String> {
    if let Some(name) = &args.interface {
        nix::net::if_::if_nametoindex(name.as_str())
            .with_context(|| format!("looking for the network interface {name}"))?;
        return Ok(name.clone());
    }
    let mac: MacAddr = config.typed("admin_nic")?;
    Ok(net::interface(settings.admin_ip, mac)?)
}

/// Prints all problems, one a line.
fn report(args: &Args, problems: &[Problem]) -> ExitCode {
    let file = args.config.display();
    if problems.is_empty() {
        println!("{file}: no problems");
        return ExitCode::SUCCESS;
    }
    tracing::error!("{file}: {}", Problems(problems.to_vec()));
    ExitCode::from(WRONG_CONFIG)
}

async fn serve(settings: Settings, cnapi: Cnapi) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let sockets = Sockets::open(&settings)?;
    let napi = settings.more.params.napi().context("reading the settings of NAPI")?;
    let source = Directory::new(cnapi, napi);
    let booter = Booter::start(settings, sockets, Arc::new(source))?;
    let about = booter.settings();
    tracing::info!(
        interface = about.interface.as_deref().unwrap_or_default(), ip = %about.admin_ip,
        first = %about.range.0, last = %about.range.1, root = %about.root.display(),
        "sdc-booter is ready"
    );
    notify::notify("READY=1").context("telling the service manager that all is ready")?;
    let code = loop {
        tokio::select! {
            _ = terminate.recv() => break ExitCode::SUCCESS,
            _ = interrupt.recv() => break ExitCode::SUCCESS,
            () = booter.failed() => break ExitCode::FAILURE,
            Some(()) = hangup.recv() => {
                if let Err(why) = booter.reload().await {
                    tracing::error!("the settings were not read again: {why}");
                }
            }
        }
    };
    notify::notify("STOPPING=1").context("telling the service manager about the stop")?;
    tracing::info!("sdc-booter stops");
    booter.stop().await;
    Ok(code)
}
