//! Image manifests, as IMGAPI and Triton's builds write them.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::spec::form::{is_hex, is_uuid};

/// What is needed of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// The image.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The image that it is made from.
    pub origin: Option<String>,
    /// SHA-1 of its file in hex.
    pub sha1: String,
    /// Size of its file in bytes, when it is told.
    pub size: Option<u64>,
    /// How its file is packed.
    pub packing: Packing,
    /// The channels that have it.
    pub channels: Vec<String>,
}

/// How an image's file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Not at all.
    None,
}

impl ImageManifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct File {
            sha1: String,
            #[serde(default)]
            size: Option<u64>,
            #[serde(default)]
            compression: Option<String>,
        }
        #[derive(Deserialize)]
        struct Manifest {
            uuid: String,
            name: String,
            version: String,
            #[serde(default)]
            origin: Option<String>,
            files: Vec<File>,
            #[serde(default)]
            channels: Vec<String>,
        }
        let manifest: Manifest = serde_json::from_str(text)
            .map_err(|error| format!("this is no image manifest: {error}"))?;
        let Manifest { uuid, name, version, origin, files, channels } = manifest;
        if !is_uuid(&uuid) {
            return Err(format!("its uuid is {uuid:?}"));
        }
        let origin = origin.filter(|origin| !origin.is_empty());
        if let Some(bad) = origin.as_ref().filter(|origin| !is_uuid(origin)) {
            return Err(format!("its origin is {bad:?}"));
        }
        if let Some(bad) = channels.iter().find(|channel| !crate::spec::form::is_name(channel)) {
            return Err(format!("it has the channel {bad:?}"));
        }
        let count = files.len();
        let (Some(file), 1) = (files.into_iter().next(), count) else {
            return Err(format!("it has {count} files, but must have one"));
        };
        let sha1 = file.sha1.to_lowercase();
        if !is_hex(&sha1, 40) {
            return Err(format!("the sha1 of its file is {sha1:?}"));
        }
        let packing = match file.compression.as_deref() {
            Some("gzip") => Packing::Gzip,
            Some("bzip2") => Packing::Bzip2,
            Some("xz") => Packing::Xz,
            Some("none") | None => Packing::None,
            Some(other) => return Err(format!("its file is packed by {other:?}")),
        };
        Ok(Self { uuid, name, version, origin, sha1, size: file.size, packing, channels })
    }
}

/// The manifest as it lies on the key: what IMGAPI sends, without the channels, which are the
/// server's business.
///
/// # Errors
/// When the text is no JSON object.
pub fn for_key(text: &str) -> Result<Vec<u8>, String> {
    let mut map: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| format!("this is no image manifest: {error}"))?;
    map.shift_remove("channels");
    let mut bytes = serde_json::to_vec_pretty(&map).map_err(|error| error.to_string())?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "04a48d7d-6bb5-4e83-8c3b-e60a99e0f48f";

    fn text(origin: &str, files: usize) -> String {
        let file = format!(r#"{{"sha1": "{}", "size": 5, "compression": "gzip"}}"#, "a".repeat(40));
        let files = vec![file; files].join(",");
        format!(
            r#"{{"v": 2, "uuid": "{UUID}", "name": "n", "version": "1", "origin": "{origin}",
                "files": [{files}], "channels": ["dev"]}}"#
        )
    }

    #[test]
    fn manifests_are_read_and_bad_ones_refused() {
        let manifest = ImageManifest::parse(&text(UUID, 1)).unwrap();
        assert_eq!((manifest.origin.as_deref(), manifest.size), (Some(UUID), Some(5)));
        assert_eq!(manifest.packing, Packing::Gzip);
        assert!(ImageManifest::parse(&text("x", 1)).unwrap_err().contains("origin"));
        assert!(ImageManifest::parse(&text(UUID, 2)).unwrap_err().contains("2 files"));
        assert!(ImageManifest::parse("{}").unwrap_err().contains("uuid"));
        let key = String::from_utf8(for_key(&text(UUID, 1)).unwrap()).unwrap();
        assert!(!key.contains("channels") && key.contains(UUID));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            let _ = ImageManifest::parse(&text);
            let _ = for_key(&text);
        }
    }
}
