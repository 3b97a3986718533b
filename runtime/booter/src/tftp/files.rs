//! The files that are handed out: those in trees of folders, and nothing else.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::large::{Large, Version};
use crate::http::Folders;

/// Larger files are not taken for boot files; also what a `tsize` of 32 bits can tell, which some
/// loaders keep. Block numbers set no limit, as they roll over.
const SIZE_LIMIT: u64 = u32::MAX as u64;

/// From this size on, files are read piece by piece while they are sent.
const LARGE: u64 = 16 << 20;

/// Bytes of all files together that are in memory at a time; beyond that, smaller files are taken
/// for large ones.
const TOGETHER: u64 = 256 << 20;

/// Why a file is not handed out.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The name is not that of a file below a folder.
    #[error("its name is not a plain path")]
    Name,
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// A folder, a link or a device, or too large.
    #[error("it is not a regular file of less than 4 GiB")]
    Kind,
    /// Somebody is writing to it.
    #[error("it was changed while it was read; to replace a file, write another and rename it")]
    Changing,
    /// Reading failed.
    #[error("reading it: {0}")]
    Io(#[from] io::Error),
}

/// How long a file that is being sent is taken for unchanged: a thousand machines that ask for the
/// same boot program need not wait for a thousand looks at the disk.
const FRESH: Duration = Duration::from_millis(200);

/// A file on disk.
#[derive(Debug, Clone)]
pub enum Stored {
    /// All of it, in memory.
    Whole(Arc<Vec<u8>>),
    /// It is read while it is sent.
    Large(Arc<Large>),
}

/// How many files are read into memory at the same time; two that are asked for by one name never.
const READERS: usize = 16;

/// What all clones of [`Files`] share.
#[derive(Debug, Default)]
struct Shared {
    held: Mutex<Held>,
    /// Who reads a file holds the one that its name leads to: a slow disk holds up few others.
    readers: [Mutex<()>; READERS],
    names: RandomState,
}

/// What is in memory.
#[derive(Debug, Default)]
struct Held {
    /// What a transfer is sending at the moment, by file name.
    known: HashMap<String, Known>,
    /// Bytes of the files that are being read.
    coming: u64,
}

#[derive(Debug)]
struct Known {
    version: Version,
    /// When the version was last looked at.
    checked: Instant,
    content: Kept,
}

/// A file, as long as somebody is sending it.
#[derive(Debug)]
enum Kept {
    Whole(Weak<Vec<u8>>),
    Large(Weak<Large>),
}

impl Kept {
    fn of(stored: &Stored) -> Self {
        match stored {
            Stored::Whole(content) => Self::Whole(Arc::downgrade(content)),
            Stored::Large(large) => Self::Large(Arc::downgrade(large)),
        }
    }

    fn get(&self) -> Option<Stored> {
        match self {
            Self::Whole(content) => content.upgrade().map(Stored::Whole),
            Self::Large(large) => large.upgrade().map(Stored::Large),
        }
    }

    fn is_sent(&self) -> bool {
        match self {
            Self::Whole(content) => content.strong_count() > 0,
            Self::Large(large) => large.strong_count() > 0,
        }
    }
}

/// Folders of boot programs and all below them. Transfers that run at the same time share a file's
/// content. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Files {
    folders: Arc<Folders>,
    shared: Arc<Shared>,
    /// [`LARGE`].
    large: u64,
    /// [`TOGETHER`].
    together: u64,
}

impl Files {
    /// The files in `folder` and in the folders below it.
    pub fn new(folder: PathBuf) -> Self {
        Self::of(Folders::default().with("", folder))
    }

    /// The files of several folders, each under its prefix (see [`Folders::with`]).
    pub fn of(folders: Folders) -> Self {
        let (folders, shared) = (Arc::new(folders), Arc::default());
        Self { folders, shared, large: LARGE, together: TOGETHER }
    }

    /// A file, when it is being sent to somebody else and was looked at just now. Never waits for a disk.
    pub fn hot(&self, name: &str) -> Option<Stored> {
        let held = self.shared.held();
        let known = held.known.get(key(name)).filter(|known| known.checked.elapsed() < FRESH)?;
        known.content.get()
    }

    /// A file. Blocks while it is read from disk.
    ///
    /// # Errors
    /// Why it is not handed out.
    pub fn read(&self, name: &str) -> Result<Stored, Refused> {
        let name = key(name);
        let file = open(&self.folders, name)?;
        let about = file.metadata()?;
        if !about.is_file() || about.len() > SIZE_LIMIT {
            return Err(Refused::Kind);
        }
        let version = Version::of(&about);
        let _turn = self.shared.turn(name);
        let room = {
            let mut held = self.shared.held();
            let checked = Instant::now();
            if let Some(known) = held.known.get_mut(name)
                && known.version == version
                && let Some(content) = known.content.get()
            {
                known.checked = checked;
                return Ok(content);
            }
            // Bounded by the number of transfers.
            held.known.retain(|_, known| known.content.is_sent());
            (about.len() < self.large && held.bytes() + about.len() <= self.together)
                .then(|| Coming::new(&self.shared, &mut held, about.len()))
        };
        let stored = match &room {
            Some(_) => Stored::Whole(Arc::new(whole(&file, &version)?)),
            None => Stored::Large(Arc::new(Large::new(file, &about).ok_or(Refused::Kind)?)),
        };
        let known = Known { version, checked: Instant::now(), content: Kept::of(&stored) };
        self.shared.held().known.insert(name.to_owned(), known);
        Ok(stored)
    }
}

impl Shared {
    /// Never held while a disk is asked.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, name: &str) -> Option<MutexGuard<'_, ()>> {
        let at = self.names.hash_one(name) as usize % READERS;
        let reader = self.readers.get(at)?;
        Some(reader.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Held {
    fn bytes(&self) -> u64 {
        let size_of = |known: &Known| match &known.content {
            Kept::Whole(_) => known.version.size(),
            Kept::Large(_) => 0,
        };
        self.known.values().map(size_of).sum::<u64>() + self.coming
    }
}

/// Room in memory for a file that is being read.
struct Coming<'a> {
    shared: &'a Shared,
    bytes: u64,
}

impl<'a> Coming<'a> {
    fn new(shared: &'a Shared, held: &mut Held, bytes: u64) -> Self {
        held.coming += bytes;
        Self { shared, bytes }
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.shared.held().coming -= self.bytes;
    }
}

/// The name under which a file is looked for. Firmware asks for `/name` when it takes a path for
/// relative to the root, and GRUB for `//name`.
fn key(name: &str) -> &str {
    name.trim_start_matches('/')
}

fn plain(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(letter)
}

/// A file in a tree: never outside of it, whatever links there are.
fn open(folders: &Folders, name: &str) -> Result<File, Refused> {
    // PXELINUX asks for names with `:` and `+`.
    let part = |part: &str| plain(&part.replace([':', '+', '@', '~', '='], "_"));
    if !name.split('/').all(part) {
        return Err(Refused::Name);
    }
    match folders.open_new(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Refused::Missing),
        other => Ok(other?),
    }
}

fn whole(file: &File, version: &Version) -> Result<Vec<u8>, Refused> {
    let mut content = Vec::with_capacity(usize::try_from(version.size()).unwrap_or_default());
    file.take(version.size()).read_to_end(&mut content)?;
    let now = Version::of(&file.metadata()?);
    let all = content.len() as u64 == version.size() && now == *version;
    if all { Ok(content) } else { Err(Refused::Changing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(stored: Stored) -> Arc<Vec<u8>> {
        match stored {
            Stored::Whole(content) => content,
            Stored::Large(_) => panic!("it is not in memory"),
        }
    }

    #[test]
    fn files_of_the_folder_are_read_and_shared() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("ipxe");
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(folder.join("a.kpxe"), "abc").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
        let files = Files::new(folder.clone());
        let first = whole(files.read("a.kpxe").unwrap());
        assert_eq!(*first, b"abc");
        assert!(Arc::ptr_eq(&first, &whole(files.hot("/a.kpxe").unwrap())));
        for name in ["/a.kpxe", "//a.kpxe"] {
            assert!(Arc::ptr_eq(&first, &whole(files.read(name).unwrap())));
        }
        for name in ["", "/", "..", "../secret", "sub/../a.kpxe", "a\\b", ".hidden", "a\0", "é"] {
            assert!(matches!(files.read(name), Err(Refused::Name)), "{name:?}");
        }
        for name in ["none", "link", "sub/x"] {
            assert!(matches!(files.read(name), Err(Refused::Missing)), "{name:?}");
        }
        assert!(files.read("sub").is_err());
        std::fs::write(folder.join("a.kpxe"), "newer").unwrap();
        assert_eq!(*whole(files.read("a.kpxe").unwrap()), b"newer");
        // Nobody holds it any more.
        drop(first);
        assert!(files.hot("a.kpxe").is_none());
    }

    #[test]
    fn all_folders_are_read_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (root, more, os) =
            (dir.path().join("root"), dir.path().join("more"), dir.path().join("os"));
        for folder in [root.join("pxelinux.cfg"), root.join("os"), more.clone(), os.join("1/i86pc")]
        {
            std::fs::create_dir_all(folder).unwrap();
        }
        for (name, content) in [
            ("secret", "s"),
            ("root/pxelinux.cfg/01-02-03", "config"),
            ("root/a", "the root's"),
            ("root/os/hidden", "behind the other folder of this name"),
            ("more/a", "the package's"),
            ("more/b", "b of the package"),
            ("os/1/i86pc/unix", "the kernel"),
        ] {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        for (to, name) in [
            ("../secret", "root/link"),
            ("1", "os/newest"),
            ("../secret", "os/outside"),
            ("..", "os/up"),
            ("/etc", "os/etc"),
        ] {
            std::os::unix::fs::symlink(to, dir.path().join(name)).unwrap();
        }
        let folders = Folders::default().with("", root).with("", more).with("os", os);
        let files = Files::of(folders);
        for (name, content) in [
            ("pxelinux.cfg/01-02-03", "config"),
            ("//pxelinux.cfg/01-02-03", "config"),
            ("a", "the root's"),
            ("/b", "b of the package"),
            ("/os/1/i86pc/unix", "the kernel"),
            ("os/newest/i86pc/unix", "the kernel"),
        ] {
            assert_eq!(*whole(files.read(name).unwrap()), content.as_bytes(), "{name}");
        }
        for name in [
            "",
            "/",
            "../secret",
            "pxelinux.cfg/../../secret",
            "pxelinux.cfg//a",
            ".x",
            "a/.x",
            "os/",
            "os/../secret",
            "os//1",
        ] {
            assert!(matches!(files.read(name), Err(Refused::Name)), "{name:?}");
        }
        for name in [
            "link",
            "pxelinux.cfg/none",
            "os/hidden",
            "os/outside",
            "os/up/secret",
            "os/etc/passwd",
            "os/1",
        ] {
            assert!(matches!(files.read(name), Err(Refused::Missing)), "{name:?}");
        }
        assert!(files.read("pxelinux.cfg").is_err());
    }

    #[test]
    fn what_is_large_and_what_more_than_memory_may_hold_is_not_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, size| {
            File::create(dir.path().join(name)).unwrap().set_len(size).unwrap();
        };
        make("archive", LARGE);
        make("endless", SIZE_LIMIT + 1);
        make("most", SIZE_LIMIT);
        for n in 0..4 {
            make(&format!("{n}"), 100);
        }
        let files = Files::new(dir.path().to_owned());
        let Stored::Large(archive) = files.read("archive").unwrap() else { panic!("in memory") };
        let Some(Stored::Large(hot)) = files.hot("archive") else { panic!("it is not shared") };
        assert!(Arc::ptr_eq(&archive, &hot));
        assert!(matches!(files.read("most"), Ok(Stored::Large(_))));
        assert!(matches!(files.read("endless"), Err(Refused::Kind)));

        let files = Files { together: 250, ..files };
        let all: Vec<_> = (0..4).map(|n| files.read(&format!("{n}")).unwrap()).collect();
        let in_memory: Vec<_> = all.iter().map(|one| matches!(one, Stored::Whole(_))).collect();
        assert_eq!(in_memory, [true, true, false, false]);
        assert!(matches!(files.read("1"), Ok(Stored::Whole(_))));
        drop(all);
        // What nobody sends any more takes no room, and is not remembered.
        let again = files.read("3").unwrap();
        assert!(matches!(again, Stored::Whole(_)));
        let held = files.shared.held();
        assert_eq!((held.known.len(), held.coming), (2, 0));
    }
}
