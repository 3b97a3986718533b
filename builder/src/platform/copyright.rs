//! Licences of Debian packages, from their copyright files.

use std::collections::BTreeSet;

/// A name longer than this is no name, in bytes.
const MAX_NAME: usize = 200;
/// Where Debian keeps the texts that many packages share (Debian policy 12.5).
const COMMON: &str = "/usr/share/common-licenses/";

/// The licences that a copyright file names, as Debian spells them, sorted: the `License` fields of a
/// machine-readable file (DEP 5), else the shared texts that a file of free form points to.
pub fn licences(text: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let is_format = first.split_once(':').is_some_and(|(key, value)| {
        let key = key.trim();
        (key.eq_ignore_ascii_case("format") || key.eq_ignore_ascii_case("format-specification"))
            && !value.trim().is_empty()
    });
    if is_format {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let named = fields.filter(|(key, _)| key.eq_ignore_ascii_case("license"));
        found.extend(named.map(|(_, name)| name.trim().to_owned()));
    } else {
        let named = text.split(COMMON).skip(1).map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-.".contains(c));
            rest.get(..end.unwrap_or(rest.len())).unwrap_or_default().trim_end_matches(['.', '-'])
        });
        found.extend(named.map(str::to_owned));
    }
    found.retain(|name| !name.is_empty() && name.len() <= MAX_NAME);
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_are_read() {
        let machine = "\nFormat: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
            \nFiles: *\nLicense: GPL-3+\n On Debian /usr/share/common-licenses/GPL-3 has it.\n\
            License:\nLicense: Expat\nlicense: GPL-3+\n License: not a field\n";
        assert_eq!(licences(machine), ["Expat", "GPL-3+"]);
        let free = "This is zlib.\nSee `/usr/share/common-licenses/LGPL-2.1'.\n\
            and /usr/share/common-licenses/GPL-2. Also /usr/share/common-licenses/";
        assert_eq!(licences(free), ["GPL-2", "LGPL-2.1"]);
    }

    #[test]
    fn this_machines_own_files_are_read() {
        let text = std::fs::read_to_string("/usr/share/doc/base-files/copyright").unwrap();
        assert!(licences(&text).contains(&"GPL".to_owned()), "{:?}", licences(&text));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, tail: String) {
            let _ = licences(&text);
            let _ = licences(&format!("Format: x\nLicense: {text}"));
            let _ = licences(&format!("x {COMMON}{text}{COMMON}{tail}"));
        }
    }
}
