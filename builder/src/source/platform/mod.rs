//! Platform images, read from the tarballs that `headnode platform build` and Triton's builds make:
//! Linux (C§4.5) and SmartOS (C§1.10).

pub mod loader;
pub mod multiboot;
pub mod tarball;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use headnode_model::stamp::Stamp;
use serde::{Deserialize, Serialize};

use multiboot::{HEAD, Headers};
use tarball::Item;

/// The folder in which every platform lies on the key, below its stamp.
pub const TOP: &str = "platform";
/// Where a platform keeps its stamp, below [`TOP`].
const VERSION: &str = "etc/version/platform";
/// Where the reference platform keeps a description of itself, for people.
const DESCRIPTION: &str = "etc/version/description";
/// Kernel and initial file system of a Linux platform (C§4.5).
pub const LINUX: [&str; 2] = ["platform/x86_64/vmlinuz", "platform/x86_64/initrd"];
/// Kernel, root file system and the latter's SHA-1 as text, of a SmartOS platform (C§1.10).
pub const SMARTOS: [&str; 3] = [
    "platform/i86pc/kernel/amd64/unix",
    "platform/i86pc/amd64/boot_archive",
    "platform/i86pc/amd64/boot_archive.hash",
];
/// The root password of a SmartOS platform's build, in clear (C§1.10).
pub(crate) const ROOT_PASSWORD: &str = "root.password";
/// No stamp, description, hash or password file is larger than this, in bytes.
const MAX_TEXT: u64 = 64 << 10;

/// Why a tarball is no usable platform.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be unpacked.
    #[error("unpacking {path}: {source}")]
    Tarball {
        /// The tarball.
        path: PathBuf,
        /// What is wrong with it.
        source: tarball::Error,
    },
    /// It cannot be read or stored.
    #[error("unpacking {path}: {source}")]
    Read {
        /// The tarball.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Something is missing or odd in it.
    #[error("{path} cannot be used: {why}")]
    Form {
        /// The tarball.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
}

/// What a platform is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Linux, as the reference platform.
    Linux,
    /// SmartOS.
    SmartOs,
}

impl Kind {
    /// Its name in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::SmartOs => "smartos",
        }
    }
}

/// A platform, unpacked and checked.
#[derive(Debug)]
pub struct Platform {
    /// Its stamp.
    pub stamp: Stamp,
    /// What it is.
    pub kind: Kind,
    /// What it is, for people; may be empty.
    pub description: String,
    /// Its files by path, `platform/…`. The root password is not among them.
    pub files: BTreeMap<String, Item>,
    /// The file with its root password. Kept private: never printed, listed without digest.
    pub root_password: Option<Item>,
    /// Whether GRUB can start its kernel on UEFI machines. Always for Linux; SmartOS kernels can it
    /// since they have a multiboot 2 header.
    pub efi: bool,
}

/// The newest tarball `platform-<stamp>.tgz` in a folder.
pub fn newest(folder: &Path) -> Option<PathBuf> {
    let found = fs::read_dir(folder).ok()?.filter_map(|item| {
        let path = item.ok()?.path();
        let name = path.file_name()?.to_str()?;
        let stamp: Stamp = name.strip_prefix("platform-")?.strip_suffix(".tgz")?.parse().ok()?;
        Some((stamp, path))
    });
    found.max().map(|(_, path)| path)
}

/// What a tarball holds, told by its first kernel, without unpacking it. Reads as far as that.
///
/// # Errors
/// When it cannot be read or holds no kernel.
pub fn kind(path: &Path) -> Result<Kind, Error> {
    let kind = |name: &str| match name.split('/').nth(1) {
        Some("x86_64") => Some(Kind::Linux),
        Some("i86pc") => Some(Kind::SmartOs),
        _ => None,
    };
    match tarball::find_gzip(path, kind) {
        Ok(Some(kind)) => Ok(kind),
        Ok(None) => Err(Error::Form { path: path.to_owned(), why: no_kernel() }),
        Err(source) => Err(Error::Tarball { path: path.to_owned(), source }),
    }
}

fn no_kernel() -> String {
    format!("it is no platform: it holds neither {} nor {}", SMARTOS[0], LINUX[0])
}

/// Unpacks a tarball into the folder `into`, which it makes, and checks it; `progress` is called
/// with the bytes read so far.
///
/// # Errors
/// See [`Error`].
pub fn unpack(path: &Path, into: &Path, progress: &mut dyn FnMut(u64)) -> Result<Platform, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let form = |why: String| Error::Form { path: path.to_owned(), why };
    // Not the folders above it: an interruption may have removed them just now.
    fs::create_dir(into).map_err(read)?;
    let sha1 = |path: &str| path.ends_with("/boot_archive");
    let unpacked = tarball::unpack_gzip(path, into, &sha1, progress)
        .map_err(|source| Error::Tarball { path: path.to_owned(), source })?;
    let (top, mut files) = below_top(unpacked).map_err(form)?;
    let text = |files: &BTreeMap<String, Item>, name: &str| -> Result<Option<String>, Error> {
        let Some(item) = files.get(&format!("{TOP}/{name}")) else { return Ok(None) };
        if item.size > MAX_TEXT {
            return Err(form(format!("its {name} has {} bytes, which cannot be", item.size)));
        }
        let text = fs::read(&item.place).map_err(read)?;
        Ok(Some(String::from_utf8_lossy(&text).trim().to_owned()))
    };
    let has = |name: &str| files.contains_key(name);
    let kind = match (has(SMARTOS[0]), has(LINUX[0])) {
        (true, true) => return Err(form("it holds both a SmartOS and a Linux kernel".to_owned())),
        (true, false) => Kind::SmartOs,
        (false, true) => Kind::Linux,
        (false, false) => return Err(form(no_kernel())),
    };
    let needed: &[&str] = if kind == Kind::Linux { &LINUX } else { &SMARTOS };
    let missing: Vec<&str> = needed.iter().copied().filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        return Err(form(format!("it lacks {}", missing.join(" and "))));
    }
    let Some(stamp) = text(&files, VERSION)? else {
        return Err(form(format!("it lacks {TOP}/{VERSION}, its stamp")));
    };
    let stamp: Stamp = stamp.parse().map_err(|error| form(format!("{TOP}/{VERSION}: {error}")))?;
    let named = top.rsplit('-').next().and_then(|name| name.parse::<Stamp>().ok());
    if let Some(named) = named.filter(|named| *named != stamp) {
        return Err(form(format!("its folder is {top}, but its stamp is {stamp}, not {named}")));
    }
    let description = text(&files, DESCRIPTION)?;
    let mut platform = Platform {
        stamp,
        kind,
        description: description.unwrap_or_default(),
        root_password: files.remove(&format!("{TOP}/{ROOT_PASSWORD}")),
        files,
        efi: true,
    };
    if kind == Kind::SmartOs {
        if platform.description.is_empty() {
            platform.description = format!("SmartOS {stamp}");
        }
        let headers = headers(&platform).map_err(read)?;
        if !headers.one {
            let kernel = SMARTOS[0];
            let why = format!("its kernel {kernel} is no multiboot kernel that loaders can start");
            return Err(form(why));
        }
        platform.efi = headers.two;
        let hash = text(&platform.files, SMARTOS[2].trim_start_matches("platform/"))?;
        let found = platform.files.get(SMARTOS[1]).and_then(|item| item.sha1.as_deref());
        check_hash(&hash.unwrap_or_default(), found.unwrap_or_default()).map_err(form)?;
    }
    Ok(platform)
}

/// Takes the one folder off that all files are below, and puts [`TOP`] in its place.
fn below_top(unpacked: BTreeMap<String, Item>) -> Result<(String, BTreeMap<String, Item>), String> {
    let mut top: Option<String> = None;
    let mut files = BTreeMap::new();
    for (path, item) in unpacked {
        let (first, rest) = path.split_once('/').unwrap_or(("", &path));
        let good = first == TOP || first.strip_prefix(TOP).is_some_and(|r| r.starts_with('-'));
        if !good || top.as_ref().is_some_and(|top| top != first) {
            return Err(format!(
                "it holds {path:?}; all must be below one folder, platform/ or platform-<stamp>/"
            ));
        }
        top = Some(first.to_owned());
        files.insert(format!("{TOP}/{rest}"), item);
    }
    Ok((top.unwrap_or_default(), files))
}

fn headers(platform: &Platform) -> io::Result<Headers> {
    let mut head = Vec::new();
    if let Some(kernel) = platform.files.get(SMARTOS[0]) {
        File::open(&kernel.place)?.take(HEAD as u64).read_to_end(&mut head)?;
    }
    Ok(Headers::find(&head))
}

fn check_hash(hash: &str, found: &str) -> Result<(), String> {
    let [_, archive, hash_file] = SMARTOS;
    if hash.len() != 40 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("its {hash_file} is no SHA-1: 40 hexadecimal digits are expected"));
    }
    if !hash.eq_ignore_ascii_case(found) {
        return Err(format!("the SHA-1 of its {archive} is {found}, its {hash_file} says {hash}"));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
