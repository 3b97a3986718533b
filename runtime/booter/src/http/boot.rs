//! From a machine that asks to the script that it gets: who it is, whether it may boot, with what.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use axum::body::Bytes;
use headnode_model::net::MacAddr;
use serde::Deserialize;
use uuid::Uuid;

use super::routes::App;
use crate::admission::{Machine, Verdict};
use crate::clock;
use crate::dhcp::Mode;
use crate::leases::Lease;
use crate::limit::LogLimit;
use crate::metrics::Metrics;
use crate::networks::{Network, Place};
use crate::observe::Event;
use crate::script::{Choice, Node, Scripts, TemplateError};

/// More tries than these are not told apart.
const TRIES: u32 = 100;

/// Who runs the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loader {
    /// iPXE.
    Ipxe,
    /// GRUB legacy, as pxegrub.
    Grub,
}

/// What a machine tells in its script's URL beside its MAC. Whatever it writes, it gets a script.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Who {
    uuid: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) manufacturer: Option<String>,
    #[serde(rename = "try")]
    attempt: Option<String>,
    platform: Option<String>,
    rescue: Option<String>,
    menu: Option<String>,
}

impl Who {
    pub(super) fn uuid(&self) -> Option<Uuid> {
        self.uuid.as_deref()?.parse().ok()
    }

    /// The machine with this lease, as the gate knows it.
    pub(super) fn machine<'a>(&'a self, lease: &'a Lease, uuid: Option<Uuid>) -> Machine<'a> {
        Machine {
            mac: lease.mac,
            uuid,
            serial: self.serial.as_deref(),
            vendor: self.manufacturer.as_deref(),
            rack: lease.tag.as_deref(),
        }
    }

    /// Whether it was asked to say who it is: firmware without the values sends empty ones.
    pub(super) fn identified(&self) -> bool {
        self.serial.is_some() && self.manufacturer.is_some()
    }

    fn attempt(&self) -> u32 {
        let told = self.attempt.as_deref().and_then(|text| text.parse().ok());
        told.unwrap_or(0).min(TRIES)
    }

    fn choice(&self) -> Choice {
        let yes = |field: &Option<String>| field.as_deref() == Some("true");
        Choice {
            platform: self.platform.clone().filter(|platform| !platform.is_empty()),
            rescue: yes(&self.rescue),
            menu: yes(&self.menu),
            attempt: self.attempt(),
        }
    }
}

/// A machine that has asked, and what may become of it.
struct Asked {
    verdict: Verdict,
    uuid: Option<Uuid>,
    origin: &'static str,
    node: Node,
}

/// The machine's address and network. Beside another DHCP server that is the address it comes from.
pub(super) fn lease(app: &App, mac: MacAddr, peer: IpAddr) -> Option<(Lease, Arc<Network>)> {
    let leases = app.leases.lock().unwrap_or_else(PoisonError::into_inner);
    let lease = match (app.dhcp.get().mode, peer.to_canonical()) {
        (Mode::Server, _) => leases.get(mac)?.clone(),
        (_, IpAddr::V4(ip)) => Lease { mac, ip, uuid: None, seen: 0, until: 0, tag: None },
        (_, IpAddr::V6(_)) => return None,
    };
    let (circuit, link, giaddr) = (None, None, Ipv4Addr::UNSPECIFIED);
    let at = leases.place(&Place { circuit, link, giaddr, ciaddr: lease.ip })?;
    let network = Arc::clone(leases.network(at)?);
    Some((lease, network))
}

/// Which addresses asked for what is not theirs lately: anybody can, also from forged addresses.
static STRANGERS: LazyLock<Mutex<LogLimit<IpAddr>>> =
    LazyLock::new(|| Mutex::new(LogLimit::new(60)));

/// Logs that somebody asked for what another machine gets, or none.
fn warn_stranger(mac: MacAddr, peer: IpAddr, what: &str) {
    let mut limit = STRANGERS.lock().unwrap_or_else(PoisonError::into_inner);
    if limit.pass(peer, clock::unix_now()) {
        tracing::warn!(%mac, %peer, "{what}");
    }
}

/// Logs that somebody asked for the script of a machine that has no lease.
pub(super) fn warn_without_lease(mac: MacAddr, peer: IpAddr) {
    warn_stranger(mac, peer, "a machine without a lease asked for its boot script");
}

impl App {
    /// The script for an iPXE whose machine is not known from the URL.
    pub(super) async fn chain(&self) -> Result<String, TemplateError> {
        self.render(Scripts::chain).await
    }

    /// Renders away from the threads that serve: the disk is looked at.
    async fn render<T: Send + 'static>(
        &self,
        render: impl FnOnce(&Scripts) -> Result<T, TemplateError> + Send + 'static,
    ) -> Result<T, TemplateError> {
        let scripts = Arc::clone(&self.scripts);
        let rendered = tokio::task::spawn_blocking(move || render(&scripts)).await;
        rendered.unwrap_or_else(|error| {
            Err(TemplateError { name: "of a boot script".to_owned(), why: error.to_string() })
        })
    }

    async fn ask(&self, (lease, network): (Lease, Arc<Network>), who: &Who) -> Asked {
        let (mac, uuid) = (lease.mac, lease.uuid.or(who.uuid()));
        let asked = Instant::now();
        let found = self.lookup.find(mac, uuid).await;
        self.metrics.lookup_seconds.observe(asked.elapsed().as_secs_f64());
        let machine = who.machine(&lease, uuid);
        let verdict = self.gate.at_script(&machine, found.known);
        if verdict == Verdict::Admit {
            self.lookup.keep(mac, &found).await;
        }
        let origin = found.origin.word();
        Asked { verdict, uuid, origin, node: Node { lease, network, found, choice: who.choice() } }
    }

    /// The machine's script; none for a machine that may not boot.
    pub(super) async fn script(
        &self,
        loader: Loader,
        mac: MacAddr,
        who: &Who,
        peer: IpAddr,
    ) -> Result<Option<String>, TemplateError> {
        let attempt = who.attempt();
        // Nothing is looked up or cached for a MAC that never got an address: anybody can make them up.
        let Some(place) = lease(self, mac, peer) else {
            warn_without_lease(mac, peer);
            if loader == Loader::Grub {
                return Ok(None);
            }
            let message = "it has no address from this headnode. Boot it by PXE";
            return self
                .render(move |scripts| scripts.message(mac, attempt, message))
                .await
                .map(Some);
        };
        // GRUB cannot tell: it has said all that it can.
        // Beside another DHCP server nothing else tells whose MAC it is.
        let unnamed = place.0.uuid.or(who.uuid()).is_none() && self.dhcp.get().mode != Mode::Server;
        let asked = unnamed || self.gate.needs_identity(mac);
        if loader == Loader::Ipxe && asked && !who.identified() {
            let choice = who.choice();
            return self.render(move |scripts| scripts.identify(mac, &choice)).await.map(Some);
        }
        let Asked { verdict, uuid, origin, node } = self.ask(place, who).await;
        Metrics::count(&self.metrics.scripts, origin);
        let told = |kind, platform: &str, problem: Option<&str>| {
            self.observer.event(&Event::Script { mac, uuid, kind, origin, platform, problem });
        };
        let wanted = &node.found.params.platform;
        match verdict {
            Verdict::Admit => {}
            Verdict::Hold => {
                told("hold", wanted, Some("it waits for an operator"));
                let hold = move |scripts: &Scripts| match loader {
                    Loader::Ipxe => scripts.hold(mac, attempt),
                    Loader::Grub => scripts.grub_hold(mac),
                };
                return self.render(hold).await.map(Some);
            }
            Verdict::Ignore => {
                told("message", wanted, Some("it may not boot"));
                return Ok(None);
            }
        }
        let (ip, begun) = (node.lease.ip, Instant::now());
        let render = move |scripts: &Scripts| match loader {
            Loader::Ipxe => scripts.boot(&node),
            Loader::Grub => scripts.grub(&node),
        };
        // Told when it is known what the script does, also when it does nothing.
        let script = self.render(render).await.inspect_err(|error| {
            told("message", "", Some(&error.to_string()));
        })?;
        self.metrics.script_seconds.observe(begun.elapsed().as_secs_f64());
        tracing::info!(
            %mac, %ip, ?uuid, platform = script.platform, parameters = origin, kind = script.kind,
            "boot script"
        );
        told(script.kind, &script.platform, script.problem.as_deref());
        Ok(Some(script.text))
    }

    /// A small file that is made for a machine (C§4.3), with `.hash` at its end its digest; none for
    /// a machine that may not boot, and for all addresses but the machine's own: boot modules may hold
    /// keys. Beside another DHCP server nobody knows which that is.
    pub(super) async fn file(&self, mac: MacAddr, name: &str, peer: IpAddr) -> Option<Bytes> {
        let place = lease(self, mac, peer)?;
        if peer.to_canonical() != place.0.ip {
            warn_stranger(
                mac,
                peer,
                "a boot file was asked for from an address that is not its machine's",
            );
            return None;
        }
        if let Some(kept) = self.scripts.kept_file(mac, name) {
            return kept;
        }
        let Asked { verdict, node, .. } = self.ask(place, &Who::default()).await;
        if verdict != Verdict::Admit {
            return None;
        }
        let name = name.to_owned();
        self.render(move |scripts| Ok(scripts.file(&node, &name))).await.ok().flatten()
    }
}
