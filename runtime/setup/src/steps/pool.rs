//! The pool: recognised, made, finished, imported; its datasets.
//!
//! Whose a pool is, is decided by the id of the setup, which lies on the key (record, and
//! configuration) and in the pool (comment and owner property, both part of `zpool create`).
//! Before a disk is touched its name is written to the record on the key. So after a power cut:
//!
//! * record `PoolCreating`, no pool: tables or halves of labels on just those disks are ours; they
//!   are cleared and the pool is made again;
//! * record `PoolCreating`, pool there: it is finished when it can be imported, else made again;
//! * record `PoolReady`: the pool is imported, never made again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use headnode_model::answers::Answer;
use headnode_model::paths::{self, SYSTEM_POOL};
use headnode_model::questions;
use headnode_node::disk::Disk;
use headnode_node::layout::{self, Wishes};
use headnode_node::pool::{Importable, Layout, Mark, PoolSpec};

use crate::machine::Machine;
use crate::record::Phase;
use crate::run::{Context, Ended};

const ROLE: &str = "headnode";

/// The mark of a headnode's pool.
pub fn mark(id: &str) -> Mark {
    Mark { role: ROLE.to_owned(), id: id.to_owned() }
}

fn marker() -> PathBuf {
    Path::new("/").join(SYSTEM_POOL).join(paths::SYSTEM_POOL_MARKER)
}

/// Whether a finished headnode's pool is there, not imported: one that boots without a key too.
pub fn bootable(machine: &dyn Machine) -> Result<bool> {
    let disks = machine.disks().context("listing the disks")?;
    let pools = machine.importable(&disks).context("looking for pools")?;
    Ok(pools.iter().any(|p| p.name == SYSTEM_POOL && p.role() == Some(ROLE) && p.finished()))
}

/// Whether this headnode's finished pool is there, so that this is a later boot.
pub fn ready(context: &mut Context<'_>) -> Result<bool> {
    let machine = context.machine;
    if context.key.is_some() && context.record.id.is_empty() {
        context.record.id = super::config::id(machine)?.unwrap_or_default();
        context.record.start_time = machine.now();
    }
    let id = context.record.id.clone();
    let known = context.key.is_some() && !id.is_empty();
    let virgin = context.key.is_some() && id.is_empty();
    if !virgin || context.forgetful() {
        await_devices(context)?;
    }
    if machine.imported().context("listing the imported pools")?.iter().any(|p| p == SYSTEM_POOL) {
        let owner = machine.pool_owner(SYSTEM_POOL)?;
        let ours = context.forgetful() || owner == id;
        if !ours && !adopt(context) {
            return Err(foreign("is imported", &owner));
        }
        if known && context.record.phase == Phase::PoolCreating {
            return Ok(false);
        }
        return finished(context, owner);
    }
    let disks = machine.disks().context("listing the disks")?;
    let pools = machine.importable(&disks).context("looking for pools")?;
    let zones: Vec<_> =
        pools.iter().filter(|p| p.name == SYSTEM_POOL && p.role() == Some(ROLE)).collect();
    let ours = |p: &&&Importable| p.has(&mark(&id));
    let pool = match zones[..] {
        [] if context.record.phase == Phase::PoolReady => bail!(
            "the pool {SYSTEM_POOL} of this headnode is gone: its disks were {}, the machine has:{}\n  Attach the \
             missing disks. To start anew, delete {} and {} from the key",
            context.record.disks.join(", "),
            list(&disks),
            paths::KEY_SETUP_STATE,
            paths::CONFIG,
        ),
        [] => return Ok(false),
        _ if known => match zones.iter().find(ours) {
            Some(pool) if context.record.phase == Phase::PoolCreating => {
                context.pool_guid = Some(pool.guid.clone());
                return Ok(false);
            }
            Some(pool) => *pool,
            None if context.record.phase == Phase::PoolReady => {
                return Err(foreign("is on the disks", zones[0].comment.as_deref().unwrap_or("?")));
            }
            // Left alone: their disks are not blank.
            None if !adopt(context) => return Ok(false),
            None => zones[0],
        },
        [pool] if context.forgetful() || adopt(context) => pool,
        // Left alone: their disks are not blank.
        [pool, ..] if context.key.is_some() => {
            let owner = pool.comment.clone().unwrap_or_default();
            context.say(format!("warning: {}", foreign("is on the disks", &owner)));
            return Ok(false);
        }
        _ => bail!(
            "there are several pools {SYSTEM_POOL} of headnodes and no key that tells which one is ours"
        ),
    };
    if !pool.usable() {
        bail!(
            "the pool {SYSTEM_POOL} cannot be imported, it is {}{}\n  Attach its missing disks. The machine has:{}",
            pool.state,
            pool.status.as_ref().map(|s| format!(": {s}")).unwrap_or_default(),
            list(&disks)
        );
    }
    let guid = pool.guid.clone();
    machine.import(&guid, &disks).with_context(|| format!("importing the pool {SYSTEM_POOL}"))?;
    let owner = machine.pool_owner(SYSTEM_POOL)?;
    finished(context, owner)
}

/// How long devices may take to appear, in all.
const DEVICES: Duration = Duration::from_secs(30);

/// How long the disks of a pool that is known to exist may take: controllers that spin up one disk
/// after the other.
const POOL_DISKS: Duration = Duration::from_secs(60);

/// Waits until the disks of the finished pool that the record names are there, as far as they come.
fn await_devices(context: &mut Context<'_>) -> Result<()> {
    let machine = context.machine;
    if context.record.phase != Phase::PoolReady {
        machine.settle(DEVICES);
        return Ok(());
    }
    let begin = machine.clock();
    loop {
        let disks = machine.disks().context("listing the disks")?;
        // Known only once udev has looked at its labels.
        let labelled = |d: &Disk| !d.zfs_members().is_empty();
        let missing: Vec<_> = context
            .record
            .disks
            .iter()
            .filter(|word| !disks.iter().any(|d| d.is_meant_by(word) && labelled(d)))
            .cloned()
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if machine.clock() - begin > POOL_DISKS {
            context.say(format!(
                "warning: these disks of the pool are not there: {}",
                missing.join(", ")
            ));
            return Ok(());
        }
        machine.pause();
    }
}

fn adopt(context: &Context<'_>) -> bool {
    context.answers.get("adopt_pool") == Answer::Given("true".to_owned())
}

fn foreign(what: &str, owner: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "a pool {SYSTEM_POOL} that another key's setup made ({owner}) {what}. It is left alone.\n  To go on with it as this \
         headnode, set `\"adopt_pool\": true` in {} on the key. To destroy it, name the serial numbers of its disks in \
         `wipe_disks` there. To keep it, take its disks out",
        paths::ANSWERS
    )
}

/// The pool is imported; takes it over as this key's when it carries a finished system.
fn finished(context: &mut Context<'_>, owner: String) -> Result<bool> {
    let machine = context.machine;
    machine.mount_root(SYSTEM_POOL)?;
    if machine.size(&marker())?.is_none() {
        if context.key.is_none() {
            bail!(
                "the pool {SYSTEM_POOL} is not finished (no {}), and the key is not there: plug it in",
                marker().display()
            );
        }
        return Ok(false);
    }
    if context.key.is_some()
        && (context.record.id != owner || context.record.phase != Phase::PoolReady)
    {
        context.record.id = owner;
        context.record.phase = Phase::PoolReady;
        context.record.save(machine)?;
    }
    Ok(true)
}

fn list(disks: &[Disk]) -> String {
    let line = |d: &Disk| {
        format!("\n    {}: {}", d.describe(), d.content().unwrap_or_else(|| "blank".to_owned()))
    };
    if disks.is_empty() { " none".to_owned() } else { disks.iter().map(line).collect() }
}

fn wishes(context: &Context<'_>) -> Result<Wishes> {
    Ok(Wishes {
        pool_disks: questions::words(&context.answers, "pool_disks")?,
        wipe_disks: questions::words(&context.answers, "wipe_disks")?,
    })
}

/// Makes the pool, or finishes the one that was begun.
pub fn created(context: &mut Context<'_>) -> Result<Ended> {
    let machine = context.machine;
    let id = context.record.id.clone();
    if machine.imported()?.iter().any(|p| p == SYSTEM_POOL) {
        return Ok(Ended::Done(format!(
            "{SYSTEM_POOL} was made before, it is {}",
            machine.pool_health(SYSTEM_POOL)?
        )));
    }
    machine.settle(DEVICES);
    let disks = machine.disks().context("listing the disks")?;
    let (layout, chosen, reason) = if context.record.phase == Phase::PoolCreating {
        let begun = begun(context, &disks)?;
        if let Some(line) = resume(context, &disks, &begun)? {
            return Ok(Ended::Done(line));
        }
        let layout = if begun.len() == 1 { Layout::Single } else { Layout::Mirror };
        (layout, begun, "the disks of the attempt before".to_owned())
    } else {
        let key = context.key.as_ref().map(|key| key.at.disk.as_str());
        let plan = layout::choose(&disks, key, &wishes(context)?)?;
        context.record.phase = Phase::PoolCreating;
        context.record.disks = plan.disks.iter().map(Disk::identity).collect();
        context.record.save(machine)?;
        (plan.layout, plan.disks, plan.reason)
    };
    for disk in chosen.iter().filter(|d| !d.blank()) {
        context.say(format!(
            "clearing {}: {}",
            disk.describe(),
            disk.content().unwrap_or_default()
        ));
        machine.wipe(disk).with_context(|| format!("clearing {}", disk.describe()))?;
    }
    let devices = chosen.iter().map(|d| d.best_path().clone()).collect();
    let spec = PoolSpec { name: SYSTEM_POOL.to_owned(), layout, devices, mark: mark(&id) };
    machine.create_pool(&spec).with_context(|| format!("making the pool {SYSTEM_POOL}"))?;
    let disks: Vec<_> = chosen.iter().map(Disk::describe).collect();
    Ok(Ended::Done(format!("{SYSTEM_POOL}, {layout} of {}: {reason}", disks.join(" and "))))
}

/// The disks that the record names. They must all be there, and hold nothing but what making a
/// pool leaves behind.
fn begun(context: &Context<'_>, disks: &[Disk]) -> Result<Vec<Disk>> {
    let wipe = wishes(context)?.wipe_disks;
    let mut begun = Vec::new();
    for word in &context.record.disks {
        let disk = disks.iter().find(|d| d.is_meant_by(word)).with_context(|| {
            format!("the disk {word}, on which the pool was begun, is gone. The machine has:{}\n  Attach it, or delete {} from the key to choose anew", list(disks), paths::KEY_SETUP_STATE)
        })?;
        let pool = |fs: Option<&str>, label: Option<&str>| match fs {
            None => true,
            Some("zfs_member") => label.is_none_or(|l| l == SYSTEM_POOL),
            Some(_) => false,
        };
        let ours = pool(disk.fs.as_deref(), disk.label.as_deref())
            && disk.partitions.iter().all(|p| pool(p.fs.as_deref(), p.label.as_deref()));
        if !ours && !wipe.iter().any(|w| disk.is_meant_by(w)) {
            bail!(
                "{}, on which the pool was begun, now holds something else ({}). It is left alone.\n  Name it in `wipe_disks` of {} to \
                 destroy that, or delete {} from the key to choose anew",
                disk.describe(),
                disk.content().unwrap_or_default(),
                paths::ANSWERS,
                paths::KEY_SETUP_STATE
            );
        }
        begun.push(disk.clone());
    }
    Ok(begun)
}

/// Imports the pool that a power cut left; `None` when there is none that can be used.
fn resume(context: &mut Context<'_>, disks: &[Disk], begun: &[Disk]) -> Result<Option<String>> {
    let machine = context.machine;
    let pools = machine.importable(begun).context("looking for pools")?;
    let mark = mark(&context.record.id);
    // A cut within `zpool create` may come before the comment; the disks are ours all the same.
    let ours = |p: &&Importable| p.name == SYSTEM_POOL && (p.comment.is_none() || p.has(&mark));
    let Some(pool) = pools.iter().find(ours).filter(|p| p.usable()) else { return Ok(None) };
    if let Err(error) = machine.import(&pool.guid, disks) {
        context.say(format!(
            "the pool that was begun cannot be imported, it is made again: {error:#}"
        ));
        return Ok(None);
    }
    Ok(Some(format!(
        "{SYSTEM_POOL} was begun before, finishing it; it is {}",
        machine.pool_health(SYSTEM_POOL)?
    )))
}

/// Makes and mounts the datasets; then the pool counts as the system's.
pub fn datasets_created(context: &mut Context<'_>) -> Result<Ended> {
    let machine = context.machine;
    machine.mount_root(SYSTEM_POOL).context("mounting the pool")?;
    let made = machine.ensure_datasets(SYSTEM_POOL).context("making the datasets")?;
    machine.mount_datasets(SYSTEM_POOL).context("mounting the datasets")?;
    swap(context)?;
    machine.write(&marker(), b"", 0o444).context("marking the pool as the system's")?;
    if context.record.phase != Phase::PoolReady {
        context.record.phase = Phase::PoolReady;
        context.record.save(machine)?;
    }
    Ok(Ended::Done(if made.is_empty() { "all were there".to_owned() } else { made.join(", ") }))
}

/// Swaps to a volume when the configuration asks for it: `swap=0.25x` (of memory) or `swap=4g`.
fn swap(context: &mut Context<'_>) -> Result<()> {
    let machine = context.machine;
    let Some(text) = context.config()?.get("swap").map(str::to_owned) else { return Ok(()) };
    match swap_size(&text, machine.memory()?) {
        Some(0) => Ok(()),
        Some(bytes) => machine.swap(SYSTEM_POOL, bytes).context("swapping to the pool"),
        None => bail!(
            "swap={text} in the configuration is neither a share of memory (0.25x) nor a size (4g)"
        ),
    }
}

fn swap_size(text: &str, memory: u64) -> Option<u64> {
    const GIB: u64 = 1 << 30;
    let text = text.trim().to_ascii_lowercase();
    if matches!(text.as_str(), "none" | "0") {
        return Some(0);
    }
    let bytes = if let Some(share) = text.strip_suffix('x') {
        let (whole, fraction) = share.split_once('.').unwrap_or((share, ""));
        let hundredths = format!("{fraction:0<2}").get(..2)?.parse::<u64>().ok()?;
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
        (memory / 100).checked_mul(whole.checked_mul(100)?.checked_add(hundredths)?)?.max(2 * GIB)
    } else {
        text.strip_suffix('g')?.parse::<u64>().ok()?.checked_mul(GIB)?
    };
    Some(bytes.div_ceil(1 << 20) << 20)
}

/// The pool is imported since the list of steps was chosen; tells how it is.
pub fn imported(context: &mut Context<'_>) -> Result<Ended> {
    let health = context.machine.pool_health(SYSTEM_POOL)?;
    if health != "ONLINE" {
        context.say(format!("warning: the pool is {health}; see `zpool status {SYSTEM_POOL}`"));
    }
    Ok(Ended::Done(format!("{SYSTEM_POOL} is {health}")))
}

/// Mounts the datasets; one that is missing is made, as a newer version may have more of them.
pub fn datasets_mounted(context: &mut Context<'_>) -> Result<Ended> {
    let machine = context.machine;
    let made = machine.ensure_datasets(SYSTEM_POOL).context("making missing datasets")?;
    machine.mount_datasets(SYSTEM_POOL).context("mounting the datasets")?;
    Ok(Ended::Done(if made.is_empty() {
        String::new()
    } else {
        format!("made {}", made.join(", "))
    }))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn swap_is_a_share_or_a_size() {
        const GIB: u64 = 1 << 30;
        assert_eq!(swap_size("0.25x", 16 * GIB).map(|b| b >> 30), Some(4));
        assert_eq!(swap_size("0.25x", GIB), Some(2 * GIB));
        assert_eq!(swap_size("3g", GIB), Some(3 * GIB));
        assert_eq!(swap_size("none", GIB), Some(0));
        assert_eq!(swap_size("much", GIB), None);
    }
}
