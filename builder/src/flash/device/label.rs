//! Labels of volume managers: LVM2, Linux' md, ZFS. A disk that has one may belong to a group,
//! array or pool that is only not active now.

use std::io::{Read, Seek};

use super::signature::{Found, View, text};

/// What `blkid` calls a member of a volume group.
pub const LVM: &str = "LVM2_member";
/// What `blkid` calls a member of a pool.
pub const ZFS: &str = "zfs_member";
/// What `blkid` calls a member of an array.
pub const RAID: &str = "linux_raid_member";

const SECTOR: u64 = 512;
/// The longest metadata of LVM that is looked at for the group's name, in bytes.
const MAX_NAME: usize = 256;

/// The volume manager that a disk or partition belongs to.
pub(super) fn member(view: &mut View<impl Read + Seek>) -> Option<Found> {
    raid(view).or_else(|| lvm(view)).or_else(|| zfs(view))
}

fn u32_le(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_le_bytes)
}

fn u32_be(bytes: &[u8], at: usize) -> u32 {
    u32_le(bytes, at).swap_bytes()
}

fn u64_le(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// md's superblock (kernel's md_p.h): version 1 at the end, at the head or 4 KiB behind it,
/// version 0.90 in the last whole 64 KiB.
fn raid(view: &mut View<impl Read + Seek>) -> Option<Found> {
    const MAGIC: u32 = 0xa92b_4efc;
    let sectors = view.size / SECTOR;
    let places = [Some(0), Some(4096), sectors.checked_sub(16).map(|at| (at & !7) * SECTOR)];
    for at in places.into_iter().flatten() {
        let block = view.at(at, 256);
        // It says itself where it lies: an image of a disk with another size has a stale one.
        let own = u64_le(&block, 144).checked_mul(SECTOR) == Some(at);
        if u32_le(&block, 0) == MAGIC && u32_le(&block, 4) == 1 && own {
            return Some((RAID, text(block.get(32..64).unwrap_or_default())));
        }
    }
    let at = (view.size & !0xffff).checked_sub(0x1_0000)?;
    let block = view.at(at, 8);
    let old = |word: u32| word == MAGIC;
    // In the byte order of the machine that made it.
    (old(u32_le(&block, 0)) || old(u32_be(&block, 0))).then_some((RAID, None))
}

/// LVM2's label in one of the first four sectors (its label.h), with the group's name from the first
/// metadata area (format_text/layout.h).
fn lvm(view: &mut View<impl Read + Seek>) -> Option<Found> {
    for sector in 0..4 {
        let label = view.at(sector * SECTOR, SECTOR as usize);
        let own = u64_le(&label, 8) == sector;
        if label.starts_with(b"LABELONE") && label.get(24..32) == Some(b"LVM2 001") && own {
            return Some((LVM, group(view, &label)));
        }
    }
    None
}

fn group(view: &mut View<impl Read + Seek>, label: &[u8]) -> Option<String> {
    let mut at = u32_le(label, 20) as usize + 40;
    // The data areas end with an empty one; the metadata areas follow.
    while u64_le(label, at) != 0 {
        at += 16;
    }
    let area = u64_le(label, at + 16);
    let header = view.at(area, SECTOR as usize);
    if area == 0 || header.get(4..20) != Some(b" LVM2 x[5A%r0N*>") {
        return None;
    }
    let (start, offset) = (u64_le(&header, 24), u64_le(&header, 40));
    if offset == 0 {
        return None;
    }
    let metadata = view.at(start.checked_add(offset)?, MAX_NAME);
    let end = metadata.iter().position(|byte| byte.is_ascii_whitespace())?;
    text(metadata.get(..end)?)
}

/// ZFS' labels: four of 256 KiB, two at each end, each with the pool's configuration as an
/// XDR name-value list at 16 KiB and a ring of uberblocks at 128 KiB (ZFS on-disk format, chapter 1).
fn zfs(view: &mut View<impl Read + Seek>) -> Option<Found> {
    const LABEL: u64 = 256 << 10;
    // As many as `blkid` wants to see, and as `wipefs` therefore leaves fewer of.
    const WANTED: usize = 4;
    let end = view.size / LABEL * LABEL;
    let places = [0, LABEL, end.wrapping_sub(2 * LABEL), end.wrapping_sub(LABEL)];
    let (mut blocks, mut pool) = (0, None);
    for at in places {
        let list = view.at(at.wrapping_add(16 << 10), 112 << 10);
        pool = pool.or_else(|| pool_name(&list));
        // They are at least 1 KiB apart.
        let ring = view.at(at.wrapping_add(128 << 10), 128 << 10);
        let is_block = |block: &&[u8]| {
            let magic = u64_le(block, 0);
            magic == 0x00ba_b10c || magic.swap_bytes() == 0x00ba_b10c
        };
        blocks += ring.chunks(1024).filter(is_block).count();
    }
    (blocks >= WANTED).then_some((ZFS, pool))
}

/// The string `name` of a label's list, whose other entries are skipped.
fn pool_name(list: &[u8]) -> Option<String> {
    const STRING: u32 = 9;
    if !list.starts_with(&[1]) {
        return None;
    }
    let mut at = 12;
    loop {
        let size = u32_be(list, at) as usize;
        // Sizes are whole words, and a pair has more than its two sizes.
        if size < 20 || !size.is_multiple_of(4) || at.checked_add(size)? > list.len() {
            return None;
        }
        let pair = list.get(at..at + size)?;
        let length = u32_be(pair, 8) as usize;
        let name = pair.get(12..12usize.checked_add(length)?)?;
        let value = 12 + length.next_multiple_of(4);
        if name == b"name" && u32_be(pair, value) == STRING {
            let length = u32_be(pair, value + 8) as usize;
            return text(pair.get(value + 12..(value + 12).checked_add(length)?)?);
        }
        at += size;
    }
}

/// The parts of labels that tests put on disks.
#[cfg(test)]
pub(super) mod make {
    /// A list with a pool's name, in which a version comes first, as ZFS has it.
    pub fn zfs_list(pool: &str) -> Vec<u8> {
        fn string(bytes: &str) -> Vec<u8> {
            let mut out = (bytes.len() as u32).to_be_bytes().to_vec();
            out.extend(bytes.bytes());
            out.resize(out.len().next_multiple_of(4), 0);
            out
        }
        fn pair(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
            let mut rest = string(name);
            rest.extend(kind.to_be_bytes());
            rest.extend(1_u32.to_be_bytes());
            rest.extend(value);
            let mut out = (rest.len() as u32 + 8).to_be_bytes().to_vec();
            out.extend(64_u32.to_be_bytes());
            out.extend(rest);
            out
        }
        let mut list = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        list.extend(pair("version", 8, &5000_u64.to_be_bytes()));
        list.extend(pair("name", 9, &string(pool)));
        list.extend(pair("guid", 8, &0x1234_5678_u64.to_be_bytes()));
        list.extend([0; 8]);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::super::signature::look;
    use super::*;
    use std::io::Cursor;

    fn of(bytes: &[u8]) -> (Option<String>, Option<String>) {
        let content = look(&mut Cursor::new(bytes), bytes.len() as u64, 512).unwrap();
        (content.kind, content.label)
    }

    fn told(kind: &str, label: Option<&str>) -> (Option<String>, Option<String>) {
        (Some(kind.to_owned()), label.map(ToOwned::to_owned))
    }

    #[test]
    fn each_of_the_four_labels_of_zfs_is_found() {
        let size = (5 << 20) + 1000;
        let end = size / (256 << 10) * (256 << 10);
        for at in [0, 256 << 10, end - (512 << 10), end - (256 << 10)] {
            let mut disk = vec![0; size];
            for block in 4..8 {
                assert_eq!(of(&disk), (None, None), "{at}: too few uberblocks");
                let magic = 0x00ba_b10c_u64.to_be_bytes();
                disk[at + (128 << 10) + block * 1024..][..8].copy_from_slice(&magic);
            }
            assert_eq!(of(&disk), told(ZFS, None), "{at}");
            let list = make::zfs_list("tank");
            disk[at + (16 << 10)..][..list.len()].copy_from_slice(&list);
            assert_eq!(of(&disk), told(ZFS, Some("tank")), "{at}");
        }
        assert_eq!(of(&vec![0; size]), (None, None));
    }

    #[test]
    fn each_place_of_mds_superblock_is_known() {
        let size = 5 << 20;
        for at in [0, 4096, size - 8192] {
            let mut disk = vec![0; size];
            disk[at..at + 8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
            disk[at + 32..at + 38].copy_from_slice(b"host:0");
            assert_eq!(of(&disk).0.is_some(), at == 0, "it must say where it lies");
            disk[at + 144..at + 152].copy_from_slice(&(at as u64 / 512).to_le_bytes());
            assert_eq!(of(&disk), told(RAID, Some("host:0")), "{at}");
        }
        let mut disk = vec![0; size];
        disk[size - 0x1_0000..][..4].copy_from_slice(&0xa92b_4efc_u32.to_be_bytes());
        assert_eq!(of(&disk), told(RAID, None));
    }

    #[test]
    fn the_group_of_a_label_is_read_from_its_metadata() {
        let mut disk = vec![0; 2 << 20];
        disk[512..520].copy_from_slice(b"LABELONE");
        disk[520] = 1;
        disk[532] = 32;
        disk[536..544].copy_from_slice(b"LVM2 001");
        assert_eq!(of(&disk), told(LVM, None));
        // One data area at 1 MiB, one metadata area at 4 KiB.
        disk[512 + 72..][..8].copy_from_slice(&(1_u64 << 20).to_le_bytes());
        disk[512 + 72 + 32..][..8].copy_from_slice(&4096_u64.to_le_bytes());
        disk[4096 + 4..][..16].copy_from_slice(b" LVM2 x[5A%r0N*>");
        disk[4096 + 24..][..8].copy_from_slice(&4096_u64.to_le_bytes());
        disk[4096 + 40..][..8].copy_from_slice(&512_u64.to_le_bytes());
        disk[4608..][..8].copy_from_slice(b"vg_a {\nx");
        assert_eq!(of(&disk), told(LVM, Some("vg_a")));
    }
}
