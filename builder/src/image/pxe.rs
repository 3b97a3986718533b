//! What a boot server needs to start a platform over the network: the platform's files, an iPXE
//! script rendered from `overlays/pxe/`, the digest of everything (C§1.14, C§4.4, C§4.5).
//!
//! For SmartOS, this is what Triton's bundle has. Triton's build mounts the boot archive, a UFS file
//! system, and puts `/scripts`, `/config.inc`, `/testdomain.txt` and `/isourl.txt` into it, because an
//! installer that came by the network finds them nowhere else: with `triton_installer=ipxe` the
//! platform copies them from the root of its own ramdisk (C§1.4 d). `assemble::boot_archive` does the
//! same without a mount, for archives that are UFS. Nothing that a boot server can say stands in for
//! those files:
//! - modules of type `file` show up below `/system/boot` (C§1.6), not in the ramdisk's root, and are
//!   not asked for scripts;
//! - `triton_isoname` only changes the name of the archive that setup fetches, once the scripts run
//!   already (C§3.2); it is fetched from the folder above the platform's, where `fulliso.tgz` is a
//!   link to it, which is its default name, so nothing has to be said;
//! - `triton_installer=iso` reads a disc, and the network brings none.
//!
//! With an archive of another kind that lacks these files, this bundle boots a machine that has no
//! scripts to set itself up with. The archive `fulliso.tgz` has them all, for keys, discs and pools.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::Content;
use crate::manifest::sums;
use crate::tree;
use crate::tree::overlay::{self, Entry};

/// The file of digests.
pub const SUMS: &str = "SHA256SUMS";

/// What a platform has beside its boot archive that nothing boots from (C§1.14).
const WITHOUT: [&str; 2] = ["/boot_archive.manifest", "/boot_archive.gitstatus"];

/// Which kind of platform it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Os {
    /// SmartOS: a kernel that is loaded by the multiboot protocol, and a boot archive.
    Smartos,
    /// Linux: a kernel and initial file systems.
    Linux,
}

impl Os {
    /// The folder of its script below `overlays/pxe/`.
    fn folder(self) -> &'static str {
        match self {
            Self::Smartos => "smartos",
            Self::Linux => "linux",
        }
    }

    fn kernel(self) -> &'static str {
        match self {
            Self::Smartos => "platform/i86pc/kernel/amd64/unix",
            Self::Linux => "platform/x86_64/vmlinuz",
        }
    }

    fn archive(self) -> &'static str {
        match self {
            Self::Smartos => "platform/i86pc/amd64/boot_archive",
            Self::Linux => "platform/x86_64/initrd",
        }
    }
}

/// What goes into a bundle.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The kind of the platform.
    pub os: Os,
    /// Its stamp, as the folder is to be called: `20260101T000000Z`.
    pub stamp: String,
    /// Its files, `platform/…`.
    pub platform: Vec<(String, Content)>,
    /// Other files beside the platform's folder. For Linux, `initrds` names some of them.
    pub more: Vec<(String, Content)>,
    /// More names of files beside the platform's folder, and the files' own: symbolic links.
    pub links: Vec<(String, String)>,
    /// Files of `more` that are loaded behind the platform's own initial file system.
    pub initrds: Vec<String>,
    /// The URL of the folder that the bundle is served from, with a slash at the end; empty for
    /// wherever the script itself came from.
    pub base: String,
    /// The console: `ttya`, `ttyb`, `text` for SmartOS; unused for Linux.
    pub console: String,
    /// Boot parameters: `key=value`, for SmartOS without those of the console.
    pub parameters: Vec<String>,
}

/// Why a bundle cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The platform lacks a file.
    #[error("the platform {stamp} lacks {path}: it cannot be booted over the network")]
    Lacks {
        /// The platform.
        stamp: String,
        /// The file.
        path: String,
    },
    /// Two parts bring the same file.
    #[error("two parts of the network boot bundle bring the file {0:?}")]
    Twice(String),
    /// A parameter would end the command.
    #[error(
        "the boot parameter {0:?} cannot be part of an iPXE script: it holds a blank, a control character or `${{`"
    )]
    Parameter(String),
    /// The script cannot be rendered.
    #[error(transparent)]
    Overlay(#[from] overlay::Error),
    /// A file cannot be read.
    #[error("reading the content of {path:?}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The files of a bundle, sorted by path, [`SUMS`] among them.
///
/// # Errors
/// See [`Error`].
pub fn bundle(parts: Parts, overlays: &Path) -> Result<Vec<(String, Content)>, Error> {
    let words = parts.parameters.iter().chain([&parts.base, &parts.console, &parts.stamp]);
    for word in words {
        let breaks = |c: char| c.is_whitespace() || c.is_control();
        if word.contains(breaks) || word.contains("${") {
            return Err(Error::Parameter(word.clone()));
        }
    }
    let (kernel, archive) = (parts.os.kernel(), parts.os.archive());
    let hash = format!("{archive}.hash");
    let has = |path: &str| parts.platform.iter().any(|(name, _)| name == path);
    let mut needed = vec![kernel, archive];
    // Without it the kernel does not know whether the archive came whole (C§1.14).
    needed.extend((parts.os == Os::Smartos).then_some(hash.as_str()));
    if let Some(path) = needed.into_iter().find(|path| !has(path)) {
        return Err(Error::Lacks { stamp: parts.stamp, path: path.to_owned() });
    }
    if let Some(path) = parts.initrds.iter().find(|path| !parts.more.iter().any(|m| m.0 == **path))
    {
        return Err(Error::Lacks { stamp: parts.stamp, path: path.clone() });
    }
    let stamp = &parts.stamp;
    let mut context = tera::Context::new();
    for (key, value) in [
        ("stamp", stamp),
        ("base", &parts.base),
        ("console", &parts.console),
        ("kernel", &format!("{stamp}/{kernel}")),
        ("archive", &format!("{stamp}/{archive}")),
        ("hash", &format!("{stamp}/{hash}")),
    ] {
        context.insert(key, value);
    }
    context.insert("parameters", &parts.parameters);
    context.insert("initrds", &parts.initrds);
    let mut scripts = BTreeMap::new();
    overlay::read(&overlays.join("pxe").join(parts.os.folder()), &context, &mut scripts)?;

    let boots = |path: &str| !WITHOUT.iter().any(|end| path.ends_with(end));
    let platform = parts.platform.into_iter().filter(|(path, _)| boots(path));
    let platform = platform.map(|(path, content)| (format!("{stamp}/{path}"), content));
    let mut files: BTreeMap<String, Content> = BTreeMap::new();
    let scripts = scripts.into_iter().filter_map(|(path, entry)| match entry {
        Entry::File { content, .. } => Some((path, content)),
        Entry::Symlink(_) => None,
    });
    for (path, content) in platform.chain(parts.more).chain(scripts) {
        if path == SUMS || files.insert(path.clone(), content).is_some() {
            return Err(Error::Twice(path));
        }
    }
    let mut digests = Vec::new();
    for (path, content) in &files {
        let digest =
            tree::digest(content).map_err(|source| Error::Read { path: path.clone(), source })?;
        digests.push((path.as_str(), digest));
    }
    for (path, target) in &parts.links {
        if digests.iter().any(|(name, _)| name == path) {
            return Err(Error::Twice(path.clone()));
        }
        let Some((_, digest)) = digests.iter().find(|(name, _)| name == target) else {
            return Err(Error::Lacks { stamp: parts.stamp, path: target.clone() });
        };
        digests.push((path, digest.clone()));
    }
    digests.sort();
    let text = sums::text(digests.iter().map(|(path, digest)| (*path, digest.as_str())));
    files.insert(SUMS.to_owned(), text.into());
    Ok(files.into_iter().collect())
}
