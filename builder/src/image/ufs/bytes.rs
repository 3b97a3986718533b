//! Little-endian numbers in stored structures. What lies outside of a structure reads as 0 and is
//! not written; sizes are checked before.

pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    array(bytes, at).map_or(0, u16::from_le_bytes)
}

pub(super) fn long(bytes: &[u8], at: usize) -> u32 {
    array(bytes, at).map_or(0, u32::from_le_bytes)
}

pub(super) fn quad(bytes: &[u8], at: usize) -> u64 {
    array(bytes, at).map_or(0, u64::from_le_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Puts the bytes of a number at a place.
pub(super) fn set(bytes: &mut [u8], at: usize, number: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + number.len()) {
        place.copy_from_slice(number);
    }
}

pub(super) fn bit(bytes: &[u8], map: usize, number: u32) -> bool {
    bytes.get(map + number as usize / 8).is_some_and(|byte| byte >> (number % 8) & 1 == 1)
}

pub(super) fn set_bit(bytes: &mut [u8], map: usize, number: u32, on: bool) {
    if let Some(byte) = bytes.get_mut(map + number as usize / 8) {
        let mask = 1 << (number % 8);
        *byte = if on { *byte | mask } else { *byte & !mask };
    }
}
