//! Start of a compute node: from kernel parameters to a machine that can register.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use headnode_model::boot::KernelParams;
use headnode_model::config::Config;
use headnode_model::net::{self, MacAddr};
use headnode_model::{paths, ports};
use headnode_node::dataset::Datasets;
use headnode_node::disk::linux::LinuxDisks;
use headnode_node::disk::{Disk, Disks};
use headnode_node::exec::System;
use headnode_node::nic::linux::LinuxNics;
use headnode_node::nic::{self, Nic, Nics};
use headnode_node::pool::Pools;
use ipnet::Ipv4Net;
use tokio::time::Instant;
use uuid::Uuid;

use super::config::{self, Fetched};
use super::{LinuxMachine, identity, keep_uuid, pool_uuid};
use crate::steps::{Ended, Step, Steps, say};

/// The kernel's parameters are understood.
pub const PARAMS_READ: &str = "params_read";
/// The admin NIC has its address.
pub const ADMIN_NIC_UP: &str = "admin_nic_up";
/// The pool is imported and its datasets mounted, or there is none.
pub const POOL_IMPORTED: &str = "pool_imported";
/// The headnode has given the configuration.
pub const CONFIG_FETCHED: &str = "config_fetched";
/// Host name, password, keys, name and time servers are set.
pub const SYSTEM_CONFIGURED: &str = "system_configured";
/// CNAPI knows this machine.
pub const REGISTERED: &str = "registered";
/// The steps in their order. `pool_imported` and `config_fetched` run side by side.
pub const STEPS: [&str; 6] =
    [PARAMS_READ, ADMIN_NIC_UP, POOL_IMPORTED, CONFIG_FETCHED, SYSTEM_CONFIGURED, REGISTERED];

/// How long the driver of the admin NIC may take to show it.
const NIC_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks for the admin NIC; the kernel gives no event that reaches here cheaply.
const NIC_POLL: Duration = Duration::from_millis(200);
/// How long a node that has a kept configuration waits for the headnode before it goes on with it.
const KEPT_CONFIG_AFTER: Duration = Duration::from_secs(10);

/// A started node.
pub struct Started {
    /// The machine.
    pub machine: LinuxMachine,
    /// Its address on the admin network.
    pub admin_ip: Ipv4Addr,
    /// Base URL of CNAPI.
    pub cnapi_url: String,
}

/// What the parameters must say.
struct Admin {
    mac: MacAddr,
    ip: Ipv4Addr,
    mask: Ipv4Addr,
    headnode: Ipv4Addr,
}

/// Starts a compute node.
///
/// # Errors
/// When the parameters do not suffice or the admin NIC is absent: without these nobody can be
/// asked for anything.
pub async fn start(params: &KernelParams, steps: &Steps) -> anyhow::Result<Started> {
    let step = steps.begin(PARAMS_READ);
    let admin = admin(params);
    step.end(match &admin {
        Ok(admin) => Ok(Ended::Done(format!(
            "admin NIC {}, {}, headnode {}",
            admin.mac, admin.ip, admin.headnode
        ))),
        Err(error) => Err(format!("{error:#}")),
    })
    .ok();
    let admin = admin?;

    let step = steps.begin(ADMIN_NIC_UP);
    let link = admin_nic_up(params, &admin).await;
    step.end(match &link {
        Ok(link) => Ok(Ended::Done(format!("{link} has {}", admin.ip))),
        Err(error) => Err(format!("{error:#}")),
    })
    .ok();
    link?;

    let noimport = params.is_true("noimport");
    let pool_step = steps.begin(POOL_IMPORTED);
    let pool = tokio::task::spawn_blocking(move || {
        // A pool that cannot be used is told and does not keep the node from registering.
        let _ = pool_step.end(if noimport {
            Ok(Ended::Skipped("noimport is set".to_owned()))
        } else {
            import_pool(&pool_step)
        });
    });
    let fetch_step = steps.begin(CONFIG_FETCHED);
    let base = format!("http://{}", admin.headnode);
    let client = config::client()?;
    let fetching = {
        let step = fetch_step.clone();
        tokio::spawn(async move { config::fetch(&client, &base, &step).await })
    };
    pool.await.context("importing the pool")?;
    let (fetched, late) = fetched_or_kept(fetching, &fetch_step).await?;

    let step = steps.begin(SYSTEM_CONFIGURED);
    let identity = identity(params, pool_uuid_if_mounted(), Some(admin.mac))?;
    for warning in &identity.warnings {
        tracing::warn!("{warning}");
        step.message(format!("WARNING: {warning}"));
    }
    let (uuid, source) = (identity.uuid, identity.source);
    let hostname = config::hostname(&fetched.config, params, Some(admin.mac));
    let applied = {
        let (fetched, params, step) = (fetched.clone(), params.clone(), step.clone());
        let hostname = hostname.clone();
        tokio::task::spawn_blocking(move || {
            config::apply(&fetched, &params, &hostname, &step);
            if let Err(error) = config::keep(&fetched.config) {
                step.message(format!("configuration not kept: {error:#}"));
            }
            if pool_is_mounted()
                && let Err(error) = config::keep_host_keys().and_then(|()| keep_uuid(uuid))
            {
                step.message(format!("identity not kept on the pool: {error:#}"));
            }
        })
    };
    applied.await.context("configuring the system")?;
    step.end::<String>(Ok(Ended::Done(format!("{hostname}, server {uuid} (by {source})")))).ok();

    if let Some(late) = late {
        tokio::spawn(refresh(late, params.clone(), hostname, steps.clone()));
    }
    let cnapi_url = fetched.config.cnapi_url();
    let cnapi_url =
        cnapi_url.unwrap_or_else(|| format!("http://{}:{}", admin.headnode, ports::CNAPI));
    let machine = LinuxMachine::new(uuid, Some(admin.mac), fetched.config);
    Ok(Started { machine, admin_ip: admin.ip, cnapi_url })
}

fn admin(params: &KernelParams) -> anyhow::Result<Admin> {
    let mac = params.admin_nic().with_context(|| {
        format!("neither admin_nic nor BOOTIF among the kernel parameters names a MAC; {}", nics())
    })?;
    let (ip, mask) = params.ip().with_context(|| {
        let ip = params.get("ip").unwrap_or("absent");
        format!("kernel parameter ip is {ip}, not of the form <address>::<gateway>:<netmask>::")
    })?;
    let headnode = params.get("assets_admin_ip").unwrap_or("absent");
    let headnode = headnode.parse().ok().with_context(|| {
        format!("kernel parameter assets_admin_ip is {headnode}, not the headnode's address")
    })?;
    Ok(Admin { mac, ip, mask, headnode })
}

/// The machine's NICs, for people.
fn nics() -> String {
    match LinuxNics::new(System).list() {
        Ok(nics) if nics.is_empty() => "this machine has no NIC".to_owned(),
        Ok(nics) => {
            let list: Vec<_> = nics.iter().map(|n| format!("{} {}", n.mac, n.name)).collect();
            format!("this machine has {}", list.join(", "))
        }
        Err(error) => format!("and the NICs cannot be listed: {error}"),
    }
}

async fn admin_nic_up(params: &KernelParams, admin: &Admin) -> anyhow::Result<String> {
    let address = net::network(admin.ip, admin.mask)
        .with_context(|| format!("kernel parameter ip: {} is not a netmask", admin.mask))?;
    let gateway = params.gateway();
    let mac = admin.mac;
    let deadline = Instant::now() + NIC_LIMIT;
    loop {
        let configured =
            tokio::task::spawn_blocking(move || configure(mac, address, gateway)).await?;
        match configured {
            Err(error) if Instant::now() < deadline => {
                tracing::debug!("{error:#}; looking again");
                tokio::time::sleep(NIC_POLL).await;
            }
            result => return result,
        }
    }
}

/// Finds the admin NIC, gives it its address and tells its name.
fn configure(mac: MacAddr, address: Ipv4Net, gateway: Option<Ipv4Addr>) -> anyhow::Result<String> {
    let nics = LinuxNics::new(System);
    let found = nics.list()?;
    let found: &Nic = nic::by_mac(&found, mac)?;
    if !is_initialized(Path::new("/"), &found.name) {
        bail!("udev has not finished with {}: it may still rename it", found.name);
    }
    let link = nics.configure(found, address, None)?;
    if let Some(gateway) = gateway {
        nics.default_route(gateway)?;
    }
    Ok(link)
}

/// Whether udev is done with a link, so that its name stays: it then has a file for it, named by
/// the link's index (sd_device_get_is_initialized(3)). Without udev nobody renames.
fn is_initialized(root: &Path, link: &str) -> bool {
    if !root.join("run/udev/control").exists() {
        return true;
    }
    let index = std::fs::read_to_string(root.join("sys/class/net").join(link).join("ifindex"));
    index.is_ok_and(|index| root.join(format!("run/udev/data/n{}", index.trim())).exists())
}

/// Imports the system pool when there is one that is a compute node's and whole.
fn import_pool(step: &Step) -> anyhow::Result<Ended> {
    let name = paths::SYSTEM_POOL;
    let (pools, datasets) = (Pools::new(System), Datasets::new(System));
    let linux = LinuxDisks::new(System);
    if !Path::new("/proc/spl/kstat/zfs").join(name).exists() {
        linux.settle(super::SETTLE);
        let disks = linux.list().context("listing disks")?;
        let members: Vec<_> = disks.iter().flat_map(Disk::zfs_members).collect();
        if members.is_empty() {
            return Ok(Ended::Skipped("no disk carries a pool".to_owned()));
        }
        let found = pools.importable(&members).context("looking for pools")?;
        let Some(pool) = found.iter().find(|pool| pool.name == name) else {
            return Ok(Ended::Skipped(format!("no pool {name} on the disks")));
        };
        if pool.role() != Some("computenode") {
            let comment = pool.comment.as_deref().unwrap_or("none");
            return Ok(Ended::Skipped(format!(
                "pool {name} was not made for a compute node (its comment: {comment}): left alone"
            )));
        }
        if !pool.usable() {
            let status = pool.status.as_deref().unwrap_or("no details");
            bail!("pool {name} is {}: {status}", pool.state);
        }
        pools.import(&pool.guid, &members).context("importing the pool")?;
    }
    datasets.mount_own(name).context("mounting the pool")?;
    if !Path::new("/").join(name).join(paths::SYSTEM_POOL_MARKER).exists() {
        step.message(format!("the setup of pool {name} was cut off; server_setup will finish it"));
        return Ok(Ended::Done(format!("{name}, not set up")));
    }
    datasets.ensure(name, false).context("making missing datasets")?;
    datasets.mount_all(name, false).context("mounting datasets")?;
    Ok(Ended::Done(name.to_owned()))
}

/// Whether `/var` lies on the system pool.
fn pool_is_mounted() -> bool {
    let var = format!("{}/var", paths::SYSTEM_POOL);
    let mounted = headnode_node::dataset::mounted_at(Path::new("/var"));
    mounted.is_ok_and(|source| source.as_deref() == Some(var.as_str()))
}

fn pool_uuid_if_mounted() -> Option<Uuid> {
    if pool_is_mounted() { pool_uuid() } else { None }
}

type Fetching = tokio::task::JoinHandle<Fetched>;

/// The configuration from the headnode; while that is away, after a while the kept one, and the
/// fetch that goes on.
async fn fetched_or_kept(
    mut fetching: Fetching,
    step: &Step,
) -> anyhow::Result<(Fetched, Option<Fetching>)> {
    let kept = config::kept();
    let done = |config: &Config| {
        let name = config.get("datacenter_name").unwrap_or_default();
        Ended::Done(format!("datacenter {name}"))
    };
    let fetched = match kept {
        None => fetching.await,
        Some(config) => match tokio::time::timeout(KEPT_CONFIG_AFTER, &mut fetching).await {
            Ok(fetched) => fetched,
            Err(_) => {
                let reason = "the headnode is away: using the configuration kept on the pool";
                step.end::<String>(Ok(Ended::Skipped(reason.to_owned()))).ok();
                return Ok((Fetched { config, keys: None }, Some(fetching)));
            }
        },
    };
    let fetched = fetched.context("fetching the configuration")?;
    step.end::<String>(Ok(done(&fetched.config))).ok();
    Ok((fetched, None))
}

/// Takes over the configuration when the headnode is back. Only files are written; addresses that
/// changed count from the next boot on.
async fn refresh(fetching: Fetching, params: KernelParams, hostname: String, steps: Steps) {
    let Ok(fetched) = fetching.await else { return };
    let step = steps.begin(CONFIG_FETCHED);
    let work = step.clone();
    let applied = tokio::task::spawn_blocking(move || {
        config::apply(&fetched, &params, &hostname, &work);
        config::keep(&fetched.config)
    });
    match applied.await {
        Ok(result) => {
            let ended = result.map(|()| Ended::Done("the headnode is back".to_owned()));
            step.end(ended).ok();
        }
        Err(error) => say(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_used_when_udev_is_done_with_it() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert!(is_initialized(root.path(), "eth0"));
        put("run/udev/control", "");
        put("sys/class/net/eth0/ifindex", "2\n");
        assert!(!is_initialized(root.path(), "eth0"));
        put("run/udev/data/n2", "");
        assert!(is_initialized(root.path(), "eth0"));
        assert!(!is_initialized(root.path(), "eth1"));
    }

    #[test]
    fn missing_parameters_are_named() {
        let told = |line: &str| {
            let params = KernelParams::parse(line);
            admin(&params).map(drop).map_err(|error| format!("{error:#}"))
        };
        assert!(told("").unwrap_err().contains("admin_nic"));
        let nic = "BOOTIF=01-52-54-00-00-00-01";
        assert!(told(nic).unwrap_err().contains("parameter ip is absent"));
        let ip = format!("{nic} ip=10.0.0.5:::255.255.255.0::");
        assert!(told(&ip).unwrap_err().contains("assets_admin_ip"));
        assert_eq!(told(&format!("{ip} assets_admin_ip=10.0.0.1")), Ok(()));
    }
}
