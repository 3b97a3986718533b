//! The key's copy on the pool (C§1.3), and what the booter hands out of it.

use anyhow::{Context as _, Result, bail};
use headnode_model::paths;
use headnode_model::personal::Part;

use super::key::{manifest, to_copy};
use crate::record::{on_key, on_pool};
use crate::run::{Context, Ended};

/// The place of a key's file on the pool: the same, but platforms get their stamp in upper case.
fn target(path: &str) -> String {
    let upper = || {
        let rest = path.strip_prefix(paths::PLATFORMS)?.strip_prefix('/')?;
        let (stamp, rest) = rest.split_once('/')?;
        Some(format!("{}/{}/{rest}", paths::PLATFORMS, stamp.to_ascii_uppercase()))
    };
    upper().unwrap_or_else(|| path.to_owned())
}

/// Copies what the manifest names. The manifest itself comes last: where it is equal on both
/// sides, the copy is whole. Older platforms stay, so that one can go back to them.
pub fn key_copied(context: &mut Context<'_>) -> Result<Ended> {
    let machine = context.machine;
    if context.key.is_none() {
        return Ok(Ended::Skipped("no key, the copy stays as it is".to_owned()));
    }
    let key_bytes = machine.read(&on_key(paths::KEY_MANIFEST))?;
    let there = machine.read(&on_pool(paths::KEY_MANIFEST))?;
    let config = context.config()?.clone();
    let new_keys = copy_keys(context)?;
    let result = if there.is_some() && there == key_bytes && whole(context)? {
        match new_keys {
            true => Ended::Done(format!("{} is new", paths::AUTHORIZED_KEYS)),
            false => Ended::Skipped("the copy is up to date".to_owned()),
        }
    } else {
        let line = copy_all(context)?;
        let bytes =
            key_bytes.with_context(|| format!("{} is missing on the key", paths::KEY_MANIFEST))?;
        machine.sync(&on_pool(""))?;
        machine.write(&on_pool(paths::KEY_MANIFEST), &bytes, 0o644)?;
        Ended::Done(line)
    };
    if machine.read(&on_pool(paths::CONFIG))?.is_none() {
        let bytes = machine.read(&on_key(paths::CONFIG))?;
        let bytes = bytes.unwrap_or_else(|| config.to_string().into_bytes());
        // It holds the hash of root's password.
        machine.write(&on_pool(paths::CONFIG), &bytes, 0o600)?;
    }
    Ok(result)
}

/// Copies root's public keys, and tells whether they are new. They are a personal part of the key: no
/// manifest has their digest, they may be others at every boot, and behind them comes padding. Where
/// the key has none, the pool's stay.
fn copy_keys(context: &mut Context<'_>) -> Result<bool> {
    let machine = context.machine;
    let listed = manifest(context)?;
    if listed.file(paths::AUTHORIZED_KEYS).is_none_or(|file| file.sha256.is_some()) {
        // An older image, whose keys are a file like any other.
        return Ok(false);
    }
    let bytes = machine.read(&on_key(paths::AUTHORIZED_KEYS))?.unwrap_or_default();
    let keys = Part::AuthorizedKeys.content(&bytes);
    let text = std::str::from_utf8(keys).ok();
    let text = text.filter(|text| !text.contains(|c: char| c.is_control() && !c.is_whitespace()));
    let Some(text) = text else {
        context.say(format!(
            "warning: {} on the key is damaged: the keys on the pool stay as they are",
            paths::AUTHORIZED_KEYS
        ));
        return Ok(false);
    };
    let new = format!("{text}\n").into_bytes();
    if text.is_empty() || machine.read(&on_pool(paths::AUTHORIZED_KEYS))?.as_ref() == Some(&new) {
        return Ok(false);
    }
    machine.write(&on_pool(paths::AUTHORIZED_KEYS), &new, 0o644)?;
    Ok(true)
}

/// Whether all files are there with their sizes; that their content lasts is what ZFS is for.
fn whole(context: &Context<'_>) -> Result<bool> {
    for (file, _) in to_copy(&manifest(context)?) {
        if context.machine.size(&on_pool(&target(&file.path)))? != Some(file.size) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn copy_all(context: &mut Context<'_>) -> Result<String> {
    let machine = context.machine;
    let manifest = match context.manifest.take() {
        Some(manifest) => manifest,
        None => manifest(context)?,
    };
    let files = to_copy(&manifest);
    let total: u64 = files.iter().map(|(file, _)| file.size).sum();
    let mut done = 0;
    let mut kept = 0;
    for (file, digest) in &files {
        let (from, to) = (on_key(&file.path), on_pool(&target(&file.path)));
        let before = done;
        let mut count = |bytes| {
            done += bytes;
            context.progress(done, total, "bytes");
        };
        // What a copy that was cut off has finished is read once more instead of copied.
        let same = machine.size(&to)? == Some(file.size)
            && machine.digest(&to, &mut count)?.eq_ignore_ascii_case(digest);
        if same {
            kept += 1;
        } else {
            done = before;
            let mut count = |bytes| {
                done += bytes;
                context.progress(done, total, "bytes");
            };
            machine.copy(&from, &to, digest, &mut count).with_context(|| {
                format!(
                    "copying {} from the key (write the image to the key anew when it is damaged)",
                    file.path
                )
            })?;
        }
    }
    let kept = if kept == 0 { String::new() } else { format!(", {kept} of them were there") };
    Ok(format!("{} files, {} MB{kept}", files.len(), total / 1_000_000))
}

/// Writes what compute nodes fetch: their configuration, root's public keys, their software.
pub fn extras_prepared(context: &mut Context<'_>) -> Result<Ended> {
    let machine = context.machine;
    let config = context.config()?.for_compute_node().to_string();
    let keys = machine.read(&on_pool(paths::AUTHORIZED_KEYS))?.unwrap_or_default();
    let bundle = on_pool(paths::BUNDLE_NODE);
    let mut written = Vec::new();
    for (path, bytes) in
        [(paths::EXTRA_NODE_CONFIG, config.into_bytes()), (paths::EXTRA_AUTHORIZED_KEYS, keys)]
    {
        if machine.read(&on_pool(path))?.as_ref() != Some(&bytes) {
            machine.write(&on_pool(path), &bytes, 0o644)?;
            written.push(path);
        }
    }
    let extra = on_pool(paths::EXTRA_BUNDLE_NODE);
    match machine.size(&bundle)? {
        None if context.key.is_none() && machine.size(&extra)?.is_some() => {}
        None => bail!(
            "{} is missing: the image carries no software for compute nodes",
            bundle.display()
        ),
        Some(_) => {
            // The same content by the digest that the copy was checked against, not by its size.
            let stored = machine
                .read(&on_pool(paths::KEY_MANIFEST))?
                .context("the key's manifest is not on the pool")?;
            let manifest = headnode_model::manifest::Manifest::parse(&stored)?;
            let wanted = manifest.file(paths::BUNDLE_NODE).and_then(|f| f.sha256.clone());
            let wanted = wanted
                .with_context(|| format!("the manifest has no digest of {}", paths::BUNDLE_NODE))?;
            let there =
                machine.size(&extra)?.is_some() && machine.digest(&extra, &mut |_| {})? == wanted;
            if !there {
                machine.copy(&bundle, &extra, &wanted, &mut |_| {})?;
                written.push(paths::EXTRA_BUNDLE_NODE);
            }
        }
    }
    if written.is_empty() {
        return Ok(Ended::Skipped("up to date".to_owned()));
    }
    machine.sync(&on_pool(""))?;
    Ok(Ended::Done(written.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stamp_is_in_upper_case() {
        assert_eq!(
            target("os/20260101t000000z/platform/x86_64/vmlinuz"),
            "os/20260101T000000Z/platform/x86_64/vmlinuz"
        );
        assert_eq!(target("boot/grub/grub.cfg"), "boot/grub/grub.cfg");
        assert_eq!(target("os"), "os");
    }
}
