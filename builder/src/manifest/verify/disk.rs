//! Checks disks and discs: their tables, partitions and loaders.

use anyhow::Context;
use headnode_model::manifest::{Image, Manifest, Range};

use super::{Checker, Damage, is_disc, place};
use crate::image::SECTOR;
use crate::image::disk::ESP_START;
use crate::image::fat::Volume;
use crate::image::gpt::Table;
use crate::image::reader::ImageFile;
use crate::manifest::{gaps, personal};

impl Checker<'_> {
    /// A disk or disc; gives back the parts of it that are broken.
    pub(super) fn disk(
        &mut self,
        image: &mut ImageFile,
        outer: Option<&Manifest>,
    ) -> anyhow::Result<Vec<Damage>> {
        let whole = outer.and_then(|manifest| manifest.image.as_ref());
        let mut broken = Vec::new();
        let table = self.table(image, whole);
        if let Some(whole) = whole {
            broken = self.parts(image, whole)?;
            // Which files are broken is worth the time, and so is all that no partition vouches for.
            self.deep |= !broken.is_empty() || table.is_none();
        } else {
            self.deep = true;
        }
        self.key(image, table.as_ref(), outer)?;
        if let (Some(outer), Some(whole)) = (outer, whole) {
            for place in &whole.personal {
                match personal::look(image, outer, place).context("reading the image")? {
                    Ok(part) => self.personal.push(part),
                    Err(why) => self.add(&place.path, why),
                }
            }
        }
        if let Some(outer) = outer {
            self.firmware(image, table.as_ref(), outer)?;
        }
        Ok(broken)
    }

    /// The partition table, compared with the manifest's.
    fn table(&mut self, image: &mut ImageFile, whole: Option<&Image>) -> Option<Table> {
        if let Some(whole) = whole
            && whole.size != image.size
        {
            let why = format!("it has {} bytes instead of {}", image.size, whole.size);
            self.add("the image's size", why);
        }
        let table = match Table::read(&mut image.file, image.size) {
            Ok(table) => table,
            // Discs that are no disks have none.
            Err(_) if is_disc(image) && whole.is_none_or(|whole| whole.partitions.is_empty()) => {
                return None;
            }
            Err(error) => {
                self.add("the partition table", error.to_string());
                return None;
            }
        };
        if let Some(whole) = whole {
            let found: Vec<_> = table
                .partitions
                .iter()
                .map(|(n, p)| (*n, p.start, p.sectors, p.guid.to_string(), p.kind.to_string()))
                .collect();
            let expected = whole.partitions.iter().map(|p| {
                (p.number, p.start, p.sectors, p.guid.to_lowercase(), p.type_guid.to_lowercase())
            });
            if found != expected.collect::<Vec<_>>() || table.guid.to_string() != whole.disk_guid {
                self.add("the partition table", "it is not the manifest's");
            }
        }
        Some(table)
    }

    /// The parts of the disk that are not what the manifest says: by mapped ranges, and that nothing
    /// lies between them. One for each partition, with the first place.
    fn parts(&mut self, image: &mut ImageFile, whole: &Image) -> anyhow::Result<Vec<Damage>> {
        let mut broken: Vec<(String, Vec<String>)> = Vec::new();
        let mut add = |offset: u64, why: String| {
            let partition = whole.partitions.iter().find(|p| {
                let start = p.start.saturating_mul(SECTOR);
                (start..start.saturating_add(p.sectors.saturating_mul(SECTOR))).contains(&offset)
            });
            let what = match partition {
                Some(partition) => format!("partition {} ({})", partition.number, partition.name),
                None => "the disk outside of its partitions".to_owned(),
            };
            match broken.iter_mut().find(|(known, _)| *known == what) {
                Some((_, all)) => all.push(why),
                None => broken.push((what, vec![why])),
            }
        };
        let total = whole.ranges.iter().fold(0, |sum: u64, range| sum.saturating_add(range.length));
        self.done = 0;
        for Range { offset, length, sha256 } in &whole.ranges {
            let end = offset.saturating_add(*length);
            if end > image.size {
                add(*offset, format!("the image ends before byte {end}"));
            } else if self.hash(&mut image.file, &[(*offset, *length)], total)? != *sha256 {
                add(
                    *offset,
                    format!(
                        "the digest of bytes {offset} to {end} is wrong, though all files that could \
                         be read are whole: the damage is in unused parts or in the structure of \
                         the file system"
                    ),
                );
            }
        }
        for (offset, length) in gaps::gaps(&whole.ranges, &whole.personal, image.size) {
            let found = gaps::first_data(&image.file, offset, length);
            if let Some(at) = found.context("reading the image")? {
                add(at, format!("there is data at byte {at}, where there should be none"));
            }
        }
        let told = |(what, all): (String, Vec<String>)| {
            let more = all.len().saturating_sub(1);
            let mut why = all.into_iter().next().unwrap_or_default();
            if more > 0 {
                why = format!("{why} (and {more} more places)");
            }
            Damage { what, why }
        };
        Ok(broken.into_iter().map(told).collect())
    }

    /// Loaders outside of the key's file system.
    fn firmware(
        &mut self,
        image: &mut ImageFile,
        table: Option<&Table>,
        manifest: &Manifest,
    ) -> anyhow::Result<()> {
        for entry in &manifest.firmware {
            let Some((partition, path)) = entry.path.split_once(':') else { continue };
            let number = table.and_then(|table| {
                table.partitions.iter().find(|(_, p)| p.name == partition).map(|(n, _)| *n)
            });
            let Some(number) = number else {
                self.add(&entry.path, "its partition is missing");
                continue;
            };
            let (start, length) = place(image, table, number, ESP_START);
            let extents = if path.is_empty() {
                Ok(vec![(start, entry.size.min(length))])
            } else {
                let mut disk = &image.file;
                Volume::open(&mut disk, start, length).and_then(|mut volume| {
                    let nodes = volume.walk()?;
                    match nodes.iter().find(|node| node.path == path && node.size == entry.size) {
                        Some(node) => volume.extents(node),
                        None => Ok(Vec::new()),
                    }
                })
            };
            match extents {
                Err(error) => self.add(&entry.path, error.to_string()),
                Ok(extents) if extents.is_empty() => {
                    self.add(&entry.path, "it is missing, or has another size");
                }
                Ok(_) if !self.deep => {}
                Ok(extents) => {
                    if self.hash(&mut image.file, &extents, 0)? != entry.sha256 {
                        self.add(&entry.path, "its content is not what was written");
                    }
                }
            }
        }
        Ok(())
    }
}
