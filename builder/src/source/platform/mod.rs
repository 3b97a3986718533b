//! Platform images, read from the tarball that `headnode platform build` (or Triton's build) makes.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use headnode_model::stamp::Stamp;

/// Where the tarball keeps the platform's stamp.
const VERSION: &str = "platform/etc/version/platform";
/// Where the reference platform keeps a description of itself, for people.
const DESCRIPTION: &str = "platform/etc/version/description";
/// Kernel and initial file system of a Linux platform (C§4.5).
pub const LINUX: [&str; 2] = ["platform/x86_64/vmlinuz", "platform/x86_64/initrd"];

/// Why a tarball is no usable platform.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read or unpacked.
    #[error("unpacking the platform {path}: {source}")]
    Read {
        /// The tarball.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Something is missing or odd in it.
    #[error("{path} is no platform that can be used: {why}")]
    Form {
        /// The tarball.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
}

/// A platform, unpacked.
pub struct Platform {
    /// Its stamp.
    pub stamp: Stamp,
    /// What it is, for people; may be empty.
    pub description: String,
    /// Its files: path in the tarball (`platform/…`), place on this machine.
    pub files: Vec<(String, PathBuf)>,
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

/// Unpacks a tarball into the folder `into`; `progress` is called with the bytes read so far.
///
/// # Errors
/// See [`Error`].
pub fn unpack(
    tarball: &Path,
    into: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Platform, Error> {
    let read = |source| Error::Read { path: tarball.to_owned(), source };
    let form = |why: String| Error::Form { path: tarball.to_owned(), why };
    let file = Counted { inner: File::open(tarball).map_err(read)?, count: 0, progress };
    let unzipped = flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 18, file));
    let mut files = Vec::new();
    for entry in tar::Archive::new(unzipped).entries().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        if !path.starts_with("platform/") || !path.split('/').all(plain) {
            return Err(form(format!("it holds {path:?}, which is not below platform/")));
        }
        let place = into.join(&path);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).map_err(read)?;
        }
        let mut out = File::create(&place).map_err(read)?;
        io::copy(&mut entry, &mut out).map_err(read)?;
        files.push((path, place));
    }
    let text = |name: &str| -> Option<String> {
        let (_, place) = files.iter().find(|(path, _)| path == name)?;
        Some(fs::read_to_string(place).ok()?.trim().to_owned())
    };
    let stamp = text(VERSION).ok_or_else(|| form(format!("it lacks {VERSION}")))?;
    let stamp = stamp.parse().map_err(|error| form(format!("{VERSION}: {error}")))?;
    for needed in LINUX {
        if !files.iter().any(|(path, _)| path == needed) {
            return Err(form(format!("it lacks {needed}")));
        }
    }
    let description = text(DESCRIPTION).unwrap_or_default();
    files.sort();
    Ok(Platform { stamp, description, files })
}

struct Counted<'a, R> {
    inner: R,
    count: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        (self.progress)(self.count);
        Ok(count)
    }
}
