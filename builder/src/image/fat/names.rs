//! Names on FAT: what may be stored, and the short aliases beside long names.

use std::collections::{HashMap, HashSet};

use super::short_checksum;

/// A short name: 8 bytes and a suffix of 3, filled with blanks.
pub type Short = [u8; 11];

/// Why a file or folder cannot have a name on FAT; `None` when it can.
pub fn refuse(name: &str) -> Option<&'static str> {
    let stem = name.split('.').next().unwrap_or("").to_ascii_lowercase();
    let numbered = |prefix| {
        stem.strip_prefix(prefix).is_some_and(|n: &str| matches!(n.as_bytes(), [b'1'..=b'9']))
    };
    if name.is_empty() || name == "." || name == ".." {
        Some("it is no name")
    } else if name.chars().any(|c| c < ' ' || c == '\x7f' || "\"*/:<>?\\|".contains(c)) {
        Some("control characters and \" * / : < > ? \\ | are not allowed")
    } else if name.ends_with(['.', ' ']) || name.starts_with(' ') {
        Some("a name must not begin with a blank or end with a blank or a dot")
    } else if name.encode_utf16().count() > 255 {
        Some("it is longer than 255 characters")
    } else if matches!(&stem[..], "con" | "prn" | "aux" | "nul")
        || numbered("com")
        || numbered("lpt")
    {
        Some("it is the name of a device")
    } else {
        None
    }
}

/// The form in which FAT compares names.
pub fn folded(name: &str) -> String {
    name.to_uppercase()
}

/// Gives every name of a folder its short name; `true` beside it when the long name must be stored
/// too. The names must be unique in folded form. The same names in the same order get the same
/// aliases.
pub fn aliases(names: &[&str]) -> Vec<(Short, bool)> {
    let exact: Vec<Option<Short>> = names.iter().map(|name| lossless(name)).collect();
    let mut taken: HashSet<Short> = exact.iter().flatten().copied().collect();
    let mut next: HashMap<([u8; 8], usize, [u8; 3]), u32> = HashMap::new();
    let alias = |(name, exact): (&&str, &Option<Short>)| match exact {
        Some(short) => (*short, short_text(short) != **name),
        None => (numbered(name, &mut taken, &mut next), true),
    };
    names.iter().zip(&exact).map(alias).collect()
}

/// The short name of a name that fits into one but for its case.
fn lossless(name: &str) -> Option<Short> {
    let (stem, suffix) = name.split_once('.').unwrap_or((name, ""));
    let fits = |part: &str, longest| part.len() <= longest && part.bytes().all(allowed_in_short);
    if stem.is_empty() || !fits(stem, 8) || !fits(suffix, 3) || name.ends_with('.') {
        return None;
    }
    let mut short = [b' '; 11];
    put(&mut short, 0, &stem.to_ascii_uppercase());
    put(&mut short, 8, &suffix.to_ascii_uppercase());
    Some(short)
}

fn allowed_in_short(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"$%'-_@~`!(){}^#&".contains(&byte)
}

fn put(short: &mut Short, at: usize, text: &str) {
    for (to, from) in short.iter_mut().skip(at).zip(text.bytes()) {
        *to = from;
    }
}

/// The specification's "basis name" with the lowest free number behind a tilde.
fn numbered(
    name: &str,
    taken: &mut HashSet<Short>,
    next: &mut HashMap<([u8; 8], usize, [u8; 3]), u32>,
) -> Short {
    let name = name.trim_start_matches('.');
    let (stem, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
    let clean = |part: &str, longest| -> String {
        let kept = part.chars().filter(|c| !matches!(c, ' ' | '.'));
        let ascii = kept.map(|c| match u8::try_from(c) {
            Ok(byte) if allowed_in_short(byte) => char::from(byte.to_ascii_uppercase()),
            _ => '_',
        });
        ascii.take(longest).collect()
    };
    let (stem, suffix) = (clean(stem, 8), clean(suffix, 3));
    let mut short = [b' '; 11];
    put(&mut short, 8, &suffix);
    // Names with the same stem try the numbers after each other's, not all from 1 again.
    for digits in 1..=6 {
        let kept = stem.len().min(8 - 1 - digits);
        let mut key = ([0; 8], digits, [0; 3]);
        for (to, from) in key.0.iter_mut().zip(stem.bytes().take(kept)) {
            *to = from;
        }
        for (to, from) in key.2.iter_mut().zip(suffix.bytes()) {
            *to = from;
        }
        let (first, last) = (10_u32.pow(digits as u32 - 1), 10_u32.pow(digits as u32) - 1);
        let number = next.entry(key).or_insert(first);
        while *number <= last {
            let tail = format!("{}~{number}", stem.get(..kept).unwrap_or(""));
            *number += 1;
            short[..8].fill(b' ');
            put(&mut short, 0, &tail);
            if taken.insert(short) {
                return short;
            }
        }
    }
    // A folder holds fewer entries than there are numbers of six digits.
    short
}

/// A short name as text, in upper case.
pub fn short_text(short: &Short) -> String {
    let part = |bytes: &[u8]| -> String {
        // 0x05 stands for 0xE5, which would mark the entry as free. Bytes above 127 depend on a
        // code page that the volume does not name.
        let text: String = bytes
            .iter()
            .map(|b| if b.is_ascii() && *b >= 0x20 { char::from(*b) } else { '_' })
            .collect();
        text.trim_end().to_owned()
    };
    let (stem, suffix) = (part(&short[..8]), part(&short[8..]));
    if suffix.is_empty() { stem } else { format!("{stem}.{suffix}") }
}

/// The directory entries that hold a long name, in the order in which they are stored: the last
/// part first.
pub fn long_entries(name: &str, short: &Short) -> Vec<[u8; 32]> {
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if !units.len().is_multiple_of(13) {
        units.push(0);
        units.resize(units.len().next_multiple_of(13), 0xffff);
    }
    let checksum = short_checksum(short);
    let count = units.len() / 13;
    let mut entries = Vec::with_capacity(count);
    for (index, part) in units.chunks(13).enumerate() {
        let mut entry = [0; 32];
        let last = if index + 1 == count { 0x40 } else { 0 };
        entry[0] = u8::try_from(index + 1).unwrap_or(u8::MAX) | last;
        entry[11] = super::ATTR_LONG_NAME;
        entry[13] = checksum;
        for (at, unit) in LONG_NAME_PLACES.into_iter().zip(part) {
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entries.push(entry);
    }
    entries.reverse();
    entries
}

/// Where a long-name entry keeps its 13 UTF-16 units.
pub(crate) const LONG_NAME_PLACES: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn aliases_follow_the_rules() {
        let names = [
            ".joyliveusb",
            "BOOT",
            "config",
            "config.inc",
            "manifest.json",
            "manifest.jsonl",
            "MANIFE~1.JSO",
            "a b.c.d",
            "ärger",
        ];
        let shorts: Vec<_> =
            aliases(&names).iter().map(|(s, long)| (short_text(s), *long)).collect();
        let expected = [
            ("JOYLIV~1", true),
            ("BOOT", false),
            ("CONFIG", true),
            ("CONFIG.INC", true),
            ("MANIFE~2.JSO", true),
            ("MANIFE~3.JSO", true),
            ("MANIFE~1.JSO", false),
            ("ABC~1.D", true),
            ("_RGER~1", true),
        ];
        assert_eq!(shorts, expected.map(|(s, long)| (s.to_owned(), long)));
    }

    #[test]
    fn names_that_fat_cannot_hold_are_refused() {
        for name in ["", ".", "..", "a:b", "a\nb", "end.", "end ", " a", "aux", "CON.txt", "lpt1"] {
            assert!(refuse(name).is_some(), "{name:?}");
        }
        for name in [".joyliveusb", "console", "com", "lpt0", "a b", "ß"] {
            assert_eq!(refuse(name), None, "{name:?}");
        }
        assert!(refuse(&"x".repeat(256)).is_some());
    }

    proptest! {
        #[test]
        fn aliases_are_unique(names in proptest::collection::btree_set("[a-c~1-2. ]{1,12}", 1..60)) {
            let mut folds = HashSet::new();
            let names: Vec<&str> = names
                .iter()
                .map(String::as_str)
                .filter(|name| refuse(name).is_none() && folds.insert(folded(name)))
                .collect();
            let shorts = aliases(&names);
            let unique: HashSet<_> = shorts.iter().map(|(short, _)| *short).collect();
            prop_assert_eq!(unique.len(), names.len());
        }
    }

    #[test]
    fn thousands_of_like_names_get_aliases_quickly() {
        let names: Vec<String> = (0..20_000).map(|n| format!("a long name {n:06}.data")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let unique: HashSet<_> = aliases(&names).into_iter().map(|(short, _)| short).collect();
        assert_eq!(unique.len(), names.len());
    }
}
