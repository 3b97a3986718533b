//! What the running system is told: its root lives in memory, so at every boot.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use headnode_node::dataset::Datasets;
use headnode_node::exec::System;
use headnode_node::file::write_atomic;

use super::run;
use crate::machine::SystemSettings;

/// Kinds of host keys: one that all current clients take, one for the others. Both are made in
/// milliseconds, RSA takes seconds.
const KEY_TYPES: [&str; 2] = ["ed25519", "ecdsa"];

/// Applies all settings.
///
/// # Errors
/// The first file or program that fails.
pub fn apply(settings: &SystemSettings) -> Result<()> {
    let write = |path: &str, text: &str, mode| {
        let path = Path::new(path);
        // `/etc/resolv.conf` may be a link to a file of a service that is not there.
        if path.is_symlink() {
            fs::remove_file(path)
                .with_context(|| format!("removing the link {}", path.display()))?;
        }
        write_atomic(path, text.as_bytes(), mode)
            .with_context(|| format!("writing {}", path.display()))
    };
    let name = &settings.hostname;
    nix::unistd::sethostname(name).with_context(|| format!("setting the hostname {name}"))?;
    write("/etc/hostname", &format!("{name}\n"), 0o644)?;
    write(
        "/etc/hosts",
        &format!("127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost\n"),
        0o644,
    )?;
    let shadow = fs::read_to_string("/etc/shadow").context("reading /etc/shadow")?;
    write("/etc/shadow", &with_root_hash(&shadow, &settings.root_shadow), 0o640)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create("/root/.ssh")
        .context("making /root/.ssh")?;
    write("/root/.ssh/authorized_keys", &settings.authorized_keys, 0o600)?;
    write("/etc/resolv.conf", &settings.resolv_conf, 0o644)?;
    write("/etc/issue", &settings.issue, 0o644)?;
    host_keys(&settings.host_keys)?;
    let chrony = "/etc/chrony/conf.d/headnode.conf";
    if fs::read_to_string(chrony).ok().as_deref() != Some(&settings.chrony_conf) {
        write(chrony, &settings.chrony_conf, 0o644)?;
        // Not waiting: it starts with its own unit when it does not run yet.
        run("systemctl", &["try-restart", "--no-block", "chrony.service"])?;
    }
    Ok(())
}

/// The shadow file with another hash for root, who is put first when he was not there.
fn with_root_hash(shadow: &str, hash: &str) -> String {
    let mut found = false;
    let mut text: String = shadow
        .lines()
        .map(|line| match line.strip_prefix("root:") {
            Some(rest) => {
                found = true;
                let after = rest.split_once(':').map_or("19000:0:99999:7:::", |(_, after)| after);
                format!("root:{hash}:{after}\n")
            }
            None => format!("{line}\n"),
        })
        .collect();
    if !found {
        text.insert_str(0, &format!("root:{hash}:19000:0:99999:7:::\n"));
    }
    text
}

/// Makes the host keys once, keeps them in `kept`, and gives them to sshd.
fn host_keys(kept: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(kept)
        .with_context(|| format!("making {}", kept.display()))?;
    for kind in KEY_TYPES {
        let name = format!("ssh_host_{kind}_key");
        let (private, public) = (kept.join(&name), kept.join(format!("{name}.pub")));
        // The public half is written first: where the private one is, both are.
        if !private.exists() {
            let fresh = format!("/run/sdc-setup/{name}");
            fs::create_dir_all("/run/sdc-setup").context("making /run/sdc-setup")?;
            for old in [fresh.clone(), format!("{fresh}.pub")] {
                drop(fs::remove_file(old));
            }
            run("ssh-keygen", &["-q", "-t", kind, "-N", "", "-C", "headnode", "-f", &fresh])?;
            for (from, to, mode) in
                [(format!("{fresh}.pub"), &public, 0o644), (fresh.clone(), &private, 0o600)]
            {
                let bytes = fs::read(&from).with_context(|| format!("reading {from}"))?;
                write_atomic(to, &bytes, mode)
                    .with_context(|| format!("writing {}", to.display()))?;
            }
        }
        for (path, mode) in [(&public, 0o644), (&private, 0o600)] {
            let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            let target = Path::new("/etc/ssh").join(path.file_name().unwrap_or_default());
            write_atomic(&target, &bytes, mode)
                .with_context(|| format!("writing {}", target.display()))?;
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))
                .with_context(|| format!("protecting {}", target.display()))?;
        }
    }
    Ok(())
}

/// Makes the swap volume when it is missing, and swaps to it.
///
/// # Errors
/// When a program fails or the volume's device does not appear.
pub fn swap(datasets: &Datasets<System>, pool: &str, bytes: u64) -> Result<()> {
    let name = format!("{pool}/swap");
    if !datasets.list(pool)?.contains(&name) {
        datasets.create_swap(pool, bytes)?;
    }
    let device = format!("/dev/zvol/{name}");
    let limit = Duration::from_secs(30);
    let begin = Instant::now();
    while !Path::new(&device).exists() {
        if begin.elapsed() > limit {
            bail!("{device} did not appear within {} s", limit.as_secs());
        }
        run("udevadm", &["settle", "--timeout=5"])?;
    }
    let real = fs::canonicalize(&device).with_context(|| format!("following {device}"))?;
    let real = real.display().to_string();
    let active = fs::read_to_string("/proc/swaps").context("reading /proc/swaps")?;
    if !active.lines().any(|line| line.starts_with(&format!("{real} "))) {
        run("mkswap", &[&real])?;
        run("swapon", &[&real])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_roots_hash_changes() {
        let shadow = "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n";
        assert_eq!(
            with_root_hash(shadow, "$6$x"),
            "root:$6$x:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n"
        );
        assert!(with_root_hash("", "$6$x").starts_with("root:$6$x:"));
    }
}
