//! The manifest of an image: written by a build, checked by `headnode verify`.

pub mod bmap;
pub mod gaps;
pub mod personal;
pub mod provenance;
pub mod sbom;
pub mod signature;
pub mod sums;
pub mod verify;

use std::path::{Path, PathBuf};

use headnode_model::manifest::Manifest;

/// Endings of packed images.
pub const PACKED: [&str; 4] = [".zst", ".gz", ".xz", ".bz2"];

/// Where the manifest of an image is: beside it, as `<image>.manifest.json`, where the name of the
/// image goes without the ending of what packed it.
pub fn beside(image: &Path) -> PathBuf {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let raw = PACKED.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    image.with_file_name(format!("{raw}.manifest.json"))
}

/// A manifest as it is stored.
///
/// # Errors
/// Never for the manifests made here.
pub fn text(manifest: &Manifest) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(manifest)?;
    text.push(b'\n');
    Ok(text)
}
