//! Files that survive a power cut: written beside their place, forced to disk, then renamed; or
//! appended to.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces `path` by `content` so that a reader, also one after a power cut, finds either the old
/// or the new content and never a part of it.
///
/// # Errors
/// What the file system says; the old file is then untouched.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    let written = write(&beside, content).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // On a full disk, what is there of it would be in the way of the next try.
        let _ = fs::remove_file(&beside);
        return written;
    }
    // The rename itself is in the folder's data.
    sync_folder(path)
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Appends `content` to a file that was opened for appending and has `length` bytes, and returns
/// its new length when all is on disk. After a crash the end of the content may be missing.
///
/// # Errors
/// What the file system says; what was written of the content is then cut off again, as far as
/// the file system lets us.
pub fn append(file: &mut File, length: u64, content: &[u8]) -> io::Result<u64> {
    let written = file.write_all(content).and_then(|()| file.sync_data());
    if let Err(error) = written {
        let _ = file.set_len(length);
        return Err(error);
    }
    Ok(length.saturating_add(content.len() as u64))
}

/// Forces the names in the folder of `path` to disk: files that were made, renamed or deleted.
///
/// # Errors
/// What the file system says.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_content_replaces_the_old_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_appended_comes_after_and_a_failure_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut file = File::options().create(true).append(true).open(&path).unwrap();
        let length = append(&mut file, 0, b"one").unwrap();
        assert_eq!(append(&mut file, length, b"two").unwrap(), 6);
        assert!(append(&mut File::open(&path).unwrap(), 6, b"three").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"onetwo");
    }
}
