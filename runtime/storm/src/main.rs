//! `sdc-storm`: a rack of simulated machines that boot from a booter, all at once.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sdc_storm::cnapi::{self, Registered};
use sdc_storm::load::{self, Load};
use sdc_storm::{Plan, Way, netns, tftp};
use tokio::net::TcpListener;

/// Simulates machines that boot over the network, and tells how long they waited.
///
/// The addresses that the server gives must be local here: in a network namespace,
/// `ip route add local RANGE dev eth0`, and `net.ipv4.conf.eth0.arp_ignore=1`, so that the server's
/// probes find them free.
///
/// Exit codes: 0 all machines booted; 1 some did not, or the storm could not begin; 2 wrong
/// arguments.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Run in this network namespace (of `ip netns`)
    #[arg(long, value_name = "NAME", global = true)]
    netns: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot machines, all at once
    Boot(Boot),
    /// Fetch one file by TFTP, again and again
    Tftp(Tftp),
    /// Stand in for CNAPI
    Cnapi {
        /// Where to listen
        #[arg(long, value_name = "IP:PORT")]
        listen: SocketAddr,
        /// The platform that all machines boot
        #[arg(long, default_value = "latest")]
        platform: String,
        /// Take connections and never answer
        #[arg(long)]
        hang: bool,
    },
}

#[derive(Args)]
struct Boot {
    /// How many machines
    #[arg(default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    nodes: u32,
    /// NIC to send from
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    interface: String,
    /// Ask as a relay with this address, which also needs --server
    #[arg(long, value_name = "IP", requires = "server")]
    relay: Option<Ipv4Addr>,
    /// The DHCP server that a relay sends to
    #[arg(long, value_name = "IP")]
    server: Option<Ipv4Addr>,
    /// Number of the first machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    first: u32,
    /// Architecture: 0 for BIOS, 7 for x86-64 UEFI
    #[arg(long, value_name = "N", default_value_t = 7)]
    arch: u16,
    /// TFTP block size in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1468, value_parser = clap::value_parser!(u16).range(8..=65464))]
    blksize: u16,
    /// TFTP window in blocks
    #[arg(long, value_name = "BLOCKS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    windowsize: u16,
    /// Do not ask for the loader's size first
    #[arg(long)]
    no_probe: bool,
    /// How much of the kernel and of the archive to fetch, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    first_bytes: u64,
    /// CNAPI to register with
    #[arg(long, value_name = "URL")]
    register: Option<String>,
    /// Switch the machines on within this time, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    spread: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Tftp {
    /// The server
    #[arg(long, value_name = "IP[:PORT]")]
    server: String,
    /// The file
    file: String,
    /// Address to send from
    #[arg(long, value_name = "IP", default_value_t = Ipv4Addr::UNSPECIFIED)]
    local: Ipv4Addr,
    /// Clients at the same time
    #[arg(long, value_name = "N", default_value_t = 1)]
    clients: u32,
    /// Block size in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1468, value_parser = clap::value_parser!(u16).range(8..=65464))]
    blksize: u16,
    /// Window in blocks
    #[arg(long, value_name = "BLOCKS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    windowsize: u16,
    /// Look for packets without pause, as firmware does, which uses no interrupts; for one client, which
    /// then takes a processor
    #[arg(long)]
    poll: bool,
    /// For how long, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sdc-storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Some(name) = &cli.netns {
        netns::enter(name).with_context(|| format!("entering the network namespace {name}"))?;
    }
    // A socket for each machine.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
        .context("raising the limit of open files")?;
    // One thread: the server is what is to be busy.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the runtime")?.block_on(async {
        match cli.command {
            Command::Boot(boot) => storm(boot).await,
            Command::Tftp(tftp) => tftp_load(tftp).await,
            Command::Cnapi { listen, platform, hang } => {
                let listener = TcpListener::bind(listen).await;
                let listener = listener.with_context(|| format!("listening on {listen}"))?;
                eprintln!("sdc-storm: listening on {listen}");
                if hang {
                    cnapi::hang(listener).await.context("taking connections")?;
                } else {
                    let serving = cnapi::serve(listener, &platform, Registered::default());
                    serving.await.context("serving HTTP")?;
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

async fn storm(boot: Boot) -> anyhow::Result<ExitCode> {
    let way = match (boot.relay, boot.server) {
        (Some(relay), Some(server)) => Way::Relay { relay, server },
        _ => Way::Broadcast { interface: boot.interface },
    };
    let tftp = tftp::Options {
        block: boot.blksize,
        window: boot.windowsize,
        probe: !boot.no_probe,
        ..tftp::Options::default()
    };
    let spread = Duration::try_from_secs_f64(boot.spread).context("reading --spread")?;
    let plan = Plan {
        first: boot.first,
        arch: boot.arch,
        tftp,
        first_bytes: boot.first_bytes,
        register: boot.register,
        spread,
        ..Plan::new(boot.nodes, way)
    };
    // Only on a terminal.
    let style = "{elapsed_precise} [{wide_bar}] {pos} of {len} machines, {eta} left";
    let bar = ProgressBar::new(boot.nodes.into())
        .with_style(ProgressStyle::with_template(style).context("making a progress bar")?);
    bar.enable_steady_tick(Duration::from_millis(500));
    let report = sdc_storm::run_with(&plan, || bar.inc(1)).await;
    bar.finish_and_clear();
    let report = report.context("beginning the storm")?;
    if boot.json {
        println!("{}", serde_json::to_string(&report).context("writing JSON")?);
    } else {
        print!("{report}");
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn tftp_load(tftp: Tftp) -> anyhow::Result<ExitCode> {
    let server: SocketAddrV4 = match tftp.server.parse::<Ipv4Addr>() {
        Ok(ip) => SocketAddrV4::new(ip, 69),
        Err(_) => tftp.server.parse().context("reading --server")?,
    };
    let options = tftp::Options {
        block: tftp.blksize,
        window: tftp.windowsize,
        probe: false,
        wait: Duration::from_secs(1),
        tries: 10,
        poll: tftp.poll,
    };
    let load = Load {
        server,
        file: tftp.file,
        clients: tftp.clients,
        local: tftp.local,
        options,
        time: Duration::try_from_secs_f64(tftp.seconds).context("reading --seconds")?,
    };
    let style = format!("{{spinner}} {{elapsed_precise}} of {} s", tftp.seconds);
    let spinner = ProgressBar::new_spinner()
        .with_style(ProgressStyle::with_template(&style).context("making a progress bar")?);
    spinner.enable_steady_tick(Duration::from_millis(200));
    let loaded = load::run(&load).await;
    spinner.finish_and_clear();
    let loaded = loaded.context("loading")?;
    if tftp.json {
        println!("{}", serde_json::to_string(&loaded).context("writing JSON")?);
    } else {
        println!(
            "{:.1} MB/s: {} files, {} bytes in {:.2} s, {} packets sent again, {} files failed",
            loaded.mb_per_second,
            loaded.files,
            loaded.bytes,
            loaded.seconds,
            loaded.resent,
            loaded.failed
        );
        if let Some(problem) = &loaded.problem {
            println!("  {problem}");
        }
    }
    Ok(if loaded.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
