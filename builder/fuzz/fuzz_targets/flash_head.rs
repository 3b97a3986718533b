//! What lies at a disk's begin when a key is written: the journal of a run that was interrupted, and
//! the partition table that is moved to the disk's real end.
#![no_main]

use headnode::flash::engine::{HEAD, backup, journal::Journal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (&[u8], u64)| {
    let (bytes, size) = data;
    let _ = Journal::decode(bytes);
    let mut head = vec![0; HEAD as usize];
    for (to, from) in head.iter_mut().zip(bytes) {
        *to = *from;
    }
    // The checksum of the header, which no fuzzer finds by itself.
    let mut header = head[512..512 + 92].to_vec();
    header[16..20].fill(0);
    head[512 + 16..512 + 20].copy_from_slice(&crc32fast::hash(&header).to_le_bytes());
    if let Some(backup) = backup::move_to_end(&mut head, size) {
        assert_eq!(backup.offset + backup.bytes.len() as u64, size / 512 * 512);
    }
});
