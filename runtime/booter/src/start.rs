//! From the command line to servers that run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use headnode_client::Cnapi;
use headnode_model::config::{Config, Problem, Problems};
use headnode_model::{net::MacAddr, paths};
use sdc_booter::alone::{self, Nic, NoCnapi, Top};
use sdc_booter::caps::{self, CapabilitySet, Gate, User};
use sdc_booter::params::{Directory, ParamSource};
use sdc_booter::settings::{BESIDE_CONFIG, File, Settings};
use sdc_booter::{Booter, Sockets, net, networks, notify};
use tokio::signal::unix::{SignalKind, signal};

use crate::command::Args;

/// The exit code of a wrong configuration.
const WRONG_CONFIG: u8 = 3;

/// What a checked configuration gives.
struct Ready {
    settings: Settings,
    source: Arc<dyn ParamSource>,
    user: Option<String>,
}

/// What is wrong: what keeps the booter from starting, and what only some machines from booting.
#[derive(Default)]
struct Wrong {
    fatal: Vec<Problem>,
    notes: Vec<Problem>,
    /// Whether all that is fatal may be gone at the next try.
    passing: bool,
}

/// Does what the command line says.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let read = if args.alone() { read_alone(args) } else { read_headnode(args)? };
    let (ready, wrong) = match read {
        Ok((ready, notes)) => (Some(ready), Wrong { notes, ..Wrong::default() }),
        Err(wrong) => (None, wrong),
    };
    let all = || wrong.notes.iter().chain(&wrong.fatal).cloned().collect::<Vec<_>>();
    if args.check_config {
        return Ok(report(args, &all()));
    }
    let Some(Ready { mut settings, source, user }) = ready else {
        let code = report(args, &wrong.fatal);
        // The service manager tries again: the network may come up later than this server.
        return Ok(if wrong.passing { ExitCode::FAILURE } else { code });
    };
    for problem in &wrong.notes {
        // Not fatal: an operator may bring the missing files while the booter runs.
        tracing::warn!("{problem}");
    }
    settings.ports = args.ports();
    settings.broadcast = args.broadcast;
    let user = user.as_deref().map(User::find).transpose()?.flatten();
    let gate = Gate::default();
    let waiting = gate.waiting();
    // Two workers: one node's parameters must not hold up another's.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .on_thread_start(move || waiting.pass())
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let sockets = {
        let _inside = runtime.enter();
        open(&settings, user.as_ref(), gate)?
    };
    runtime.block_on(serve(settings, sockets, source))
}

/// Opens all ports, and gives up what that needed.
fn open(settings: &Settings, user: Option<&User>, gate: Gate) -> anyhow::Result<Sockets> {
    if let Some(socket) = &settings.socket {
        caps::socket_folder(socket, user)?;
    }
    std::fs::create_dir_all(&settings.state)
        .with_context(|| format!("making the folder {}", settings.state.display()))?;
    let sockets = Sockets::open(settings)?;
    let own: Vec<PathBuf> =
        [Some(&settings.state), settings.socket.as_ref()].into_iter().flatten().cloned().collect();
    // Who becomes a user wants that user's rights.
    let keep = match (&settings.alone, user) {
        (None, None) => caps::HEADNODE,
        _ => CapabilitySet::empty(),
    };
    gate.open(user, &own, keep)?;
    Ok(sockets)
}

fn read_alone(args: &Args) -> Result<(Ready, Vec<Problem>), Wrong> {
    let fatal = |fatal, passing| Wrong { fatal, passing, ..Wrong::default() };
    let nics = Nic::all().map_err(|error| {
        let message = format!("reading the list of network interfaces: {error}");
        fatal(vec![Problem { key: "interface".to_owned(), message }], true)
    })?;
    let over = Top {
        interface: args.interface.clone(),
        address: None,
        root: args.root.clone(),
        state: args.state.clone(),
        socket: args.socket.clone(),
        user: args.user.clone(),
    };
    let loaded = alone::load(&args.config, over, &nics)
        .map_err(|refused| fatal(refused.problems, refused.passing))?;
    let (settings, user) = (loaded.settings, loaded.user);
    Ok((Ready { settings, source: Arc::new(NoCnapi), user }, loaded.notes))
}

fn read_headnode(args: &Args) -> anyhow::Result<Result<(Ready, Vec<Problem>), Wrong>> {
    let text = std::fs::read_to_string(&args.config)
        .with_context(|| format!("reading {}", args.config.display()))?;
    let or = |told: &Option<PathBuf>, other: &str| told.clone().unwrap_or_else(|| other.into());
    let root = or(&args.root, paths::USBKEY);
    let state = or(&args.state, paths::BOOTER_STATE);
    let (mut settings, config) = match Settings::from_config(&text, &root, &state) {
        Ok(found) => found,
        Err(problems) => return Ok(Err(Wrong { fatal: problems.0, ..Wrong::default() })),
    };
    settings.socket = Some(or(&args.socket, headnode_model::booter::SOCKET));
    settings.more = match File::read(&root.join(BESIDE_CONFIG)) {
        Ok(more) => more,
        Err(error) => {
            let key = BESIDE_CONFIG.to_owned();
            let fatal = vec![Problem { key, message: error.to_string() }];
            return Ok(Err(Wrong { fatal, ..Wrong::default() }));
        }
    };
    let mut fatal = settings.more.problems();
    fatal.extend(networks::problems(&settings.networks()));
    let mut passing = fatal.is_empty();
    match interface(args.interface.as_deref(), &settings, &config) {
        Ok(name) => settings.interface = Some(name),
        Err(absent) => {
            passing &= absent.passing;
            fatal.push(Problem { key: "admin_nic".to_owned(), message: absent.message });
        }
    }
    let notes = settings.problems();
    let url = args.cnapi.clone().or_else(|| config.cnapi_url()).unwrap_or_default();
    Ok(match Cnapi::new(&url) {
        Ok(cnapi) if fatal.is_empty() => {
            let napi = settings.more.params.napi().context("reading the settings of NAPI")?;
            let source = Arc::new(Directory::new(cnapi, napi));
            Ok((Ready { settings, source, user: args.user.clone() }, notes))
        }
        Ok(_) => Err(Wrong { fatal, notes, passing }),
        Err(error) => {
            let key = "cnapi_client_url".to_owned();
            fatal.push(Problem { key, message: error.to_string() });
            Err(Wrong { fatal, notes, passing: false })
        }
    })
}

/// Why there is no interface to serve on.
struct Absent {
    message: String,
    /// Whether it may come later.
    passing: bool,
}

fn interface(told: Option<&str>, settings: &Settings, config: &Config) -> Result<String, Absent> {
    let absent = |message| Absent { message, passing: true };
    if let Some(name) = told {
        let found = nix::net::if_::if_nametoindex(name);
        let why = |error| absent(format!("looking for the network interface {name}: {error}"));
        return found.map_err(why).map(|_| name.to_owned());
    }
    let wrong = |problem: Problem| Absent { message: problem.message, passing: false };
    let mac: MacAddr = config.typed("admin_nic").map_err(wrong)?;
    net::interface(settings.admin_ip, mac).map_err(|error| absent(error.to_string()))
}

/// Prints all problems, one a line.
fn report(args: &Args, problems: &[Problem]) -> ExitCode {
    let file: &Path = &args.config;
    if problems.is_empty() {
        println!("{}: no problems", file.display());
        return ExitCode::SUCCESS;
    }
    if args.check_config {
        // An answer, not an event: for people and editors.
        eprintln!("{}: {}", file.display(), Problems(problems.to_vec()));
    } else {
        tracing::error!("{}: {}", file.display(), Problems(problems.to_vec()));
    }
    ExitCode::from(WRONG_CONFIG)
}

async fn serve(
    settings: Settings,
    sockets: Sockets,
    source: Arc<dyn ParamSource>,
) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let booter = Booter::start(settings, sockets, source)?;
    let about = booter.settings();
    let range = about.networks().first().and_then(|own| own.ranges.first()).copied();
    tracing::info!(
        interface = about.interface.as_deref().unwrap_or_default(), ip = %about.admin_ip,
        first = range.map(|range| range.first.to_string()),
        last = range.map(|range| range.last.to_string()),
        root = %about.root.display(), alone = about.alone.is_some(),
        dhcp_port = about.ports.dhcp_server, tftp_port = about.ports.tftp,
        http_port = about.ports.http, "sdc-booter is ready"
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
