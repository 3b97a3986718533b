//! Debian's packages: which versions make up a platform, and getting exactly those.
//!
//! A private apt set-up in a folder of ours resolves names to versions; it needs no root and does
//! not touch the machine's own. Signatures are checked against `debian-archive-keyring`. Once
//! versions are pinned in the lock file, packages are downloaded by path and SHA-256.

pub mod index;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use headnode_command::Command;

use super::cache::{Cache, sha256_file};
use super::lock::{self, Lock, Package, Use};
use super::recipe;
use index::{Found, Uri, field};

/// The keys that Debian signs its archives with (package `debian-archive-keyring`).
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt's downloader, which verifies digests (package `apt`).
pub const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

const NETWORK_TIMEOUT: Duration = Duration::from_secs(1800);

/// One of Debian's archives.
#[derive(Debug, Clone, Copy)]
pub struct Archive {
    /// How the lock file calls it.
    pub name: &'static str,
    /// Where it is, when nothing else is asked for.
    pub url: &'static str,
    /// What to add to the release's name for each of its suites.
    suites: &'static [&'static str],
}

/// The archives that a platform is taken from.
pub const ARCHIVES: [Archive; 2] = [
    Archive { name: "debian", url: "http://deb.debian.org/debian", suites: &["", "-updates"] },
    Archive {
        name: "debian-security",
        url: "http://deb.debian.org/debian-security",
        suites: &["-security"],
    },
];

/// Where each of the [`ARCHIVES`] is to be reached, without a slash at the end.
#[derive(Debug, Clone)]
pub struct Mirrors(BTreeMap<&'static str, String>);

impl Mirrors {
    /// Debian's own addresses, or those given instead for `debian` and `debian-security`.
    pub fn new(debian: Option<&str>, security: Option<&str>) -> Self {
        let given = [debian, security];
        Self(
            ARCHIVES
                .iter()
                .zip(given)
                .map(|(archive, given)| {
                    (archive.name, given.unwrap_or(archive.url).trim_end_matches('/').to_owned())
                })
                .collect(),
        )
    }

    fn url(&self, archive: &str) -> Result<&str> {
        self.0
            .get(archive)
            .map(String::as_str)
            .with_context(|| format!("archive {archive:?} is not known"))
    }
}

/// An apt set-up of our own.
pub struct Apt<'a> {
    folder: PathBuf,
    mirrors: &'a Mirrors,
}

impl<'a> Apt<'a> {
    /// Writes the set-up into `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(folder: &Path, mirrors: &'a Mirrors, suite: &str) -> Result<Self> {
        let writing = || format!("writing apt's configuration in {}", folder.display());
        for sub in ["lists/partial", "archives/partial", "etc"] {
            std::fs::create_dir_all(folder.join(sub)).with_context(writing)?;
        }
        let mut sources = String::new();
        for archive in ARCHIVES {
            for suffix in archive.suites {
                let url = mirrors.url(archive.name)?;
                sources +=
                    &format!("deb [signed-by={KEYRING}] {url} {suite}{suffix} main contrib\n");
            }
        }
        std::fs::write(folder.join("etc/sources.list"), sources).with_context(writing)?;
        std::fs::write(folder.join("status"), "").with_context(writing)?;
        let at = folder.display();
        let config = format!(
            "Dir \"{at}\";\nDir::State \"{at}\";\nDir::State::lists \"{at}/lists\";\n\
             Dir::State::status \"{at}/status\";\nDir::Cache \"{at}\";\n\
             Dir::Cache::archives \"{at}/archives\";\nDir::Etc \"{at}/etc\";\n\
             Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n\
             APT::Sandbox::User \"\";\npkgCacheGen::ForceEssential \",\";\n{}",
            host_settings()?
        );
        std::fs::write(folder.join("apt.conf"), config).with_context(writing)?;
        Ok(Self { folder: folder.to_owned(), mirrors })
    }

    fn command(&self, program: &str) -> Command {
        Command::new(program)
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C")
            .timeout(NETWORK_TIMEOUT)
    }

    /// Decides on the newest versions of all that the recipe names.
    ///
    /// # Errors
    /// A mirror that cannot be reached or lacks a package, signatures that do not fit.
    pub fn resolve(&self, suite: &str, epoch: u32) -> Result<Lock> {
        self.command("apt-get").args(["update", "-q", "--error-on=any"]).run().context(
            "reading the package lists (is the network up? another mirror can be given with --mirror)",
        )?;
        let kernel = self.kernel()?;
        let headers = format!("linux-headers-{kernel}");
        let image = format!("linux-image-{kernel}");
        let root: Vec<&str> = recipe::names(recipe::ROOT_PACKAGES).collect();
        let mut modules: Vec<&str> = recipe::names(recipe::MODULES_PACKAGES).collect();
        modules.push(&headers);
        let mut found: BTreeMap<(String, String), Found> = BTreeMap::new();
        for (needed, with_dependencies, names) in [
            (Use::Root, true, root),
            (Use::Modules, true, modules),
            (Use::Kernel, false, vec![image.as_str()]),
            (Use::Zfs, false, vec!["zfs-dkms"]),
        ] {
            for uri in self.uris(&names, with_dependencies)? {
                let found = found.entry((uri.name, uri.version)).or_default();
                found.url = uri.url;
                found.uses.insert(needed);
            }
        }
        let packages = self.describe(found)?;
        let version_of = |name: &str| {
            packages.iter().find(|p| p.name == name).map(|p| p.version.clone()).unwrap_or_default()
        };
        let (zfs, tools) = (version_of("zfs-dkms"), version_of("zfsutils-linux"));
        if zfs != tools {
            bail!(
                "the mirror has zfs-dkms {zfs} but zfsutils-linux {tools}: it is being updated, try again later"
            );
        }
        let lock = Lock {
            version: lock::VERSION,
            stamp: lock::stamp_of(epoch),
            suite: suite.to_owned(),
            recipe: recipe::packages_digest(),
            kernel,
            zfs,
            modules_sha256: None,
            packages,
        };
        let problems = lock.problems();
        if !problems.is_empty() {
            bail!("what apt resolved cannot be pinned:\n  {}", problems.join("\n  "));
        }
        Ok(lock)
    }

    /// The release of the kernel that `linux-image-amd64` stands for.
    fn kernel(&self) -> Result<String> {
        let what = "finding the kernel that linux-image-amd64 stands for";
        let text = self
            .command("apt-cache")
            .args(["show", "--no-all-versions", "linux-image-amd64"])
            .run()
            .context(what)?
            .stdout;
        field(&text, "Depends")
            .and_then(|depends| {
                depends.split([',', ' ']).find_map(|word| word.trim().strip_prefix("linux-image-"))
            })
            .map(str::to_owned)
            .context(what)
    }

    fn uris(&self, names: &[&str], with_dependencies: bool) -> Result<Vec<Uri>> {
        let resolving = || {
            format!("resolving {} (does the mirror offer the component contrib?)", names.join(" "))
        };
        let command = self.command("apt-get").args(["-qq", "-y", "--print-uris"]);
        let command = if with_dependencies {
            command.args(["install", "?essential"])
        } else {
            command.arg("download")
        };
        let text = command.args(names).run().with_context(resolving)?.stdout;
        text.lines()
            .filter(|line| line.starts_with('\''))
            .map(|line| Uri::parse(line).with_context(|| format!("apt wrote {line:?}")))
            .collect()
    }

    /// Completes what apt resolved with paths, sizes and digests from the package lists.
    fn describe(&self, mut found: BTreeMap<(String, String), Found>) -> Result<Vec<Package>> {
        let wanted = found.keys().map(|(name, version)| format!("{name}={version}"));
        let text = self
            .command("apt-cache")
            .arg("show")
            .args(wanted)
            .run()
            .context("reading descriptions of packages")?
            .stdout;
        let mut packages = index::describe(&text, &mut found, &self.mirrors.0);
        if !found.is_empty() {
            let names: Vec<_> = found.keys().map(|(name, _)| name.as_str()).collect();
            bail!("the package lists do not describe {}", names.join(", "));
        }
        packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        Ok(packages)
    }

    /// Puts every package of the lock into the cache that is not there yet; gives their number.
    ///
    /// # Errors
    /// Packages that are in neither the cache nor the mirror, all named.
    pub fn fetch(&self, lock: &Lock, cache: &Cache, wanted: &BTreeSet<Use>) -> Result<usize> {
        let missing: Vec<&Package> = lock
            .packages
            .iter()
            .filter(|p| !p.uses.is_disjoint(wanted) && !cache.deb(&p.sha256).exists())
            .collect();
        if missing.is_empty() {
            return Ok(0);
        }
        let folder = self.folder.join("download");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let mut command = self.command(APT_HELPER).args(["-q", "download-file"]);
        for package in &missing {
            let url = self.mirrors.url(&package.archive)?;
            command = command
                .arg(format!("{url}/{}", package.filename))
                .arg(folder.join(&package.sha256))
                .arg(format!("SHA256:{}", package.sha256));
        }
        // One package that is gone makes the whole command fail, so the files tell what is there.
        let outcome = command.run();
        let mut gone = Vec::new();
        for package in &missing {
            let file = folder.join(&package.sha256);
            if file.exists() && sha256_file(&file)? == package.sha256 {
                keep(cache, package, &file)?;
            } else {
                gone.push(format!("{} {}", package.name, package.version));
            }
        }
        if gone.is_empty() {
            return Ok(missing.len());
        }
        let tail = outcome.err().map(|e| e.tail().join("\n  ")).unwrap_or_default();
        bail!(
            "{} pinned package(s) are in neither the cache {} nor the mirror: {}\n\
             If the mirror has moved on, --update-lock pins what it has now. apt's last lines:\n  {tail}",
            gone.len(),
            cache.folder().display(),
            gone.join(", ")
        )
    }
}

/// Files a package in the cache with its control fields beside it.
fn keep(cache: &Cache, package: &Package, file: &Path) -> Result<()> {
    let keeping = || format!("keeping {} in the cache", package.name);
    let fields = Command::new("dpkg-deb").arg("--field").arg(file).run().with_context(keeping)?;
    let place = cache.deb(&package.sha256);
    super::cache::write_whole(&place.with_extension("control"), |out| {
        Ok(std::io::Write::write_all(out, fields.stdout.as_bytes())?)
    })?;
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .with_context(keeping)?;
    std::fs::rename(file, &place).with_context(keeping)
}

/// What this machine's own apt needs in order to reach a mirror: proxies and the like. Nothing else
/// of its configuration has a say in what a platform is made of.
fn host_settings() -> Result<String> {
    const TAKEN: [&str; 5] = [
        "Acquire::http",
        "Acquire::https",
        "Acquire::ForceIPv",
        "Acquire::Retries",
        // Mirrors that are frozen at a date are past their validity.
        "Acquire::Check-",
    ];
    let text = Command::new("apt-config")
        .arg("dump")
        .run()
        .context("reading this machine's apt configuration")?
        .stdout;
    Ok(text
        .lines()
        .filter(|line| TAKEN.iter().any(|prefix| line.starts_with(prefix)))
        .filter(|line| !line.ends_with(" \"\";"))
        .flat_map(|line| [line, "\n"])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_can_be_replaced_one_by_one() {
        let mirrors = Mirrors::new(Some("http://mirror.example/debian/"), None);
        assert_eq!(mirrors.url("debian").unwrap(), "http://mirror.example/debian");
        assert_eq!(mirrors.url("debian-security").unwrap(), ARCHIVES[1].url);
        assert!(mirrors.url("other").is_err());
    }
}
