//! The Linux machine that the agent runs on.

pub mod boot;
pub mod config;
pub mod intent;
pub mod setup;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use headnode_model::config::Config;
use headnode_model::event::Event;
use headnode_model::net::MacAddr;
use headnode_model::paths;
use headnode_model::sysinfo::{Sysinfo, SysinfoAgent};
use headnode_node::dataset::Datasets;
use headnode_node::exec::System;
use headnode_node::sysinfo::zpool::PoolFacts;
use headnode_node::sysinfo::{self, Sources, links};
use headnode_node::{power, smbios};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::machine::{Machine, SetupRequest};

/// Where the agent keeps what must last: on the pool once the machine is set up.
pub const STATE: &str = "/var/lib/sdc-agent";
/// The tasks' files.
pub const TASKS: &str = "/var/lib/sdc-agent/tasks";
/// How long devices may take to show up.
const SETTLE: Duration = Duration::from_secs(30);

/// This machine.
pub struct LinuxMachine {
    uuid: Uuid,
    admin_mac: Option<MacAddr>,
    config: RwLock<Arc<Config>>,
}

impl LinuxMachine {
    /// The machine of this identity, admin NIC and configuration.
    pub fn new(uuid: Uuid, admin_mac: Option<MacAddr>, config: Config) -> Self {
        Self { uuid, admin_mac, config: RwLock::new(Arc::new(config)) }
    }

    /// The configuration.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the configuration.
    pub fn set_config(&self, config: Config) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }
}

impl Machine for LinuxMachine {
    fn uuid(&self) -> Uuid {
        self.uuid
    }

    fn sysinfo(&self) -> Sysinfo {
        collect(self.uuid, self.admin_mac, &self.config())
    }

    fn status(&self) -> Value {
        let root = Path::new("/");
        let memory = sysinfo::memory(root);
        let pool = pool_facts();
        let mut pools = json!({});
        if let Some(pool) = &pool {
            pools[&pool.name] = json!({
                "bytes_available": pool.available,
                "bytes_used": pool.used,
                "health": pool.health,
            });
        }
        let (used, available) = pool.map_or((0, 0), |pool| (pool.used, pool.available));
        json!({
            "vms": {},
            "zpoolStatus": pools,
            "meminfo": {
                "availrmem_bytes": memory.available,
                "arcsize_bytes": memory.arc,
                "total_bytes": memory.total,
            },
            // All that lies on the pool belongs to the system as long as there are no instances.
            "diskinfo": {
                "kvm_zvol_used_bytes": 0,
                "kvm_zvol_volsize_bytes": 0,
                "kvm_quota_bytes": 0,
                "kvm_quota_used_bytes": 0,
                "zone_quota_bytes": 0,
                "zone_quota_used_bytes": 0,
                "cores_quota_bytes": 0,
                "cores_quota_used_bytes": 0,
                "installed_images_used_bytes": 0,
                "pool_size_bytes": used.saturating_add(available),
                "pool_alloc_bytes": used,
                "system_used_bytes": used,
            },
            "boot_time": sysinfo::boot_time(root),
        })
    }

    fn status_key(&self) -> String {
        // The pool's health, as the kernel module tells it without a command; absent: no pool.
        let state = format!("/proc/spl/kstat/zfs/{}/state", paths::SYSTEM_POOL);
        let health = std::fs::read_to_string(state).unwrap_or_default();
        format!("{} {}", health.trim(), sysinfo::is_set_up(Path::new("/")))
    }

    fn set_up(
        &self,
        request: &SetupRequest,
        report: &(dyn Fn(Event) + Send + Sync),
    ) -> anyhow::Result<()> {
        setup::run(self.uuid, &self.config(), request, report)
    }

    fn reboot(&self) -> anyhow::Result<()> {
        Ok(power::reboot()?)
    }
}

/// Collects sysinfo of the running machine.
pub fn collect(uuid: Uuid, admin_mac: Option<MacAddr>, config: &Config) -> Sysinfo {
    let version = env!("CARGO_PKG_VERSION");
    sysinfo::collect(Sources {
        root: "/".into(),
        uuid,
        config: Some(config),
        admin_mac,
        addresses: links::addresses(),
        pool: pool_facts(),
        agents: vec![SysinfoAgent { name: "sdc-agent".to_owned(), version: version.to_owned() }],
        version,
    })
}

/// Facts of the system pool; none when it is not imported. ZFS is not asked before its module is
/// loaded: a command would load it and wait.
fn pool_facts() -> Option<PoolFacts> {
    if !Path::new("/proc/spl/kstat/zfs").join(paths::SYSTEM_POOL).exists() {
        return None;
    }
    let facts = PoolFacts::read(paths::SYSTEM_POOL);
    facts.inspect_err(|error| tracing::warn!(%error, "asking for the pool's facts")).ok().flatten()
}

/// The UUID that the pool's property holds.
pub fn pool_uuid() -> Option<Uuid> {
    let var = format!("{}/var", paths::SYSTEM_POOL);
    let value = Datasets::new(System).property(&var, paths::UUID_PROPERTY);
    value.ok()?.parse().ok()
}

/// Notes the identity on the pool, when it is not there yet.
///
/// # Errors
/// When `zfs` refuses.
pub fn keep_uuid(uuid: Uuid) -> anyhow::Result<()> {
    if pool_uuid() == Some(uuid) {
        return Ok(());
    }
    let var = format!("{}/var", paths::SYSTEM_POOL);
    Datasets::new(System)
        .set(&var, paths::UUID_PROPERTY, &uuid.to_string())
        .context("noting the server's UUID on the pool")
}

/// Who this machine is, as far as it can be told now.
///
/// # Errors
/// When there is nothing to tell it by.
pub fn identity(
    params: &headnode_model::boot::KernelParams,
    pool: Option<Uuid>,
    admin_mac: Option<MacAddr>,
) -> Result<smbios::Identity, smbios::NoIdentity> {
    let smbios = smbios::Smbios::read(Path::new("/"));
    let override_uuid = params.get("override_uuid");
    smbios::UuidSources { override_uuid, smbios: &smbios.uuid, pool, admin_mac }.decide()
}
