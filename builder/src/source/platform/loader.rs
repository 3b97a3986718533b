//! The illumos loader, read from the `boot-*.tgz` that a SmartOS build makes (C§1.10).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Error;
use super::tarball::{self, Item};

/// What the loader's tarball must hold: boot sector, second stage for BIOS, loaders for BIOS and
/// UEFI, and their defaults.
pub const NEEDED: [&str; 5] =
    [PMBR, GPTZFSBOOT, "boot/loader", LOADER_EFI, "boot/defaults/loader.conf"];
/// Boot code of the MBR.
pub const PMBR: &str = "boot/pmbr";
/// The second stage on BIOS machines.
pub const GPTZFSBOOT: &str = "boot/gptzfsboot";
/// The loader on UEFI machines.
pub const LOADER_EFI: &str = "boot/loader64.efi";
/// Where it keeps its version.
pub const VERSION: &str = "etc/version/boot";

/// Unpacks a loader's tarball into the folder `into`, which it makes: its files by path, `boot/…` and
/// `etc/version/boot`, names in lower case as the key wants them.
///
/// # Errors
/// When it cannot be unpacked, holds something else, or lacks a part.
pub fn unpack(
    path: &Path,
    into: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<BTreeMap<String, Item>, Error> {
    let form = |why: String| Error::Form { path: path.to_owned(), why };
    fs::create_dir(into).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let files = tarball::unpack_gzip(path, into, &|_| false, progress)
        .map_err(|source| Error::Tarball { path: path.to_owned(), source })?;
    if let Some(other) = files.keys().find(|p| !p.starts_with("boot/") && !p.starts_with("etc/")) {
        return Err(form(format!("it holds {other:?}, but a loader is below boot/ and etc/")));
    }
    let files: BTreeMap<_, _> =
        files.into_iter().map(|(path, item)| (path.to_lowercase(), item)).collect();
    let missing: Vec<&str> = NEEDED.into_iter().filter(|n| !files.contains_key(*n)).collect();
    if missing.is_empty() {
        Ok(files)
    } else {
        Err(form(format!("it is no illumos loader, it lacks {}", missing.join(", "))))
    }
}
