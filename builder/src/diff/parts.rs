//! What an image says of its parts: its manifest and the platform's list of packages.

use std::collections::BTreeMap;

use headnode_model::manifest::Manifest;
use headnode_model::paths;
use serde::Deserialize;

use crate::contents::survey::prefix;
use crate::contents::{Contents, FileSystem, Scheme};

/// The largest list that is read, in bytes.
const MAX_LIST: u64 = 64 << 20;

/// Named parts with their versions. What an image does not tell is empty.
#[derive(Debug, Default)]
pub struct Known {
    pub version: Option<String>,
    pub platforms: BTreeMap<String, String>,
    pub packages: BTreeMap<String, String>,
    pub programs: BTreeMap<String, String>,
    pub firmware: BTreeMap<String, String>,
}

/// `packages.json` of a platform, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Packages {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
}

impl Known {
    /// What the key of an image tells.
    pub fn of(contents: &Contents) -> Self {
        let mut known = Self::default();
        let Some(files) = contents.key().and_then(|part| part.files.as_ref()) else {
            return known;
        };
        known.read_packages(contents, files);
        let manifest = files.entry(paths::KEY_MANIFEST);
        let manifest = manifest.and_then(|entry| contents.small(entry, MAX_LIST).ok());
        let Some(Ok(manifest)) = manifest.map(|text| Manifest::parse(&text)) else { return known };
        known.version = Some(manifest.version);
        known.platforms = manifest
            .platforms
            .into_iter()
            .map(|p| {
                let what = if p.description.is_empty() { p.os } else { p.description };
                (p.stamp.to_string(), what)
            })
            .collect();
        // The digest too: a program may change without a new version.
        let label = |version: &str, sha256: &str| {
            format!("{version} (sha256 {})", sha256.get(..12).unwrap_or(sha256))
        };
        known.programs = manifest
            .services
            .iter()
            .map(|s| (s.name.clone(), label(&s.version, &s.sha256)))
            .collect();
        known.firmware = manifest
            .firmware
            .iter()
            .map(|f| (f.name.clone(), label(&format!("{} {}", f.package, f.version), &f.sha256)))
            .collect();
        known
    }

    fn read_packages(&mut self, contents: &Contents, files: &FileSystem) {
        for entry in files.files().filter(|e| e.path.ends_with("/platform/x86_64/packages.json")) {
            // A list that cannot be read is no list; the file itself is compared like any other.
            let Ok(text) = contents.small(entry, MAX_LIST) else { continue };
            let Ok(list) = serde_json::from_slice::<Packages>(&text) else { continue };
            self.packages.extend(list.packages.into_iter().map(|p| (p.name, p.version)));
        }
    }
}

/// The partitions by number and name, with their places.
pub fn partitions(contents: &Contents) -> BTreeMap<String, String> {
    let part = |part: &crate::contents::Part| {
        let name = format!("{} {}", part.number, prefix(part));
        (name, format!("{}, {} bytes from byte {}", part.kind, part.length, part.offset))
    };
    // An archive's size says nothing that its files do not.
    let parts = contents.parts.iter().filter(|_| contents.scheme != Scheme::Tar);
    parts.map(part).collect()
}
