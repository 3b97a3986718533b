//! Bootstrapping roots with mmdebstrap from packages in the cache, and nothing else.
//!
//! Each root gets a small archive of its own, made of exactly the pinned packages, so apt has no
//! choice left. It lies in a folder that everybody may read: as an ordinary user, mmdebstrap works
//! in a user namespace whose users are not us.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use headnode_command::Command;

use super::archive::{Kind, Tree};
use super::cache::{Cache, sha256_file, sha256_of, write_whole};
use super::lock::{Lock, Package, Use};
use super::recipe;

/// Where mmdebstrap (package of that name) keeps the hooks that merge /usr.
pub const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/merged-usr";

/// Compiling ZFS takes four minutes on two cores of 2024 and may take an hour on a busy old machine.
const LIMIT: Duration = Duration::from_secs(2 * 3600);

/// A folder that mmdebstrap can read, with an archive of packages.
struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new(lock: &Lock, cache: &Cache, uses: &[Use]) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("headnode-platform-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .context("making a temporary folder")?;
        let stage = Self { folder };
        let repo = stage.path("repo");
        std::fs::create_dir(&repo).with_context(|| format!("making {}", repo.display()))?;
        let mut index = String::new();
        for package in &lock.packages {
            if !uses.iter().any(|needed| package.uses.contains(needed)) {
                continue;
            }
            let from = cache.deb(&package.sha256);
            let name = format!("{}.deb", package.sha256);
            link_or_copy(&from, &repo.join(&name))?;
            let control = from.with_extension("control");
            let fields = std::fs::read_to_string(&control)
                .with_context(|| format!("reading {}", control.display()))?;
            index += &format!(
                "{}\nFilename: ./{name}\nSize: {}\nSHA256: {}\n\n",
                fields.trim_end(),
                package.size,
                package.sha256
            );
        }
        // mmdebstrap looks for essential packages in the suite that it was asked for only.
        let release = format!(
            "Suite: {suite}\nCodename: {suite}\nDate: Thu, 01 Jan 1970 00:00:00 UTC\n\
             Architectures: amd64\nSHA256:\n {} {} Packages\n",
            super::cache::hex(&<sha2::Sha256 as sha2::Digest>::digest(index.as_bytes())),
            index.len(),
            suite = lock.suite
        );
        stage.write("repo/Packages", &index)?;
        stage.write("repo/Release", &release)?;
        Ok(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Adds the hook `customize.sh`: a script of the recipe with its variables set.
    fn hook(&self, script: &str, variables: &[(&str, String)]) -> Result<PathBuf> {
        let mut text = String::from("#!/bin/sh\n");
        for (name, value) in variables {
            text += &format!("{name}='{}'\n", value.replace('\'', r"'\''"));
        }
        self.write("customize.sh", &(text + script))?;
        let path = self.path("customize.sh");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .with_context(|| format!("marking {} executable", path.display()))?;
        Ok(path)
    }

    /// Bootstraps a root with the packages that `needed` names, and writes it to `out` as a tar.
    fn bootstrap(
        &self,
        lock: &Lock,
        needed: Use,
        hook: &Path,
        out: &Path,
        on_line: impl FnMut(&str) + Send + 'static,
    ) -> Result<()> {
        let names: Vec<_> = lock.packages_for(needed).map(|p| p.name.as_str()).collect();
        let mut command = Command::new("mmdebstrap")
            .args(["--mode=auto", "--variant=essential", "--format=tar", "--architectures=amd64"])
            .arg(format!("--include={}", names.join(",")))
            .arg(format!("--hook-dir={MERGED_USR}"))
            .arg("--aptopt=APT::Install-Recommends \"false\"");
        for option in recipe::DPKG_OPTIONS {
            command = command.arg(format!("--dpkgopt={option}"));
        }
        command
            .arg(format!("--customize-hook={}", hook.display()))
            .arg(&lock.suite)
            .arg(out)
            .arg(format!("deb [trusted=yes] copy:{} ./", self.path("repo").display()))
            .env("SOURCE_DATE_EPOCH", lock.epoch().to_string())
            .env("LC_ALL", "C")
            // The user of mmdebstrap's namespace may enter neither where we are nor our home.
            .dir(self.folder.path())
            .env("HOME", self.folder.path())
            .timeout(LIMIT)
            .on_line(on_line)
            .run()
            .with_context(|| {
                format!("bootstrapping a root in {}", std::env::temp_dir().display())
            })?;
        Ok(())
    }
}

fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    // A hard link costs nothing; it cannot be made to another disk, nor to another user's file.
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to)
            .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

fn only(lock: &Lock, needed: Use) -> Result<&Package> {
    lock.packages_for(needed).next().context("the lock file lacks the kernel or the ZFS source")
}

fn digests(lock: &Lock, needed: &[Use]) -> String {
    needed
        .iter()
        .flat_map(|&needed| lock.packages_for(needed).map(|p| p.sha256.as_str()))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The key of the compiled ZFS modules in the cache: all that they are made from.
pub fn modules_key(lock: &Lock) -> String {
    let debs = digests(lock, &[Use::Modules, Use::Zfs]);
    sha256_of([recipe::modules_digest().as_bytes(), lock.kernel.as_bytes(), debs.as_bytes()])
}

/// Compiles the ZFS modules and files them in the cache as one tar of `.ko` files.
///
/// # Errors
/// When the root cannot be bootstrapped or the compiler fails.
pub fn compile_modules(
    lock: &Lock,
    cache: &Cache,
    on_line: impl FnMut(&str) + Send + 'static,
) -> Result<()> {
    let stage = Stage::new(lock, cache, &[Use::Modules])?;
    let source = stage.path("zfs-dkms.deb");
    link_or_copy(&cache.deb(&only(lock, Use::Zfs)?.sha256), &source)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let hook = stage.hook(
        recipe::MODULES,
        &[
            ("kernel", lock.kernel.clone()),
            ("zfs_deb", source.display().to_string()),
            ("jobs", jobs.to_string()),
        ],
    )?;
    let work = cache.work()?;
    let tar = work.path().join("modules.tar");
    stage.bootstrap(lock, Use::Modules, &hook, &tar, on_line)?;
    let tree = Tree::from_tar(&tar)?;
    let place = cache.part("modules", &modules_key(lock));
    write_whole(&place, |out| {
        let mut archive = tar::Builder::new(out);
        for (path, node) in &tree.nodes {
            let (Some(name), Kind::File { content, .. }) = (path.strip_prefix("out/"), &node.kind)
            else {
                continue;
            };
            let mut header = tar::Header::new_ustar();
            header.set_size(content.size());
            header.set_mode(0o644);
            header.set_mtime(0);
            archive.append_data(&mut header, name, tree.open(content)?)?;
        }
        archive.finish()?;
        Ok(())
    })
}

/// The key of a root in the cache: all that it is made from.
pub fn root_key(lock: &Lock, modules_sha256: &str) -> String {
    let debs = digests(lock, &[Use::Root, Use::Kernel]);
    let recipe = recipe::root_digest();
    let parts = [&recipe, &lock.stamp, &lock.suite, &lock.kernel, modules_sha256, &debs];
    sha256_of(parts.map(|p| p.as_bytes()))
}

/// Bootstraps the platform's root and files it in the cache as a tar.
///
/// # Errors
/// When mmdebstrap fails or the disk is full.
pub fn bootstrap_root(
    lock: &Lock,
    cache: &Cache,
    modules_sha256: &str,
    on_line: impl FnMut(&str) + Send + 'static,
) -> Result<()> {
    let stage = Stage::new(lock, cache, &[Use::Root])?;
    let kernel = stage.path("linux-image.deb");
    link_or_copy(&cache.deb(&only(lock, Use::Kernel)?.sha256), &kernel)?;
    let modules = cache.part("modules", &modules_key(lock));
    let file = File::open(&modules).with_context(|| format!("opening {}", modules.display()))?;
    tar::Archive::new(file)
        .unpack(stage.path("zfs-modules"))
        .with_context(|| format!("unpacking {}", modules.display()))?;
    stage.write("kernel-modules.txt", recipe::KERNEL_MODULES)?;
    let hook = stage.hook(
        recipe::CUSTOMIZE,
        &[
            ("kernel", lock.kernel.clone()),
            ("kernel_deb", kernel.display().to_string()),
            ("zfs_modules", stage.path("zfs-modules").display().to_string()),
            ("keep", stage.path("kernel-modules.txt").display().to_string()),
        ],
    )?;
    let work = cache.work()?;
    let tar = work.path().join("root.tar");
    stage.bootstrap(lock, Use::Root, &hook, &tar, on_line)?;
    let place = cache.part("root", &root_key(lock, modules_sha256));
    std::fs::rename(&tar, &place)
        .with_context(|| format!("renaming the root to {}", place.display()))
}

/// The digest of the compiled modules, checked against the lock's when that has one.
///
/// # Errors
/// When they differ: the platform would not be the pinned one.
pub fn modules_sha256(lock: &Lock, cache: &Cache) -> Result<String> {
    let place = cache.part("modules", &modules_key(lock));
    let digest = sha256_file(&place)?;
    match &lock.modules_sha256 {
        Some(pinned) if *pinned != digest => bail!(
            "the ZFS modules compiled here ({digest}) are not those that the lock file pins ({pinned}). \
             They are in {}; remove that file to compile them again, or pin them with --update-lock.",
            place.display()
        ),
        _ => Ok(digest),
    }
}
