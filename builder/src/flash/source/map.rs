//! What of an image is to be written, and who says so.

use std::fmt;

use headnode_model::manifest::Image;

use super::Error;
use crate::manifest::bmap::{self, Bmap, Mapped};
use crate::manifest::signature::Status;

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Size of the image in bytes, unpacked; `None` for packed images without manifest or block map.
    pub size: Option<u64>,
    /// The parts that hold data, sorted, not overlapping; they may touch. `None` when that has to be
    /// found while reading.
    pub ranges: Option<Vec<MapRange>>,
    /// Bytes per sector that the image was made for: what the manifest says, or where its partition
    /// table is; 512 where nothing tells.
    pub sector_size: u32,
}

/// A part of an image that holds data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapRange {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// Its digest, where it is known.
    pub sha256: Option<[u8; 32]>,
    /// Whether it is a personal part: what it holds is this site's, and no digest tells of it.
    pub personal: bool,
}

impl MapRange {
    /// Where it ends, in bytes.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

impl Map {
    /// Whether each range has a digest, so that nothing else need be checked. What is personal has
    /// none by its nature.
    pub fn is_digested(&self) -> bool {
        self.ranges
            .as_ref()
            .is_some_and(|ranges| ranges.iter().all(|r| r.sha256.is_some() || r.personal))
    }

    /// Bytes that are to be written, where that is known.
    pub fn mapped(&self) -> Option<u64> {
        match &self.ranges {
            Some(ranges) => Some(ranges.iter().map(|range| range.length).sum()),
            None => self.size,
        }
    }

    /// The map that a manifest holds; `place` is for errors.
    pub(super) fn of_image(image: &Image, place: &str) -> Result<Self, Error> {
        let wrong = |why: String| Error::Description { place: place.to_owned(), why };
        if !matches!(image.sector_size, 512 | 4096) {
            return Err(wrong(format!("it has sectors of {} bytes", image.sector_size)));
        }
        let mut ranges = Vec::with_capacity(image.ranges.len());
        let mut at = 0;
        for Mapped { offset, length, sha256 } in bmap::parts(image) {
            let end = offset.checked_add(length).filter(|end| *end <= image.size && length > 0);
            let (Some(end), true) = (end, offset >= at) else {
                let what = format!("the range of {length} bytes at {offset} is not in order");
                return Err(wrong(what));
            };
            at = end;
            // Of what an image holds of a site, the manifest knows the state as it was built only.
            let personal = image.personal.iter().any(|part| part.offset == offset);
            let sha256 = match sha256.filter(|_| !personal) {
                None => None,
                Some(text) => {
                    Some(digest(&text).ok_or_else(|| wrong(format!("{text:?} is no SHA-256")))?)
                }
            };
            ranges.push(MapRange { offset, length, sha256, personal });
        }
        Ok(Self { size: Some(image.size), ranges: Some(ranges), sector_size: image.sector_size })
    }

    /// The map that a block map holds; `place` is for errors.
    pub(super) fn of_bmap(bmap: &Bmap, place: &str) -> Result<Self, Error> {
        let mut ranges = Vec::with_capacity(bmap.ranges.len());
        for Mapped { offset, length, sha256 } in &bmap.ranges {
            let sha256 = match sha256 {
                None => None,
                Some(text) => Some(digest(text).ok_or_else(|| Error::Description {
                    place: place.to_owned(),
                    why: format!("{text:?} is no SHA-256"),
                })?),
            };
            ranges.push(MapRange { offset: *offset, length: *length, sha256, personal: false });
        }
        Ok(Self { size: Some(bmap.size), ranges: Some(ranges), sector_size: 512 })
    }

    /// In what two maps contradict each other. Which parts are mapped may differ: some tools map
    /// blocks of zeroes.
    pub(super) fn contradiction(&self, other: &Self) -> Option<String> {
        if let (Some(one), Some(two)) = (self.size, other.size)
            && one != two
        {
            return Some(format!("one is of an image of {one} bytes, the other of {two} bytes"));
        }
        let (mut ours, mut theirs) = (
            self.ranges.as_deref().unwrap_or_default().iter().peekable(),
            other.ranges.as_deref().unwrap_or_default().iter().peekable(),
        );
        while let (Some(one), Some(two)) = (ours.peek(), theirs.peek()) {
            let same = one.offset == two.offset && one.length == two.length;
            if same && one.sha256.is_some() && two.sha256.is_some() && one.sha256 != two.sha256 {
                let (offset, length) = (one.offset, one.length);
                return Some(format!("the {length} bytes at {offset} have two digests"));
            }
            if one.offset <= two.offset {
                ours.next();
            } else {
                theirs.next();
            }
        }
        None
    }
}

/// 32 bytes from their hexadecimal digits.
pub(super) fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let digits = hex.as_bytes().chunks_exact(2);
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits) {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

/// What vouches for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Our manifest, and what is known of its signature.
    Manifest {
        /// Where it is.
        place: String,
        /// Its signature.
        signature: Status,
    },
    /// A block map with digests of what it maps.
    Bmap {
        /// Where it is.
        place: String,
        /// Its signature, in minisign's format.
        signature: Status,
    },
    /// A list of digests.
    Sums {
        /// Where it is.
        place: String,
        /// Its signature, in minisign's format.
        signature: Status,
    },
    /// Nothing; the caller agreed to that.
    None,
}

impl Trust {
    /// What is known of the signature.
    pub fn signature(&self) -> Option<&Status> {
        match self {
            Self::Manifest { signature, .. }
            | Self::Bmap { signature, .. }
            | Self::Sums { signature, .. } => Some(signature),
            Self::None => None,
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest { place, signature } => write!(f, "manifest {place}: {signature}"),
            Self::Bmap { place, signature } => write!(f, "block map {place}: {signature}"),
            Self::Sums { place, signature } => write!(f, "list of digests {place}: {signature}"),
            Self::None => write!(f, "UNVERIFIED: nothing tells whether the image is whole"),
        }
    }
}

#[cfg(test)]
mod tests {
    use headnode_model::manifest::Range;

    use super::*;

    fn image(size: u64, ranges: &[(u64, u64)]) -> Image {
        let range = |(offset, length): &(u64, u64)| Range {
            offset: *offset,
            length: *length,
            sha256: "0f".repeat(32),
        };
        Image {
            size,
            sector_size: 512,
            disk_guid: String::new(),
            partitions: Vec::new(),
            ranges: ranges.iter().map(range).collect(),
            personal: Vec::new(),
        }
    }

    #[test]
    fn ranges_of_manifests_must_make_sense() {
        let map = Map::of_image(&image(9000, &[(0, 10), (10, 5), (8000, 1000)]), "m").unwrap();
        assert_eq!(map.mapped(), Some(1015));
        assert!(map.is_digested());
        for bad in [&[(0, 10), (9, 5)][..], &[(8000, 1001)], &[(u64::MAX, 2)], &[(0, 0)]] {
            assert!(Map::of_image(&image(9000, bad), "m").is_err(), "{bad:?}");
        }
        let mut wrong = image(9000, &[(0, 1)]);
        wrong.ranges[0].sha256 = "+f".repeat(32);
        assert!(Map::of_image(&wrong, "m").is_err());
    }

    #[test]
    fn contradictions_are_seen() {
        let map = |size, ranges: &[(u64, u64)]| Map::of_image(&image(size, ranges), "m").unwrap();
        let one = map(9000, &[(0, 10), (20, 5), (8000, 1000)]);
        assert_eq!(one.contradiction(&one), None);
        assert_eq!(one.contradiction(&map(9000, &[(0, 15), (20, 5)])), None);
        assert!(one.contradiction(&map(9001, &[])).is_some());
        let mut other = map(9000, &[(3, 4), (20, 5)]);
        other.ranges.as_mut().unwrap()[1].sha256 = Some([1; 32]);
        assert!(one.contradiction(&other).unwrap().contains("5 bytes at 20"));
        assert!(other.contradiction(&one).is_some());
    }
}
