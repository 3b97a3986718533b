//! The disk image: MBR and partition table, the ESP, the partition of the loader for BIOS, and the
//! FAT32 root partition that is the key.

use std::io;

use headnode_model::manifest::Partition as ManifestPartition;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::fat::{self, Format, Plan};
use super::gpt::{Partition, Table};
use super::layout::{Layout, Place};
use super::output::Output;
use super::{Content, SECTOR, Sink};

pub use super::layout::{
    ALIGNMENT, CORE_NUMBER, CORE_SECTORS, CORE_START, ESP_LABEL, ESP_LOADER, ESP_NUMBER,
    ESP_SECTORS, ESP_START, RESERVED_NUMBER, ROOT_NUMBER, ROOT_START,
};

/// Room that is left on the root partition for what is written to the key later: configuration,
/// state, another platform's kernel.
const SLACK: u64 = 96 << 20;
/// The smallest root partition that `auto` makes: enough for clusters of 8 KiB.
const AUTO_MINIMUM: u64 = 576 << 20;

/// What goes into an image.
pub struct Parts {
    /// Where they lie.
    pub layout: Layout,
    /// Boot code of the MBR, see [`Layout::boot_code`].
    pub boot_code: Vec<u8>,
    /// The loader for BIOS, raw: GRUB's core image, or the illumos loader's second stage.
    pub core: Vec<u8>,
    /// The loader for UEFI, the ESP's only file.
    pub efi: Vec<u8>,
    /// The key's files.
    pub files: Vec<(String, Content)>,
    /// SHA-256 over all content; identifiers are derived from it.
    pub digest: [u8; 32],
    /// Time of the files, seconds since 1970.
    pub time: i64,
    /// Size of the image in bytes; as small as sensible when absent.
    pub size: Option<u64>,
}

/// Why an image cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file system cannot be made.
    #[error(transparent)]
    Fat(#[from] fat::Error),
    /// The loader for BIOS is larger than its partition.
    #[error("the loader for BIOS has {size} bytes, its partition has room for {}", CORE_SECTORS * SECTOR)]
    CoreTooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// The asked size cannot be had.
    #[error(
        "an image of {size} bytes is {} bytes too small: the key's files need {needed} bytes, the image at least {least}; the largest are {}",
        least.saturating_sub(*size), largest.join(", ")
    )]
    TooSmall {
        /// The size asked for, in bytes.
        size: u64,
        /// The files' bytes.
        needed: u64,
        /// The smallest image that would do, in bytes.
        least: u64,
        /// The largest files with their sizes.
        largest: Vec<String>,
    },
    /// Writing failed.
    #[error("writing the image: {0}")]
    Write(#[source] io::Error),
}

/// An image, planned.
pub struct Disk {
    table: Table,
    layout: Layout,
    boot_code: Vec<u8>,
    esp: Plan,
    core: Vec<u8>,
    root: Plan,
}

impl Disk {
    /// Plans an image.
    ///
    /// # Errors
    /// When its parts cannot be stored, or do not fit.
    pub fn plan(parts: Parts) -> Result<Self, Error> {
        if parts.core.len() as u64 > CORE_SECTORS * SECTOR {
            return Err(Error::CoreTooLarge { size: parts.core.len() as u64 });
        }
        let unit = ALIGNMENT * SECTOR;
        let needed: u64 =
            parts.files.iter().map(|(_, content)| content.size().next_multiple_of(16 << 10)).sum();
        let auto = (needed + needed / 256 + SLACK).max(AUTO_MINIMUM).next_multiple_of(64 << 20);
        let layout = parts.layout;
        let around = layout.around();
        let least = around + (needed + (4 << 20)).max(64 << 20).next_multiple_of(unit);
        let size = layout.size(parts.size.unwrap_or(auto + around));
        let sectors = size / SECTOR;
        let places = match layout.places(sectors) {
            Some(places) if size >= least => places,
            _ => {
                let files =
                    parts.files.iter().map(|(path, content)| (path.as_str(), content.size()));
                return Err(Error::TooSmall { size, needed, least, largest: fat::largest(files) });
            }
        };
        let place = |number| places.iter().find(|place| place.number == number);
        let start_and_sectors = |number| place(number).map_or((0, 0), |p| (p.start, p.sectors));
        let (esp_start, esp_sectors) = start_and_sectors(ESP_NUMBER);
        let (root_start, root_sectors) = start_and_sectors(ROOT_NUMBER);
        let format = |label: &str, start: u64, sectors| Format {
            label: label.to_owned(),
            id: serial(&parts.digest, label),
            sectors,
            hidden: u32::try_from(start).unwrap_or(0),
            time: parts.time,
        };
        let loader = [(ESP_LOADER.to_owned(), Content::from(parts.efi))];
        let esp = Plan::new(format(ESP_LABEL, esp_start, esp_sectors), loader)?;
        let root = Plan::new(format(layout.root_label(), root_start, root_sectors), parts.files)?;
        let partition = |place: &Place| {
            let partition = Partition {
                name: place.name.to_owned(),
                kind: place.kind,
                guid: guid(&parts.digest, place.name),
                start: place.start,
                sectors: place.sectors,
            };
            (place.number, partition)
        };
        let table = Table {
            guid: guid(&parts.digest, "disk"),
            sectors,
            partitions: places.iter().map(partition).collect(),
        };
        let mut boot_code = parts.boot_code;
        boot_code.truncate(layout.boot_code());
        if let Some(at) = layout.boot_code_guid()
            && let Some(place) = boot_code.get_mut(at..at + 16)
        {
            place.copy_from_slice(&table.guid.to_bytes_le());
        }
        Ok(Self { table, layout, boot_code, esp, core: parts.core, root })
    }

    /// Size of the image in bytes.
    pub fn size(&self) -> u64 {
        self.table.sectors * SECTOR
    }

    /// The disk's identifier.
    pub fn guid(&self) -> Uuid {
        self.table.guid
    }

    /// The partitions as `partition.map` tells them, one a line: name, illumos' tag, offset and size
    /// in bytes (C§1.13).
    pub fn partition_map(&self) -> String {
        let places = self.layout.places(self.table.sectors).unwrap_or_default();
        let line = |place: &Place| {
            let (offset, size) = (place.start * SECTOR, place.sectors * SECTOR);
            format!("{} {} {offset} {size}\n", place.name, place.tag)
        };
        places.iter().map(line).collect()
    }

    /// Bytes that are free on the root partition.
    pub fn free(&self) -> u64 {
        self.root.free()
    }

    /// Streams the image into `out` and returns its partitions.
    ///
    /// # Errors
    /// When a file cannot be read or writing fails.
    pub fn write(&self, out: &mut Output) -> Result<Vec<ManifestPartition>, Error> {
        out.data(&self.table.head(&self.boot_code)).map_err(Error::Write)?;
        let mut partitions = Vec::new();
        for (number, partition) in &self.table.partitions {
            out.zeroes_to(partition.start * SECTOR).map_err(Error::Write)?;
            let end = (partition.start + partition.sectors) * SECTOR;
            match *number {
                ESP_NUMBER => self.esp.write(out)?,
                CORE_NUMBER => out.data(&self.core).map_err(Error::Write)?,
                RESERVED_NUMBER => {}
                _ => self.root.write(out)?,
            }
            out.zeroes_to(end).map_err(Error::Write)?;
            partitions.push(ManifestPartition {
                number: *number,
                name: partition.name.clone(),
                type_guid: partition.kind.to_string(),
                guid: partition.guid.to_string(),
                start: partition.start,
                sectors: partition.sectors,
            });
        }
        let tail = self.table.tail();
        out.zeroes_to(self.size() - tail.len() as u64).map_err(Error::Write)?;
        out.data(&tail).map_err(Error::Write)?;
        Ok(partitions)
    }
}

/// An identifier that follows from the content and what it is for.
pub(super) fn guid(digest: &[u8; 32], purpose: &str) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&derived(digest, purpose)[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// A FAT serial number that follows from the content.
pub(super) fn serial(digest: &[u8; 32], purpose: &str) -> u32 {
    let bytes = derived(digest, purpose);
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn derived(digest: &[u8; 32], purpose: &str) -> [u8; 32] {
    Sha256::new().chain_update(digest).chain_update(purpose).finalize().into()
}
