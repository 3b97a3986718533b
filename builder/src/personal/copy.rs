//! Copies an image file without filling its holes: by sharing its blocks where the file system can,
//! else piece by piece within the kernel.

use std::fs::File;
use std::io;

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Bytes that are copied at once: between two of them progress is told.
const PIECE: u64 = 8 << 20;

/// Copies `from` into the empty file `to`. `progress` is called with the bytes so far, holes
/// included.
///
/// # Errors
/// When reading or writing fails, or `from` became shorter.
pub fn sparse(from: &File, to: &File, progress: &mut dyn FnMut(u64)) -> io::Result<()> {
    let size = from.metadata()?.len();
    if ioctl_ficlone(to, from).is_ok() {
        progress(size);
        return Ok(());
    }
    to.set_len(size)?;
    let mut at = 0;
    while at < size {
        let begin = match seek(from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::NOTSUP) => at,
            Err(error) => return Err(error.into()),
        };
        let end = match seek(from, SeekFrom::Hole(begin)) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL | Errno::NOTSUP) => size,
            Err(error) => return Err(error.into()),
        };
        at = begin;
        while at < end {
            at += piece(from, to, at, (end - at).min(PIECE))?;
            progress(at);
        }
    }
    progress(size);
    Ok(())
}

/// Copies some of `length` bytes at `at`, and tells how many.
fn piece(from: &File, to: &File, at: u64, length: u64) -> io::Result<u64> {
    use std::os::unix::fs::FileExt as _;
    let (mut source, mut target) = (at, at);
    let most = usize::try_from(length).unwrap_or(usize::MAX);
    match copy_file_range(from, Some(&mut source), to, Some(&mut target), most) {
        Ok(0) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the image became shorter while it was copied",
        )),
        Ok(count) => Ok(count as u64),
        // Two file systems, or one that cannot.
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let mut buffer = vec![0; most.min(1 << 20)];
            from.read_exact_at(&mut buffer, at)?;
            to.write_all_at(&buffer, at)?;
            Ok(buffer.len() as u64)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    #[test]
    fn holes_stay_holes() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(200 << 20).unwrap();
        from.write_all_at(&[7; 100_000], 50 << 20).unwrap();
        from.write_all_at(b"end", (200 << 20) - 3).unwrap();
        // One on the same file system, one elsewhere.
        for to in [tempfile::tempfile().unwrap(), tempfile::tempfile_in("/dev/shm").unwrap()] {
            let mut told = Vec::new();
            sparse(&from, &to, &mut |bytes| told.push(bytes)).unwrap();
            assert_eq!(told.last(), Some(&(200 << 20)));
            assert!(told.is_sorted());
            let meta = to.metadata().unwrap();
            assert_eq!(meta.len(), 200 << 20);
            assert!(meta.blocks() * 512 < 2 << 20, "{} blocks", meta.blocks());
            let mut bytes = [0; 100_002];
            to.read_exact_at(&mut bytes, (50 << 20) - 1).unwrap();
            assert!(bytes[1..100_001].iter().all(|byte| *byte == 7));
            assert_eq!((bytes[0], bytes[100_001]), (0, 0));
            to.read_exact_at(&mut bytes[..3], (200 << 20) - 3).unwrap();
            assert_eq!(&bytes[..3], b"end");
        }
    }
}
