//! The reference platform: a Debian root in RAM, with the kernel and OpenZFS.
//!
//! [`build`] makes `platform-<stamp>.tgz` in Triton's layout for a Linux platform (C§4.5):
//!
//! ```text
//! platform/etc/version/platform        the stamp
//! platform/x86_64/vmlinuz              the kernel
//! platform/x86_64/initrd               the whole root: two zstd cpio archives, one after the other
//! platform/x86_64/packages.json        what is in it, for the bill of materials
//! platform/x86_64/copyright.cpio.zst   the packages' copyright files
//! ```
//!
//! The first archive of `initrd` is the root as Debian's packages make it, the second our few files
//! over it (`overlays/reference/base`) and the stamp; so a change to those costs no long compression.
//! Linux unpacks any number of archives one over the other, which is how the loader adds bundles too.
//!
//! The same lock file and the same repository give the same bytes. What is costly is cached by the
//! digest of all that it was made from: packages, ZFS modules, the bootstrapped root, its archive.

pub mod apt;
pub mod archive;
pub mod cache;
pub mod copyright;
pub mod lock;
pub mod preflight;
pub mod recipe;
pub mod root;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use apt::{Apt, Mirrors};
use archive::Tree;
use cache::{Cache, sha256_file, sha256_of, write_whole};
use lock::{Lock, Use};

use crate::progress::{Steps, Timing, note};

/// zstd's level for the root's archive. Measured on 190 MiB of root: level 3 gives 57 MiB in 2 s of
/// processor time, 9 gives 50 MiB in 7 s, 15 gives 50 MiB in 56 s, 19 gives 44 MiB in 170 s. What the
/// kernel needs to unpack it hardly depends on the level.
pub const COMPRESSION: i32 = 9;

/// What to build, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The lock file.
    pub lock: PathBuf,
    /// Pin the newest versions even when there is a lock file.
    pub update_lock: bool,
    /// Stamp of a new lock file, in seconds since 1970.
    pub epoch: u32,
    /// Folder for `platform-<stamp>.tgz`.
    pub output: PathBuf,
    /// The cache's folder.
    pub cache: PathBuf,
    /// Folder that is laid over the root.
    pub overlay: PathBuf,
    /// Where Debian's archives are.
    pub mirrors: Mirrors,
}

/// A file that was built.
#[derive(Debug, Clone, Serialize)]
pub struct BuiltFile {
    /// Its path inside the platform, or on this machine for the platform itself.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// What a build has made.
#[derive(Debug, Clone, Serialize)]
pub struct Built {
    /// The platform's stamp.
    pub stamp: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of OpenZFS.
    pub zfs: String,
    /// `platform-<stamp>.tgz`.
    pub platform: BuiltFile,
    /// The files in it.
    pub files: Vec<BuiltFile>,
    /// Bytes of the root in a machine's memory.
    pub unpacked_size: u64,
    /// Number of packages in the root.
    pub packages: usize,
    /// The lock file.
    pub lock: PathBuf,
    /// Time of each step.
    pub steps: Vec<Timing>,
    /// Seconds from begin to end.
    pub seconds: f64,
}

/// Builds the platform.
///
/// # Errors
/// Whatever goes wrong, with what was being done and what to do about it. Nothing unfinished is
/// left: outputs and cache entries appear by renaming.
pub fn build(options: &Options) -> Result<Built> {
    preflight::check()?;
    if !options.overlay.is_dir() {
        bail!(
            "there is no folder {}: run this in the repository, or name the folder with --overlay",
            options.overlay.display()
        );
    }
    let old = if options.update_lock { None } else { Lock::read(&options.lock)? };
    if old.as_ref().is_some_and(|lock| lock.recipe != recipe::packages_digest()) {
        bail!(
            "the lock file {} was made for another list of packages: pin the new ones with --update-lock",
            options.lock.display()
        );
    }
    let mut progress = Steps::numbered(7);
    let cache = Cache::open(&options.cache, || {
        progress.say(&format!("waiting: another build uses the cache {}", options.cache.display()));
    })?;
    let work = cache.work()?;
    let apt = Apt::new(&work.path().join("apt"), &options.mirrors, recipe::SUITE)?;

    let mut lock = progress.tell("versions", |_| match old {
        Some(lock) => {
            let n = lock.packages.len();
            Ok((lock, format!("{n} packages pinned by {}", options.lock.display())))
        }
        None => {
            let mut lock = apt.resolve(recipe::SUITE, options.epoch)?;
            let text = format!(
                "{} packages resolved, kernel {}, ZFS {}",
                lock.packages.len(),
                lock.kernel,
                lock.zfs
            );
            // Nothing new upstream: the platform stays what it was, stamp and all.
            if let Ok(Some(before)) = Lock::read(&options.lock)
                && before.packages == lock.packages
                && before.recipe == lock.recipe
            {
                lock.stamp = before.stamp;
            }
            Ok((lock, text))
        }
    })?;

    // Now, so that an interrupted build goes on with the same versions.
    write_lock(&lock, &options.lock)?;

    let modules = cache.part("modules", &root::modules_key(&lock));
    let mut needed = BTreeSet::new();
    if !modules.exists() {
        needed.extend([Use::Modules, Use::Zfs, Use::Root, Use::Kernel]);
    } else {
        let digest = root::modules_sha256(&lock, &cache)?;
        if !cache.part("root", &root::root_key(&lock, &digest)).exists() {
            needed.extend([Use::Root, Use::Kernel]);
        }
    }
    progress.tell("packages", |_| {
        let n = apt.fetch(&lock, &cache, &needed)?;
        Ok(((), if n == 0 { "all cached".to_owned() } else { format!("{n} downloaded") }))
    })?;

    let modules_sha256 = progress.tell("ZFS modules", |step| {
        let cached = modules.exists();
        if !cached {
            let step = step.clone();
            root::compile_modules(&lock, &cache, move |line| note(&step, line))?;
        }
        let digest = root::modules_sha256(&lock, &cache)?;
        Ok((digest, if cached { "cached" } else { "compiled" }.to_owned()))
    })?;
    lock.modules_sha256 = Some(modules_sha256.clone());

    let root_key = root::root_key(&lock, &modules_sha256);
    let root_tar = cache.part("root", &root_key);
    progress.tell("root", |step| {
        let cached = root_tar.exists();
        if !cached {
            let step = step.clone();
            root::bootstrap_root(&lock, &cache, &modules_sha256, move |line| note(&step, line))?;
        }
        Ok(((), if cached { "cached" } else { "bootstrapped" }.to_owned()))
    })?;

    let epoch = lock.epoch();
    let mut tree = Tree::from_tar(&root_tar)?;
    let vmlinuz = tree.read("boot/vmlinuz")?.context("the root has no boot/vmlinuz")?;
    let mut copyright = Tree::from_tar(&root_tar)?;
    copyright.retain(|path| path.starts_with("usr/share/doc/"));
    tree.retain(recipe::keeps);
    let boot_key = sha256_of(
        [root_key.as_str(), recipe::EDITION, &COMPRESSION.to_string()].map(str::as_bytes),
    );
    let base = cache.part("boot", &boot_key);
    progress.tell("boot archive", |_| {
        let cached = base.exists();
        if !cached {
            write_whole(&base, |out| compress(&tree, epoch, COMPRESSION, out).map(|_| ()))?;
        }
        let size = mib(base.metadata().map(|m| m.len()).unwrap_or_default());
        Ok(((), format!("{size}{}", if cached { ", cached" } else { ", compressed" })))
    })?;

    let mut overlay = Tree::from_folder(&options.overlay)?;
    overlay.add_folder("etc");
    overlay.add_folder("etc/version");
    overlay.add_file("etc/version/platform", 0o644, format!("{}\n", lock.stamp));
    let over = progress.tell("overlay", |_| {
        let bytes = compress(&overlay, epoch, COMPRESSION, Vec::new())?;
        Ok((bytes, format!("{} entries", overlay.nodes.len())))
    })?;

    let packages = packages_json(&lock, &copyright)?;
    let copyright = compress(&copyright, epoch, COMPRESSION, Vec::new())?;
    let place = options.output.join(format!("platform-{}.tgz", lock.stamp));
    let files = progress.tell("platform", |_| {
        let base_file = File::open(&base).with_context(|| format!("opening {}", base.display()))?;
        let base_size = base_file.metadata().context("measuring the boot archive")?.len();
        let stamp = format!("{}\n", lock.stamp);
        let files = write_whole(&place, |out| {
            let mut tgz = Tgz::new(out, epoch);
            for folder in
                ["platform/", "platform/etc/", "platform/etc/version/", "platform/x86_64/"]
            {
                tgz.folder(folder)?;
            }
            tgz.file("platform/etc/version/platform", stamp.len() as u64, stamp.as_bytes())?;
            tgz.file("platform/x86_64/vmlinuz", vmlinuz.len() as u64, vmlinuz.as_slice())?;
            let size = base_size + over.len() as u64;
            tgz.file("platform/x86_64/initrd", size, base_file.chain(over.as_slice()))?;
            tgz.file(PACKAGES, packages.len() as u64, packages.as_slice())?;
            let size = copyright.len() as u64;
            tgz.file("platform/x86_64/copyright.cpio.zst", size, copyright.as_slice())?;
            tgz.finish()
        })?;
        let size = mib(place.metadata().map(|m| m.len()).unwrap_or_default());
        Ok((files, format!("{} ({size})", place.display())))
    })?;
    write_lock(&lock, &options.lock)?;

    let platform = BuiltFile {
        size: place.metadata().with_context(|| format!("measuring {}", place.display()))?.len(),
        sha256: sha256_file(&place)?,
        path: place.display().to_string(),
    };
    let (steps, seconds) = progress.finish();
    Ok(Built {
        packages: lock.packages_for(Use::Root).count(),
        stamp: lock.stamp,
        kernel: lock.kernel,
        zfs: lock.zfs,
        platform,
        files,
        unpacked_size: tree.content_size() + overlay.content_size(),
        lock: options.lock.clone(),
        steps,
        seconds,
    })
}

fn write_lock(lock: &Lock, path: &Path) -> Result<()> {
    let text = lock.to_text().context("writing the lock file")?;
    if std::fs::read_to_string(path).ok().as_deref() != Some(&text) {
        write_whole(path, |out| Ok(out.write_all(text.as_bytes())?))?;
    }
    Ok(())
}

/// Bytes in MiB, for people.
pub fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Writes a tree as cpio, compressed. The bytes do not depend on the number of processors.
fn compress<W: Write>(tree: &Tree, mtime: u32, level: i32, out: W) -> Result<W> {
    let compressing = "compressing a boot archive";
    let mut encoder = zstd::Encoder::new(out, level).context(compressing)?;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    encoder.multithread(u32::try_from(workers).unwrap_or(1)).context(compressing)?;
    let encoder = tree.write_cpio(BufWriter::new(encoder), mtime)?;
    let encoder = encoder.into_inner().map_err(|e| e.into_error()).context(compressing)?;
    encoder.finish().context(compressing)
}

/// The list of a platform's packages, in its tarball.
pub const PACKAGES: &str = "platform/x86_64/packages.json";

/// `packages.json`: what is in the platform.
fn packages_json(lock: &Lock, texts: &Tree) -> Result<Vec<u8>> {
    let mut packages = Vec::new();
    for p in lock.packages.iter().filter(|p| p.uses.iter().any(|u| *u != Use::Modules)) {
        let path = format!("usr/share/doc/{}/copyright", p.name);
        let text = texts.read(&path)?.unwrap_or_default();
        packages.push(serde_json::json!({
            "name": p.name,
            "version": p.version,
            "architecture": p.architecture,
            "sha256": p.sha256,
            "uses": p.uses,
            "licences": copyright::licences(&String::from_utf8_lossy(&text)),
            "copyright": texts.nodes.contains_key(&path).then_some(path),
        }));
    }
    let mut text = serde_json::to_vec_pretty(&serde_json::json!({
        "stamp": lock.stamp,
        "suite": lock.suite,
        "kernel": lock.kernel,
        "zfs": lock.zfs,
        "modules_sha256": lock.modules_sha256,
        "packages": packages,
    }))
    .context("writing packages.json")?;
    text.push(b'\n');
    Ok(text)
}

/// Writes the platform's tgz. Its large members are compressed already, so gzip only wraps them.
struct Tgz<W: Write> {
    tar: tar::Builder<flate2::write::GzEncoder<BufWriter<W>>>,
    epoch: u32,
    files: Vec<BuiltFile>,
}

impl<W: Write + Seek> Tgz<W> {
    fn new(out: W, epoch: u32) -> Self {
        let gzip = flate2::GzBuilder::new()
            .mtime(epoch)
            .write(BufWriter::new(out), flate2::Compression::none());
        Self { tar: tar::Builder::new(gzip), epoch, files: Vec::new() }
    }

    fn header(&self, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(u64::from(self.epoch));
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    fn folder(&mut self, path: &str) -> Result<()> {
        let mut header = self.header(tar::EntryType::Directory, 0o755, 0);
        Ok(self.tar.append_data(&mut header, path, std::io::empty())?)
    }

    fn file(&mut self, path: &str, size: u64, bytes: impl Read) -> Result<()> {
        let mut header = self.header(tar::EntryType::Regular, 0o644, size);
        let mut bytes = Hashing { bytes, digest: sha2::Digest::new() };
        self.tar.append_data(&mut header, path, &mut bytes)?;
        let sha256 = cache::hex(&sha2::Digest::finalize(bytes.digest));
        self.files.push(BuiltFile { path: path.to_owned(), size, sha256 });
        Ok(())
    }

    fn finish(self) -> Result<Vec<BuiltFile>> {
        self.tar.into_inner()?.finish()?.flush()?;
        Ok(self.files)
    }
}

struct Hashing<R> {
    bytes: R,
    digest: sha2::Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.bytes.read(buf)?;
        sha2::Digest::update(&mut self.digest, buf.get(..n).unwrap_or_default());
        Ok(n)
    }
}

/// The cache's folder when none is named: `$XDG_CACHE_HOME/headnode`, else `~/.cache/headnode`.
pub fn default_cache() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("headnode"))
}
