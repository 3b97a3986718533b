//! The Unix socket of the operator's interface.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{Api, router};

/// Why the socket is not there.
#[derive(Debug, thiserror::Error)]
#[error("opening the operator's socket {}: {source}", path.display())]
pub struct SocketError {
    path: PathBuf,
    source: io::Error,
}

/// An open socket; its file is removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    place: Place,
}

#[derive(Debug)]
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(socket = %path.display(), "removing the operator's socket: {error}");
    }
}

impl Socket {
    /// Opens the socket with mode 0600, in place of one that a killed booter left. Makes its folder.
    ///
    /// # Errors
    /// When the file system refuses, another booter listens there, or the place is taken by another
    /// kind of file.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        let broken = |source| SocketError { path: path.to_owned(), source };
        let listener = open(path).map_err(broken)?;
        Ok(Self { listener, place: Place(path.to_owned()) })
    }

    /// Answers until `stop`; long questions are broken off then.
    pub async fn serve(self, api: Api, stop: CancellationToken) {
        let Self { listener, place: _place } = self;
        tokio::select! {
            () = stop.cancelled() => {}
            ended = axum::serve(listener, router(api)).into_future() => {
                if let Err(error) = ended {
                    tracing::error!("serving the operator's interface: {error}");
                }
            }
        }
    }
}

fn open(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(about) if !about.file_type().is_socket() => {
            return Err(io::Error::other("there is a file that is no socket"));
        }
        Ok(_) => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Made under another name with its mode before it gets its name: nobody can slip in between.
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
    std::fs::rename(&beside, path)?;
    Ok(listener)
}
