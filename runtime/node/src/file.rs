//! Files that must not be torn by a power cut, and copies that are checked while they are made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// How much is read at once: large, since the key is slow per request.
const CHUNK: usize = 1 << 20;

/// Suffix of a file that is being written. Short, so that it stays one entry on FAT.
const TEMPORARY: &str = ".tmp";

/// Writes a file so that after a power cut either the old or the new content is there: temporary
/// file, sync, rename, sync of the folder. `mode` has no meaning on FAT.
///
/// # Errors
/// When the file system refuses.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let temporary = temporary(path);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

/// The temporary file beside `path`.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    name.into()
}

/// SHA-256 of a file in hex. `progress` gets the number of bytes of every piece.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<String> {
    pass(&mut File::open(path)?, &mut io::sink(), progress)
}

/// SHA-256 of bytes in hex.
pub fn sha256_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source does not have the digest that it should have.
    #[error("{path} is damaged: its SHA-256 is {found}, it should be {wanted}")]
    Damaged {
        /// The source.
        path: PathBuf,
        /// Digest of what is there.
        found: String,
        /// Digest that it should have.
        wanted: String,
    },
    /// Reading or writing failed.
    #[error("copying {from} to {to}: {source}")]
    Io {
        /// The source.
        from: PathBuf,
        /// The target.
        to: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Copies a file in one pass that also checks its digest. The target gets its name only when it
/// is whole; it is not synced, the caller syncs once for all files.
///
/// # Errors
/// When the source is damaged or the file system refuses.
pub fn copy_verified(
    from: &Path,
    to: &Path,
    wanted: &str,
    progress: &mut dyn FnMut(u64),
) -> Result<(), CopyError> {
    let temporary = temporary(to);
    let io = |source| CopyError::Io { from: from.to_owned(), to: to.to_owned(), source };
    let mut copy = || -> io::Result<String> {
        fs::create_dir_all(to.parent().unwrap_or(Path::new("/")))?;
        let mut target = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&temporary)?;
        pass(&mut File::open(from)?, &mut target, progress)
    };
    let found = copy().map_err(io)?;
    if !found.eq_ignore_ascii_case(wanted) {
        fs::remove_file(&temporary).map_err(io)?;
        return Err(CopyError::Damaged { path: from.to_owned(), found, wanted: wanted.to_owned() });
    }
    fs::rename(&temporary, to).map_err(io)
}

fn pass(
    from: &mut dyn Read,
    to: &mut dyn Write,
    progress: &mut dyn FnMut(u64),
) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
        progress(count as u64);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_atomic_write_replaces_and_leaves_no_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/config");
        fs::create_dir_all(dir.path().join("a")).unwrap();
        fs::write(temporary(&path), "half").unwrap();
        write_atomic(&path, b"one", 0o400).unwrap();
        write_atomic(&path, b"two", 0o400).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_source_makes_no_target() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("x/to"));
        fs::write(&from, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of(b"abc"), abc);
        let mut seen = 0;
        copy_verified(&from, &to, abc, &mut |n| seen += n).unwrap();
        assert_eq!((fs::read(&to).unwrap().as_slice(), seen), (b"abc".as_slice(), 3));
        let other = dir.path().join("x/other");
        let error = copy_verified(&from, &other, &"0".repeat(64), &mut |_| {}).unwrap_err();
        assert!(matches!(error, CopyError::Damaged { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path().join("x")).unwrap().count(), 1);
    }
}
