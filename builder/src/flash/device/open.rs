//! A disk that is open for writing, by this process alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use super::disk::Disk;
use super::helper::{self, Helper};
use super::host::Host;
use super::refuse::{Policy, refusals};
use super::sysfs::{number, value};
use super::{Error, sysfs};

/// How long others, udev above all, may have a partition open until that is told.
const REREAD_LIMIT: Duration = Duration::from_secs(5);
const REREAD_PAUSE: Duration = Duration::from_millis(100);

/// What became of the kernel's partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reread {
    /// The kernel has read the new one.
    Done,
    /// A partition is still open: the kernel knows the old ones until the key is plugged in again.
    Busy,
    /// This user may not ask for it; udev usually does once the disk is closed.
    NotAllowed,
}

/// What became of a range that was to be unmapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmapped {
    /// It reads as zeros now.
    Zeroed,
    /// The disk may forget it; what it reads as is not known.
    Dropped,
    /// The disk cannot do that; nothing changed.
    No,
}

/// A disk that is open for reading and writing.
#[derive(Debug)]
pub struct Target {
    file: File,
    disk: Disk,
    direct: bool,
    sys: PathBuf,
    helper: Option<Helper>,
}

/// Opens a disk for this process alone, after it was looked at once more. Where this user has no right
/// to write to it, root is asked for it with `sudo`, for the opening alone.
///
/// # Errors
/// When it must not be written to, is another one now, is in use, or may not be opened.
pub fn open(disk: &Disk, policy: &Policy) -> Result<Target, Error> {
    match open_here(disk, policy) {
        Err(Error::Open { source, .. }) if may_ask(&source) => {
            let (file, helper) = helper::ask(disk, policy)?;
            let target = Target { helper: Some(helper), ..Target::new(file, disk) };
            // What was handed over is not taken on trust.
            target.same()?;
            Ok(target)
        }
        other => other,
    }
}

/// Whether root may be allowed what this user is not.
fn may_ask(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root()
}

/// Opens a disk with the rights that this process has.
///
/// # Errors
/// See [`open`].
pub fn open_here(disk: &Disk, policy: &Policy) -> Result<Target, Error> {
    check(disk, policy, false)?;
    let target = match open_exclusively(&disk.path) {
        Ok(file) => Target::new(file, disk),
        Err(Error::Busy(path)) => {
            // Who has it is a better answer.
            check(disk, policy, true)?;
            return Err(Error::Busy(path));
        }
        Err(error) => return Err(error),
    };
    target.same()?;
    // Once more with the disk claimed: from here on nobody can mount anything of it.
    check(disk, policy, false)?;
    Ok(target)
}

/// Looks at a disk of this machine again, and also for processes that hold it.
fn check(disk: &Disk, policy: &Policy, holders: bool) -> Result<(), Error> {
    let host = Host::here();
    let now = host.disks()?.into_iter().find(|now| now.name == disk.name);
    let mut now = now.ok_or_else(|| Error::PulledOut(disk.path.clone()))?;
    if holders {
        host.probe(&mut now);
    }
    let found = refusals(&now, policy);
    if found.is_empty() { Ok(()) } else { Err(Error::Refused(found)) }
}

fn open_exclusively(path: &Path) -> Result<File, Error> {
    let open = |flags: OFlags| {
        let flags = flags | OFlags::EXCL | OFlags::CLOEXEC;
        let flags = flags.bits().cast_signed();
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
    };
    let file = open(OFlags::DIRECT).or_else(|error| match error.raw_os_error() {
        Some(number) if number == Errno::INVAL.raw_os_error() => open(OFlags::empty()),
        _ => Err(error),
    });
    file.map_err(|source| match source.raw_os_error() {
        Some(number) if number == Errno::BUSY.raw_os_error() => Error::Busy(path.to_owned()),
        Some(number) if is_gone(number) => Error::PulledOut(path.to_owned()),
        _ => Error::Open { path: path.to_owned(), source },
    })
}

fn is_gone(number: i32) -> bool {
    [Errno::NXIO, Errno::NODEV, Errno::NOMEDIUM].iter().any(|gone| gone.raw_os_error() == number)
}

impl Target {
    fn new(file: File, disk: &Disk) -> Self {
        let direct =
            rustix::fs::fcntl_getfl(&file).is_ok_and(|flags| flags.contains(OFlags::DIRECT));
        Self { file, disk: disk.clone(), direct, sys: Host::here().sys, helper: None }
    }

    /// The open device. Positioned reads and writes are direct when [`Target::is_direct`] says so:
    /// offset, length and address of the buffer then have to be multiples of the logical sector.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The disk as it was when it was opened: size, sectors, optimal size.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.disk.size
    }

    /// Whether reads and writes go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether it was opened by root for this process.
    pub fn is_through_root(&self) -> bool {
        self.helper.is_some()
    }

    /// Forgets a range: with zeros where the disk promises them, else by a plain discard.
    ///
    /// # Errors
    /// When the disk fails. That it cannot do it is no error.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<Unmapped> {
        let unit = self.disk.discard_granularity.max(u64::from(self.disk.sector));
        // Only whole units: what lies beside the range is somebody's data.
        let begin = offset.next_multiple_of(unit);
        let end = offset.saturating_add(length) / unit * unit;
        if self.disk.discard_max == 0 || begin >= end {
            return Ok(Unmapped::No);
        }
        let whole = begin == offset && end == offset.saturating_add(length);
        let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, holes, begin, end - begin) {
            // Its edges were left as they are.
            Ok(()) if whole => return Ok(Unmapped::Zeroed),
            Ok(()) => return Ok(Unmapped::Dropped),
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        match block_discard(&self.file, begin, end - begin) {
            Ok(()) => Ok(Unmapped::Dropped),
            // USB bridges that announce it and then refuse it report EREMOTEIO.
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::REMOTEIO) => Ok(Unmapped::No),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until everything is on the medium.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn flush(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|error| self.explain(error))
    }

    /// Makes the kernel read the partition table anew, through root when the disk was opened so.
    /// Others that look at the disk for a moment are waited for.
    ///
    /// # Errors
    /// When the table cannot be read from the disk.
    pub fn reread_table(&mut self) -> Result<Reread, Error> {
        if let Some(helper) = &mut self.helper {
            return helper.reread(&self.disk.path);
        }
        reread(&self.file).map_err(|error| self.explain(error))
    }

    /// Makes sure that the open device is still there and is the disk that was chosen.
    ///
    /// # Errors
    /// When it was pulled out, or is another one.
    pub fn same(&self) -> Result<(), Error> {
        let changed = |what| Err(Error::Changed { path: self.disk.path.clone(), what });
        let meta = self.file.metadata().map_err(|error| self.explain(error))?;
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        if !meta.file_type().is_block_device() || (major, minor) != self.disk.number {
            return changed("its device number");
        }
        let Some(folder) = self.folder() else {
            return Err(Error::PulledOut(self.disk.path.clone()));
        };
        if number(&folder, "diskseq") != self.disk.diskseq {
            return changed("its sequence number");
        }
        match self.end() {
            Ok(0) => Err(Error::PulledOut(self.disk.path.clone())),
            Ok(size) if size != self.disk.size => changed("its size"),
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// What an error of reading, writing or flushing means: pulling a key out has many numbers.
    pub fn explain(&self, error: io::Error) -> Error {
        let gone = error.raw_os_error().is_some_and(is_gone);
        if gone || self.folder().is_none() || self.end().is_ok_and(|size| size == 0) {
            return Error::PulledOut(self.disk.path.clone());
        }
        Error::Io { path: self.disk.path.clone(), source: error }
    }

    /// Its folder in sysfs, as long as the disk is there.
    fn folder(&self) -> Option<PathBuf> {
        let (major, minor) = self.disk.number;
        let folder = fs::canonicalize(self.sys.join(format!("dev/block/{major}:{minor}"))).ok()?;
        let own = value(&folder, "dev").and_then(|text| sysfs::device_number(&text));
        (own == Some(self.disk.number)).then_some(folder)
    }

    fn end(&self) -> io::Result<u64> {
        // The position is nobody's: all reads and writes name theirs.
        (&self.file).seek(SeekFrom::End(0))
    }
}

/// Makes the kernel read a disk's partition table.
pub(super) fn reread(file: &File) -> io::Result<Reread> {
    let begin = Instant::now();
    loop {
        match block_reread(file) {
            Ok(()) => return Ok(Reread::Done),
            Err(Errno::ACCESS | Errno::PERM) => return Ok(Reread::NotAllowed),
            Err(Errno::BUSY) if begin.elapsed() < REREAD_LIMIT => {
                // No event tells when the last of them has closed it.
                std::thread::sleep(REREAD_PAUSE);
            }
            Err(Errno::BUSY) => return Ok(Reread::Busy),
            // A disk that cannot have partitions.
            Err(Errno::INVAL) => return Ok(Reread::Done),
            Err(error) => return Err(error.into()),
        }
    }
}

/// `BLKRRPART` of linux/fs.h.
fn block_reread(file: &File) -> rustix::io::Result<()> {
    const BLKRRPART: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 95);
    // SAFETY: the request takes no argument (block/ioctl.c), so the kernel reads and writes no memory of
    // this process, whatever kind of file it is given.
    unsafe { rustix::ioctl::ioctl(file, rustix::ioctl::NoArg::<BLKRRPART>::new()) }
}

/// `BLKDISCARD` of linux/fs.h.
fn block_discard(file: &File, offset: u64, length: u64) -> rustix::io::Result<()> {
    const BLKDISCARD: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 119);
    let range = [offset, length];
    // SAFETY: the request reads two 64-bit numbers, offset and length, from its argument
    // (block/ioctl.c), which is what `range` is; it writes no memory of this process.
    unsafe {
        let request = rustix::ioctl::Setter::<BLKDISCARD, [u64; 2]>::new(range);
        rustix::ioctl::ioctl(file, request)
    }
}
