//! The key: found and verified.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use headnode_model::answers::Answers;
use headnode_model::manifest::{File, Manifest};
use headnode_model::paths;
use headnode_node::file::sha256_of;

use crate::record::{Record, on_key};
use crate::run::{Context, Ended};

/// Kernel parameter that holds the digest of the manifest that belongs to this boot.
const PARAM: &str = "headnode.manifest";

/// How long the key may take to appear: sdc-headnode#41 tells of one that took 91 s (C§1.4).
const PATIENCE: Duration = Duration::from_secs(120);

/// The same when a finished pool is there, which boots without a key too.
const PATIENCE_LATER: Duration = Duration::from_secs(30);

/// How long the right key may take when another one is there already.
const PATIENCE_OTHER: Duration = Duration::from_secs(10);

/// Waits for the key and mounts it.
pub fn found(context: &mut Context<'_>) -> Result<Ended> {
    let machine = context.machine;
    let wanted = wanted(context)?;
    let begin = machine.clock();
    let mut told = Duration::ZERO;
    let mut pool = None;
    // Disks may appear later than the first look; one that was there stays.
    let bootable = |seen: &mut Option<bool>| -> Result<bool> {
        if *seen != Some(true) {
            *seen = Some(super::pool::bootable(machine)?);
        }
        Ok(*seen == Some(true))
    };
    // Not waiting for all devices here: the key is usually there before the last disk is, and the
    // next step has much to read meanwhile.
    loop {
        let found = machine.find_key(wanted.as_deref()).context("looking for the key")?;
        let waited = machine.clock() - begin;
        // A key with another manifest is taken only when the right one does not appear in time:
        // a slow stick must not lose against an old one.
        let right = found.as_ref().is_some_and(|key| wanted.is_none() || key.manifest == wanted);
        let patience = if right {
            Duration::ZERO
        } else if bootable(&mut pool)? {
            PATIENCE_LATER
        } else {
            PATIENCE
        };
        match found {
            Some(key) if !right && waited >= PATIENCE_OTHER && pool == Some(true) => {
                // A finished system does not depend on what somebody plugged in.
                context.say(format!(
                    "warning: the key on {} has another manifest than this boot: it is left alone, the pool is used",
                    key.at.device.display()
                ));
                return Ok(Ended::Skipped("another key, but a pool".to_owned()));
            }
            Some(key) if right || waited >= PATIENCE_OTHER => {
                let line = format!("{} on {}", key.at.device.display(), key.at.disk);
                context.key = Some(key);
                load(context)?;
                return Ok(Ended::Done(line));
            }
            None if waited >= patience => {
                if pool == Some(true) {
                    context.say("warning: the key is not there; this boot uses the pool alone");
                    return Ok(Ended::Skipped("no key, but a pool".to_owned()));
                }
                bail!(
                    "no key found: none of the FAT and ISO 9660 file systems of this machine's disks has the \
                     file {} in its root, and none appeared within {} s.\n  Plug in the stick or disk that this machine booted \
                     from, at another port when it is there already\n  Disks:{}",
                    paths::KEY_MARKER,
                    PATIENCE.as_secs(),
                    list(context)
                );
            }
            _ => {}
        }
        if waited >= told + Duration::from_secs(10) {
            told = waited;
            context.say(format!(
                "waiting for the key since {} s, at most {} s",
                waited.as_secs(),
                patience.as_secs()
            ));
        }
        machine.pause();
    }
}

fn list(context: &Context<'_>) -> String {
    let disks = context.machine.disks().unwrap_or_default();
    let line = |d: &headnode_node::disk::Disk| {
        format!("\n    {}: {}", d.describe(), d.content().unwrap_or_else(|| "blank".to_owned()))
    };
    if disks.is_empty() { " none".to_owned() } else { disks.iter().map(line).collect() }
}

fn wanted(context: &Context<'_>) -> Result<Option<String>> {
    let Some(value) = context.params.get(PARAM) else { return Ok(None) };
    let hex = value.strip_prefix("sha256:").filter(|hex| hex.len() == 64);
    let hex = hex.with_context(|| {
        format!("the kernel parameter {PARAM}={value} is not of the form sha256:<64 hex digits>")
    })?;
    Ok(Some(hex.to_ascii_lowercase()))
}

/// Reads what the key holds besides the image's files.
fn load(context: &mut Context<'_>) -> Result<()> {
    let machine = context.machine;
    context.record = Record::load(machine)?.unwrap_or_default();
    if let Some(bytes) = machine.read(&on_key(paths::ANSWERS))? {
        // The answers are looked at when they are needed: a later boot does not fail for them.
        match Answers::parse(&bytes) {
            Ok(answers) => context.answers = answers,
            Err(error) if machine.read(&on_key(paths::CONFIG))?.is_none() => {
                bail!("{} on the key: {error}", paths::ANSWERS)
            }
            Err(error) => context.say(format!("warning: {}: {error}", paths::ANSWERS)),
        }
    }
    Ok(())
}

/// Reads the manifest of the key that was found and checks its digest.
pub fn manifest(context: &Context<'_>) -> Result<Manifest> {
    let path = on_key(paths::KEY_MANIFEST);
    let bytes = context.machine.read(&path)?;
    let bytes = bytes.with_context(|| {
        format!("{} is missing on the key: write the image anew", paths::KEY_MANIFEST)
    })?;
    if let Some(wanted) = wanted(context)? {
        let found = sha256_of(&bytes);
        if found != wanted {
            bail!(
                "{} on the key is damaged, or the key does not belong to what was booted: its SHA-256 is {found}, \
                 {PARAM} says {wanted}. Write the image to the key anew and boot from it",
                paths::KEY_MANIFEST
            );
        }
    }
    Manifest::parse(&bytes).with_context(|| format!("reading {} on the key", paths::KEY_MANIFEST))
}

/// The files that go to the pool, with their digests: all but those of `private` (C§1.3), and but the
/// personal parts, which have none.
pub fn to_copy(manifest: &Manifest) -> Vec<(&File, &str)> {
    let private = |file: &File| file.path.split('/').next() == Some(paths::KEY_PRIVATE);
    let files = manifest.files.iter().filter(|file| !private(file) && file.path != paths::CONFIG);
    files.filter_map(|file| Some((file, file.sha256.as_deref()?))).collect()
}

/// Checks the manifest and every file that goes to the pool, before any disk is touched.
pub fn verified(context: &mut Context<'_>) -> Result<Ended> {
    let machine = context.machine;
    let manifest = manifest(context)?;
    let files = to_copy(&manifest);
    let total: u64 = files.iter().map(|(file, _)| file.size).sum();
    let mut done = 0;
    let mut damaged = Vec::new();
    for (file, wanted) in &files {
        let path = on_key(&file.path);
        match machine.size(&path)? {
            None => damaged.push(format!("{} is missing", file.path)),
            Some(size) if size != file.size => {
                damaged.push(format!(
                    "{} is damaged: it has {size} bytes instead of {}",
                    file.path, file.size
                ));
            }
            Some(_) => {
                let mut count = |bytes| {
                    done += bytes;
                    context.progress(done, total, "bytes");
                };
                match machine.digest(&path, &mut count) {
                    Ok(found) if found.eq_ignore_ascii_case(wanted) => {}
                    Ok(_) => damaged.push(format!(
                        "{} is damaged: its SHA-256 is not the manifest's",
                        file.path
                    )),
                    Err(error) => damaged.push(format!("{} cannot be read: {error:#}", file.path)),
                }
            }
        }
    }
    if !damaged.is_empty() {
        bail!(
            "the key is damaged:\n    {}\n  Nothing on this machine was changed. Write the image to the key anew, to \
             another stick when it happens again",
            damaged.join("\n    ")
        );
    }
    let line = format!(
        "{} {}: {} files, {} MB",
        manifest.name,
        manifest.version,
        files.len(),
        total / 1_000_000
    );
    context.manifest = Some(manifest);
    Ok(Ended::Done(line))
}
