//! The names of ISO 9660 itself (ECMA-119, 7.5 and 7.6): upper-case letters, digits and `_`. Systems
//! that know Rock Ridge never show them; they only must differ and be in order.

use std::collections::{HashMap, HashSet};

/// The longest stem and suffix of a file together (level 2).
const MAX_FILE: usize = 30;
/// The longest name of a folder.
const MAX_FOLDER: usize = 31;
/// The longest suffix that is kept.
const MAX_SUFFIX: usize = 8;

/// Why a name cannot be stored at all.
pub fn refuse(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("a part of the path is empty"),
        "." | ".." => Some("a part of the path is . or .."),
        _ if name.contains('\0') => Some("it holds a zero character"),
        _ if name.len() > super::MAX_NAME => Some("a name is longer than 255 bytes"),
        _ => None,
    }
}

/// A name that ISO 9660 allows. Sorted as ECMA-119, 9.3 asks: all its characters sort behind the
/// blank that shorter names are to be padded with. The default is the root's, which has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IsoName {
    stem: String,
    /// None for a folder.
    suffix: Option<String>,
}

impl IsoName {
    /// The name as a directory holds it.
    pub fn bytes(&self) -> Vec<u8> {
        match &self.suffix {
            None => self.stem.clone().into_bytes(),
            Some(suffix) => format!("{}.{suffix};1", self.stem).into_bytes(),
        }
    }
}

/// Names for the children of a folder, each told with whether it is one.
pub fn iso_names<'a>(children: impl Iterator<Item = (&'a str, bool)>) -> Vec<IsoName> {
    let mut taken = HashSet::new();
    let mut numbers: HashMap<IsoName, u32> = HashMap::new();
    let mut names = Vec::new();
    for (name, folder) in children {
        let wished = mangle(name, folder);
        let mut chosen = wished.clone();
        while !taken.insert(chosen.clone()) {
            let number = numbers.entry(wished.clone()).or_insert(0);
            *number += 1;
            let digits = format!("_{number}");
            let most = wished.suffix.as_ref().map_or(MAX_FOLDER, |s| MAX_FILE - s.len());
            let mut stem = wished.stem.clone();
            stem.truncate(most - digits.len());
            chosen = IsoName { stem: stem + &digits, suffix: wished.suffix.clone() };
        }
        names.push(chosen);
    }
    names
}

fn mangle(name: &str, folder: bool) -> IsoName {
    let plain = |text: &str, most: usize| -> String {
        let allowed =
            |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        text.chars().map(allowed).take(most).collect()
    };
    if folder {
        return IsoName { stem: plain(name, MAX_FOLDER), suffix: None };
    }
    let (stem, suffix) = match name.rsplit_once('.') {
        Some((stem, suffix)) if !stem.is_empty() => (stem, plain(suffix, MAX_SUFFIX)),
        _ => (name, String::new()),
    };
    IsoName { stem: plain(stem, MAX_FILE - suffix.len()), suffix: Some(suffix) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(children: &[(&str, bool)]) -> Vec<String> {
        let names = iso_names(children.iter().copied());
        names.iter().map(|name| String::from_utf8(name.bytes()).unwrap()).collect()
    }

    #[test]
    fn names_are_allowed_and_differ() {
        let long = "a".repeat(40);
        let found = texts(&[
            ("unix", false),
            ("boot_archive.hash", false),
            (".joyliveusb", false),
            ("UNIX", false),
            ("20260102t030405z", true),
            ("config.inc", true),
            (&long, false),
            (&(long.clone() + "b"), false),
        ]);
        let a = "A".repeat(30);
        let expected = [
            "UNIX.;1",
            "BOOT_ARCHIVE.HASH;1",
            "_JOYLIVEUSB.;1",
            "UNIX_1.;1",
            "20260102T030405Z",
            "CONFIG_INC",
            &format!("{a}.;1"),
            &format!("{}_1.;1", &a[2..]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_order_is_that_of_padded_names() {
        let mut names = iso_names([("a.b0", false), ("a.b", false), ("a0", false)].into_iter());
        names.sort();
        let texts: Vec<_> = names.iter().map(|name| name.bytes()).collect();
        assert_eq!(texts, [b"A.B;1".to_vec(), b"A.B0;1".to_vec(), b"A0.;1".to_vec()]);
    }
}
