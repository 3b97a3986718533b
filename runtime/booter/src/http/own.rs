//! The boot script of a machine when there is no CNAPI to ask.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use headnode_model::net::MacAddr;

use super::boot::{Who, lease, warn_without_lease};
use super::routes::{App, SCRIPT};
use crate::admission::{Machine, Verdict};
use crate::alone::{Answer, Asked, ScriptSource};
use crate::metrics::Metrics;
use crate::observe::Event;
use crate::script::TemplateError;

/// The script of this name; none for a machine that may not boot, and for other names.
pub(super) async fn file(
    app: &App,
    source: &Arc<dyn ScriptSource>,
    name: &str,
    who: &Who,
    peer: IpAddr,
) -> Result<Option<String>, TemplateError> {
    if name == "boot.ipxe" {
        return Ok(Some(source.chain()));
    }
    match name.strip_prefix(SCRIPT).map(str::parse) {
        Some(Ok(mac)) => Ok(script(app, source, mac, who, peer).await),
        None | Some(Err(_)) => Ok(None),
    }
}

/// The machine's script; none for a machine that may not boot.
async fn script(
    app: &App,
    source: &Arc<dyn ScriptSource>,
    mac: MacAddr,
    who: &Who,
    peer: IpAddr,
) -> Option<String> {
    // As for a headnode's nodes: anybody can make MACs up.
    let Some((lease, _)) = lease(app, mac, peer) else {
        warn_without_lease(mac, peer);
        return Some(source.message(mac, "it has no address from this server. Boot it by PXE"));
    };
    let uuid = lease.uuid.or(who.uuid());
    let machine = who.machine(&lease, uuid);
    let identified = who.identified();
    if !identified && (app.gate.needs_identity(mac) || source.needs_identity(&machine)) {
        return Some(source.identify(mac));
    }
    let told = |kind, origin, platform: &str, problem: Option<&str>| {
        app.observer.event(&Event::Script { mac, uuid, kind, origin, platform, problem });
    };
    let known = source.knows(&machine);
    let origin = if known { "host" } else { "default" };
    match app.gate.at_script(&machine, known) {
        Verdict::Admit => {}
        Verdict::Hold => {
            told("hold", origin, "", Some("it waits for an operator"));
            let message = format!("an operator has to let it in: sdc boot approve {mac}");
            return Some(source.message(mac, &message));
        }
        Verdict::Ignore => {
            told("message", origin, "", Some("it may not boot"));
            return None;
        }
    }
    let begun = Instant::now();
    let (source, serial) = (Arc::clone(source), who.serial.clone());
    let render = move || {
        let machine = Machine { mac, uuid, serial: serial.as_deref(), vendor: None, rack: None };
        source.script(&Asked { machine, ip: lease.ip, identified })
    };
    let answer = tokio::task::spawn_blocking(render).await;
    let answer =
        answer.map_err(|error| tracing::error!("rendering a boot script: {error}")).ok()?;
    app.metrics.script_seconds.observe(begun.elapsed().as_secs_f64());
    match answer {
        Answer::Identify(text) => Some(text),
        Answer::Script { text, kind, origin, what, problem } => {
            Metrics::count(&app.metrics.scripts, origin);
            tracing::info!(%mac, ip = %peer, ?uuid, boots = what, origin, "boot script");
            told(kind, origin, &what, problem.as_deref());
            Some(text)
        }
    }
}
