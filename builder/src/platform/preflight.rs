//! What a build needs of the machine, checked before anything is begun and told all at once.

use std::path::Path;

use anyhow::{Result, bail};

use super::{apt, root};

/// Programs and files that the build uses, and Debian's packages that have them.
const NEEDED: [(&str, &str); 9] = [
    ("mmdebstrap", "mmdebstrap"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("apt-config", "apt"),
    ("dpkg-deb", "dpkg"),
    ("gpgv", "gpgv"),
    (apt::APT_HELPER, "apt"),
    (apt::KEYRING, "debian-archive-keyring"),
    (root::MERGED_USR, "mmdebstrap"),
];

/// What an ordinary user needs besides, for a user namespace.
const NEEDED_ROOTLESS: [(&str, &str); 2] = [("newuidmap", "uidmap"), ("newgidmap", "uidmap")];

/// Checks the machine.
///
/// # Errors
/// All that is missing, with the command that installs it.
pub fn check() -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| {
        if name.starts_with('/') {
            return Path::new(name).exists();
        }
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|folder| folder.join(name).exists())
    };
    let mut needed = NEEDED.to_vec();
    if !root {
        needed.extend(NEEDED_ROOTLESS);
    }
    report(&needed, there)?;
    if !root {
        check_user()?;
    }
    Ok(())
}

fn report(needed: &[(&str, &str)], there: impl Fn(&str) -> bool) -> Result<()> {
    let missing: Vec<_> = needed.iter().filter(|(name, _)| !there(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    bail!(
        "this machine lacks {}. On Debian or Ubuntu:\n  sudo apt-get install -y {}",
        names.join(", "),
        packages.join(" ")
    )
}

/// Without root, mmdebstrap needs a range of 65536 user and group numbers and user namespaces.
fn check_user() -> Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let name = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid))
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name);
    let mut problems = Vec::new();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if !has_range(&text, &name, uid) {
            problems.push(format!("{file} gives user {name} no range of 65536 numbers"));
        }
    }
    if !problems.is_empty() {
        bail!(
            "building without root is not possible yet: {}. An administrator can do it once:\n  \
             sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}",
            problems.join("; ")
        );
    }
    for (file, good) in [
        ("/proc/sys/kernel/unprivileged_userns_clone", "1"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0"),
    ] {
        if let Ok(value) = std::fs::read_to_string(file)
            && value.trim() != good
        {
            bail!(
                "building without root needs user namespaces, which this machine forbids ({file} is {}). \
                 Build as root, or: sudo sysctl {}={good}",
                value.trim(),
                file.trim_start_matches("/proc/sys/").replace('/', ".")
            );
        }
    }
    Ok(())
}

fn has_range(text: &str, name: &str, uid: u32) -> bool {
    text.lines().any(|line| {
        let mut parts = line.split(':');
        let who = parts.next().unwrap_or_default();
        let count = parts.nth(1).and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or_default();
        (who == name || who == uid.to_string()) && count >= 65536
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_told_with_one_command() {
        let text = report(&NEEDED, |name| name == "apt-get").unwrap_err().to_string();
        assert!(text.contains("mmdebstrap, apt-cache"), "{text}");
        assert!(
            text.ends_with("apt-get install -y apt debian-archive-keyring dpkg gpgv mmdebstrap"),
            "{text}"
        );
        assert!(report(&NEEDED, |_| true).is_ok());
    }

    #[test]
    fn ranges_are_found_by_name_or_number() {
        let text = "alice:100000:65536\n1001:165536:65536\nbob:1:100\n";
        assert!(has_range(text, "alice", 1000));
        assert!(has_range(text, "carol", 1001));
        assert!(!has_range(text, "bob", 1002));
        assert!(!has_range("", "alice", 1000));
    }
}
