//! What no key can hold, told before anything is fetched, hashed or built.

use std::collections::BTreeMap;
use std::fs;

use crate::image::fat::{self, Error, names};
use crate::spec::{Format, Spec};

/// Checks the names and sizes of a spec's extra files for FAT, when a disk is to be made. What else
/// may be wrong with them is found when the key is laid out.
///
/// # Errors
/// When FAT cannot hold one of them.
pub fn check(spec: &Spec) -> Result<(), Error> {
    let disk = |format: &Format| matches!(format, Format::Usb | Format::Qcow2 | Format::Vmdk);
    if !spec.format.is_empty() && !spec.format.iter().any(disk) {
        return Ok(());
    }
    let mut folded = BTreeMap::new();
    for (path, file) in &spec.parts.extra_files {
        if let Some(why) = path.split('/').find_map(names::refuse) {
            return Err(Error::Name { path: path.clone(), why });
        }
        if let Some(other) = folded.insert(names::folded(path), path) {
            return Err(Error::Duplicate(other.clone(), path.clone()));
        }
        // A file that is not there is told by who reads it.
        let size = fs::metadata(file).map_or(0, |meta| meta.len());
        if size > fat::MAX_FILE {
            return Err(Error::FileTooLarge { path: path.clone(), size });
        }
    }
    Ok(())
}
