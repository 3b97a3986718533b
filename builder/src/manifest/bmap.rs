//! Block maps (bmap 2.0, as `bmaptool` reads and writes them): which parts of an image hold data,
//! with their digests, so that only those are written to a disk.

use std::fmt::Write as _;
use std::ops::Range as Blocks;

use headnode_model::manifest::{Image, Range};
use roxmltree::{Document, Node};
use sha2::{Digest, Sha256};

use crate::image::output::hex;

/// Bytes of a block in the maps that are written here.
pub const BLOCK: u64 = 4096;
/// Larger maps are refused, in bytes.
pub const MAX_SIZE: usize = 64 << 20;
/// The newest major version that is read.
const MAX_VERSION: u32 = 2;

/// Kinds of checksums that maps may have, and that are not checked here.
const OTHER_KINDS: [&str; 6] = ["", "md5", "sha1", "sha224", "sha384", "sha512"];

/// Why a map cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A range does not consist of whole blocks.
    #[error("the range of {length} bytes at {offset} does not consist of blocks of {BLOCK} bytes")]
    Unaligned {
        /// Where it begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        length: u64,
    },
    /// It is no XML.
    #[error("the block map is damaged: {0}")]
    Syntax(#[from] roxmltree::Error),
    /// It is too large.
    #[error("the block map has {0} bytes, more than {MAX_SIZE}")]
    TooLarge(usize),
    /// It is of a version that is not known.
    #[error("the block map has version {0:?}; versions 1 and 2 can be read")]
    Version(String),
    /// Its content makes no sense.
    #[error("the block map is damaged: {0}")]
    Form(String),
    /// It was changed.
    #[error("the block map is damaged: its checksum is {found}, it must be {expected}")]
    Checksum {
        /// What was found.
        found: String,
        /// What it says itself.
        expected: String,
    },
}

/// All parts of an image that a disk must have, sorted by offset: its ranges, and its personal parts.
/// One of these without a digest holds something private.
pub fn parts(image: &Image) -> Vec<Mapped> {
    let mut parts: Vec<Mapped> = image.ranges.iter().map(Mapped::from).collect();
    parts.extend(image.personal.iter().map(|part| Mapped {
        offset: part.offset,
        length: part.length,
        sha256: part.sha256.clone(),
    }));
    parts.sort_by_key(|part| part.offset);
    parts
}

/// The map of an image: its ranges, and its personal parts as ranges of their own. One without a
/// digest is written by who copies the image, but not checked.
///
/// # Errors
/// When a range does not consist of whole blocks.
pub fn of_image(image: &Image) -> Result<String, Error> {
    text(image.size, &parts(image))
}

/// The map of an image of `size` bytes with these parts, sorted and not overlapping.
///
/// # Errors
/// When a part does not consist of whole blocks.
pub fn text(size: u64, parts: &[Mapped]) -> Result<String, Error> {
    let blocks = size.div_ceil(BLOCK);
    let mut map = String::new();
    let mut mapped = 0;
    for Mapped { offset, length, sha256 } in parts {
        let end = offset.checked_add(*length).filter(|end| *end <= size && *length > 0);
        let end = end.filter(|end| *end == size || end.is_multiple_of(BLOCK));
        let end = end.filter(|_| offset.is_multiple_of(BLOCK));
        let end = end.ok_or(Error::Unaligned { offset: *offset, length: *length })?;
        let (first, last) = (offset / BLOCK, end.div_ceil(BLOCK) - 1);
        mapped += last - first + 1;
        let digest = sha256.as_ref().map(|sha256| format!(" chksum=\"{sha256}\""));
        let digest = digest.unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = match last == first {
            true => writeln!(map, "        <Range{digest}> {first} </Range>"),
            false => writeln!(map, "        <Range{digest}> {first}-{last} </Range>"),
        };
    }
    let whole = |checksum: &str| {
        format!(
            "<?xml version=\"1.0\" ?>\n\
             <bmap version=\"2.0\">\n\
             \x20   <ImageSize> {size} </ImageSize>\n\
             \x20   <BlockSize> {BLOCK} </BlockSize>\n\
             \x20   <BlocksCount> {blocks} </BlocksCount>\n\
             \x20   <MappedBlocksCount> {mapped} </MappedBlocksCount>\n\
             \x20   <ChecksumType> sha256 </ChecksumType>\n\
             \x20   <BmapFileChecksum> {checksum} </BmapFileChecksum>\n\
             \x20   <BlockMap>\n{map}\x20   </BlockMap>\n\
             </bmap>\n"
        )
    };
    // It is computed over the map with zeroes in its place.
    let blank = whole(&"0".repeat(64));
    Ok(whole(&hex(Sha256::new().chain_update(&blank))))
}

/// A map that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bmap {
    /// Size of the image in bytes.
    pub size: u64,
    /// The parts that hold data, in bytes, sorted and not overlapping; what lies between need not
    /// be written.
    pub ranges: Vec<Mapped>,
}

/// A part of an image that holds data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// SHA-256 in hex; absent when the map has none, or those of another kind.
    pub sha256: Option<String>,
}

impl From<&Range> for Mapped {
    fn from(range: &Range) -> Self {
        let Range { offset, length, sha256 } = range.clone();
        Self { offset, length, sha256: Some(sha256) }
    }
}

impl Bmap {
    /// Reads a map of any origin and checks its checksum, where it is a SHA-256.
    ///
    /// # Errors
    /// When it is damaged or of a version that is not known.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_SIZE {
            return Err(Error::TooLarge(text.len()));
        }
        let document = Document::parse(text)?;
        let root = document.root_element();
        let version = root.attribute("version").unwrap_or_default();
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if !root.has_tag_name("bmap") || !major.is_some_and(|m| (1..=MAX_VERSION).contains(&m)) {
            return Err(Error::Version(version.to_owned()));
        }
        let field = |name: &str| {
            let node = root.children().find(|node| node.has_tag_name(name));
            node.ok_or_else(|| Error::Form(format!("it has no {name}")))
        };
        let number = |name: &str| -> Result<u64, Error> {
            let text = field(name)?.text().unwrap_or_default().trim();
            text.parse().map_err(|_| Error::Form(format!("{name} is {text:?}, not a number")))
        };
        let [size, block, blocks] =
            [number("ImageSize")?, number("BlockSize")?, number("BlocksCount")?];
        if block == 0 || size.div_ceil(block) != blocks {
            let what = format!("{blocks} blocks of {block} bytes are not {size} bytes");
            return Err(Error::Form(what));
        }
        let kind = field("ChecksumType").ok().and_then(|node| node.text()).unwrap_or_default();
        let sha256 = match kind.trim() {
            "sha256" => true,
            kind if OTHER_KINDS.contains(&kind) => false,
            kind => return Err(Error::Form(format!("its checksums are of the kind {kind:?}"))),
        };
        if sha256 {
            check(text, field("BmapFileChecksum")?)?;
        }
        let mut ranges = Vec::new();
        let mut end = 0;
        let list = field("BlockMap")?;
        for range in list.children().filter(|node| node.has_tag_name("Range")) {
            let blocks = self::blocks(range, end, blocks)?;
            end = blocks.end;
            let offset = blocks.start * block;
            let length = blocks.end.saturating_mul(block).min(size) - offset;
            let digest = range.attribute("chksum").filter(|_| sha256).map(str::to_owned);
            ranges.push(Mapped { offset, length, sha256: digest });
        }
        let found: u64 = ranges.iter().map(|range| range.length.div_ceil(block)).sum();
        let mapped = number("MappedBlocksCount")?;
        if found != mapped {
            let what = format!("it lists {found} blocks and says that there are {mapped}");
            return Err(Error::Form(what));
        }
        Ok(Self { size, ranges })
    }
}

/// The blocks of a range that begins at `least` or later and ends before `most`.
fn blocks(range: Node<'_, '_>, least: u64, most: u64) -> Result<Blocks<u64>, Error> {
    let text = range.text().unwrap_or_default().trim();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let parse = |text: &str| text.trim().parse::<u64>().ok();
    match (parse(first), parse(last)) {
        (Some(first), Some(last)) if least <= first && first <= last && last < most => {
            Ok(first..last + 1)
        }
        _ => Err(Error::Form(format!("the range {text:?} is not in order"))),
    }
}

fn check(text: &str, field: Node<'_, '_>) -> Result<(), Error> {
    let expected = field.text().unwrap_or_default().trim();
    let at = field.range();
    let within = text.get(at.clone()).and_then(|field| field.find(expected));
    let start = at.start + within.unwrap_or_default();
    let (Some(before), Some(after)) = (text.get(..start), text.get(start + expected.len()..))
    else {
        return Err(Error::Form("its checksum cannot be found".to_owned()));
    };
    let zeroes = "0".repeat(expected.len());
    let hash = Sha256::new().chain_update(before).chain_update(zeroes).chain_update(after);
    let found = hex(hash);
    if found == expected.to_ascii_lowercase() {
        Ok(())
    } else {
        Err(Error::Checksum { found, expected: expected.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(parts: &[(u64, u64)]) -> (u64, Vec<Mapped>) {
        let mut at = 0;
        let mut ranges = Vec::new();
        for (gap, blocks) in parts {
            let offset = at + gap * BLOCK;
            let length = blocks * BLOCK;
            at = offset + length;
            // Some without a digest, as private parts are.
            let sha256 = (gap % 3 != 0).then(|| "ab".repeat(32));
            ranges.push(Mapped { offset, length, sha256 });
        }
        (at, ranges)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            parts in proptest::collection::vec((1u64..900, 1u64..900), 0..20), cut in 0u64..8,
        ) {
            let (mut size, mut ranges) = ranges(&parts);
            // The last block need not be whole.
            if let Some(last) = ranges.last_mut() {
                last.length -= cut * 512 % BLOCK;
                size = last.offset + last.length;
            }
            let map = Bmap::parse(&text(size, &ranges).unwrap()).unwrap();
            prop_assert_eq!(map.size, size);
            prop_assert_eq!(map.ranges, ranges);
        }

        #[test]
        fn damage_is_found(at in 0usize..1000, value in any::<u8>()) {
            let (size, ranges) = ranges(&[(0, 3), (2, 1), (7, 80)]);
            let text = text(size, &ranges).unwrap();
            let mut bytes = text.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(changed) = std::str::from_utf8(&bytes)
                && changed != text
                && let Ok(map) = Bmap::parse(changed)
            {
                // Only the spelling of the file's own checksum is free.
                prop_assert_eq!(map, Bmap::parse(&text).unwrap());
            }
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,300}", body in "[-0-9 <>/a-zA-Z=\"]{0,200}") {
            let _ = Bmap::parse(&text);
            let _ = Bmap::parse(&format!(
                "<bmap version=\"1.2\"><ImageSize>{body}</ImageSize><BlockSize>512</BlockSize>\
                 <BlocksCount>8</BlocksCount><BlockMap><Range>{body}</Range></BlockMap></bmap>"
            ));
        }
    }

    #[test]
    fn ranges_must_be_in_order_and_whole() {
        let range = |offset, length| Mapped { offset, length, sha256: None };
        for bad in [range(512, 4096), range(0, 512), range(0, 0), range(4096, 8192)] {
            assert!(matches!(text(8192, &[bad]), Err(Error::Unaligned { .. })));
        }
        let map = |ranges: &str| {
            Bmap::parse(&format!(
                "<bmap version=\"1.2\"><ImageSize>5000</ImageSize><BlockSize>1000</BlockSize>\
                 <BlocksCount>5</BlocksCount><MappedBlocksCount>3</MappedBlocksCount>\
                 <BlockMap>{ranges}</BlockMap></bmap>"
            ))
        };
        let good = map("<Range> 0 </Range><Range>3 - 4</Range>").unwrap();
        let places: Vec<_> = good.ranges.iter().map(|range| (range.offset, range.length)).collect();
        assert_eq!(places, [(0, 1000), (3000, 2000)]);
        for bad in [
            "<Range>3-4</Range><Range>0</Range>",
            "<Range>0-1</Range><Range>1</Range>",
            "<Range>2-1</Range>",
            "<Range>3-5</Range>",
            "<Range>0-1</Range>",
            "<Range/>",
        ] {
            assert!(matches!(map(bad), Err(Error::Form(_))), "{bad}");
        }
    }
}
