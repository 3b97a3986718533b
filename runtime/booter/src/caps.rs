//! Rights that are given up once all ports are open.
//!
//! Opening ports below 1024 and raw sockets needs root or capabilities; serving needs neither. So
//! nothing of that is kept: a reload opens no new port (what would need one takes a restart),
//! transfers use ports that everybody may use. A headnode keeps the right to read all files
//! ([`HEADNODE`]). Nor can the program get rights back by starting
//! another one (`no_new_privs`).
//!
//! Linux counts rights per thread, and sockets need the runtime whose threads are there before
//! them: a [`Gate`] holds the runtime's threads until the sockets are open, and each gives up its
//! own rights before its first work. With systemd's `AmbientCapabilities=` all this is the same.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::path::Arg;
pub use rustix::thread::CapabilitySet;
use rustix::thread::{self, CapabilitySets};

/// What stays on a headnode: platforms are unpacked there with whatever owners their archives have.
pub const HEADNODE: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

/// Deepest nesting of the state folder that is handed over: it has two levels.
const DEEPEST: u32 = 8;

/// Why rights are not given up. Nothing may be served then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user is not known here.
    #[error("there is no user {0:?}: make it (useradd --system {0}), or leave `user` out")]
    NoUser(String),
    /// Only root can become another user.
    #[error("becoming the user {0:?} needs root: start as root, or leave `user` out")]
    NotRoot(String),
    /// The operating system refuses.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What it said.
        source: io::Error,
    },
}

fn system(what: &str) -> impl FnOnce(rustix::io::Errno) -> Error {
    let what = what.to_owned();
    move |errno| Error::System { what, source: errno.into() }
}

/// A user to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl User {
    /// The user of this name; `None` when the process is that user already.
    ///
    /// # Errors
    /// When there is no such user, or the process is neither root nor that user.
    pub fn find(name: &str) -> Result<Option<Self>, Error> {
        let broken = |errno: nix::Error| Error::System {
            what: format!("looking for the user {name:?}"),
            source: errno.into(),
        };
        let found = nix::unistd::User::from_name(name).map_err(broken)?;
        let found = found.ok_or_else(|| Error::NoUser(name.to_owned()))?;
        if nix::unistd::geteuid() == found.uid {
            return Ok(None);
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::NotRoot(name.to_owned()));
        }
        let text = CString::new(name).map_err(|_| Error::NoUser(name.to_owned()))?;
        let groups = nix::unistd::getgrouplist(&text, found.gid).map_err(broken)?;
        let groups = groups.into_iter().map(|gid| Gid::from_raw(gid.as_raw())).collect();
        let (uid, gid) = (found.uid.as_raw(), found.gid.as_raw());
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(Some(Self { name: name.to_owned(), uid, gid, groups }))
    }

    /// Makes a folder and all that is in it the user's: what root wrote at an earlier start too.
    /// Links are not followed.
    ///
    /// # Errors
    /// The first file that cannot be handed over.
    pub fn take(&self, path: &Path) -> Result<(), Error> {
        self.take_tree(CWD, path, DEEPEST).map_err(|source| Error::System {
            what: format!("handing {} over to the user {}", path.display(), self.name),
            source,
        })
    }

    /// By what is open, never by a path of several parts: whoever may write in the folder could put a
    /// link in the place of one of them meanwhile.
    fn take_tree(&self, within: BorrowedFd<'_>, name: impl Arg, depth: u32) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(within, name, flags, Mode::empty())?;
        let about = rustix::fs::fstat(&found)?;
        if (about.st_uid, about.st_gid) != (self.uid.as_raw(), self.gid.as_raw()) {
            let (uid, gid) = (Some(self.uid), Some(self.gid));
            rustix::fs::chownat(&found, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if FileType::from_raw_mode(about.st_mode) != FileType::Directory || depth == 0 {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&found, ".", flags, Mode::empty())?;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                self.take_tree(folder.as_fd(), name, depth - 1)?;
            }
        }
        Ok(())
    }
}

/// Makes the socket's folder when it is missing. It is the user's then, so that he can remove the
/// socket; a folder that was there belongs to somebody.
///
/// # Errors
/// When it cannot be made or handed over.
pub fn socket_folder(socket: &Path, user: Option<&User>) -> Result<(), Error> {
    let Some(folder) = socket.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    if folder.exists() {
        return Ok(());
    }
    let what = format!("making {}", folder.display());
    fs::create_dir_all(folder).map_err(|source| Error::System { what, source })?;
    user.map_or(Ok(()), |user| user.take(folder))
}

/// Gives up the rights of the calling thread, and of the threads that it starts from now on.
fn give_up(user: Option<&User>, keep: CapabilitySet) -> Result<(), Error> {
    if let Some(user) = user.filter(|_| rustix::process::geteuid().is_root()) {
        if !keep.is_empty() {
            thread::set_keep_capabilities(true).map_err(system("keeping capabilities"))?;
        }
        let becoming = format!("becoming the user {}", user.name);
        thread::set_thread_groups(&user.groups).map_err(system(&becoming))?;
        thread::set_thread_res_gid(user.gid, user.gid, user.gid).map_err(system(&becoming))?;
        thread::set_thread_res_uid(user.uid, user.uid, user.uid).map_err(system(&becoming))?;
    }
    let dropping = "giving up capabilities";
    // Kernels before 4.3 have no ambient capabilities, and none to give up.
    if let Err(errno) = thread::clear_ambient_capability_set()
        && errno != rustix::io::Errno::INVAL
    {
        return Err(system(dropping)(errno));
    }
    let had = thread::capabilities(None).map_err(system(dropping))?;
    let kept = had.permitted & keep;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    thread::set_capabilities(None, sets).map_err(system(dropping))?;
    thread::set_no_new_privs(true).map_err(system("setting no_new_privs"))
}

#[derive(Debug, Clone, Default)]
enum Stage {
    #[default]
    Closed,
    /// Threads give up their rights.
    Open(Option<User>, CapabilitySet),
    /// Nothing will be served: threads may go on to their end.
    Abandoned,
}

#[derive(Debug, Default)]
struct Shared {
    stage: Mutex<Stage>,
    moved: Condvar,
}

impl Shared {
    fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.moved.notify_all();
    }
}

/// Holds the threads of a runtime until the main thread has opened the sockets. Dropped without
/// [`Gate::open`] it lets them go, so that they can end.
#[derive(Debug, Default)]
pub struct Gate(Arc<Shared>);

/// A thread's side of a [`Gate`].
#[derive(Debug, Clone)]
pub struct Waiting(Arc<Shared>);

impl Gate {
    /// What threads wait with.
    pub fn waiting(&self) -> Waiting {
        Waiting(Arc::clone(&self.0))
    }

    /// Gives up the rights of the calling thread, and lets the others give up theirs.
    /// `own` are files and folders that the user must be able to write, `keep` are capabilities
    /// that stay when they are there.
    ///
    /// # Errors
    /// When rights cannot be given up.
    pub fn open(
        self,
        user: Option<&User>,
        own: &[PathBuf],
        keep: CapabilitySet,
    ) -> Result<(), Error> {
        if let Some(user) = user {
            own.iter().try_for_each(|path| user.take(path))?;
        }
        give_up(user, keep)?;
        self.0.set(Stage::Open(user.cloned(), keep));
        Ok(())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let mut stage = self.0.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*stage, Stage::Closed) {
            *stage = Stage::Abandoned;
            self.0.moved.notify_all();
        }
    }
}

impl Waiting {
    /// Waits for the gate and gives up the calling thread's rights. A thread that cannot ends the
    /// process: it must not serve.
    pub fn pass(&self) {
        let mut stage = self.0.stage.lock().unwrap_or_else(PoisonError::into_inner);
        while matches!(*stage, Stage::Closed) {
            stage = self.0.moved.wait(stage).unwrap_or_else(PoisonError::into_inner);
        }
        let stage = stage.clone();
        if let Stage::Open(user, keep) = stage
            && let Err(error) = give_up(user.as_ref(), keep)
        {
            tracing::error!("{error}");
            std::process::exit(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a thread has what no server needs.
    fn naked() -> bool {
        let sets = thread::capabilities(None).unwrap();
        (sets.permitted | sets.effective | sets.inheritable).is_empty()
            && thread::no_new_privs().unwrap()
    }

    #[test]
    fn threads_wait_for_the_gate_and_lose_their_rights_in_it() {
        // In a thread of its own: other tests of this process need their rights.
        std::thread::spawn(|| {
            let gate = Gate::default();
            let (waiting, (sender, results)) = (gate.waiting(), std::sync::mpsc::channel());
            let early = std::thread::spawn(move || {
                waiting.pass();
                sender.send(naked()).unwrap();
            });
            assert!(results.try_recv().is_err());
            gate.open(None, &[], CapabilitySet::empty()).unwrap();
            assert!(results.recv().unwrap());
            early.join().unwrap();
            assert!(naked());
            assert!(std::thread::spawn(naked).join().unwrap());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_headnode_keeps_no_more_than_reading_files() {
        std::thread::spawn(|| {
            let had = thread::capabilities(None).unwrap();
            Gate::default().open(None, &[], HEADNODE).unwrap();
            let has = thread::capabilities(None).unwrap();
            assert_eq!(has.permitted, had.permitted & HEADNODE);
            assert_eq!(has.effective, has.permitted);
            assert!(has.inheritable.is_empty() && thread::no_new_privs().unwrap());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_gate_that_never_opens_lets_threads_end_as_they_are() {
        let gate = Gate::default();
        let waiting = gate.waiting();
        let before = thread::capabilities(None).unwrap();
        let held = std::thread::spawn(move || {
            waiting.pass();
            thread::capabilities(None).unwrap()
        });
        drop(gate);
        assert_eq!(held.join().unwrap(), before);
    }

    #[test]
    fn users_are_found_by_name() {
        let error = User::find("no-such-user-here").unwrap_err().to_string();
        assert!(error.contains("useradd"), "{error}");
        let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
        assert_eq!(User::find(&me.name).unwrap(), None);
    }

    #[test]
    fn a_tree_is_handed_over_and_no_link_is_followed() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir_all(state.join("cache/deep")).unwrap();
        fs::create_dir(dir.path().join("other")).unwrap();
        for file in ["state/leases", "state/cache/deep/file", "other/file"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        symlink("../other", state.join("link")).unwrap();
        symlink("../../other/file", state.join("cache/link")).unwrap();
        let (own, group) = (rustix::process::geteuid(), rustix::process::getegid());
        // Others than root can give nothing away: they hand it over to themselves.
        let (uid, gid) = match own.is_root() {
            true => (Uid::from_raw(12345), Gid::from_raw(12346)),
            false => (own, group),
        };
        let user = User { name: "somebody".to_owned(), uid, gid, groups: Vec::new() };
        user.take(&state).unwrap();
        let (taken, left) = ((uid.as_raw(), gid.as_raw()), (own.as_raw(), group.as_raw()));
        let owner = |path: &str| {
            let about = fs::symlink_metadata(dir.path().join(path)).unwrap();
            (about.uid(), about.gid())
        };
        for path in ["", "/leases", "/cache/deep/file", "/link", "/cache/link"] {
            assert_eq!(owner(&format!("state{path}")), taken, "{path}");
        }
        assert_eq!((owner("other"), owner("other/file")), (left, left));
    }

    #[test]
    fn a_socket_gets_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        socket_folder(&dir.path().join("run/a.sock"), None).unwrap();
        assert!(dir.path().join("run").is_dir());
        socket_folder(&dir.path().join("run/a.sock"), None).unwrap();
        socket_folder(Path::new("a.sock"), None).unwrap();
    }
}
