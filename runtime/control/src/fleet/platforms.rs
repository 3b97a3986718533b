//! Platform images that the headnode holds, below `<usbkey>/os`.

use std::collections::BTreeMap;
use std::path::Path;

use headnode_model::stamp::Stamp;

/// One platform image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// When it was made.
    pub stamp: Stamp,
    /// `linux`, `smartos`, or `None` when it has neither's kernel: a copy that was cut off.
    pub os: Option<&'static str>,
}

/// Kernels by which an image's operating system is told (C§4.3, C§4.5).
const KERNELS: [(&str, &str); 2] =
    [("smartos", "platform/i86pc/kernel/amd64/unix"), ("linux", "platform/x86_64/vmlinuz")];

/// The images in a folder, by the name of their own folder. A folder that is not there holds none.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(folder: &Path) -> std::io::Result<BTreeMap<String, Platform>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut platforms = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        // What is no stamp is no platform: `latest`, half-made copies with other names.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(stamp) = name.parse::<Stamp>() else { continue };
        let path = entry.path();
        if path.is_dir() {
            let os = KERNELS.iter().find(|(_, kernel)| path.join(kernel).is_file()).map(|k| k.0);
            platforms.insert(name, Platform { stamp, os });
        }
    }
    Ok(platforms)
}

/// The newest image that passes `filter`.
pub fn latest(
    platforms: &BTreeMap<String, Platform>,
    filter: impl Fn(&Platform) -> bool,
) -> Option<&str> {
    platforms
        .iter()
        .filter(|(_, platform)| filter(platform))
        .max_by_key(|(_, platform)| platform.stamp)
        .map(|(name, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_their_kernels() {
        let folder = tempfile::tempdir().unwrap();
        let make = |file: &str| {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        make("20260101T000000Z/platform/x86_64/vmlinuz");
        make("20250101T000000Z/platform/i86pc/kernel/amd64/unix");
        make("20270101T000000Z/empty");
        make("latest/platform/x86_64/vmlinuz");
        let found = list(folder.path()).unwrap();
        let os: Vec<_> = found.iter().map(|(name, p)| (name.as_str(), p.os)).collect();
        assert_eq!(
            os,
            [
                ("20250101T000000Z", Some("smartos")),
                ("20260101T000000Z", Some("linux")),
                ("20270101T000000Z", None)
            ]
        );
        assert_eq!(latest(&found, |p| p.os.is_some()), Some("20260101T000000Z"));
        assert_eq!(list(&folder.path().join("absent")).unwrap(), BTreeMap::new());
    }
}
