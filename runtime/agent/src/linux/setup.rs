//! The task `server_setup`: pool, datasets, configuration, state file (C§3.3, C§5.3).
//!
//! Every step looks at what is there and does what is missing, so that the task can be given
//! again after a failure, a restart of the agent or a power cut at any moment.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use headnode_model::config::Config;
use headnode_model::event::Event;
use headnode_model::paths;
use headnode_model::setup_state::{NodeType, SetupState};
use headnode_node::dataset::Datasets;
use headnode_node::disk::linux::LinuxDisks;
use headnode_node::disk::{Disk, Disks};
use headnode_node::exec::System;
use headnode_node::file::write_atomic;
use headnode_node::layout::{self, Plan, Wishes};
use headnode_node::pool::{Layout, Mark, OWNER_PROPERTY, PoolSpec, Pools};
use uuid::Uuid;

use super::{config, intent, keep_uuid};
use crate::clock;
use crate::machine::SetupRequest;
use crate::steps::{Ended, Steps};

/// The pool is made.
pub const ZPOOL_CREATED: &str = "zpool_created";
/// The datasets are made and mounted.
pub const DATASETS_SETUP: &str = "datasets_setup";
/// The configuration lies on the pool.
pub const CONFIGS_INSTALLED: &str = "configs_installed";
/// The state file says so.
pub const SETUP_COMPLETE: &str = "setup_complete";
/// The steps in their order; the names are Triton's (C§3.3).
pub const STEPS: [&str; 4] = [ZPOOL_CREATED, DATASETS_SETUP, CONFIGS_INSTALLED, SETUP_COMPLETE];

/// Sets up this machine; events go to `report`.
///
/// # Errors
/// Of the step that failed.
pub fn run(
    server: Uuid,
    node_config: &Config,
    request: &SetupRequest,
    report: &(dyn Fn(Event) + Send + Sync),
) -> anyhow::Result<()> {
    let headnode = headnode_node::sysinfo::kernel_params(Path::new("/")).headnode();
    if headnode {
        bail!("this is the headnode: sdc-setup sets it up, not CNAPI");
    }
    let mut state = State::load();
    // The sink of steps must live as long as they do; events are handed on from a list instead.
    let events = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let steps = Steps::new(
        &STEPS,
        Arc::new(move |event| {
            sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(event);
        }),
    );
    let flush = || {
        let mut held = events.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let ready = std::mem::take(&mut *held);
        drop(held);
        ready.into_iter().for_each(report);
    };
    for name in STEPS {
        let step = steps.begin(name);
        let say = |text: String| {
            step.message(text);
            flush();
        };
        flush();
        state.begin(name)?;
        let result = match name {
            ZPOOL_CREATED => create_pool(server, request, &say),
            DATASETS_SETUP => make_datasets(server),
            CONFIGS_INSTALLED => install_configs(node_config, request),
            _ => state.complete(),
        };
        let result = match result {
            Ok(ended) => state.done(name).map(|()| ended),
            Err(error) => {
                state.failed(&error);
                Err(error)
            }
        };
        let result = step.end(result);
        flush();
        result.with_context(|| format!("step {name}"))?;
    }
    Ok(())
}

/// The state file (C§3.1), written at each change.
struct State(SetupState);

impl State {
    fn load() -> Self {
        let text = std::fs::read(paths::SETUP_STATE).unwrap_or_default();
        let fresh = || SetupState::new(NodeType::Computenode, &clock::now());
        Self(serde_json::from_slice(&text).unwrap_or_else(|_| fresh()))
    }

    fn save(&self) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.0)?;
        write_atomic(Path::new(paths::SETUP_STATE), &bytes, 0o400)
            .with_context(|| format!("writing {}", paths::SETUP_STATE))
    }

    fn begin(&mut self, step: &str) -> anyhow::Result<()> {
        self.0.begin(step, &clock::now());
        self.save()
    }

    fn done(&mut self, step: &str) -> anyhow::Result<()> {
        self.0.done(step, &clock::now());
        self.save()
    }

    fn failed(&mut self, error: &anyhow::Error) {
        self.0.failed(&format!("{error:#}"), &clock::now());
        if let Err(error) = self.save() {
            tracing::warn!(%error, "noting the failure");
        }
    }

    fn complete(&mut self) -> anyhow::Result<Ended> {
        self.0.complete = true;
        self.0.done(SETUP_COMPLETE, &clock::now());
        self.save()?;
        Ok(Ended::Done(String::new()))
    }
}

/// The mark of this server's pool. The id is the server's, not one per setup: a node without a
/// disk could not remember any other across a power cut.
fn mark(server: Uuid) -> Mark {
    Mark { role: "computenode".to_owned(), id: server.to_string() }
}

fn create_pool(
    server: Uuid,
    request: &SetupRequest,
    say: &dyn Fn(String),
) -> anyhow::Result<Ended> {
    let pool = paths::SYSTEM_POOL;
    let pools = Pools::new(System);
    let mark = mark(server);
    if pools.imported().context("listing pools")?.iter().any(|name| name == pool) {
        let owner = Datasets::new(System).property(pool, OWNER_PROPERTY)?;
        if owner != mark.id {
            bail!(
                "pool {pool} is imported but was not made for this server (its {OWNER_PROPERTY} is \
                 {owner:?}): export or destroy it, or take its disks out"
            );
        }
        return Ok(Ended::Skipped(format!("pool {pool} is there")));
    }
    let linux = LinuxDisks::new(System);
    linux.settle(super::SETTLE);
    let mut disks = linux.list().context("listing disks")?;
    let members: Vec<_> = disks.iter().flat_map(Disk::zfs_members).collect();
    let found = pools.importable(&members).context("looking for pools")?;
    let ours = found.iter().find(|p| p.name == pool && p.comment == Some(mark.comment()));
    if let Some(ours) = ours {
        if !ours.usable() {
            bail!(
                "this server's pool {pool} is {}: {}. Bring back its disks ({})",
                ours.state,
                ours.status.as_deref().unwrap_or("no details"),
                ours.devices.join(", ")
            );
        }
        pools.import(&ours.guid, &members).context("importing the pool of an earlier try")?;
        erase_intents(&disks, server)?;
        return Ok(Ended::Done(format!("pool {pool} of an earlier try taken over")));
    }
    // No pool of ours can be imported: disks with our record are remains of one that never was.
    let mut wiped = false;
    for disk in &disks {
        let noted = intent::read(&disk.path).ok().flatten() == Some(server);
        if noted && intent::only_zfs_remains(disk) {
            say(format!("clearing {}: a pool was being made on it", disk.describe()));
            linux.wipe(disk).with_context(|| format!("clearing {}", disk.describe()))?;
            wiped = true;
        }
    }
    if wiped {
        disks = linux.list().context("listing disks")?;
    }
    let wishes =
        Wishes { pool_disks: request.pool_disks.clone(), wipe_disks: request.wipe_disks.clone() };
    let plan = fit(layout::choose(&disks, None, &wishes)?, request.disk_layout.as_deref())?;
    let names = plan.disks.iter().map(Disk::describe).collect::<Vec<_>>().join(" and ");
    say(format!("{}: {names}", plan.reason));
    for disk in &plan.disks {
        if !disk.blank() {
            linux.wipe(disk).with_context(|| format!("wiping {}", disk.describe()))?;
        }
        intent::write(&disk.path, server)
            .with_context(|| format!("noting the beginning on {}", disk.describe()))?;
    }
    let devices = plan.disks.iter().map(|disk| disk.best_path().clone()).collect();
    let spec = PoolSpec { name: pool.to_owned(), layout: plan.layout, devices, mark };
    pools.create(&spec, &linux).context("creating the pool")?;
    erase_intents(&plan.disks, server)?;
    Ok(Ended::Done(format!("{pool}, {} of {names}", plan.layout)))
}

fn erase_intents(disks: &[Disk], server: Uuid) -> anyhow::Result<()> {
    for disk in disks {
        if intent::read(&disk.path).ok().flatten() == Some(server) {
            intent::erase(&disk.path)
                .with_context(|| format!("clearing the note on {}", disk.describe()))?;
        }
    }
    Ok(())
}

/// Makes the plan fit the layout that was asked for.
fn fit(mut plan: Plan, wanted: Option<&str>) -> anyhow::Result<Plan> {
    match (wanted.unwrap_or_default(), plan.layout) {
        ("", _) | ("mirror", Layout::Mirror) | ("single", Layout::Single) => {}
        ("single", Layout::Mirror) => {
            plan.disks.truncate(1);
            plan.layout = Layout::Single;
            plan.reason = "single, as asked for".to_owned();
        }
        ("mirror", Layout::Single) => bail!(
            "disk_layout mirror needs two free disks of equal size; found {}",
            plan.disks.iter().map(Disk::describe).collect::<Vec<_>>().join(", ")
        ),
        (other, _) => bail!("disk_layout {other:?} is not one of single and mirror"),
    }
    Ok(plan)
}

fn make_datasets(server: Uuid) -> anyhow::Result<Ended> {
    let pool = paths::SYSTEM_POOL;
    let datasets = Datasets::new(System);
    let made = datasets.ensure(pool, false).context("making datasets")?;
    keep_uuid(server)?;
    datasets.mount_all(pool, false).context("mounting datasets")?;
    let marker = Path::new("/").join(pool).join(paths::SYSTEM_POOL_MARKER);
    // Written last: a pool with it has all datasets.
    if !marker.exists() {
        write_atomic(&marker, b"", 0o444)
            .with_context(|| format!("writing {}", marker.display()))?;
    }
    if made.is_empty() {
        return Ok(Ended::Skipped("all datasets are there".to_owned()));
    }
    Ok(Ended::Done(made.join(", ")))
}

fn install_configs(node_config: &Config, request: &SetupRequest) -> anyhow::Result<Ended> {
    config::keep(node_config)?;
    if let Some(hostname) = request.hostname.as_deref().filter(|name| !name.is_empty()) {
        config::keep_hostname(hostname)?;
        config::set_hostname(hostname)?;
    }
    config::keep_host_keys()?;
    Ok(Ended::Done(paths::NODE_CONFIG.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(count: usize) -> Plan {
        let disk = |name: &str| Disk { name: name.to_owned(), ..Disk::default() };
        let disks = ["vda", "vdb"].into_iter().map(disk).take(count).collect();
        let layout = if count == 1 { Layout::Single } else { Layout::Mirror };
        Plan { layout, disks, reason: String::new() }
    }

    #[test]
    fn the_layout_asked_for_is_kept_or_refused() {
        assert_eq!(fit(plan(2), None).unwrap().layout, Layout::Mirror);
        assert_eq!(fit(plan(2), Some("")).unwrap().disks.len(), 2);
        let single = fit(plan(2), Some("single")).unwrap();
        assert_eq!((single.layout, single.disks.len()), (Layout::Single, 1));
        assert!(fit(plan(1), Some("mirror")).unwrap_err().to_string().contains("two free disks"));
        assert!(fit(plan(2), Some("raidz2")).unwrap_err().to_string().contains("raidz2"));
    }
}
