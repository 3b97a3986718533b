//! The lock file: exactly which parts an image is made of. `headnode fetch` writes it, and a build
//! from it needs no network and gives the same image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::spec::form::{is_hex, is_uuid};

/// The file's name when no other is given.
pub const DEFAULT: &str = "build.lock";
/// The form of the file that this program reads and writes.
pub const VERSION: u32 = 1;

/// Why a lock file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read or written.
    #[error("{doing} the lock file {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It is not what `headnode fetch` writes; everything that is wrong is told.
    #[error(
        "the lock file {} cannot be used:\n  {}\nRepair it from version control, or delete it and \
         run `headnode fetch`.",
        path.display(),
        problems.join("\n  ")
    )]
    Form {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        problems: Vec<String>,
    },
}

/// Where a locked part came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Manta.
    Manta,
    /// IMGAPI.
    Imgapi,
    /// HTTP(S).
    Http,
    /// A file of this machine: its address is `file:` and its path.
    File,
}

/// A locked part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name: `zone.<zone>.imgmanifest`, `zone.<zone>.imgfile`, `image.<uuid>.imgmanifest`,
    /// `image.<uuid>.imgfile`, `file.<file>`, or `local.<key of the spec>`.
    pub name: String,
    /// Branch, stamp and commit, or an image's version.
    pub version: String,
    /// What kind of place it came from.
    pub source: Origin,
    /// Its address.
    pub url: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// The digest that the source published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The image that this image is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// What the spec asked for; when that changes, this entry no longer counts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asked: String,
}

/// The lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// [`VERSION`].
    pub version: u32,
    /// The parts, sorted by name.
    pub artefacts: Vec<Entry>,
}

impl Default for Lock {
    fn default() -> Self {
        Self { version: VERSION, artefacts: Vec::new() }
    }
}

impl Lock {
    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text)
                .map(Some)
                .map_err(|problems| Error::Form { path: path.to_owned(), problems }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { doing: "reading", path: path.to_owned(), source }),
        }
    }

    /// Reads a text.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let lock: Self = serde_json::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut problems = Vec::new();
        if lock.version != VERSION {
            problems.push(format!("its form is {}, this program knows {VERSION}", lock.version));
        }
        let mut names = BTreeSet::new();
        for entry in &lock.artefacts {
            let name = &entry.name;
            if !names.insert(name) {
                problems.push(format!("{name:?} is there twice"));
            }
            if Kind::of(name).is_none() {
                problems.push(format!("{name:?} is no name of a part"));
            }
            let file = entry.url.strip_prefix("file:");
            let plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('/');
            if entry.source == Origin::File && !file.is_some_and(plain) {
                problems.push(format!("{name}: its url must be file: and a name"));
            }
            if !is_hex(&entry.sha256, 64) {
                problems.push(format!("{name}: its sha256 is none"));
            }
            if let Some(Err(error)) = entry.digest.as_ref().map(|digest| digest.parse::<Digest>()) {
                problems.push(format!("{name}: {error}"));
            }
            if entry.origin.as_ref().is_some_and(|origin| !is_uuid(origin)) {
                problems.push(format!("{name}: its origin is no UUID"));
            }
        }
        if problems.is_empty() { Ok(lock) } else { Err(problems) }
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut sorted = self.clone();
        sorted.artefacts.sort_by(|a, b| a.name.cmp(&b.name));
        // Numbers and texts only: this cannot fail.
        serde_json::to_string_pretty(&sorted).unwrap_or_default() + "\n"
    }

    /// Writes the file whole.
    ///
    /// # Errors
    /// When that fails; an older file stays then.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        use std::io::Write;
        let wrong = |source| Error::Io { doing: "writing", path: path.to_owned(), source };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::Builder::new()
            .prefix(".headnode-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)
            .map_err(wrong)?;
        file.write_all(self.text().as_bytes()).map_err(wrong)?;
        file.as_file().sync_data().map_err(wrong)?;
        file.persist(path).map_err(|error| wrong(error.error))?;
        Ok(())
    }

    /// A part.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.artefacts.iter().find(|entry| entry.name == name)
    }

    /// All parts by their names: a key may have ten thousands of files.
    pub fn by_name(&self) -> BTreeMap<&str, &Entry> {
        self.artefacts.iter().map(|entry| (entry.name.as_str(), entry)).collect()
    }

    /// The entries of a zone or file, and the images that they are made from; `None` unless all are
    /// there and were asked for in this way.
    pub fn part(&self, names: &[String], asked: &str) -> Option<Vec<&Entry>> {
        let mut all = Vec::new();
        for name in names {
            all.push(self.get(name).filter(|entry| entry.asked == asked)?);
        }
        let mut origin = all.iter().find_map(|entry| entry.origin.clone());
        while let Some(uuid) = origin {
            let manifest = self.get(&format!("image.{uuid}.imgmanifest"))?;
            let file = self.get(&format!("image.{uuid}.imgfile"))?;
            // Only a damaged lock file has a circle.
            if all.iter().any(|entry| entry.name == manifest.name) {
                return None;
            }
            origin = manifest.origin.clone();
            all.extend([manifest, file]);
        }
        Some(all)
    }
}

/// What a part is, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The manifest of a zone's image.
    ZoneManifest(String),
    /// A zone's image.
    ZoneImage(String),
    /// The manifest of an image that others are made from, by UUID.
    OriginManifest(String),
    /// An image that others are made from, by UUID.
    OriginImage(String),
    /// An entry of `files`.
    File(String),
    /// A file that the spec names by this key.
    Local(String),
}

impl Kind {
    /// What a name stands for.
    pub fn of(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once('.')?;
        let image = |rest: &str, end: &str| rest.strip_suffix(end).map(str::to_owned);
        let fine = |name: &String| crate::spec::form::is_name(name);
        match kind {
            "zone" => image(rest, ".imgmanifest")
                .filter(fine)
                .map(Self::ZoneManifest)
                .or_else(|| image(rest, ".imgfile").filter(fine).map(Self::ZoneImage)),
            "image" => {
                let uuid = |name: &String| is_uuid(name);
                image(rest, ".imgmanifest")
                    .filter(uuid)
                    .map(Self::OriginManifest)
                    .or_else(|| image(rest, ".imgfile").filter(uuid).map(Self::OriginImage))
            }
            "file" => Some(rest.to_owned()).filter(fine).map(Self::File),
            "local" if !rest.is_empty() => Some(Self::Local(rest.to_owned())),
            _ => None,
        }
    }

    /// The zone or file of the spec that it belongs to; origins belong to several.
    pub fn part(&self) -> Option<&str> {
        match self {
            Self::ZoneManifest(name) | Self::ZoneImage(name) | Self::File(name) => Some(name),
            _ => None,
        }
    }
}

/// A difference between two lock files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The part.
    pub name: String,
    /// Version and size in bytes before, unless it is new.
    pub was: Option<(String, u64)>,
    /// Version and size in bytes now, unless it is gone.
    pub is: Option<(String, u64)>,
}

/// What changed from one lock file to another, by name.
pub fn changes(was: &Lock, is: &Lock) -> Vec<Change> {
    let (old, new) = (was.by_name(), is.by_name());
    let names: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    let told = |entry: &Entry| (entry.version.clone(), entry.size);
    let change = |name: &str| {
        let (before, after) = (old.get(name).copied(), new.get(name).copied());
        let digest = |entry: Option<&Entry>| entry.map(|entry| entry.sha256.clone());
        (digest(before) != digest(after)).then(|| Change {
            name: name.to_owned(),
            was: before.map(told),
            is: after.map(told),
        })
    };
    names.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str, version: &str) -> Entry {
        Entry {
            name: name.to_owned(),
            version: version.to_owned(),
            source: Origin::Manta,
            url: format!("https://example.com/{name}"),
            size: 3,
            sha256: super::super::digest::sha256(version.as_bytes()),
            digest: None,
            origin: None,
            asked: "x".to_owned(),
        }
    }

    #[test]
    fn changes_are_told() {
        let was =
            Lock { artefacts: vec![entry("file.a", "1"), entry("file.b", "1")], ..Lock::default() };
        let is =
            Lock { artefacts: vec![entry("file.b", "2"), entry("file.c", "1")], ..Lock::default() };
        let told: Vec<String> = changes(&was, &is)
            .iter()
            .map(|change| {
                format!("{} {:?} {:?}", change.name, change.was.is_some(), change.is.is_some())
            })
            .collect();
        assert_eq!(told, ["file.a true false", "file.b true true", "file.c false true"]);
        assert_eq!(changes(&was, &was), []);
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let mut bad = entry("file.a", "1");
        bad.sha256 = "12".to_owned();
        bad.digest = Some("crc:1".to_owned());
        let mut odd = entry("file.../x", "1");
        odd.origin = Some("no".to_owned());
        odd.source = Origin::File;
        odd.url = "file:../x".to_owned();
        let lock = Lock { version: 2, artefacts: vec![bad.clone(), bad, odd] };
        let problems = Lock::parse(&lock.text()).unwrap_err().join("\n");
        for wanted in [
            "its form is 2",
            "twice",
            "sha256",
            "no digest",
            "no name of a part",
            "no UUID",
            "file: and a name",
        ] {
            assert!(problems.contains(wanted), "{wanted} in {problems}");
        }
        assert!(Lock::parse("{\"version\": 1}").unwrap_err()[0].contains("artefacts"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(names in prop::collection::btree_set("[a-z][a-z0-9-]{0,9}", 0..9), version in any::<String>()) {
            let artefacts = names.iter().map(|name| entry(&format!("file.{name}"), &version)).collect();
            let lock = Lock { artefacts, ..Lock::default() };
            prop_assert_eq!(Lock::parse(&lock.text()).unwrap(), lock);
        }

        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            let _ = Lock::parse(&text);
            let _ = Kind::of(&text);
        }
    }
}
