//! The running system and its services.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use headnode_model::config::Config;
use headnode_model::paths;

use crate::machine::{ServiceState, SystemSettings};
use crate::record::on_pool;
use crate::run::{Context, Ended};

/// Where the host keys of ssh last.
const HOST_KEYS: &str = "/var/lib/headnode/ssh";

/// How long all services together may take to become ready.
const SERVICES: Duration = Duration::from_secs(120);

/// Tells the running system its name, passwords, keys, name servers and time servers.
pub fn configured(context: &mut Context<'_>) -> Result<Ended> {
    let machine = context.machine;
    let keys = machine.read(&on_pool(paths::AUTHORIZED_KEYS))?.unwrap_or_default();
    let hostname = context.config()?.get("hostname").or_else(|| context.params.get("hostname"));
    let hostname = hostname.unwrap_or("headnode").to_owned();
    let config = context.config()?;
    let settings = settings(config, hostname, String::from_utf8_lossy(&keys).into_owned())?;
    machine.configure_system(&settings)?;
    let count = settings
        .authorized_keys
        .lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
        .count();
    Ok(Ended::Done(format!("hostname {}, {count} ssh keys for root", settings.hostname)))
}

fn settings(config: &Config, hostname: String, authorized_keys: String) -> Result<SystemSettings> {
    let headnode = config.headnode()?;
    let shadow =
        config.get("root_shadow").context("root_shadow is missing in the configuration")?;
    let resolvers: String =
        headnode.dns_resolvers.iter().map(|ip| format!("nameserver {ip}\n")).collect();
    let hosts =
        config.get("ntp_hosts").unwrap_or_default().split([',', ' ']).filter(|h| !h.is_empty());
    let servers: String = hosts.map(|host| format!("server {host} iburst\n")).collect();
    Ok(SystemSettings {
        root_shadow: shadow.to_owned(),
        authorized_keys,
        resolv_conf: format!("search {}\n{resolvers}", headnode.dns_domain),
        // The headnode serves time to its nodes also when it has no source itself.
        chrony_conf: format!(
            "{servers}allow {}\nlocal stratum 10\nmakestep 1 3\n",
            headnode.admin_net.trunc()
        ),
        issue: format!(
            "{hostname} of datacenter {}, admin IP {}\n\n",
            headnode.datacenter_name, headnode.admin_ip
        ),
        hostname,
        host_keys: PathBuf::from(HOST_KEYS),
    })
}

/// Starts the control services and waits until each says that it is ready.
pub fn services_started(context: &mut Context<'_>) -> Result<Ended> {
    let machine = context.machine;
    let services = machine.services().context("listing the services of the image")?;
    for name in &services {
        machine.start_service(name).with_context(|| format!("starting {name}"))?;
    }
    let begin = machine.clock();
    let mut waiting = services.clone();
    while !waiting.is_empty() {
        let mut still = Vec::new();
        for name in waiting {
            match machine.service_state(&name)? {
                ServiceState::Active => {}
                ServiceState::Starting => still.push(name),
                ServiceState::Failed(tail) => bail!(
                    "the service {name} does not start. Its last lines:\n    {}\n  See `journalctl -u {name}`",
                    tail.join("\n    ")
                ),
            }
        }
        waiting = still;
        if !waiting.is_empty() {
            if machine.clock() - begin > SERVICES {
                bail!(
                    "{} did not get ready within {} s. See `systemctl status` and `systemctl list-jobs`",
                    waiting.join(", "),
                    SERVICES.as_secs()
                );
            }
            machine.pause();
        }
    }
    if services.is_empty() {
        return Ok(Ended::Skipped("this image carries no control services".to_owned()));
    }
    context.summary.push(format!("services    {}", services.join(", ")));
    Ok(Ended::Done(services.join(", ")))
}

/// The id of the setup that made the pool.
fn setup_id(context: &Context<'_>) -> Result<String> {
    context.machine.pool_owner(paths::SYSTEM_POOL).context("reading whose the pool is")
}

/// Sums up; the state file gets its `complete` by the runner.
pub fn complete(context: &mut Context<'_>) -> Result<Ended> {
    let config = context.config()?;
    let value = |key| config.get(key).unwrap_or("?").to_owned();
    let (datacenter, ip) = (value("datacenter_name"), value("admin_ip"));
    // From now on the pool boots without the key too.
    let id = setup_id(context)?;
    context.machine.mark_finished(paths::SYSTEM_POOL, &super::pool::mark(&id))?;
    let health = context.machine.pool_health(paths::SYSTEM_POOL)?;
    let mut lines = vec![
        format!("datacenter  {datacenter}"),
        format!("admin IP    {ip}"),
        format!("pool        {} ({health})", paths::SYSTEM_POOL),
    ];
    lines.append(&mut context.summary);
    lines.push(format!("log in      here as root, or `ssh root@{ip}` with a key of the image; then `sdc server list`"));
    context.summary = lines;
    Ok(Ended::Done(String::new()))
}
