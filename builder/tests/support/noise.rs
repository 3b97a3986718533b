//! Content for tests and benches.
#![allow(missing_docs)]

/// Bytes that do not compress, the same in every run.
pub fn noise(seed: u32, size: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..size.div_ceil(4)).flat_map(|_| next()).collect();
    bytes.truncate(size);
    bytes
}
