//! All servers together.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use headnode_model::booter::{Boot, BooterStatus};
use headnode_model::net::MacAddr;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{self, Admission, Gate};
use crate::alone::{self, Plan, ScriptSource};
use crate::api::{self, Api};
use crate::leases::{LeaseFile, Leases};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::observe::Observer;
use crate::params::{Cache, Lookup, ParamSource, Patience};
use crate::progress::Tracker;
use crate::reload::{Reload, Sections};
use crate::script::Scripts;
use crate::settings::Settings;
use crate::{Error, assigned, clock, dhcp, http, ipv6, net, tftp};

/// How long running downloads may go on after the booter was told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The sockets of all servers.
#[derive(Debug)]
pub struct Sockets {
    /// DHCP.
    pub dhcp: dhcp::Sockets,
    /// TFTP.
    pub tftp: UdpSocket,
    /// HTTP.
    pub http: TcpListener,
    /// HTTPS, when there is a certificate.
    pub https: Option<TcpListener>,
    /// The operator's interface.
    pub operator: Option<api::Socket>,
    /// IPv6 router solicitations. Not vital.
    pub ipv6: Option<UdpSocket>,
}

impl Sockets {
    /// Opens all ports. Needs a tokio runtime.
    ///
    /// # Errors
    /// The first port that cannot be opened, with a hint who may hold it.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        let mut dhcp = net::dhcp(settings)?;
        if settings.more.dhcp.mode == dhcp::Mode::Proxy {
            dhcp.proxy = Some(net::proxy(settings)?);
        }
        let operator = settings.socket.as_deref().map(api::Socket::open).transpose();
        let https = settings.more.http.tls.as_ref().map(|tls| net::https(settings, tls.port));
        Ok(Self {
            dhcp,
            https: https.transpose()?,
            operator: operator.map_err(Error::Operator)?,
            tftp: net::tftp(settings)?,
            http: net::http(settings)?,
            ipv6: net::ipv6(settings),
        })
    }

    /// The ports that were opened, for settings that left the choice to the system (port 0).
    fn ports(&self, settings: &mut Settings) {
        let udp = |socket: &UdpSocket| socket.local_addr().map(|address| address.port());
        if let Ok(port) = udp(&self.dhcp.server) {
            settings.ports.dhcp_server = port;
        }
        if let Ok(port) = udp(&self.tftp) {
            settings.ports.tftp = port;
        }
        if let Ok(address) = self.http.local_addr() {
            settings.ports.http = address.port();
        }
    }
}

/// What operators may ask of the booter beside what its parts tell.
struct Operator {
    app: Arc<http::App>,
    reload: Arc<Reload>,
    /// What machines boot without a headnode.
    plan: Option<Live<Plan>>,
    others: Arc<dhcp::Others>,
    started: i64,
}

#[async_trait::async_trait]
impl api::Operator for Operator {
    async fn params(&self, mac: MacAddr, boot: Option<&Boot>) -> Result<Value, String> {
        let uuid = boot.and_then(|boot| boot.uuid);
        if let Some(plan) = &self.plan {
            return Ok(plan.get().show(mac, uuid));
        }
        let found = self.app.lookup.find(mac, uuid).await;
        Ok(json!({ "origin": found.origin.word(), "params": found.params }))
    }

    async fn reload(&self) -> Result<Vec<String>, String> {
        reload(&self.reload).await
    }

    fn status(&self) -> BooterStatus {
        BooterStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            more: self.others.lines(),
            ..BooterStatus::default()
        }
    }
}

async fn reload(reload: &Arc<Reload>) -> Result<Vec<String>, String> {
    let reload = Arc::clone(reload);
    let done = tokio::task::spawn_blocking(move || reload.reload()).await;
    done.unwrap_or_else(|error| Err(error.to_string()))
}

/// What is handed out by HTTP.
fn folders(settings: &Settings) -> http::Folders {
    // UEFI firmware that boots by HTTP loads iPXE from here.
    let folders = http::Folders::default().with("firmware", settings.firmware());
    match settings.more_firmware() {
        Some(more) => folders.with("firmware", more).with(alone::FILES, &settings.root),
        None => {
            folders.with("os", settings.root.join("os")).with("extra", settings.root.join("extra"))
        }
    }
}

/// What is handed out by TFTP. GRUB legacy's menu names kernels and archives below `/os` (C§4.3), and
/// pxegrub knows no HTTP; iPXE can be told to load by TFTP.
fn programs(settings: &Settings) -> tftp::Files {
    let folders = http::Folders::default().with("", settings.firmware());
    tftp::Files::of(match settings.more_firmware() {
        None => {
            folders.with("os", settings.root.join("os")).with("extra", settings.root.join("extra"))
        }
        Some(more) => folders.with("", more),
    })
}

/// What TFTP clients get by name that is no file: scripts and menus.
struct Rendered(Arc<http::App>);

#[async_trait::async_trait]
impl tftp::VirtualFiles for Rendered {
    fn has(&self, name: &str) -> bool {
        http::App::is_virtual(name)
    }

    async fn get(&self, peer: SocketAddr, name: &str) -> Option<Bytes> {
        self.0.render_virtual(name, peer.ip()).await
    }
}

/// What machines boot without a headnode.
fn own_scripts(settings: &Settings) -> Option<Arc<dyn ScriptSource>> {
    let plan = settings.alone.as_ref()?.plan.clone();
    let (root, port) = (settings.root.clone(), settings.ports.http);
    Some(Arc::new(alone::Scripts::new(plan, root, settings.admin_ip, port)))
}

/// A booter that runs.
pub struct Booter {
    settings: Arc<Settings>,
    leases: Arc<Mutex<Leases>>,
    metrics: Metrics,
    reload: Arc<Reload>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Booter {
    /// Reads the leases and starts all servers on `sockets`.
    ///
    /// # Errors
    /// When the state folder cannot be used or a template is broken.
    pub fn start(
        mut settings: Settings,
        sockets: Sockets,
        source: Arc<dyn ParamSource>,
    ) -> Result<Self, Error> {
        sockets.ports(&mut settings);
        let settings = Arc::new(settings);
        let state = |what| {
            let path = settings.state.clone();
            move |source| Error::State { what, path, source }
        };
        let cache = Cache::open(&settings.state, settings.more.params.machines)
            .map_err(state("opening the cache in"))?;
        let mut file = LeaseFile::new(&settings.state);
        let mut leases = Leases::new(settings.networks(), settings.admin_ip);
        if settings.more.params.napi.is_some() {
            assigned::restore(&settings.state, &mut leases);
        }
        file.load(&mut leases).map_err(state("reading the leases in"))?;
        let metrics = Metrics::new();
        metrics.leases.set(i64::try_from(leases.len()).unwrap_or(i64::MAX));
        tracing::info!(leases = leases.len(), file = %file.path().display(), "leases read");
        let leases = Arc::new(Mutex::new(leases));
        let scripts = Arc::new(Scripts::new(Arc::clone(&settings))?);

        let sections = Sections::new(&settings.more);
        // Alone there is no CNAPI that may know a machine later.
        let directory = settings.alone.is_none();
        let admission = Admission::open(
            sections.admission.clone(),
            &settings.state,
            directory,
            metrics.clone(),
        )
        .map_err(Error::Decisions)?;
        if let Some(alone) = &settings.alone {
            admission.set_known(alone.plan.get().known());
        }
        let admission = Arc::new(admission);
        let tracker = Arc::new(Tracker::new(sections.progress.clone(), metrics.clone()));
        let watched = Arc::downgrade(&tracker);
        metrics.before_reading(move |metrics| {
            if let Some(tracker) = watched.upgrade() {
                tracker.measure(metrics);
            }
        });
        let counted = Arc::clone(&leases);
        metrics.before_reading(move |metrics| {
            for (network, used, free) in
                counted.lock().unwrap_or_else(PoisonError::into_inner).usage()
            {
                metrics.set_addresses(network, used, free);
            }
        });
        let certificate = match (&sockets.https, &settings.more.http.tls) {
            (Some(_), Some(tls)) => Some(http::Certificate::load(tls.clone()).map_err(Error::Tls)?),
            _ => None,
        };

        let engine = dhcp::Engine::new(dhcp::Context {
            booter: Arc::clone(&settings),
            dhcp: sections.dhcp.clone(),
            leases: Arc::clone(&leases),
            metrics: metrics.clone(),
            gate: Arc::clone(&admission) as Arc<dyn Gate>,
            observer: Arc::clone(&tracker) as Arc<dyn Observer>,
        });
        let others = engine.others();
        let dhcp = dhcp::Server::new(sockets.dhcp, engine, file);
        let patience = Patience {
            budget: settings.budget,
            cached: settings.cached_budget,
            lookups: settings.more.params.lookups,
        };
        let lookup = Lookup::new(Arc::clone(&source), cache, patience);
        let app = Arc::new(http::App {
            leases: Arc::clone(&leases),
            dhcp: sections.dhcp.clone(),
            lookup,
            scripts,
            metrics: metrics.clone(),
            gate: Arc::clone(&admission) as Arc<dyn Gate>,
            observer: Arc::clone(&tracker) as Arc<dyn Observer>,
            own: own_scripts(&settings),
        });

        let context = tftp::Context {
            files: programs(&settings),
            rendered: Arc::new(Rendered(Arc::clone(&app))),
            settings: sections.tftp.clone(),
            metrics: metrics.clone(),
            observer: Arc::clone(&tracker) as Arc<dyn Observer>,
        };
        let tftp = tftp::Server::new(sockets.tftp, context)
            .map_err(state("opening the TFTP socket for"))?;

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let pause = Duration::from_secs(settings.more.params.refresh_seconds.into());
        if directory && !pause.is_zero() {
            tasks.spawn(app.lookup.clone().refresh(pause, stop.clone()));
        }
        tasks.spawn(dhcp.run(stop.clone()));
        tasks.spawn(tftp.run(stop.clone()));
        if directory {
            let (leases, state) = (Arc::clone(&leases), settings.state.clone());
            tasks.spawn(assigned::follow(Arc::clone(&source), leases, state, stop.clone()));
            tasks.spawn(admission::follow(source, Arc::clone(&admission), stop.clone()));
        }
        if let Some(socket) = sockets.ipv6 {
            tasks.spawn(ipv6::run(socket, stop.clone()));
        }
        let site = http::Site {
            folders: folders(&settings),
            dynamic: http::routes::router(Arc::clone(&app)),
            limits: sections.http.clone(),
            observer: Arc::clone(&tracker) as Arc<dyn Observer>,
            metrics: metrics.clone(),
        };
        let reload = Reload::new(
            Arc::clone(&settings),
            sections,
            Arc::clone(&leases),
            certificate.clone(),
            Arc::clone(&admission),
        );
        let reload = Arc::new(reload);
        if let Some(socket) = sockets.operator {
            let (reload, started) = (Arc::clone(&reload), clock::unix_now());
            let plan = settings.alone.as_ref().map(|alone| alone.plan.clone());
            let operator = Arc::new(Operator { app, reload, others, plan, started });
            let api = Api { tracker, admission, operator };
            tasks.spawn(socket.serve(api, stop.clone()));
        }
        let (token, http_listener) = (stop.clone(), sockets.http);
        let tls = sockets.https.zip(certificate);
        tasks.spawn(async move {
            http::serve(http_listener, tls, Arc::new(site), token).await;
        });
        tasks.close();
        Ok(Self { settings, leases, metrics, reload, stop, tasks })
    }

    /// The settings, with the ports that were opened.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Reads the settings beside the configuration again; gives the names of the sections that have
    /// changed.
    ///
    /// # Errors
    /// What is wrong with the file, or what takes a restart; nothing has changed then.
    pub async fn reload(&self) -> Result<Vec<String>, String> {
        reload(&self.reload).await
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where the HTTP server listens.
    pub fn http_address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.settings.admin_ip, self.settings.ports.http)
    }

    /// How many machines have an address.
    pub fn lease_count(&self) -> usize {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The address of a machine, when it has one.
    pub fn address_of(&self, mac: headnode_model::net::MacAddr) -> Option<Ipv4Addr> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.get(mac).map(|lease| lease.ip)
    }

    /// Ends when a server has failed.
    pub async fn failed(&self) {
        self.stop.cancelled().await;
    }

    /// Stops all servers: the leases are written, running downloads get [`STOP_LIMIT`].
    pub async fn stop(self) {
        self.stop.cancel();
        if tokio::time::timeout(STOP_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::warn!("stopping although downloads are still running");
        }
    }
}
