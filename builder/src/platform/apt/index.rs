//! What apt writes of packages: where they are, and what its lists say of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::platform::lock::{Package, Use};

/// What apt resolved a package to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Its address.
    pub url: String,
    /// The parts of the build that need it.
    pub uses: BTreeSet<Use>,
}

/// Completes what apt resolved, by name and version, with paths, sizes and digests from package lists,
/// as `apt-cache show` writes them; what was described is taken out of `found`. A description is for a
/// package whose address is its path below one of the `mirrors`, which are known by their archives'
/// names.
pub fn describe(
    lists: &str,
    found: &mut BTreeMap<(String, String), Found>,
    mirrors: &BTreeMap<&'static str, String>,
) -> Vec<Package> {
    let mut packages = Vec::new();
    for stanza in lists.split("\n\n").filter(|stanza| !stanza.trim().is_empty()) {
        let get = |name| field(stanza, name).unwrap_or_default().to_owned();
        let key = (get("Package"), get("Version"));
        let filename = get("Filename");
        let fits = |found: &Found| {
            let url = percent_decoded(&found.url);
            let at = |mirror: &String| {
                let rest =
                    url.strip_prefix(mirror.as_str()).and_then(|rest| rest.strip_prefix('/'));
                rest == Some(filename.as_str())
            };
            mirrors.iter().find(|(_, mirror)| at(mirror)).map(|(name, _)| (*name).to_owned())
        };
        let Some(archive) = found.get(&key).and_then(fits) else { continue };
        let uses = found.remove(&key).map(|found| found.uses).unwrap_or_default();
        packages.push(Package {
            architecture: get("Architecture"),
            sha256: get("SHA256"),
            size: get("Size").parse().unwrap_or_default(),
            archive,
            filename,
            uses,
            name: key.0,
            version: key.1,
        });
    }
    packages
}

/// One line of `apt-get --print-uris`: `'url' name_version_arch.deb size digest`.
#[derive(Debug, PartialEq, Eq)]
pub struct Uri {
    /// The package's address, as apt writes it.
    pub url: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Uri {
    /// Reads a line; `None` when it is none of this form.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let url = words.next()?.strip_prefix('\'')?.strip_suffix('\'')?;
        let mut parts = words.next()?.strip_suffix(".deb")?.split('_');
        let (name, version) = (parts.next()?, parts.next()?);
        Some(Self { url: url.to_owned(), name: name.to_owned(), version: percent_decoded(version) })
    }
}

/// The value of a field in the first paragraph of a control file.
pub fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// Undoes `%3a` and the like; what is no such thing stays.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            // A sign would be taken for a digit's.
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                out.push(code);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_apt_gives_name_version_and_place() {
        let uri = Uri::parse(
            "'http://x/debian/pool/main/u/util/mount_2.38.1-5%2bb1_amd64.deb' \
             mount_1%3a2.38.1-5+b1_amd64.deb 134044 MD5Sum:19",
        )
        .unwrap();
        assert_eq!(uri.name, "mount");
        assert_eq!(uri.version, "1:2.38.1-5+b1");
        assert!(percent_decoded(&uri.url).ends_with("mount_2.38.1-5+b1_amd64.deb"));
        assert_eq!(Uri::parse("'http://x'"), None);
        assert_eq!(Uri::parse("nonsense"), None);
    }

    #[test]
    fn fields_come_from_the_first_paragraph() {
        let text = "Package: a\nDepends: b (= 1), c\n\nPackage: d\nSize: 3\n";
        assert_eq!(field(text, "Depends"), Some("b (= 1), c"));
        assert_eq!(field(text, "Size"), None);
    }

    #[test]
    fn only_hex_digits_stand_for_a_byte() {
        assert_eq!(percent_decoded("a%2bb%3A"), "a+b:");
        for as_it_is in ["%", "%2", "%+5", "%-1", "%g0", "% 1"] {
            assert_eq!(percent_decoded(as_it_is), as_it_is);
        }
    }

    #[test]
    fn a_description_is_for_the_package_at_its_address() {
        let found =
            Found { url: "http://m/debian/pool/a_1%2b2.deb".to_owned(), ..Found::default() };
        let key = ("a".to_owned(), "1+2".to_owned());
        let mut all = BTreeMap::from([(key, found)]);
        let mirrors = BTreeMap::from([("debian", "http://m/debian".to_owned())]);
        let list = "Package: a\nVersion: 1+2\nFilename: pool/other.deb\n\n\
            Package: a\nVersion: 1+2\nFilename: pool/a_1+2.deb\nSize: 7\nSHA256: ab\n\n\
            Package: a\nVersion: 1+2\nFilename: pool/a_1+2.deb\nSize: 8\n";
        let packages = describe(list, &mut all, &mirrors);
        assert_eq!((packages.len(), all.len()), (1, 0));
        assert_eq!((packages[0].size, packages[0].archive.as_str()), (7, "debian"));
    }
}
