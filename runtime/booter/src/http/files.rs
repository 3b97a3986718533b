//! Finding and opening files below the folders that are served, and never anything else.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::range::{self, Version};

/// How long an opened folder is used before its path is looked at again: an operator may put
/// another one in its place.
const FRESH: Duration = Duration::from_secs(1);

/// How long a file that was opened is used for others' requests. All nodes of a rack ask for the same
/// few files at the same time; none of them notices that a file was exchanged so little later.
const SHARED: Duration = Duration::from_millis(100);
/// Most files that are shared.
const SHARED_MOST: usize = 64;

/// The folders that are served.
#[derive(Debug, Default)]
pub struct Folders {
    all: Vec<Folder>,
    shared: Mutex<HashMap<String, (Instant, Opened)>>,
}

#[derive(Debug)]
struct Folder {
    /// `os`, `a/b`: without slashes at its ends.
    prefix: String,
    path: PathBuf,
    opened: Mutex<Option<(Instant, Arc<OwnedFd>)>>,
}

/// A file that can be sent.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The file.
    pub file: Arc<File>,
    /// Its content's version.
    pub version: Version,
    /// Its `Content-Type`.
    pub kind: &'static str,
}

impl Folders {
    /// Serves the folder at `path` below `/prefix/`. Of several prefixes that fit, the longest
    /// counts; of several folders with that prefix, the first that has the file. The folder need not
    /// exist yet.
    #[must_use]
    pub fn with(mut self, prefix: &str, path: impl Into<PathBuf>) -> Self {
        let prefix = prefix.trim_matches('/').to_owned();
        self.all.push(Folder { prefix, path: path.into(), opened: Mutex::default() });
        self.all.sort_by_key(|folder| std::cmp::Reverse(folder.prefix.len()));
        self
    }

    /// Whether a path, as sent, is one of a folder and not of something else.
    pub(crate) fn holds(&self, path: &str) -> bool {
        let path = path.trim_start_matches('/');
        self.all.iter().any(|folder| below(path, &folder.prefix).is_some())
    }

    /// Opens the file that `name` (`prefix/…`, see [`super::path::file_path`]) stands for.
    ///
    /// # Errors
    /// `NotFound` when there is no such file, or it is a folder, a device, or outside; others when
    /// it cannot be read.
    pub fn open(&self, name: &str) -> io::Result<Opened> {
        if let Some((at, opened)) = self.shared().get(name)
            && at.elapsed() < SHARED
        {
            return Ok(opened.clone());
        }
        let opened = self.open_now(name)?;
        let mut shared = self.shared();
        if shared.len() < SHARED_MOST || shared.contains_key(name) {
            shared.insert(name.to_owned(), (Instant::now(), opened.clone()));
        }
        Ok(opened)
    }

    /// Opens a file for the caller alone, as [`Folders::open`] does.
    ///
    /// # Errors
    /// As [`Folders::open`].
    pub(crate) fn open_new(&self, name: &str) -> io::Result<File> {
        let opened = self.open_now(name)?;
        Arc::try_unwrap(opened.file).or_else(|shared| shared.try_clone())
    }

    /// Closes what is not shared any more: an open file that was deleted takes its space on disk.
    pub(super) fn close_old(&self) {
        self.shared().retain(|_, (at, _)| at.elapsed() < SHARED);
    }

    fn shared(&self) -> MutexGuard<'_, HashMap<String, (Instant, Opened)>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_now(&self, name: &str) -> io::Result<Opened> {
        let found = self.all.iter().find_map(|f| below(name, &f.prefix).map(|rest| (f, rest)));
        let (first, rest) = found.ok_or(io::ErrorKind::NotFound)?;
        let mut same = self.all.iter().filter(|folder| folder.prefix == first.prefix);
        let mut opened = same.next().unwrap_or(first).open(rest);
        for folder in same {
            match &opened {
                Err(error) if error.kind() == io::ErrorKind::NotFound => opened = folder.open(rest),
                _ => break,
            }
        }
        let file = File::from(opened?);
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let positive = |number| u64::try_from(number).unwrap_or(0);
        let (seconds, nanoseconds) = (positive(about.mtime()), positive(about.mtime_nsec()));
        let version = range::version(about.ino(), about.len(), seconds, nanoseconds);
        Ok(Opened { file: Arc::new(file), version, kind: kind(rest) })
    }
}

/// What follows `prefix/` in `path`.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    if prefix.is_empty() {
        return Some(path);
    }
    path.strip_prefix(prefix)?.strip_prefix('/')
}

impl Folder {
    fn open(&self, rest: &str) -> io::Result<OwnedFd> {
        let folder = self.folder()?;
        let error = match open_beneath(&folder, rest) {
            Ok(file) => return Ok(file),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG) => {
                io::ErrorKind::NotFound.into()
            }
            // A socket, or a FIFO that nobody reads.
            Err(Errno::NXIO | Errno::ISDIR) => io::ErrorKind::NotFound.into(),
            Err(error) => error.into(),
        };
        Err(error)
    }

    fn folder(&self) -> io::Result<Arc<OwnedFd>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, folder)) = &*opened
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(folder));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = Arc::new(rustix::fs::openat(CWD, &self.path, flags, Mode::empty())?);
        *opened = Some((Instant::now(), Arc::clone(&folder)));
        Ok(folder)
    }
}

/// Not blocking: else opening a FIFO would wait for its other end.
fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

#[cfg(target_os = "linux")]
fn open_beneath(folder: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    use rustix::fs::ResolveFlags;

    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(folder, name, flags(), Mode::empty(), resolve) {
        // An old kernel, a container that does not know the call, or something was renamed while
        // a link was followed.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => open_stepwise(folder, name),
        result => result,
    }
}

#[cfg(not(target_os = "linux"))]
fn open_beneath(folder: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    open_stepwise(folder, name)
}

/// Opens folder after folder, following no links at all.
fn open_stepwise(folder: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = flags() | OFlags::NOFOLLOW;
    let mut folder_here = None;
    let mut names = name.split('/').peekable();
    while let Some(name) = names.next() {
        if matches!(name, "" | "." | "..") {
            return Err(Errno::NOENT);
        }
        let last = names.peek().is_none();
        let flags = if last { flags } else { flags | OFlags::DIRECTORY };
        let next =
            rustix::fs::openat(folder_here.as_ref().unwrap_or(folder), name, flags, Mode::empty())?;
        if last {
            return Ok(next);
        }
        folder_here = Some(next);
    }
    Err(Errno::NOENT)
}

/// The content type. UEFI's HTTP boot decides by it what it has got (UEFI 2.10 §24.7).
fn kind(name: &str) -> &'static str {
    let extension = Path::new(name).extension().and_then(OsStr::to_str).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "efi" => "application/efi",
        "iso" => "application/vnd.efi-iso",
        "img" => "application/vnd.efi-img",
        "ipxe" | "txt" | "cfg" | "conf" | "config" | "lst" | "sh" => "text/plain; charset=utf-8",
        "json" => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn world() -> (tempfile::TempDir, Folders) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("os/a")).unwrap();
        fs::write(dir.path().join("os/a/boot.efi"), "loader").unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        let link = |to: &str, name: &str| symlink(to, dir.path().join("os").join(name)).unwrap();
        link("a", "inside");
        link("../secret", "outside");
        link("..", "up");
        link("/etc/passwd", "absolute");
        link("round", "round");
        link("/proc/self/root", "magic");
        nix::unistd::mkfifo(&dir.path().join("os/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let folders = Folders::default().with("/os/", dir.path().join("os"));
        (dir, folders)
    }

    #[test]
    fn only_files_below_the_folder_are_opened() {
        let (_dir, folders) = world();
        let opened = folders.open("os/a/boot.efi").unwrap();
        assert_eq!((opened.version.size, opened.kind), (6, "application/efi"));
        let mut text = String::new();
        (&*opened.file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "loader");
        assert!(folders.open("os/inside/boot.efi").is_ok());
        for name in [
            "os",
            "os/a",
            "os/none",
            "os/outside",
            "os/up/secret",
            "os/absolute",
            "os/round",
            "os/magic/etc/passwd",
            "os/fifo",
            "os/a/boot.efi/x",
            "secret",
            "osx/a",
            "",
        ] {
            let error = folders.open(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name}: {error}");
        }
    }

    #[test]
    fn without_openat2_no_link_is_followed() {
        let (dir, _) = world();
        let folder: OwnedFd = File::open(dir.path().join("os")).unwrap().into();
        assert!(open_stepwise(&folder, "a/boot.efi").is_ok());
        let names =
            ["inside/boot.efi", "outside", "up/secret", "absolute", "../secret", "a/../../secret"];
        for name in names {
            assert!(open_stepwise(&folder, name).is_err(), "{name}");
        }
    }

    #[test]
    fn an_opened_file_is_shared_for_a_moment_and_then_closed() {
        let (dir, folders) = world();
        let first = folders.open("os/a/boot.efi").unwrap();
        fs::write(dir.path().join("os/new"), "another loader").unwrap();
        fs::rename(dir.path().join("os/new"), dir.path().join("os/a/boot.efi")).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while folders.open("os/a/boot.efi").unwrap().version == first.version {
            assert!(Instant::now() < until);
        }
        for n in 0..200 {
            fs::write(dir.path().join(format!("os/{n}")), "").unwrap();
            folders.open(&format!("os/{n}")).unwrap();
        }
        assert!(folders.shared().len() <= SHARED_MOST);
        while !folders.shared().is_empty() {
            folders.close_old();
            assert!(Instant::now() < until);
        }
    }

    #[test]
    fn a_folder_that_comes_later_is_served_and_the_longest_prefix_counts() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::default()
            .with("a", dir.path().join("outer"))
            .with("a/b", dir.path().join("inner"));
        assert!(folders.open("a/b/x").is_err());
        fs::create_dir_all(dir.path().join("inner")).unwrap();
        fs::create_dir_all(dir.path().join("outer/b")).unwrap();
        fs::write(dir.path().join("inner/x"), "inner").unwrap();
        fs::write(dir.path().join("outer/b/x"), "the outer one").unwrap();
        assert_eq!(folders.open("a/b/x").unwrap().version.size, 5);
        fs::write(dir.path().join("outer/y"), "").unwrap();
        let folders = folders.with("a/b", dir.path().join("outer"));
        assert_eq!(folders.open("a/b/x").unwrap().version.size, 5);
        assert_eq!(folders.open("a/b/y").unwrap().version.size, 0);
        assert!(folders.holds("//a/b/x") && folders.holds("/a/") && !folders.holds("/ab/x"));
    }
}
