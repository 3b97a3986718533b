//! A disk with faults: a file that is served by FUSE from this process, with a loop device on it.
//! Needs root, /dev/fuse and `losetup`.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyWrite, Request, WriteFlags,
};
use nix::mount::{MntFlags, umount2};

/// How long a test waits for what has to come.
const LIMIT: Duration = Duration::from_secs(60);
/// The only file there is.
const NAME: &str = "disk.img";
const INO: INodeNo = INodeNo(2);

/// What goes wrong; places and lengths are in bytes.
#[derive(Debug, Default)]
pub struct Faults {
    /// Writes that reach behind this place fail.
    pub write_error: Option<u64>,
    /// Reads that touch this place fail.
    pub read_error: Option<u64>,
    /// This byte is stored otherwise than it was written, so many times.
    pub flip: Option<(u64, u32)>,
    /// There is no room for more than so many written bytes.
    pub room: Option<u64>,
    /// What lies behind this size is stored from the begin on, as fake keys do.
    pub real_size: Option<u64>,
    /// Writes that touch these bytes wait until [`Faulty::release`] or [`Faulty::pull_out`].
    pub stall: Option<Range<u64>>,
}

struct Parked {
    offset: u64,
    bytes: Vec<u8>,
    reply: ReplyWrite,
}

struct State {
    faults: Faults,
    size: u64,
    gone: bool,
    written: u64,
    parked: Vec<Parked>,
}

struct Shared {
    medium: File,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let folder = ino == INodeNo::ROOT;
        let (kind, perm) =
            if folder { (FileType::Directory, 0o755) } else { (FileType::RegularFile, 0o600) };
        let size = if folder { 0 } else { self.lock().size };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Stores bytes as a fake key would: what does not fit begins anew.
    fn store(&self, state: &mut State, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        if state.gone {
            return Err(Errno::ENODEV);
        }
        let end = offset + bytes.len() as u64;
        if state.faults.write_error.is_some_and(|from| end > from) {
            return Err(Errno::EIO);
        }
        state.written += bytes.len() as u64;
        if state.faults.room.is_some_and(|room| state.written > room) {
            return Err(Errno::ENOSPC);
        }
        let mut bytes = bytes.to_vec();
        if let Some((at, left)) = &mut state.faults.flip
            && (offset..end).contains(at)
            && *left > 0
        {
            *left -= 1;
            bytes[(*at - offset) as usize] ^= 0x10;
        }
        self.wrapped(state, offset, bytes.len(), |part, place| {
            self.medium.write_all_at(&bytes[part], place)
        })
    }

    /// Does something with the places where bytes really lie.
    fn wrapped(
        &self,
        state: &State,
        offset: u64,
        length: usize,
        mut each: impl FnMut(Range<usize>, u64) -> std::io::Result<()>,
    ) -> Result<(), Errno> {
        let real = state.faults.real_size.unwrap_or(u64::MAX);
        let mut done = 0;
        while done < length {
            let place = (offset + done as u64) % real;
            let count = (length - done).min(usize::try_from(real - place).unwrap_or(usize::MAX));
            each(done..done + count, place).map_err(|_| Errno::EIO)?;
            done += count;
        }
        Ok(())
    }
}

struct Served(Arc<Shared>);

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&Duration::ZERO, &self.0.attributes(INO), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.0.attributes(ino));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.0.lock();
        let size = u64::from(size).min(state.size.saturating_sub(offset));
        if state.gone {
            return reply.error(Errno::ENODEV);
        }
        if state.faults.read_error.is_some_and(|at| (offset..offset + size).contains(&at)) {
            return reply.error(Errno::EIO);
        }
        let mut bytes = vec![0; size as usize];
        let length = bytes.len();
        let read = self.0.wrapped(&state, offset, length, |part, place| {
            self.0.medium.read_exact_at(&mut bytes[part], place)
        });
        match read {
            Ok(()) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.0.lock();
        let end = offset + data.len() as u64;
        if state.faults.stall.as_ref().is_some_and(|at| offset < at.end && end > at.start) {
            state.parked.push(Parked { offset, bytes: data.to_vec(), reply });
            self.0.changed.notify_all();
            return;
        }
        match self.0.store(&mut state, offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.0.lock().gone {
            true => reply.error(Errno::ENODEV),
            false => reply.ok(),
        }
    }
}

/// The disk. It goes with this value, and with this process, however that ends.
pub struct Faulty {
    /// `/dev/loop7`.
    pub path: String,
    /// `loop7`.
    pub name: String,
    /// What names it for ever: `loop:` and its file.
    pub id: String,
    /// Bytes that it has when it is there.
    size: u64,
    shared: Arc<Shared>,
    // The order in which they go: the loop device lies on the mount, that in the folder.
    held: Option<File>,
    session: Option<BackgroundSession>,
    dir: tempfile::TempDir,
}

impl Faulty {
    /// A disk of `size` bytes full of old data, as far as that matters: its begin and its end.
    pub fn new(size: u64, faults: Faults) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let medium = tempfile::tempfile().unwrap();
        medium.set_len(size).unwrap();
        for place in [0, size - (1 << 20)] {
            medium.write_all_at(&vec![0x5a; 1 << 20], place).unwrap();
        }
        let state = State { faults, size, gone: false, written: 0, parked: Vec::new() };
        let shared = Arc::new(Shared { medium, state: Mutex::new(state), changed: Condvar::new() });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faulty".to_owned())];
        config.n_threads = Some(2);
        let at = dir.path().join("mount");
        fs::create_dir(&at).unwrap();
        let session = fuser::spawn_mount(Served(Arc::clone(&shared)), &at, &config)
            .expect("mounting by FUSE: needs root and /dev/fuse");
        let file = at.join(NAME);
        let mut disk = Self {
            path: String::new(),
            name: String::new(),
            id: format!("loop:{}", file.display()),
            size,
            shared,
            held: None,
            session: Some(session),
            dir,
        };
        let (path, held) = attach(&file, &["--direct-io=on"]);
        disk.name = path.strip_prefix("/dev/").unwrap().to_owned();
        (disk.path, disk.held) = (path, Some(held));
        disk
    }

    /// What is on it, past all faults: its first `length` bytes.
    pub fn head(&self, length: usize) -> Vec<u8> {
        self.at(0, length)
    }

    /// What is on it at a place, past all faults.
    pub fn at(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.shared.medium.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    /// Bytes that were written to it so far.
    pub fn written(&self) -> u64 {
        self.shared.lock().written
    }

    /// Changes its faults.
    pub fn set(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// Waits until a write stalls.
    pub fn wait_stalled(&self) {
        let state = self.shared.lock();
        let (_state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, LIMIT, |state| state.parked.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "nothing was written there");
    }

    /// Does the writes that stall, and all others from now on.
    pub fn release(&self) {
        self.stall_next(None);
    }

    /// Does the writes that stall, and stalls others.
    pub fn stall_next(&self, stall: Option<Range<u64>>) {
        let mut state = self.shared.lock();
        state.faults.stall = stall;
        for Parked { offset, bytes, reply } in std::mem::take(&mut state.parked) {
            match self.shared.store(&mut state, offset, &bytes) {
                Ok(()) => reply.written(bytes.len() as u32),
                Err(error) => reply.error(error),
            }
        }
    }

    /// Takes it away: it has no bytes any more, as the kernel has it for a drive that lost its
    /// medium; then all that waits for it fails.
    pub fn pull_out(&self) {
        self.resize(0);
        self.shared.lock().gone = true;
        self.release();
    }

    /// Brings it back, with all that was written to it.
    pub fn plug_in(&self) {
        self.shared.lock().gone = false;
        self.resize(self.size);
    }

    fn resize(&self, size: u64) {
        self.shared.lock().size = size;
        run("losetup", &["-c", &self.path]);
        let now = fs::read_to_string(format!("/sys/block/{}/size", self.name)).unwrap();
        assert_eq!(now.trim(), (size / 512).to_string());
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.release();
        // Nothing can be done about what fails here, and a test may be failing already.
        drop(self.held.take());
        let _ = umount2(&self.dir.path().join("mount"), MntFlags::MNT_DETACH);
        drop(self.session.take());
    }
}

/// Makes a file a disk as long as the returned file is open: also when this process is killed.
pub fn attach(file: &Path, options: &[&str]) -> (String, File) {
    let mut args = vec!["-f", "--show"];
    args.extend(options);
    args.push(file.to_str().unwrap());
    let path = run("losetup", &args);
    let held = File::open(&path).unwrap();
    // It is open: the kernel detaches it when the last one closes it.
    run("losetup", &["-d", &path]);
    let backing = backing(&path);
    assert_eq!(backing.as_deref(), Some(file), "{path}");
    (path, held)
}

/// The file behind a loop device.
fn backing(path: &str) -> Option<PathBuf> {
    let name = path.strip_prefix("/dev/")?;
    let text = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(PathBuf::from(text.trim_end()))
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; ci/setup installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}{errors}", output.status);
    text.trim().to_owned()
}
