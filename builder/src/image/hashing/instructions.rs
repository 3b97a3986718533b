//! The processor's instructions for SHA-256 (Intel's SHA extensions; AMD has them as well), two hashes at
//! a time.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
    _mm_shuffle_epi32,
};

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2).
#[rustfmt::skip]
const ROUNDS: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// Proof that this processor has the instructions.
pub struct Instructions(());

impl Instructions {
    /// None where it lacks them.
    pub fn found() -> Option<Self> {
        let found = is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1");
        found.then_some(Self(()))
    }

    /// Adds the same blocks to two hashes.
    pub fn compress(&self, states: [&mut [u32; 8]; 2], blocks: &[[u8; 64]]) {
        // SAFETY: `compress` is a safe function but for the instructions that it is compiled for, and
        // `self` is only made where the processor has these.
        unsafe { compress(states, blocks) }
    }
}

/// A state as the instructions have it: words a, b, e, f and c, d, g, h.
type Halves = (__m128i, __m128i);

#[target_feature(enable = "sha,sse4.1")]
fn compress([first, second]: [&mut [u32; 8]; 2], blocks: &[[u8; 64]]) {
    let (mut one, mut two) = (halves(first), halves(second));
    for block in blocks {
        let (begin_one, begin_two) = (one, two);
        let mut words = words(block);
        for (number, constants) in ROUNDS.as_chunks::<4>().0.iter().enumerate() {
            let [w0, w1, w2, w3] = words;
            let [k0, k1, k2, k3] = constants.map(u32::cast_signed);
            let low = _mm_add_epi32(w0, _mm_set_epi32(k3, k2, k1, k0));
            let high = _mm_shuffle_epi32::<0x0e>(low);
            one.1 = _mm_sha256rnds2_epu32(one.1, one.0, low);
            two.1 = _mm_sha256rnds2_epu32(two.1, two.0, low);
            one.0 = _mm_sha256rnds2_epu32(one.0, one.1, high);
            two.0 = _mm_sha256rnds2_epu32(two.0, two.1, high);
            // The last twelve rounds use what is there.
            let next = if number < 12 {
                let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8::<4>(w3, w2));
                _mm_sha256msg2_epu32(sum, w3)
            } else {
                w0
            };
            words = [w1, w2, w3, next];
        }
        one = (_mm_add_epi32(one.0, begin_one.0), _mm_add_epi32(one.1, begin_one.1));
        two = (_mm_add_epi32(two.0, begin_two.0), _mm_add_epi32(two.1, begin_two.1));
    }
    *first = state(one);
    *second = state(two);
}

/// The sixteen words of a block, which is big-endian.
#[target_feature(enable = "sha,sse4.1")]
fn words(block: &[u8; 64]) -> [__m128i; 4] {
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let mut words = [order; 4];
    for (place, bytes) in words.iter_mut().zip(block.as_chunks::<16>().0) {
        let number = u128::from_le_bytes(*bytes);
        let [low, high] = [number as u64, (number >> 64) as u64].map(u64::cast_signed);
        *place = _mm_shuffle_epi8(_mm_set_epi64x(high, low), order);
    }
    words
}

#[target_feature(enable = "sha,sse4.1")]
fn halves(state: &[u32; 8]) -> Halves {
    let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
    (_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h))
}

#[target_feature(enable = "sha,sse4.1")]
fn state((abef, cdgh): Halves) -> [u32; 8] {
    let [a, b] = [_mm_extract_epi32::<3>(abef), _mm_extract_epi32::<2>(abef)];
    let [e, f] = [_mm_extract_epi32::<1>(abef), _mm_extract_epi32::<0>(abef)];
    let [c, d] = [_mm_extract_epi32::<3>(cdgh), _mm_extract_epi32::<2>(cdgh)];
    let [g, h] = [_mm_extract_epi32::<1>(cdgh), _mm_extract_epi32::<0>(cdgh)];
    [a, b, c, d, e, f, g, h].map(i32::cast_unsigned)
}
