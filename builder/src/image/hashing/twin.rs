//! Two SHA-256 that are fed the same bytes, for little more than the price of one: an image and the
//! range of it that is being written are hashed together.
//!
//! Processors with instructions for SHA-256 wait most of the time for the round before, and the message
//! schedule (FIPS 180-4, 6.2.2) depends on the bytes alone. So both hashes share one schedule and their
//! rounds take turns. No crate does this; one hash alone, and processors without these instructions, are
//! left to `sha2`.

use sha2::block_api::compress256;

use super::instructions::Instructions;

/// Bytes that are hashed in one step.
const BLOCK: usize = 64;

/// The first 32 bits of the fractional parts of the square roots of the first eight primes (FIPS 180-4,
/// 5.3.3).
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// A hash between two blocks.
#[derive(Debug, Clone)]
struct Hash {
    state: [u32; 8],
    /// Bytes so far.
    size: u64,
}

impl Hash {
    const NEW: Self = Self { state: START, size: 0 };

    /// The digest, when these are the last bytes.
    fn finish(mut self, rest: &[u8]) -> [u8; 32] {
        // A one, zeroes, and the size in bits, up to the end of a block (FIPS 180-4, 5.1.1).
        let bits = (self.size + rest.len() as u64).wrapping_mul(8);
        let mut end = rest.to_vec();
        end.push(0x80);
        end.resize((end.len() + 8).next_multiple_of(BLOCK) - 8, 0);
        end.extend(bits.to_be_bytes());
        compress256(&mut self.state, end.as_chunks().0);
        let mut digest = [0; 32];
        for (place, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *place = word.to_be_bytes();
        }
        digest
    }
}

/// A stream's hash and that of a part of it.
pub struct Twin {
    whole: Hash,
    /// The current part's; it began at the end of a block.
    part: Hash,
    /// Bytes that fill no block yet. Both hashes lack them, or the whole alone when they are of no part.
    rest: Vec<u8>,
    /// None where the processor lacks them.
    instructions: Option<Instructions>,
}

impl Default for Twin {
    /// Two hashes of nothing.
    fn default() -> Self {
        let instructions = Instructions::found();
        Self { whole: Hash::NEW, part: Hash::NEW, rest: Vec::new(), instructions }
    }
}

impl Twin {
    /// Whether this processor takes little more time for both than for one.
    pub fn pays() -> bool {
        Instructions::found().is_some()
    }

    /// Adds bytes to the stream, and to the part when they belong to one.
    ///
    /// A part, and what belongs to none, must begin at a multiple of 64 bytes of the stream.
    pub fn update(&mut self, mut bytes: &[u8], of_part: bool) {
        if !self.rest.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.rest.len()));
            self.rest.extend_from_slice(now);
            bytes = later;
            if self.rest.len() == BLOCK {
                let block = std::mem::take(&mut self.rest);
                self.blocks(block.as_chunks().0, of_part);
            }
        }
        let (blocks, rest) = bytes.as_chunks();
        self.blocks(blocks, of_part);
        self.rest.extend_from_slice(rest);
    }

    /// Ends the part that the last bytes belonged to and gives its digest; another one begins.
    pub fn end_part(&mut self) -> [u8; 32] {
        std::mem::replace(&mut self.part, Hash::NEW).finish(&self.rest)
    }

    /// The stream's digest.
    pub fn end(self) -> [u8; 32] {
        self.whole.finish(&self.rest)
    }

    fn blocks(&mut self, blocks: &[[u8; BLOCK]], of_part: bool) {
        let size = blocks.as_flattened().len() as u64;
        self.whole.size += size;
        if !of_part {
            compress256(&mut self.whole.state, blocks);
            return;
        }
        self.part.size += size;
        let states = [&mut self.whole.state, &mut self.part.state];
        match &self.instructions {
            Some(instructions) => instructions.compress(states, blocks),
            None => states.into_iter().for_each(|state| compress256(state, blocks)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    /// Bytes without a pattern.
    fn noise(seed: u32, length: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    proptest! {
        #[test]
        fn both_are_what_sha2_gives(
            seed in any::<u32>(),
            fast in any::<bool>(),
            // Parts and gaps between them, in blocks; each is given in two calls.
            parts in proptest::collection::vec((any::<bool>(), 0usize..40, 0.0..1.0), 0..8),
            end in 0usize..200,
        ) {
            let mut twin = Twin::default();
            if !fast {
                twin.instructions = None;
            }
            let mut whole = Sha256::new();
            let mut give = |twin: &mut Twin, bytes: &[u8], of_part, cut: f64| {
                whole.update(bytes);
                let (now, later) = bytes.split_at((bytes.len() as f64 * cut) as usize);
                twin.update(now, of_part);
                twin.update(later, of_part);
            };
            for (number, (of_part, blocks, cut)) in parts.into_iter().enumerate() {
                let bytes = noise(seed ^ number as u32, blocks * BLOCK);
                give(&mut twin, &bytes, of_part, cut);
                if of_part {
                    prop_assert_eq!(&twin.end_part()[..], &Sha256::digest(&bytes)[..]);
                }
            }
            let bytes = noise(seed, end);
            give(&mut twin, &bytes, true, 0.5);
            prop_assert_eq!(&twin.end_part()[..], &Sha256::digest(&bytes)[..]);
            prop_assert_eq!(&twin.end()[..], &whole.finalize()[..]);
        }
    }

    #[test]
    fn the_standard_examples() {
        // Of NIST, for FIPS 180-4.
        let mut twin = Twin::default();
        twin.update(b"abc", true);
        let digest = twin.end_part();
        assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(digest, twin.end());
    }
}
