//! The image as the writer reads it: what the source gives, with this site's parts in their places.

use anyhow::{bail, ensure};
use sha2::{Digest, Sha256};

use crate::flash::engine::{Feed, Origin, Piece, Plan};
use crate::flash::source::{MapRange, Reader, Source};
use crate::manifest::personal;
use crate::personal::{Patch, Wishes};

/// An image that is to be written.
pub struct Image {
    source: Source,
    patches: Vec<Patch>,
}

impl Image {
    /// An image with what the site wishes.
    ///
    /// # Errors
    /// When it has no place for that.
    pub fn new(source: Source, wishes: Option<&Wishes>) -> anyhow::Result<Self> {
        let patches = match (wishes, source.manifest()) {
            (None, _) => Vec::new(),
            (Some(wishes), Some(manifest)) => wishes.patches(manifest)?,
            (Some(_), None) => bail!(
                "{} has no manifest of ours that says where answers, keys and console belong",
                source.name()
            ),
        };
        Ok(Self { source, patches })
    }

    /// Where it comes from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What of it is written.
    pub fn plan(&self) -> Plan {
        let map = self.source.map();
        let mut identity = Sha256::new().chain_update(self.source.identity());
        for patch in &self.patches {
            identity.update(patch.offset.to_le_bytes());
            identity.update(Sha256::digest(&patch.bytes));
        }
        let pieces = map.ranges.as_ref().map(|ranges| ranges.iter().map(|range| self.piece(range)));
        Plan {
            size: map.size,
            pieces: pieces.map(Iterator::collect),
            identity: identity.finalize().into(),
        }
    }

    fn piece(&self, range: &MapRange) -> Piece {
        let patch = self.patches.iter().find(|patch| patch.offset == range.offset);
        let patched = patch.filter(|patch| patch.bytes.len() as u64 == range.length);
        let sha256 = patched.map(|patch| Sha256::digest(&patch.bytes).into());
        Piece { offset: range.offset, length: range.length, sha256: sha256.or(range.sha256) }
    }
}

impl Origin for Image {
    fn feed(&self) -> anyhow::Result<Box<dyn Feed + '_>> {
        Ok(Box::new(Reading { reader: self.source.reader()?, image: self }))
    }
}

struct Reading<'a> {
    reader: Reader,
    image: &'a Image,
}

impl Feed for Reading<'_> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> anyhow::Result<usize> {
        let count = self.reader.read(offset, buffer)?;
        let bytes = buffer.get_mut(..count).unwrap_or_default();
        self.judge(offset, bytes)?;
        for patch in &self.image.patches {
            lay_over(bytes, offset, &patch.bytes, patch.offset);
        }
        Ok(count)
    }

    fn unchanged(&self) -> anyhow::Result<()> {
        Ok(self.reader.unchanged()?)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(self.reader.finish()?)
    }
}

impl Reading<'_> {
    /// A personal part has no digest that would tell damage: it must make sense.
    fn judge(&self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let Some(manifest) = self.image.source.manifest() else { return Ok(()) };
        let places = manifest.image.iter().flat_map(|image| &image.personal);
        for place in places.filter(|place| place.offset == offset) {
            let whole = usize::try_from(place.length).ok().and_then(|length| bytes.get(..length));
            if let Some(Err(why)) = whole.map(|bytes| personal::judge(manifest, place, bytes)) {
                ensure!(
                    self.image.patches.iter().any(|patch| patch.offset == offset),
                    "the image is damaged: {}: {why}",
                    place.path
                );
            }
        }
        Ok(())
    }
}

/// Replaces what two stretches have in common.
fn lay_over(bytes: &mut [u8], at: u64, patch: &[u8], patch_at: u64) {
    let from = at.max(patch_at);
    let to = (at + bytes.len() as u64).min(patch_at.saturating_add(patch.len() as u64));
    let inside = |base: u64| {
        let place = |offset: u64| usize::try_from(offset - base).unwrap_or(usize::MAX);
        place(from)..place(to)
    };
    if from < to
        && let (Some(place), Some(with)) = (bytes.get_mut(inside(at)), patch.get(inside(patch_at)))
    {
        place.copy_from_slice(with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_laid_over_whatever_is_read_of_it() {
        for begin in 0..20_u64 {
            for length in 0..20 {
                let mut bytes = vec![0; length];
                lay_over(&mut bytes, begin, &[7; 5], 8);
                let expected: Vec<u8> = (begin..begin + length as u64)
                    .map(|at| if (8..13).contains(&at) { 7 } else { 0 })
                    .collect();
                assert_eq!(bytes, expected, "{begin} {length}");
            }
        }
    }
}
