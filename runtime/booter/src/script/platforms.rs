//! Platform images on the headnode's disk: `os/<stamp>/platform`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use headnode_model::paths;
use headnode_model::stamp::Stamp;

/// What kind of kernel a platform image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The reference platform: `platform/x86_64/vmlinuz` and `initrd`, which is all of it.
    Linux,
    /// Triton's Linux: beside these two its root, `filesystem.squashfs` (C§4.5).
    Live,
    /// `platform/i86pc/kernel/amd64/unix`.
    SmartOs,
}

impl Kind {
    /// Its name for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Linux | Self::Live => "Linux",
            Self::SmartOs => "SmartOS",
        }
    }
}

/// SmartOS' boot archive below `platform/`.
pub(super) const BOOT_ARCHIVE: &str = "i86pc/amd64/boot_archive";

/// The root of Triton's Linux below `platform/` (C§4.5).
const SQUASHFS: &str = "x86_64/filesystem.squashfs";

/// A platform image that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Name of its folder: the stamp, in the folder's letter case.
    pub name: String,
    /// What is in it.
    pub kind: Kind,
}

/// Why there is no platform image to boot.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The folder of images cannot be read.
    #[error("the platform images in {} cannot be read: {source}", folder.display())]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The image that the boot parameters name is not there, or not whole.
    #[error("its platform {0} is not on the headnode, or has no kernel or boot archive")]
    Missing(String),
    /// The boot parameters name something that is no stamp.
    #[error("its boot parameters name {0:?}, which is no platform stamp")]
    Name(String),
    /// There is no image at all.
    #[error("the headnode has no platform image in {}", .0.display())]
    None(PathBuf),
}

/// The folder of platform images.
#[derive(Debug, Clone)]
pub struct Platforms {
    folder: PathBuf,
}

impl Platforms {
    /// The images below a root such as `/usbkey`.
    pub fn new(root: &Path) -> Self {
        Self { folder: root.join(paths::PLATFORMS) }
    }

    /// The image that boot parameters name; the newest one when they name none (`""`) or `latest`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn choose(&self, wanted: &str) -> Result<Platform, PlatformError> {
        if wanted.is_empty() || wanted == "latest" {
            return self.newest()?.ok_or_else(|| PlatformError::None(self.folder.clone()));
        }
        let wanted: Stamp =
            wanted.parse().map_err(|_| PlatformError::Name(wanted.chars().take(40).collect()))?;
        let found = self.all()?.into_iter().find(|(stamp, _)| *stamp == wanted);
        found.map(|(_, platform)| platform).ok_or(PlatformError::Missing(wanted.to_string()))
    }

    /// The newest image.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn newest(&self) -> Result<Option<Platform>, PlatformError> {
        let newest = self.all()?.into_iter().max_by_key(|(stamp, _)| *stamp);
        Ok(newest.map(|(_, platform)| platform))
    }

    /// All images, the newest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Platform>, PlatformError> {
        let mut all = self.all()?;
        all.sort_by_key(|(stamp, _)| std::cmp::Reverse(*stamp));
        Ok(all.into_iter().map(|(_, platform)| platform).collect())
    }

    /// A file of an image, `platform/…` below its folder.
    pub(super) fn file(&self, platform: &Platform, name: &str) -> PathBuf {
        self.folder.join(&platform.name).join("platform").join(name)
    }

    fn all(&self) -> Result<Vec<(Stamp, Platform)>, PlatformError> {
        let error = |source| PlatformError::Io { folder: self.folder.clone(), source };
        let entries = match fs::read_dir(&self.folder) {
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(error)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let Ok(name) = entry.map_err(error)?.file_name().into_string() else { continue };
            let Ok(stamp) = name.parse() else { continue };
            let platform = self.folder.join(&name).join("platform");
            let has = |path: &str| platform.join(path).is_file();
            let kind = if has("x86_64/vmlinuz") && has("x86_64/initrd") {
                if has(SQUASHFS) { Kind::Live } else { Kind::Linux }
            } else if has("i86pc/kernel/amd64/unix") && has(BOOT_ARCHIVE) {
                Kind::SmartOs
            } else {
                continue;
            };
            all.push((stamp, Platform { name, kind }));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_in_both_letter_cases_and_half_ones_are_not_images() {
        let dir = tempfile::tempdir().unwrap();
        let platforms = Platforms::new(dir.path());
        assert_eq!(platforms.newest().unwrap(), None);
        assert!(matches!(platforms.choose(""), Err(PlatformError::None(_))));
        let file = |path: &str| {
            let path = dir.path().join("os").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        file("20260101t000000z/platform/x86_64/vmlinuz");
        assert_eq!(platforms.newest().unwrap(), None);
        file("20260101t000000z/platform/x86_64/initrd");
        file("20250101T000000Z/platform/i86pc/kernel/amd64/unix");
        assert!(matches!(platforms.choose("20250101T000000Z"), Err(PlatformError::Missing(_))));
        file("20250101T000000Z/platform/i86pc/amd64/boot_archive");
        file("something/else");
        let linux = Platform { name: "20260101t000000z".into(), kind: Kind::Linux };
        assert_eq!(platforms.choose("").unwrap(), linux);
        assert_eq!(platforms.choose("20260101T000000Z").unwrap(), linux);
        assert_eq!(platforms.choose("20250101T000000Z").unwrap().kind, Kind::SmartOs);
        assert!(matches!(platforms.choose("20240101T000000Z"), Err(PlatformError::Missing(_))));
        assert!(matches!(platforms.choose("../../etc"), Err(PlatformError::Name(_))));
        file("20260101t000000z/platform/x86_64/filesystem.squashfs");
        assert_eq!(platforms.choose("").unwrap().kind, Kind::Live);
        let names: Vec<String> = platforms.list().unwrap().into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["20260101t000000z", "20250101T000000Z"]);
    }
}
