//! Looks into disks made of the fuzzer's bytes for partition tables, file systems and the labels of
//! volume managers: nothing may panic, hang or take memory without bound.
#![no_main]

use std::io::Cursor;

use headnode::flash::device::signature;
use libfuzzer_sys::fuzz_target;

/// Room for all four labels of ZFS.
const SIZE: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    // The first two bytes choose where the others lie: most of a disk is looked at nowhere.
    let Some((place, bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    let mut disk = vec![0; SIZE];
    let at = usize::from(u16::from_le_bytes(*place)) * 16;
    for (to, from) in disk.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
    // Without them nothing would be told of a pool.
    for block in 0..4 {
        if let Some(magic) = disk.get_mut((384 << 10) + block * 1024..).and_then(|b| b.first_chunk_mut())
        {
            *magic = 0x00ba_b10c_u64.to_le_bytes();
        }
    }
    for sector in [512, 4096] {
        let _ = signature::look(&mut Cursor::new(&disk), SIZE as u64, sector);
    }
});
