//! What goes into the reference platform, as data: package lists, kernel modules, hooks.

use super::cache::sha256_of;

/// Packages of the root, one a line, `#` begins a comment.
pub const ROOT_PACKAGES: &str = include_str!("recipe/root-packages.txt");
/// Packages of the throw-away root that compiles the ZFS modules.
pub const MODULES_PACKAGES: &str = include_str!("recipe/modules-packages.txt");
/// Kernel modules to keep.
pub const KERNEL_MODULES: &str = include_str!("recipe/kernel-modules.txt");
/// Hook that finishes the root.
pub const CUSTOMIZE: &str = include_str!("recipe/customize.sh");
/// Hook that compiles the ZFS modules.
pub const MODULES: &str = include_str!("recipe/modules.sh");

/// Debian's release.
pub const SUITE: &str = "bookworm";

/// Options for dpkg in both roots: nothing that only people read, but the licences, and no waiting
/// for the disk (an unfinished root is thrown away).
pub const DPKG_OPTIONS: [&str; 9] = [
    "force-unsafe-io",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/bash-completion/*",
    "path-exclude=/usr/lib/x86_64-linux-gnu/gconv/*",
];

/// Raised when [`super`]'s code changes what it makes of the same lock and files, so that finished
/// parts in caches are not taken for it.
pub const EDITION: &str = "1";

/// Whether a path of the bootstrapped root goes into the boot archive. What is left out lives on a
/// file system that systemd mounts, or is apt's: the platform is never changed by packages.
pub fn keeps(path: &str) -> bool {
    const BELOW: [&str; 9] = [
        "dev/",
        "proc/",
        "sys/",
        "run/",
        "tmp/",
        "boot/",
        "etc/apt/",
        "var/lib/apt/",
        "var/cache/apt/",
    ];
    const SELF: [&str; 3] = ["etc/apt", "var/lib/apt", "var/cache/apt"];
    !SELF.contains(&path)
        && !BELOW.iter().any(|prefix| path.starts_with(prefix))
        && !(path.starts_with("usr/share/doc/"))
}

/// The words of a list of the recipe.
pub fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|l| !l.is_empty())
}

/// Digest of the package lists: a lock that was made from others does not fit.
pub fn packages_digest() -> String {
    let lists = names(ROOT_PACKAGES).chain(["/"]).chain(names(MODULES_PACKAGES));
    sha256_of(lists.map(str::as_bytes))
}

/// Digest of everything here that decides the root's content.
pub fn root_digest() -> String {
    let options = DPKG_OPTIONS.join(" ");
    sha256_of([EDITION, ROOT_PACKAGES, KERNEL_MODULES, CUSTOMIZE, &options].map(str::as_bytes))
}

/// Digest of everything here that decides the ZFS modules.
pub fn modules_digest() -> String {
    let options = DPKG_OPTIONS.join(" ");
    sha256_of([EDITION, MODULES_PACKAGES, MODULES, &options].map(str::as_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_give_names_without_comments() {
        let all: Vec<_> = names(ROOT_PACKAGES).collect();
        assert!(all.contains(&"systemd-sysv") && all.contains(&"zfsutils-linux"), "{all:?}");
        assert!(all.iter().all(|name| !name.contains([' ', '#'])), "{all:?}");
    }

    #[test]
    fn what_systemd_mounts_and_apt_keeps_stays_out() {
        for path in ["dev/null", "run/lock", "boot/vmlinuz", "etc/apt/sources.list", "etc/apt"] {
            assert!(!keeps(path), "{path}");
        }
        for path in ["dev", "etc/passwd", "usr/lib/systemd/systemd", "var/lib/dpkg/status"] {
            assert!(keeps(path), "{path}");
        }
    }
}
