//! The personal parts of an image file: that they lie where the manifest says, what they hold, and
//! how they are overwritten.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use headnode_model::manifest::{Image, Manifest, Personal};

use super::Patch;
use crate::contents::{Contents, Entry};
use crate::image::SECTOR;

/// Longer parts are not read, in bytes: none is.
const MAX_PART: u64 = 16 << 20;

/// Checks that the image is the one that the manifest describes, as far as it matters for
/// overwriting: its size and partitions, and that each personal part is the file of that name, at that
/// place. Another image's manifest must not put anything into the midst of a file. Gives the
/// manifest's description of the image.
///
/// # Errors
/// What differs.
pub fn check<'a>(contents: &Contents, manifest: &'a Manifest) -> Result<&'a Image, String> {
    let Some(image) = &manifest.image else {
        return Err(
            "the manifest does not say where anything lies on the disk: it is the one from a \
                    key; the one that the build wrote beside the image is needed"
                .to_owned(),
        );
    };
    if contents.image.size != image.size {
        let (found, told) = (contents.image.size, image.size);
        return Err(format!("it has {found} bytes, and its manifest says {told}"));
    }
    let files = contents.key().and_then(|part| part.files.as_ref());
    let Some(files) = files else { return Err("its key cannot be read".to_owned()) };
    for place in &image.personal {
        let at = files.entry(&place.path).filter(|entry| !entry.folder).and_then(place_of);
        if at != Some((place.offset, place.length)) {
            return Err(format!(
                "{} does not lie where its manifest says: the manifest belongs to another image, or \
                 the file was written by something else since",
                place.path
            ));
        }
    }
    for partition in &image.partitions {
        let start = partition.start.saturating_mul(SECTOR);
        if !contents.parts.iter().any(|part| part.offset == start) {
            return Err(format!("it has no partition at sector {}", partition.start));
        }
    }
    Ok(image)
}

/// Where a file lies when it lies in one piece: offset and length in bytes.
pub fn place_of(entry: &Entry) -> Option<(u64, u64)> {
    let extents = entry.extents.as_ref().ok()?;
    let (offset, _) = *extents.first()?;
    let mut end = offset;
    for (at, length) in extents {
        if *at != end {
            return None;
        }
        end = end.checked_add(*length)?;
    }
    Some((offset, end - offset))
}

/// All bytes of a part.
///
/// # Errors
/// When they cannot be read.
pub fn read(image: &File, place: &Personal) -> io::Result<Vec<u8>> {
    if place.length > MAX_PART {
        let why = format!("{} has {} bytes, which cannot be", place.path, place.length);
        return Err(io::Error::other(why));
    }
    let mut bytes = vec![0; usize::try_from(place.length).map_err(io::Error::other)?];
    image.read_exact_at(&mut bytes, place.offset)?;
    Ok(bytes)
}

/// The patches that change anything.
///
/// # Errors
/// When the image cannot be read.
pub fn changing(image: &File, patches: Vec<Patch>) -> io::Result<Vec<Patch>> {
    let mut changing = Vec::new();
    for patch in patches {
        let mut bytes = vec![0; patch.bytes.len()];
        image.read_exact_at(&mut bytes, patch.offset)?;
        if bytes != patch.bytes {
            changing.push(patch);
        }
    }
    Ok(changing)
}

/// Overwrites parts, each with one write, and waits until they are on the disk. When the machine stops
/// meanwhile, each part is the old or the new one as far as the disk keeps 64 KiB together; what was
/// torn is found by `headnode verify`, and writing once more is what heals it.
///
/// # Errors
/// When writing fails.
pub fn write(image: &File, patches: &[Patch]) -> io::Result<()> {
    for patch in patches {
        image.write_all_at(&patch.bytes, patch.offset)?;
    }
    image.sync_data()
}

/// What the block map of an image must say once its parts are as they are now.
///
/// # Errors
/// When the image cannot be read.
pub fn described(file: &File, image: &Image) -> io::Result<Image> {
    let now = image.personal.iter().map(|place| {
        let bytes = read(file, place)?;
        Ok(Patch { path: place.path.clone(), offset: place.offset, bytes })
    });
    Ok(super::patched(image, &now.collect::<io::Result<Vec<_>>>()?))
}
