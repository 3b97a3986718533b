//! How a pool that was being made when the power went is told from what belongs to others.
//!
//! A node without a pool has no place to note what it is about to do but the blank disks that it is
//! about to use. So, before `zpool create`, a record goes onto each of them, into the gap between
//! the partition table and the first partition, which ZFS leaves alone; it is erased once the pool
//! is there. `zpool create` itself is all or nothing: either the pool can be imported afterwards
//! and carries this server's mark (comment and property), or it cannot and the disks carry the
//! record. A disk with this server's record, no importable pool and no partitions but the two that
//! ZFS makes is therefore ours and half-made: it is wiped and used again.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use headnode_node::disk::Disk;
use nix::libc;
use uuid::Uuid;

/// Where the record is, in bytes: behind any GPT (34 sectors, 136 KiB with 4 KiB sectors), before
/// the first partition, which begins at 1 MiB.
const PLACE: u64 = 768 << 10;
/// Size of the record in bytes: one sector of any disk.
const SIZE: usize = 4096;
/// What it begins with.
const MAGIC: &str = "headnode: this disk is becoming part of the pool of server ";

fn record(server: Uuid) -> Vec<u8> {
    let mut bytes = format!("{MAGIC}{server}\n").into_bytes();
    bytes.resize(SIZE, 0);
    bytes
}

/// Notes on a disk that it is about to become part of `server`'s pool.
///
/// # Errors
/// When the disk is held by something, or does not take it.
pub fn write(disk: &Path, server: Uuid) -> io::Result<()> {
    put(disk, &record(server))
}

/// Takes the note away.
///
/// # Errors
/// When the disk does not take it.
pub fn erase(disk: &Path) -> io::Result<()> {
    put_with(disk, &[0; SIZE], 0)
}

fn put(disk: &Path, bytes: &[u8]) -> io::Result<()> {
    // O_EXCL on a block device fails while it is mounted or part of a pool.
    put_with(disk, bytes, libc::O_EXCL)
}

fn put_with(disk: &Path, bytes: &[u8], flags: i32) -> io::Result<()> {
    let mut device = OpenOptions::new().write(true).custom_flags(flags).open(disk)?;
    device.seek(SeekFrom::Start(PLACE))?;
    device.write_all(bytes)?;
    device.sync_all()
}

/// The server whose pool a disk was about to become part of.
///
/// # Errors
/// When the disk cannot be read.
pub fn read(disk: &Path) -> io::Result<Option<Uuid>> {
    let mut device = OpenOptions::new().read(true).open(disk)?;
    device.seek(SeekFrom::Start(PLACE))?;
    let mut bytes = vec![0; SIZE];
    match device.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    Ok(parse(&bytes))
}

/// The server that a record names; `None` when the bytes are no record.
pub fn parse(bytes: &[u8]) -> Option<Uuid> {
    let text = bytes.strip_prefix(MAGIC.as_bytes())?;
    let line = text.split(|b| *b == b'\n').next()?;
    std::str::from_utf8(line).ok()?.parse().ok()
}

/// Whether nothing is on a disk but what `zpool create` may have left half-way: no file system as
/// a whole, at most the two partitions that ZFS makes, nothing in use.
pub fn only_zfs_remains(disk: &Disk) -> bool {
    let zfs_or_none = |fs: Option<&str>| fs.is_none_or(|fs| fs == "zfs_member");
    !disk.in_use()
        && disk.table.as_deref().is_none_or(|table| table == "gpt")
        && zfs_or_none(disk.fs.as_deref())
        && disk.partitions.len() <= 2
        && disk.partitions.iter().all(|part| zfs_or_none(part.fs.as_deref()))
}

#[cfg(test)]
mod tests {
    use headnode_node::disk::Partition;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_found_until_it_is_erased() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let server = Uuid::from_u128(42);
        assert_eq!(read(file.path()).unwrap(), None);
        // O_EXCL without O_CREAT has no meaning on a file.
        write(file.path(), server).unwrap();
        assert_eq!(read(file.path()).unwrap(), Some(server));
        erase(file.path()).unwrap();
        assert_eq!(read(file.path()).unwrap(), None);
        assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 8 << 20);
    }

    #[test]
    fn a_disk_too_small_has_no_record() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(read(file.path()).unwrap(), None);
    }

    #[test]
    fn other_content_is_never_taken_for_a_remainder() {
        let part = |fs: &str| Partition { fs: Some(fs.to_owned()), ..Partition::default() };
        let gpt = Disk { table: Some("gpt".to_owned()), ..Disk::default() };
        assert!(only_zfs_remains(&gpt));
        let zfs =
            Disk { partitions: vec![part("zfs_member"), Partition::default()], ..gpt.clone() };
        assert!(only_zfs_remains(&zfs));
        let ext4 = Disk { partitions: vec![part("ext4")], ..gpt.clone() };
        assert!(!only_zfs_remains(&ext4));
        assert!(!only_zfs_remains(&Disk { fs: Some("xfs".to_owned()), ..Disk::default() }));
        assert!(!only_zfs_remains(&Disk { table: Some("dos".to_owned()), ..Disk::default() }));
        let busy = Partition { mounted: vec!["/mnt".to_owned()], ..Partition::default() };
        assert!(!only_zfs_remains(&Disk { partitions: vec![busy], ..gpt }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
            let _ = parse(&[MAGIC.as_bytes(), &bytes].concat());
        }
    }
}
