//! Where things lie in a lab's folder.
//!
//! ```text
//! lab.json            what the lab is (LabSpec)
//! state.json          what runs now, with process ids (State)
//! supervisor.log      what the supervisor says
//! control.sock        speak to the supervisor
//! id_ed25519[.pub]    the ssh key of `headnode lab key`
//! ssh_config          for ssh -F; `lab ssh` keeps it up to date
//! image.raw           the unpacked image, if it came compressed
//! MACHINE/            console.log console.index console.sock qmp.sock qemu.log disks firmware
//! ```

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folder of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    dir: PathBuf,
}

/// Files of a lab that `down` removes, and the key's two, which it keeps.
pub const FILES: [&str; 8] = [
    "lab.json",
    "state.json",
    "supervisor.log",
    "control.sock",
    "supervisor.lock",
    "ssh_config",
    "image.raw",
    "pxe-rom.ipxe",
];

/// The two files of the lab's own ssh key.
pub const KEY_FILES: [&str; 2] = ["id_ed25519", "id_ed25519.pub"];

impl Paths {
    /// The lab in this folder, which need not exist yet; made absolute, because processes with
    /// other working folders use it.
    ///
    /// # Errors
    /// When the current folder cannot be told.
    pub fn new(dir: &Path) -> Result<Self> {
        let dir = std::path::absolute(dir)
            .with_context(|| format!("making {} absolute", dir.display()))?;
        Ok(Self { dir })
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of the lab.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `lab.json`.
    pub fn spec(&self) -> PathBuf {
        self.file("lab.json")
    }

    /// `state.json`.
    pub fn state(&self) -> PathBuf {
        self.file("state.json")
    }

    /// The supervisor's log.
    pub fn log(&self) -> PathBuf {
        self.file("supervisor.log")
    }

    /// A machine's folder.
    pub fn machine(&self, machine: &str) -> PathBuf {
        self.dir.join(machine)
    }

    /// A machine's console log.
    pub fn console(&self, machine: &str) -> PathBuf {
        self.machine(machine).join("console.log")
    }

    /// When the lines of a machine's console log came.
    pub fn console_index(&self, machine: &str) -> PathBuf {
        self.machine(machine).join("console.index")
    }
}

/// Connects to a Unix socket, however long its path is.
///
/// # Errors
/// What the operating system says.
pub fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let (_folder, short) = short(path)?;
    UnixStream::connect(short)
}

/// Listens on a Unix socket, however long its path is; replaces one that is there.
///
/// # Errors
/// What the operating system says.
pub fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, short) = short(path)?;
    UnixListener::bind(short)
}

/// A socket's path is limited to 107 bytes, which the folder of a test easily exceeds: go through
/// a descriptor of the folder. (QEMU is started inside the folder instead.)
fn short(path: &Path) -> std::io::Result<(std::fs::File, PathBuf)> {
    let invalid = || std::io::Error::other(format!("{} is no file's path", path.display()));
    let folder = std::fs::File::open(path.parent().ok_or_else(invalid)?)?;
    let name = path.file_name().ok_or_else(invalid)?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((folder, short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_in_a_deep_folder_works() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("x".repeat(100)).join("y".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let listener = listen(&deep.join("s")).unwrap();
        connect(&deep.join("s")).unwrap();
        drop(listener);
        listen(&deep.join("s")).unwrap();
    }
}
