//! Files that are too large for memory: read piece by piece while they are sent.
//!
//! A file that is replaced by renaming another goes on as it was begun. One that is written to in
//! place is told by its length and the time of its last change, which are looked at after each
//! piece was read and before any of it is sent. What that cannot tell: a change within one tick of
//! the file system's clock (some milliseconds) of the last one before the transfer began.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use crate::cold;

/// Most bytes that a transfer reads at a time; the largest window (32 blocks of 1468 bytes) is just
/// below. With the smallest, one look at the file is for nearly a hundred packets.
pub const PIECE: usize = 48 << 10;

/// How far the kernel is asked to read ahead of what is not in memory, in bytes. Each wait for a
/// disk is a way to another thread and back.
const AHEAD: u64 = 1 << 20;

/// Which content a file has: changes when the file is replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Version {
    /// The version that `about` tells.
    pub fn of(about: &Metadata) -> Self {
        let changed = (about.mtime(), about.mtime_nsec());
        Self { inode: about.ino(), size: about.len(), changed }
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Why a file cannot be sent to its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It is no longer what it was when the transfer began.
    #[error(
        "the file was changed while it was sent; to replace a file, write another and rename it"
    )]
    Changed,
    /// Reading failed.
    #[error("reading the file: {0}")]
    Io(#[from] io::Error),
}

/// An open file that transfers share.
#[derive(Debug)]
pub struct Large {
    file: File,
    version: Version,
    size: usize,
}

impl Large {
    /// The file as `about` has described it; `None` when this machine cannot count its bytes.
    pub(super) fn new(file: File, about: &Metadata) -> Option<Self> {
        let size = usize::try_from(about.len()).ok()?;
        Some(Self { file, version: Version::of(about), size })
    }

    fn unchanged(&self) -> Result<(), Broken> {
        let now = Version::of(&self.file.metadata()?);
        if now == self.version { Ok(()) } else { Err(Broken::Changed) }
    }

    /// Fills `buffer`. Blocks while the disk is asked.
    fn fill(&self, buffer: &mut [u8], at: u64) -> Result<(), Broken> {
        match self.file.read_exact_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Broken::Changed),
            Err(error) => Err(error.into()),
            Ok(()) => self.unchanged(),
        }
    }
}

/// The piece of a large file that one transfer is sending.
#[derive(Debug)]
pub struct Reader {
    large: Arc<Large>,
    /// At most [`PIECE`].
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    start: usize,
}

impl Reader {
    /// Reads nothing yet.
    pub fn new(large: Arc<Large>) -> Self {
        Self { large, buffer: Vec::new(), start: 0 }
    }

    /// Bytes of the file.
    pub fn size(&self) -> usize {
        self.large.size
    }

    /// The bytes from `from` on, up to `to` or the file's end at least. `to` is at most [`PIECE`]
    /// after `from`. `ahead` also reads what may be asked for next.
    ///
    /// # Errors
    /// The file has changed, or cannot be read.
    pub async fn part(&mut self, from: usize, to: usize, ahead: bool) -> Result<&[u8], Broken> {
        let to = to.min(self.large.size);
        let kept = self.start..self.start + self.buffer.len();
        if from < to && !(kept.start <= from && to <= kept.end) {
            let most = if ahead { PIECE.max(to - from) } else { to - from };
            self.read(from, most.min(self.large.size - from)).await?;
        }
        let skip = from.saturating_sub(self.start);
        Ok(self.buffer.get(skip..).unwrap_or_default())
    }

    async fn read(&mut self, from: usize, length: usize) -> Result<(), Broken> {
        // Should it fail, nothing is kept.
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(length, 0);
        let (large, at) = (Arc::clone(&self.large), from as u64);
        if cold::cached(&large.file, &mut buffer, at) == Some(length) {
            large.unchanged()?;
        } else {
            let fill = move || {
                cold::ahead(&large.file, at, AHEAD);
                Ok(large.fill(&mut buffer, at).map(|()| buffer))
            };
            buffer = cold::blocking(fill).await??;
        }
        (self.buffer, self.start) = (buffer, from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const SIZE: usize = 3 * PIECE + 100;

    fn content() -> Vec<u8> {
        (0..SIZE).map(|n| (n % 251) as u8).collect()
    }

    fn open(dir: &tempfile::TempDir) -> Reader {
        let path = dir.path().join("large");
        std::fs::write(&path, content()).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        // Long ago, so that each change is seen.
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
        let about = file.metadata().unwrap();
        Reader::new(Arc::new(Large::new(file, &about).unwrap()))
    }

    #[tokio::test]
    async fn each_part_is_what_the_file_has_there() {
        let dir = tempfile::tempdir().unwrap();
        let (mut reader, content) = (open(&dir), content());
        for (from, to) in [
            (0, 512),
            (0, 512),
            (512, 1024),
            (PIECE - 5, 2 * PIECE - 5),
            (100, 200),
            (SIZE - 10, SIZE + 500),
        ] {
            for ahead in [false, true] {
                let part = reader.part(from, to, ahead).await.unwrap();
                let end = to.min(SIZE);
                assert!(part.len() >= end - from && part.len() <= PIECE);
                assert!(part[..end - from] == content[from..end], "{from}..{to}");
            }
        }
        // The empty block at the end of a file whose size is a multiple of the block's.
        reader.start = SIZE - reader.buffer.len();
        assert!(reader.part(SIZE, SIZE + 512, true).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_has_not_answered_has_no_more_read_than_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = open(&dir);
        assert_eq!(reader.part(0, 512, false).await.unwrap().len(), 512);
        assert_eq!(reader.part(512, 1024, true).await.unwrap().len(), PIECE);
        // From memory.
        assert_eq!(reader.part(1024, 1536, true).await.unwrap().len(), PIECE - 512);
    }

    #[tokio::test]
    async fn a_changed_file_is_not_read_on() {
        let change: [fn(&File); 3] = [
            |file| file.set_len(PIECE as u64).unwrap(),
            |file| file.set_len(SIZE as u64 + 1).unwrap(),
            |file| file.write_all_at(b"changed", 2 * PIECE as u64).unwrap(),
        ];
        for change in change {
            let dir = tempfile::tempdir().unwrap();
            let mut reader = open(&dir);
            reader.part(0, 512, true).await.unwrap();
            change(&File::options().write(true).open(dir.path().join("large")).unwrap());
            // What was read before is whole.
            assert!(reader.part(512, 1024, true).await.is_ok());
            for _ in 0..2 {
                let part = reader.part(PIECE, PIECE + 512, true).await;
                assert!(matches!(part, Err(Broken::Changed)), "{part:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_replaced_or_deleted_file_is_read_on_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (mut reader, content) = (open(&dir), content());
        reader.part(0, 512, true).await.unwrap();
        std::fs::write(dir.path().join("new"), "another").unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("large")).unwrap();
        let part = reader.part(PIECE, PIECE + 512, true).await.unwrap();
        assert!(part[..512] == content[PIECE..PIECE + 512]);
    }

    #[test]
    fn without_the_kernels_help_the_same_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let large = open(&dir).large;
        let mut buffer = vec![0; 100];
        large.fill(&mut buffer, PIECE as u64).unwrap();
        assert!(buffer == content()[PIECE..PIECE + 100]);
        assert!(matches!(large.fill(&mut buffer, SIZE as u64 - 10), Err(Broken::Changed)));
        File::options().append(true).open(dir.path().join("large")).unwrap().set_len(5).unwrap();
        assert!(matches!(large.fill(&mut buffer[..1], 0), Err(Broken::Changed)));
    }
}
