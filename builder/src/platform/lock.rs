//! The lock file: exactly which packages a platform is made of.
//!
//! It is TOML, meant to be kept with the source. Everything that decides the platform's bytes,
//! besides the files of this repository, is in it: package versions with their digests, the stamp
//! that all times are taken from, and the digest of the compiled ZFS modules.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// The version of the lock file's form that this program reads and writes.
pub const VERSION: u32 = 1;

const HEAD: &str = "\
# What the reference platform is made of. Written by `headnode platform build --update-lock`;
# a build from the same lock gives the same bytes. Keep it under version control.

";

/// Why a lock file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("reading the lock file {}: {source}", path.display())]
    Read {
        /// Where it is.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It is not the TOML that this program writes.
    #[error(
        "the lock file {} cannot be read: {message}\nRepair it from version control, or write a new one with --update-lock.",
        path.display()
    )]
    Form {
        /// Where it is.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// It is well-formed, but what it says cannot be.
    #[error(
        "the lock file {} is wrong in {} place(s):\n  {}\nRepair it from version control, or write a new one with --update-lock.",
        path.display(),
        problems.len(),
        problems.join("\n  ")
    )]
    Content {
        /// Where it is.
        path: PathBuf,
        /// Everything that is wrong.
        problems: Vec<String>,
    },
}

/// Which part of the build needs a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Installed in the platform's root.
    Root,
    /// The kernel: unpacked into the root.
    Kernel,
    /// Installed in the throw-away root that compiles the ZFS modules.
    Modules,
    /// The source of the ZFS modules (`zfs-dkms`).
    Zfs,
}

/// One package, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Debian's name of it.
    pub name: String,
    /// Debian's version, with epoch and revision.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// SHA-256 of the `.deb`, in hex.
    pub sha256: String,
    /// Bytes of the `.deb`.
    pub size: u64,
    /// Which archive has it: `debian` or `debian-security`.
    pub archive: String,
    /// Its path in that archive (`pool/…`).
    pub filename: String,
    /// What needs it.
    pub uses: BTreeSet<Use>,
}

/// The lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Form of the file, [`VERSION`].
    pub version: u32,
    /// The platform's stamp, `YYYYMMDDTHHMMSSZ`: its version, and the time of everything in it.
    pub stamp: String,
    /// Debian release.
    pub suite: String,
    /// Digest of the package lists that were resolved.
    pub recipe: String,
    /// Kernel release, such as `6.1.0-40-amd64`.
    pub kernel: String,
    /// Version of OpenZFS, as Debian's package has it.
    pub zfs: String,
    /// SHA-256 over the compiled ZFS modules; absent until they were compiled once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules_sha256: Option<String>,
    /// The packages, sorted by name.
    #[serde(rename = "package")]
    pub packages: Vec<Package>,
}

impl Lock {
    /// Reads and checks a lock file; `None` when there is none.
    ///
    /// # Errors
    /// See [`Error`]; all that is wrong is told at once.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Read { path: path.to_owned(), source }),
        }
    }

    /// Parses and checks a lock file's text; `path` is for messages.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let lock: Self = toml::from_str(text).map_err(|e| Error::Form {
            path: path.to_owned(),
            message: e.to_string().trim_end().to_owned(),
        })?;
        let problems = lock.problems();
        if problems.is_empty() {
            Ok(lock)
        } else {
            Err(Error::Content { path: path.to_owned(), problems })
        }
    }

    /// Everything that is wrong with it.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.version != VERSION {
            problems.push(format!(
                "version is {}, but this program reads {VERSION} only",
                self.version
            ));
        }
        if epoch_of(&self.stamp).is_none() {
            problems.push(format!(
                "stamp {:?} is no time between 1970 and 2106, written YYYYMMDDTHHMMSSZ",
                self.stamp
            ));
        }
        for (key, value) in [("suite", &self.suite), ("kernel", &self.kernel), ("zfs", &self.zfs)] {
            if !is_plain(value) {
                problems.push(format!("{key} {value:?} has characters that no version has"));
            }
        }
        if !is_sha256(&self.recipe) {
            problems.push("recipe is not 64 hex digits in lower case".to_owned());
        }
        if let Some(digest) = self.modules_sha256.as_deref().filter(|d| !is_sha256(d)) {
            problems.push(format!("modules_sha256 {digest:?} is not 64 hex digits in lower case"));
        }
        let mut seen = BTreeSet::new();
        for package in &self.packages {
            let name = &package.name;
            if !is_plain(name) || !is_plain(&package.version) || !is_plain(&package.architecture) {
                problems.push(format!(
                    "package {name:?}: name, version or architecture has characters that none has"
                ));
            }
            if !is_sha256(&package.sha256) {
                problems.push(format!("package {name}: sha256 is not 64 hex digits in lower case"));
            }
            let path = &package.filename;
            let odd = |part: &str| part.is_empty() || part.starts_with('.');
            if path.split('/').any(odd) || !path.split('/').all(is_plain) {
                problems
                    .push(format!("package {name}: filename {path:?} is no path in an archive"));
            }
            if super::apt::ARCHIVES.iter().all(|archive| archive.name != package.archive) {
                problems
                    .push(format!("package {name}: archive {:?} is not known", package.archive));
            }
            for &needed in &package.uses {
                if !seen.insert((name.clone(), needed)) {
                    problems.push(format!("package {name} is there twice"));
                }
            }
        }
        for (needed, what) in [(Use::Kernel, "kernel"), (Use::Zfs, "ZFS source")] {
            let n = self.packages.iter().filter(|p| p.uses.contains(&needed)).count();
            if n != 1 {
                problems.push(format!("it has {n} packages for the {what} instead of one"));
            }
        }
        problems
    }

    /// The packages that a part of the build needs.
    pub fn packages_for(&self, needed: Use) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(move |p| p.uses.contains(&needed))
    }

    /// The time of the stamp, in seconds since 1970.
    pub fn epoch(&self) -> u32 {
        epoch_of(&self.stamp).unwrap_or_default()
    }

    /// The file's text.
    ///
    /// # Errors
    /// Never for a lock that was checked; serialising reports it if it were.
    pub fn to_text(&self) -> Result<String, toml::ser::Error> {
        Ok(format!("{HEAD}{}", toml::to_string(self)?))
    }
}

/// The seconds since 1970 of a stamp `YYYYMMDDTHHMMSSZ`; `None` when it is none, or later than the
/// 32 bits of a cpio entry can say.
pub fn epoch_of(stamp: &str) -> Option<u32> {
    let form = format_description!("[year][month][day]T[hour][minute][second]Z");
    let time = PrimitiveDateTime::parse(stamp, form).ok()?.assume_utc();
    u32::try_from(time.unix_timestamp()).ok()
}

/// The stamp of a time in seconds since 1970.
pub fn stamp_of(epoch: u32) -> String {
    let t =
        OffsetDateTime::from_unix_timestamp(i64::from(epoch)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (month, day) = (u8::from(t.month()), t.day());
    format!("{:04}{month:02}{day:02}T{:02}{:02}{:02}Z", t.year(), t.hour(), t.minute(), t.second())
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text is made of what Debian allows in names and versions: it becomes part of command
/// lines and paths.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.:~_%".contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn package(name: &str, uses: &[Use]) -> Package {
        Package {
            name: name.to_owned(),
            version: "1:2.38-5+deb12u1~x".to_owned(),
            architecture: "amd64".to_owned(),
            sha256: "a".repeat(64),
            size: 7,
            archive: "debian".to_owned(),
            filename: format!("pool/main/x/{name}_2.38-5+deb12u1~x_amd64.deb"),
            uses: uses.iter().copied().collect(),
        }
    }

    fn lock() -> Lock {
        Lock {
            version: VERSION,
            stamp: "20260131T235959Z".to_owned(),
            suite: "bookworm".to_owned(),
            recipe: "b".repeat(64),
            kernel: "6.1.0-40-amd64".to_owned(),
            zfs: "2.1.11-1+deb12u1".to_owned(),
            modules_sha256: None,
            packages: vec![
                package("bash", &[Use::Root, Use::Modules]),
                package("linux-image-6.1.0-40-amd64", &[Use::Kernel]),
                package("zfs-dkms", &[Use::Zfs]),
            ],
        }
    }

    fn parse(text: &str) -> Result<Lock, Error> {
        Lock::parse(text, Path::new("platform.lock"))
    }

    #[test]
    fn what_is_written_is_read_back() {
        for digest in [None, Some("c".repeat(64))] {
            let lock = Lock { modules_sha256: digest, ..lock() };
            assert_eq!(parse(&lock.to_text().unwrap()).unwrap(), lock);
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Lock::read(&folder.path().join("none")).unwrap(), None);
        assert!(matches!(Lock::read(folder.path()), Err(Error::Read { .. })));
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let mut bad = lock();
        bad.version = 9;
        bad.stamp = "yesterday".to_owned();
        bad.kernel = "6.1 ; rm".to_owned();
        bad.packages[0].sha256 = "A".repeat(64);
        bad.packages[0].filename = "pool/../../etc/passwd".to_owned();
        bad.packages[0].archive = "elsewhere".to_owned();
        bad.packages[1].name = "--option".to_owned();
        bad.packages[2].uses.clear();
        let text = parse(&bad.to_text().unwrap()).unwrap_err().to_string();
        for part in [
            "version is 9",
            "yesterday",
            "6.1 ; rm",
            "bash: sha256",
            "pool/../../etc",
            "elsewhere",
            "--option",
            "0 packages for the ZFS source",
            "--update-lock",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn a_package_cannot_be_there_twice_for_one_use() {
        let mut bad = lock();
        bad.packages.push(package("bash", &[Use::Modules]));
        assert!(bad.problems().iter().any(|p| p.contains("bash is there twice")));
        // One version for the root and another for the compiler is fine.
        let mut good = lock();
        good.packages[0].uses.remove(&Use::Modules);
        good.packages.push(package("bash", &[Use::Modules]));
        assert_eq!(good.problems(), Vec::<String>::new());
    }

    #[test]
    fn broken_toml_is_told_with_its_place() {
        let text = lock().to_text().unwrap().replace("suite = ", "suite ");
        let error = parse(&text).unwrap_err();
        assert!(matches!(error, Error::Form { .. }));
        assert!(error.to_string().contains("line"), "{error}");
        assert!(parse("surprise = 1").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn stamps_are_times() {
        assert_eq!(epoch_of("19700101T000001Z"), Some(1));
        assert_eq!(stamp_of(1), "19700101T000001Z");
        for bad in ["", "20260231T000000Z", "22000101T000000Z", "19691231T235959Z", "2026"] {
            assert_eq!(epoch_of(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_time_survives_being_a_stamp(epoch: u32) {
            prop_assert_eq!(epoch_of(&stamp_of(epoch)), Some(epoch));
        }

        #[test]
        fn no_text_is_too_odd_to_refuse(text in "\\PC*") {
            prop_assert!(parse(&text).is_err());
        }
    }
}
