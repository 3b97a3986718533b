//! Reads partition tables and FAT32 volumes made of the fuzzer's bytes: nothing may panic, hang or
//! take memory without bound.
#![no_main]

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use headnode::image::fat::Volume;
use headnode::image::gpt::Table;
use libfuzzer_sys::fuzz_target;

/// A disk that begins with some bytes and goes on with zeroes, so that volumes large enough for
/// FAT32 need no large inputs.
struct Disk<'a> {
    head: Cursor<&'a [u8]>,
    at: u64,
}

const SIZE: u64 = 64 << 20;

impl Read for Disk<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(usize::try_from(SIZE.saturating_sub(self.at)).unwrap_or(0));
        buffer[..count].fill(0);
        self.head.set_position(self.at);
        let _ = self.head.read(&mut buffer[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Disk<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(by) => SIZE.saturating_add_signed(by),
            SeekFrom::Current(by) => self.at.saturating_add_signed(by),
        };
        Ok(self.at)
    }
}

fuzz_target!(|data: &[u8]| {
    let mut disk = Disk { head: Cursor::new(data), at: 0 };
    let _ = Table::read(&mut disk, SIZE);
    // The FAT begins right behind a boot sector of which the fuzzer chooses everything but what
    // it could hardly guess.
    let mut bytes = data.to_vec();
    if bytes.len() >= 512 {
        bytes[11..13].copy_from_slice(&[0, 2]);
        bytes[17..19].fill(0);
        bytes[22..24].fill(0);
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    }
    let disk = Disk { head: Cursor::new(&bytes), at: 0 };
    if let Ok(mut volume) = Volume::open(disk, 0, SIZE)
        && let Ok(nodes) = volume.walk()
    {
        for node in nodes.iter().filter(|node| !node.folder).take(16) {
            let _ = volume.extents(node);
        }
    }
});
