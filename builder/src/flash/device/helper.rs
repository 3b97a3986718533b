//! The small part that runs as root: it opens a disk, after having looked for itself whether that may
//! be written to, hands the open file over and later asks the kernel to read the partition table.
//!
//! The command starts itself again with `sudo`, which keeps standard input: one end of a pair of
//! sockets. One JSON line is asked, one answered; the open file comes with the first answer
//! (unix(7), `SCM_RIGHTS`). The other end's closing ends the part.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::Error;
use super::disk::Disk;
use super::host::Host;
use super::open::{Reread, open_here};
use super::refuse::Policy;

/// The hidden verb.
pub const VERB: &str = "flash-open";
/// The longest line in bytes.
const MAX_LINE: u64 = 64 << 10;

/// What the part is asked for first. It names the disk that the operator has chosen, so that no other
/// one is opened.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Its device file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its sequence number.
    pub diskseq: Option<u64>,
    /// What may be written to.
    pub policy: Policy,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The open file comes with this line, or what was asked for is done.
    Done,
    /// A partition is in use.
    Busy,
    /// Even that process may not ask for it.
    NotAllowed,
    /// It failed.
    Failed(String),
}

/// The part of the program that runs as root, as this process sees it. It ends with this.
#[derive(Debug)]
pub struct Helper {
    socket: Option<BufReader<UnixStream>>,
    child: Option<Child>,
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It ends when its socket closes.
        self.socket = None;
        if let Some(child) = &mut self.child {
            drop(child.wait());
        }
    }
}

impl Helper {
    /// See [`super::Target::reread_table`].
    ///
    /// # Errors
    /// When it fails, or the part has ended.
    pub fn reread(&mut self, path: &Path) -> Result<Reread, Error> {
        let failed = |what: String| Error::Helper { path: path.to_owned(), what };
        let Some(socket) = &mut self.socket else {
            return Err(failed("it has ended".to_owned()));
        };
        socket.get_mut().write_all(b"r").map_err(|error| failed(error.to_string()))?;
        match answer(socket).map_err(|error| failed(error.to_string()))? {
            Answer::Done => Ok(Reread::Done),
            Answer::Busy => Ok(Reread::Busy),
            Answer::NotAllowed => Ok(Reread::NotAllowed),
            Answer::Failed(what) => Err(failed(what)),
        }
    }
}

/// Asks root for an open disk.
pub(super) fn ask(disk: &Disk, policy: &Policy) -> Result<(File, Helper), Error> {
    let own = |error: io::Error| Error::Helper { path: disk.path.clone(), what: error.to_string() };
    let (here, there) = UnixStream::pair().map_err(own)?;
    let program = std::env::current_exe().map_err(own)?;
    let spawned = Command::new("sudo")
        .arg("--")
        .arg(program)
        .arg(VERB)
        .arg(&disk.path)
        .stdin(Stdio::from(OwnedFd::from(there)))
        .stdout(Stdio::null())
        .spawn();
    let child = spawned.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoRight {
            path: disk.path.clone(),
            why: "there is no `sudo` to ask root with".to_owned(),
            group: group(&disk.path),
        },
        _ => own(error),
    })?;
    talk(here, Some(child), disk, policy)
}

/// Asks the other end of a socket.
///
/// # Errors
/// When it refuses, or ends without an answer.
pub fn talk(
    socket: UnixStream,
    child: Option<Child>,
    disk: &Disk,
    policy: &Policy,
) -> Result<(File, Helper), Error> {
    let path = || disk.path.clone();
    let own = |error: io::Error| Error::Helper { path: path(), what: error.to_string() };
    let mut helper = Helper { socket: None, child };
    let (size, diskseq, policy) = (disk.size, disk.diskseq, policy.clone());
    let request = Request { path: path(), size, diskseq, policy };
    let sent = write_line(&socket, &request);
    let received = sent.and_then(|()| receive(&socket));
    helper.socket = Some(BufReader::new(socket));
    match received {
        Ok((Answer::Done, Some(file))) => Ok((File::from(file), helper)),
        Ok((Answer::Failed(what), _)) => Err(Error::Helper { path: path(), what }),
        Ok(_) => Err(own(io::Error::other("it answered without an open file"))),
        // `sudo` has said why on standard error.
        Err(_) => Err(Error::NoRight {
            path: path(),
            why: "`sudo` did not give the right".to_owned(),
            group: group(&disk.path),
        }),
    }
}

/// The group that may write to a device, by name where that is known.
fn group(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let gid = std::fs::metadata(path).map_or(0, |meta| meta.gid());
    let name = nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid)).ok().flatten();
    // Membership of root's group gives much more than this.
    name.map(|group| group.name).filter(|_| gid != 0).unwrap_or_else(|| "disk".to_owned())
}

/// Serves one disk over a socket, until the other end closes it.
///
/// # Errors
/// When the other end does not talk as it should. That a disk is refused is an answer.
pub fn serve(socket: &UnixStream, device: &Path) -> io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let request: Request = read_line(&mut reader)?;
    let target = open_asked(device, &request);
    let mut target = match target {
        Ok(target) => target,
        Err(error) => return write_line(socket, &Answer::Failed(error.to_string())),
    };
    send(socket, &Answer::Done, target.file())?;
    let mut byte = [0];
    while reader.read(&mut byte)? == 1 {
        if byte != *b"r" {
            return Err(io::Error::other("it is asked for something that it cannot do"));
        }
        let answer = match target.reread_table() {
            Ok(Reread::Done) => Answer::Done,
            Ok(Reread::Busy) => Answer::Busy,
            Ok(Reread::NotAllowed) => Answer::NotAllowed,
            Err(error) => Answer::Failed(error.to_string()),
        };
        write_line(socket, &answer)?;
    }
    Ok(())
}

fn open_asked(device: &Path, request: &Request) -> Result<super::Target, Error> {
    let disk = Host::here().find(&device.to_string_lossy())?;
    let changed = |what| Err(Error::Changed { path: disk.path.clone(), what });
    match () {
        () if disk.path != request.path => changed("its name"),
        () if disk.size != request.size => changed("its size"),
        () if disk.diskseq != request.diskseq => changed("its sequence number"),
        () => open_here(&disk, &request.policy),
    }
}

fn write_line(mut socket: &UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    socket.write_all(&line)
}

fn read_line<T: for<'a> Deserialize<'a>>(reader: &mut impl BufRead) -> io::Result<T> {
    let mut line = Vec::new();
    reader.take(MAX_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

fn answer(reader: &mut impl BufRead) -> io::Result<Answer> {
    read_line(reader)
}

fn send(socket: &UnixStream, answer: &Answer, file: &File) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    // A line this short is sent whole.
    sendmsg(socket, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The first answer, and the open file that came with it.
fn receive(socket: &UnixStream) -> io::Result<(Answer, Option<OwnedFd>)> {
    let mut line = Vec::new();
    let mut file = None;
    while !line.ends_with(b"\n") {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let got = match recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if got.bytes == 0 || line.len() as u64 > MAX_LINE {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                file = file.or(files.last());
            }
        }
        line.extend(bytes.get(..got.bytes).unwrap_or_default());
    }
    Ok((serde_json::from_slice(&line)?, file))
}
