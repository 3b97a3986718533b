//! Takes files out of an image. Nothing is ever written outside of the folder that was named, also
//! when someone puts symbolic links into it meanwhile: every folder on the way is opened by itself,
//! and links are not followed.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::contents::survey::{place, prefix};
use crate::contents::{Contents, Entry, Part};

/// Why files cannot be taken out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Paths that the image does not have.
    #[error("the image has no {}; --list shows what it has", .0.join(", no "))]
    Missing(Vec<String>),
    /// A path that would leave the folder; only a hostile image has such.
    #[error("the image names the path {0:?}, which would lead out of the folder")]
    Escapes(String),
    /// Something lies where a file is to go.
    #[error("{path} exists: take another folder, or overwrite with --force")]
    Exists {
        /// What is there.
        path: PathBuf,
    },
    /// A folder on the way is no folder.
    #[error("{path} is a symbolic link or no folder: nothing is written through it")]
    NoFolder {
        /// What is there.
        path: PathBuf,
    },
    /// Reading the image failed.
    #[error("reading {path:?} from the image: {source}")]
    Read {
        /// The file.
        path: String,
        /// What went wrong.
        source: io::Error,
    },
    /// Writing failed.
    #[error("writing {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// A file or folder of the image that is to be taken out.
pub struct Item<'a> {
    /// What it is called: see [`place`].
    pub name: String,
    /// The file or folder.
    pub entry: &'a Entry,
    /// Where it goes, below the folder.
    to: String,
}

/// The files and folders that some paths name: a file, a folder with all that is in it,
/// `PARTITION:PATH` for another partition than the key's, or everything when there are none.
///
/// # Errors
/// When the image lacks one; all of them are named.
pub fn select<'a>(contents: &'a Contents, paths: &[String]) -> Result<Vec<Item<'a>>, Error> {
    let key = contents.key();
    let is_key = |part: &Part| key.is_some_and(|key| std::ptr::eq(key, part));
    let mut items = Vec::new();
    let mut used: BTreeSet<&String> = BTreeSet::new();
    for part in &contents.parts {
        let folder = prefix(part);
        for entry in part.files.iter().flat_map(|files| &files.entries) {
            let name = place(contents, part, &entry.path);
            let named = |path: &&String| {
                let path = path.trim_start_matches('/').trim_end_matches('/');
                let below = name.strip_prefix(path);
                below.is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with('/') || path.ends_with(':')
                })
            };
            let hits: Vec<_> = paths.iter().filter(named).collect();
            if !paths.is_empty() && hits.is_empty() {
                continue;
            }
            used.extend(hits);
            let to =
                if is_key(part) { entry.path.clone() } else { format!("{folder}:/{}", entry.path) };
            items.push(Item { name, entry, to });
        }
    }
    let missing: Vec<_> = paths.iter().filter(|path| !used.contains(path)).cloned().collect();
    if missing.is_empty() { Ok(items) } else { Err(Error::Missing(missing)) }
}

/// Writes files below `folder`, which is made when it is missing. With `force`, files that are there
/// are replaced. `progress` is called with the bytes written so far.
///
/// # Errors
/// At the first file that cannot be written; no half-written file stays.
pub fn extract(
    contents: &Contents,
    items: &[Item<'_>],
    folder: &Path,
    force: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let failed = |source| Error::Write { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, folder, flags, Mode::empty());
    let root = root.map_err(|error| failed(error.into()))?;
    let mut done = 0;
    for item in items {
        let parts: Vec<&str> = item.to.split('/').collect();
        let plain = |part: &&str| !matches!(*part, "" | "." | "..") && !part.contains('\0');
        let Some((name, above)) = parts.split_last().filter(|_| parts.iter().all(plain)) else {
            return Err(Error::Escapes(item.to.clone()));
        };
        if item.entry.folder {
            open_below(&root, folder, &parts)?;
            continue;
        }
        let parent = open_below(&root, folder, above)?;
        let path = folder.join(&item.to);
        write(contents, item, &parent, name, &path, force, &mut |bytes| {
            done += bytes;
            progress(done);
        })?;
    }
    Ok(())
}

/// Opens a folder below another, making what is missing; links are not followed.
fn open_below(root: &OwnedFd, folder: &Path, parts: &[&str]) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut path = folder.to_owned();
    let failed = |path: &Path, error: Errno| match error {
        Errno::LOOP | Errno::NOTDIR => Error::NoFolder { path: path.to_owned() },
        error => Error::Write { path: path.to_owned(), source: error.into() },
    };
    let mut at = root.try_clone().map_err(|source| Error::Write { path: path.clone(), source })?;
    for part in parts {
        path.push(part);
        match rustix::fs::mkdirat(&at, *part, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(&path, error)),
        }
        at = rustix::fs::openat(&at, *part, flags, Mode::empty())
            .map_err(|error| failed(&path, error))?;
    }
    Ok(at)
}

fn write(
    contents: &Contents,
    item: &Item<'_>,
    parent: &OwnedFd,
    name: &str,
    path: &Path,
    force: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    if !force && rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(Error::Exists { path: path.to_owned() });
    }
    // Under another name first: who looks sees the whole file or none.
    let temporary = CString::new(format!(".{}.headnode", short(name))).unwrap_or_default();
    let remove = || rustix::fs::unlinkat(parent, &temporary, AtFlags::empty());
    match remove() {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(failed(error.into())),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, &temporary, flags, Mode::from_raw_mode(0o666));
    let mut file = File::from(file.map_err(|error| failed(error.into()))?);
    let mut broken = None;
    let copied = contents.read(item.entry, &mut |bytes| {
        progress(bytes.len() as u64);
        file.write_all(bytes).inspect_err(|error| broken = error.raw_os_error())
    });
    let renamed = copied
        .map_err(|source| match broken {
            Some(code) => failed(io::Error::from_raw_os_error(code)),
            None => Error::Read { path: item.name.clone(), source },
        })
        .and_then(|()| {
            let flags = if force {
                rustix::fs::RenameFlags::empty()
            } else {
                rustix::fs::RenameFlags::NOREPLACE
            };
            match rustix::fs::renameat_with(parent, &temporary, parent, name, flags) {
                Ok(()) => Ok(()),
                Err(Errno::EXIST) => Err(Error::Exists { path: path.to_owned() }),
                Err(error) => Err(failed(error.into())),
            }
        });
    if renamed.is_err() {
        // The first error is the one to tell.
        let _ = remove();
    }
    renamed
}

/// A name that still fits when something is put around it.
fn short(name: &str) -> &str {
    let end = name.char_indices().map(|(at, _)| at).take_while(|at| *at <= 200).last();
    name.get(..end.filter(|_| name.len() > 200).unwrap_or(name.len())).unwrap_or(name)
}
