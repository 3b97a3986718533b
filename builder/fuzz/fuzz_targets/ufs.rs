//! Opens UFS file systems made of the fuzzer's bytes, reads them and adds to them: nothing may panic,
//! hang or take memory without bound.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;

use headnode::image::Content;
use headnode::image::ufs::{Entry, Ufs};
use libfuzzer_sys::fuzz_target;

/// A disk in memory. What is written behind its end is an error, as on a full disk.
struct Disk(RefCell<Vec<u8>>);

impl FileExt for Disk {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = self.0.borrow();
        let rest = bytes.get(usize::try_from(at).unwrap_or(usize::MAX)..).unwrap_or_default();
        let count = buffer.len().min(rest.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, buffer: &[u8], at: u64) -> io::Result<usize> {
        let mut bytes = self.0.borrow_mut();
        let rest = bytes.get_mut(usize::try_from(at).unwrap_or(usize::MAX)..).unwrap_or_default();
        let count = buffer.len().min(rest.len());
        rest[..count].copy_from_slice(&buffer[..count]);
        Ok(count)
    }
}

const SUPER: usize = 8192;

fn set(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// An empty file system of 64 KiB with one group, in blocks of 4096 bytes and fragments of 1024: the
/// superblock at 8 KiB, the group's maps at 16 KiB, 32 inodes at 20 KiB, the summary at 24 KiB, the
/// root at 25 KiB.
fn empty() -> Vec<u8> {
    let mut bytes = vec![0; 65536];
    for (at, number) in [
        (8, 8),
        (12, 16),
        (16, 20),
        (20, 24),
        (28, u32::MAX),
        (36, 64),
        (44, 1),
        (48, 4096),
        (52, 1024),
        (56, 4),
        (116, 1024),
        (120, 32),
        (132, 0x7c26_9d38),
        (152, 24),
        (156, 1024),
        (160, 1024),
        (184, 32),
        (188, 64),
        (1372, 0x0001_1954),
    ] {
        set(&mut bytes, SUPER + at, number);
    }
    bytes[SUPER + 209] = 1;
    let map = 16384;
    for (at, number) in [(4, 0x0009_0255), (20, 64), (92, 168), (96, 172), (60, 1)] {
        set(&mut bytes, map + at, number);
    }
    bytes[map + 168] = 0b111;
    // Fragments 26 to 63.
    bytes[map + 172..map + 180].copy_from_slice(&[0, 0, 0, 0xfc, 255, 255, 255, 255]);
    for counts in [map + 24, 24 * 1024, SUPER + 192] {
        for (place, count) in [1, 9, 29, 2].into_iter().enumerate() {
            set(&mut bytes, counts + 4 * place, count);
        }
    }
    let root = 20 * 1024 + 2 * 128;
    for (at, number) in [(0, 0x0002_41ed), (8, 512), (40, 25), (104, 2)] {
        set(&mut bytes, root + at, number);
    }
    let folder = 25 * 1024;
    bytes[folder..folder + 12].copy_from_slice(&[2, 0, 0, 0, 12, 0, 1, 0, b'.', 0, 0, 0]);
    let above = [2, 0, 0, 0, 244, 1, 2, 0, b'.', b'.', 0, 0];
    bytes[folder + 12..folder + 24].copy_from_slice(&above);
    bytes
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = empty();
    // Changes of one byte each: three bytes of the fuzzer tell where and to what. The places that
    // matter are within 8 to 28 KiB.
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (20 * 1024);
        bytes[SUPER + at] = change[2];
    }
    let intact = data.len() < 3;
    let length = bytes.len() as u64;
    let opened = Ufs::open(Disk(RefCell::new(bytes)), length);
    assert!(!intact || opened.is_ok());
    let Ok(mut ufs) = opened else { return };
    // A file of holes may be large: only its beginning is taken.
    let mut room = vec![0; 100_000];
    let _ = ufs.read("a/b", &mut room.as_mut_slice());
    let file = |size: usize| Entry::File { content: Content::from(vec![7; size]), mode: 0o644 };
    let entries = BTreeMap::from([
        ("a/b".to_owned(), file(5000)),
        ("c".to_owned(), file(900)),
        ("d/e".to_owned(), Entry::Folder),
    ]);
    for _ in 0..2 {
        let added = ufs.add(&entries, 1);
        assert!(!intact || added.is_ok());
        let _ = ufs.read("a/b", &mut room.as_mut_slice());
    }
});
