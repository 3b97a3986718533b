//! The multiboot headers of a kernel: how loaders tell that they can start it.

/// Where multiboot 1 loaders look for a header, in bytes (Multiboot Specification 0.6.96, 3.1).
const FIRST: usize = 8192;
/// Where multiboot 2 loaders look for one (Multiboot Specification 2.0, 3.1).
const SECOND: usize = 32768;
/// As much of a kernel as [`Headers::find`] needs, in bytes.
pub const HEAD: usize = SECOND;

const MAGIC1: u32 = 0x1bad_b002;
const MAGIC2: u32 = 0xe852_50d6;
/// The flag that says that the header tells the addresses to load at.
const ADDRESSES: u32 = 1 << 16;

/// Which headers a kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Multiboot 1: GRUB's `multiboot`, iPXE and the illumos loader can start it.
    pub one: bool,
    /// Multiboot 2: GRUB's `multiboot2` can start it, on UEFI machines too.
    pub two: bool,
}

impl Headers {
    /// Looks into the first [`HEAD`] bytes of a kernel. A 64-bit ELF file counts as multiboot 1 only
    /// when its header tells load addresses, because loaders load ELF of 32 bits only.
    pub fn find(head: &[u8]) -> Self {
        Self {
            one: offset(head.get(..FIRST).unwrap_or(head), 4, MAGIC1, 3)
                .is_some_and(|at| loadable(head, at)),
            two: offset(head.get(..SECOND).unwrap_or(head), 8, MAGIC2, 4).is_some(),
        }
    }
}

/// Where the fake multiboot 1 header of the illumos loader's `gptzfsboot` is, in bytes: anywhere in
/// the file (C§1.13).
pub fn find_first(file: &[u8]) -> Option<usize> {
    offset(file, 4, MAGIC1, 3)
}

/// The first place, a multiple of `step`, where `count` words add up to zero behind a magic number.
fn offset(bytes: &[u8], step: usize, magic: u32, count: usize) -> Option<usize> {
    (0..bytes.len()).step_by(step).find(|at| {
        word(bytes, *at) == Some(magic)
            && (0..count).try_fold(0_u32, |sum, i| Some(sum.wrapping_add(word(bytes, at + 4 * i)?)))
                == Some(0)
    })
}

fn loadable(head: &[u8], at: usize) -> bool {
    let of_32_bits = head.starts_with(b"\x7fELF\x01");
    if of_32_bits {
        return true;
    }
    let field = |number: usize| word(head, at + 4 * number);
    let (Some(flags), Some(header), Some(load), Some(load_end), Some(bss_end), Some(entry)) =
        (field(1), field(3), field(4), field(5), field(6), field(7))
    else {
        return false;
    };
    let placed = header.checked_sub(load).is_some_and(|before| before as usize <= at);
    let ends = (load_end == 0 || load_end > load) && (bss_end == 0 || bss_end >= load_end);
    flags & ADDRESSES != 0 && placed && ends && entry >= load && (load_end == 0 || entry < load_end)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    word.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The smallest kernel that passes: a 64-bit ELF header, both multiboot headers.
    pub(crate) fn kernel() -> Vec<u8> {
        let mut kernel = vec![0; 4096];
        kernel[..5].copy_from_slice(b"\x7fELF\x02");
        let flags = 0x0001_0003;
        let load = 0x00c0_0000_u32;
        let checksum = 0_u32.wrapping_sub(MAGIC1 + flags);
        let one = [MAGIC1, flags, checksum, load, load, load + 512, load + 1024, load + 64];
        let two = [MAGIC2, 0, 24, 0_u32.wrapping_sub(MAGIC2 + 24), 0, 8];
        for (at, words) in [(1024, &one[..]), (2048, &two[..])] {
            for (i, word) in words.iter().enumerate() {
                kernel[at + 4 * i..][..4].copy_from_slice(&word.to_le_bytes());
            }
        }
        kernel
    }

    #[test]
    fn both_headers_are_found_where_loaders_look() {
        let good = kernel();
        assert_eq!(Headers::find(&good), Headers { one: true, two: true });
        assert_eq!(find_first(&good), Some(1024));
        let shifted = [vec![0; 2], good.clone()].concat();
        assert_eq!(Headers::find(&shifted), Headers { one: false, two: false });
        let late = [vec![0; 8192], good.clone()].concat();
        assert_eq!(Headers::find(&late), Headers { one: false, two: true });
        // A 64-bit ELF file without load addresses cannot be loaded; one of 32 bits can.
        let mut plain = good;
        let flags = 3_u32;
        plain[1028..1032].copy_from_slice(&flags.to_le_bytes());
        plain[1032..1036].copy_from_slice(&0_u32.wrapping_sub(MAGIC1 + flags).to_le_bytes());
        assert!(!Headers::find(&plain).one);
        plain[4] = 1;
        assert!(Headers::find(&plain).one);
        assert_eq!(Headers::find(b"MZ"), Headers { one: false, two: false });
    }

    proptest! {
        #[test]
        fn no_head_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..190) {
            if let Some(magic) = bytes.get_mut(at..at + 4) {
                magic.copy_from_slice(&MAGIC1.to_le_bytes());
            }
            let _ = Headers::find(&bytes);
            let _ = find_first(&bytes);
        }
    }
}
