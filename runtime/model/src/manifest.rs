//! The one manifest of an image: every file, partition and mapped range with its digest.
//! The builder writes it; verify, flash, first boot and the booter read it.

use serde::{Deserialize, Serialize};

use crate::stamp::Stamp;

/// The manifest format that this code writes; a reader refuses a higher one.
pub const FORMAT: u32 = 1;

/// What an image is made of.
///
/// A copy without `partitions` and `ranges` (an image cannot hold its own digest) lies on the key
/// as `manifest.json`; the whole one is written beside the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format, [`FORMAT`].
    pub format: u32,
    /// Name of the image.
    pub name: String,
    /// Version of the software in it.
    pub version: String,
    /// Time of the build, seconds since 1970: from `SOURCE_DATE_EPOCH` or the platform's stamp.
    pub created: i64,
    /// The platforms in it; the first one boots.
    pub platforms: Vec<Platform>,
    /// The control services and other programs in it.
    pub services: Vec<Service>,
    /// Boot firmware in it: programs of others, with licence and origin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firmware: Vec<Firmware>,
    /// Every file of the key's tree, sorted by path.
    pub files: Vec<File>,
    /// The image as a whole; only beside the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
}

/// A platform image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// When it was made.
    pub stamp: Stamp,
    /// `linux` (the reference platform) or `smartos`.
    pub os: String,
    /// What it is, for people: `Debian 12 (bookworm), Linux 6.1.0-41, OpenZFS 2.1.11`.
    #[serde(default)]
    pub description: String,
}

/// A program of the headnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name: `sdc-booter`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of the program in hex.
    pub sha256: String,
}

/// A program of others that starts or boots machines: a loader or network boot firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// Its name: `iPXE for BIOS`.
    pub name: String,
    /// The Debian package that it comes from.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// Its licence, as an SPDX expression.
    pub licence: String,
    /// Where its sources are.
    pub origin: String,
    /// Where it lies: a path on the key; or a partition's name, a colon and a path on it
    /// (`loader:efi/boot/bootx64.efi`), without a path when the partition holds it raw (`boot:`).
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// A file of the key's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Path from the key's root, with `/`, without a leading one, as it is on the key.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 in hex. Absent for files below `private/`, whose content is not given away by its
    /// digest, and for personal parts, which may be overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A disk image as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Size in bytes when written out, a multiple of `sector_size`.
    pub size: u64,
    /// Bytes per sector.
    pub sector_size: u32,
    /// GUID of the disk.
    pub disk_guid: String,
    /// The partitions in the order of the table.
    pub partitions: Vec<Partition>,
    /// The parts that hold data, in pieces of a few MiB; what lies between reads as zeroes, but for
    /// the personal parts. Sorted, not overlapping.
    pub ranges: Vec<Range>,
    /// The parts that a site may overwrite, which no range covers. Sorted by offset. None in images
    /// of versions that had no such parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub personal: Vec<Personal>,
}

/// A file of the key that a site may overwrite in place, see [`crate::personal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personal {
    /// Path on the key.
    pub path: String,
    /// Where it begins on the disk, in bytes.
    pub offset: u64,
    /// How long it is, in bytes: all of the file.
    pub length: u64,
    /// SHA-256 in hex of what the build put there. Absent where something private is, which its digest
    /// would help to guess.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A partition of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Number in the table, from 1.
    pub number: u32,
    /// Name in the table.
    pub name: String,
    /// GUID of the type.
    pub type_guid: String,
    /// GUID of the partition.
    pub guid: String,
    /// First sector.
    pub start: u64,
    /// Number of sectors.
    pub sectors: u64,
}

/// A mapped range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// Why a text is no usable manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON of the right form.
    #[error("the manifest is damaged or not a manifest: {0}")]
    Syntax(#[from] serde_json::Error),
    /// It is newer than this code.
    #[error("the manifest has format {found}, this program reads up to {FORMAT}: use a newer one")]
    Format {
        /// The format found.
        found: u32,
    },
    /// A path in it leads out of the key.
    #[error("the manifest names the path {0:?}, which is not a plain path below the key's root")]
    Path(String),
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// When it is no JSON of this form, of a newer format, or holds a path that escapes.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(json)?;
        if manifest.format > FORMAT {
            return Err(ManifestError::Format { found: manifest.format });
        }
        let bad = |path: &str| {
            path.is_empty() || path.split('/').any(|part| matches!(part, "" | "." | ".."))
        };
        let personal = manifest.image.iter().flat_map(|image| &image.personal);
        let mut paths = manifest.files.iter().map(|f| &f.path).chain(personal.map(|p| &p.path));
        match paths.find(|path| bad(path)) {
            Some(path) => Err(ManifestError::Path(path.clone())),
            None => Ok(manifest),
        }
    }

    /// The entry of a path.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_escapes_is_refused() {
        for path in ["../etc/shadow", "/etc/shadow", "os//unix", "", "a/./b"] {
            let json = serde_json::json!({
                "format": 1, "name": "n", "version": "v", "created": 0, "platforms": [],
                "services": [], "files": [{"path": path, "size": 0}],
            });
            let error = Manifest::parse(json.to_string().as_bytes()).unwrap_err();
            assert!(matches!(error, ManifestError::Path(_)), "{path}: {error}");
        }
    }

    #[test]
    fn images_without_personal_parts_are_as_they_were() {
        let image = |more: &str| {
            let json = format!(
                r#"{{"size": 512, "sector_size": 512, "disk_guid": "", "partitions": [], "ranges": []{more}}}"#
            );
            serde_json::from_str::<Image>(&json).unwrap()
        };
        let old = image("");
        assert!(old.personal.is_empty());
        assert!(!serde_json::to_string(&old).unwrap().contains("personal"));
        let new = image(r#", "personal": [{"path": "../x", "offset": 0, "length": 65536}]"#);
        assert_eq!(new.personal[0].sha256, None);
        let manifest = serde_json::json!({
            "format": 1, "name": "n", "version": "v", "created": 0, "platforms": [],
            "services": [], "files": [], "image": new,
        });
        let error = Manifest::parse(manifest.to_string().as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::Path(_)), "{error}");
    }
}
