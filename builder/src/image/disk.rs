//! The disk image: MBR and partition table, the ESP, GRUB's BIOS boot partition, and the FAT32
//! root partition that is the key.

use std::io;

use headnode_model::manifest::Partition as ManifestPartition;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::fat::{self, Format, Plan};
use super::gpt::{self, Partition, Table};
use super::output::{BLOCK, Output};
use super::{Content, SECTOR, Sink};

/// Partitions begin and end at multiples of this many sectors: 1 MiB.
pub const ALIGNMENT: u64 = 2048;
/// First sector of the ESP.
pub const ESP_START: u64 = ALIGNMENT;
/// Sectors of the ESP: 64 MiB, with room to spare above FAT32's smallest volume of 33 MiB.
pub const ESP_SECTORS: u64 = 64 * ALIGNMENT;
/// First sector of the BIOS boot partition; the MBR's boot code reads GRUB from here.
pub const CORE_START: u64 = ESP_START + ESP_SECTORS;
/// Sectors of the BIOS boot partition: 1 MiB.
pub const CORE_SECTORS: u64 = ALIGNMENT;
/// First sector of the root partition.
pub const ROOT_START: u64 = CORE_START + CORE_SECTORS;
/// Number of the ESP in the table.
pub const ESP_NUMBER: u32 = 1;
/// Number of the BIOS boot partition in the table.
pub const CORE_NUMBER: u32 = 2;
/// Number of the root partition in the table; the third, as on Triton's key (C§1.13).
pub const ROOT_NUMBER: u32 = 3;
/// Volume label of the ESP (C§1.13).
pub const ESP_LABEL: &str = "system";
/// Volume label of the root partition.
pub const ROOT_LABEL: &str = "HEADNODE";
/// Where UEFI firmware looks for a loader on removable media.
pub const ESP_LOADER: &str = "efi/boot/bootx64.efi";

/// Room that is left on the root partition for what is written to the key later: configuration,
/// state, another platform's kernel.
const SLACK: u64 = 96 << 20;
/// The smallest root partition that `auto` makes: enough for clusters of 8 KiB.
const AUTO_MINIMUM: u64 = 576 << 20;

/// What goes into an image.
pub struct Parts {
    /// Boot code of the MBR, see [`gpt::BOOT_CODE`].
    pub boot_code: Vec<u8>,
    /// GRUB for BIOS, raw.
    pub core: Vec<u8>,
    /// GRUB for UEFI, the ESP's only file.
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
    /// GRUB's core image is larger than its partition.
    #[error("GRUB's core image has {size} bytes, its partition has room for {}", CORE_SECTORS * SECTOR)]
    CoreTooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// The asked size cannot be had.
    #[error(
        "an image of {size} bytes is too small: the key's files need {needed} bytes, the image at least {least}"
    )]
    TooSmall {
        /// The size asked for, in bytes.
        size: u64,
        /// The files' bytes.
        needed: u64,
        /// The smallest image that would do, in bytes.
        least: u64,
    },
    /// Writing failed.
    #[error("writing the image: {0}")]
    Write(#[source] io::Error),
}

/// An image, planned.
pub struct Disk {
    table: Table,
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
        // The last MiB belongs to the backup of the partition table.
        let around = ROOT_START * SECTOR + unit;
        let least = around + (needed + (4 << 20)).max(64 << 20).next_multiple_of(unit);
        let size = parts.size.unwrap_or(auto + around) / unit * unit;
        if size < least {
            return Err(Error::TooSmall { size, needed, least });
        }
        let sectors = size / SECTOR;
        let root_sectors = sectors - ROOT_START - ALIGNMENT;
        let format = |label: &str, start: u64, sectors| Format {
            label: label.to_owned(),
            id: serial(&parts.digest, label),
            sectors,
            hidden: u32::try_from(start).unwrap_or(0),
            time: parts.time,
        };
        let loader = [(ESP_LOADER.to_owned(), Content::from(parts.efi))];
        let esp = Plan::new(format(ESP_LABEL, ESP_START, ESP_SECTORS), loader)?;
        let root = Plan::new(format(ROOT_LABEL, ROOT_START, root_sectors), parts.files)?;
        let partition = |number, name: &str, kind, start, sectors| {
            let guid = guid(&parts.digest, name);
            (number, Partition { name: name.to_owned(), kind, guid, start, sectors })
        };
        let table = Table {
            guid: guid(&parts.digest, "disk"),
            sectors,
            partitions: vec![
                partition(ESP_NUMBER, "loader", gpt::TYPE_ESP, ESP_START, ESP_SECTORS),
                partition(CORE_NUMBER, "boot", gpt::TYPE_BIOS_BOOT, CORE_START, CORE_SECTORS),
                partition(ROOT_NUMBER, "root", gpt::TYPE_DATA, ROOT_START, root_sectors),
            ],
        };
        Ok(Self { table, boot_code: parts.boot_code, esp, core: parts.core, root })
    }

    /// Size of the image in bytes.
    pub fn size(&self) -> u64 {
        self.table.sectors * SECTOR
    }

    /// The disk's identifier.
    pub fn guid(&self) -> Uuid {
        self.table.guid
    }

    /// Bytes that are free on the root partition.
    pub fn free(&self) -> u64 {
        self.root.free()
    }

    /// Streams the image into `out` and returns its partitions with their digests.
    ///
    /// # Errors
    /// When a file cannot be read or writing fails.
    pub fn write(&self, out: &mut Output) -> Result<Vec<ManifestPartition>, Error> {
        out.data(&self.table.head(&self.boot_code)).map_err(Error::Write)?;
        let mut partitions = Vec::new();
        for (number, partition) in &self.table.partitions {
            out.zeroes_to(partition.start * SECTOR).map_err(Error::Write)?;
            out.begin_partition().map_err(Error::Write)?;
            match *number {
                ESP_NUMBER => self.esp.write(out)?,
                CORE_NUMBER => out.data(&self.core).map_err(Error::Write)?,
                _ => self.root.write(out)?,
            }
            let end = (partition.start + partition.sectors) * SECTOR;
            out.zeroes_to(end).map_err(Error::Write)?;
            partitions.push(ManifestPartition {
                number: *number,
                name: partition.name.clone(),
                type_guid: partition.kind.to_string(),
                guid: partition.guid.to_string(),
                start: partition.start,
                sectors: partition.sectors,
                sha256: out.end_partition().map_err(Error::Write)?,
            });
        }
        let tail = self.table.tail();
        out.zeroes_to(self.size() - tail.len() as u64).map_err(Error::Write)?;
        out.data(&tail).map_err(Error::Write)?;
        Ok(partitions)
    }
}

// The partitions' hashes rely on it.
const _: () = assert!((ALIGNMENT * SECTOR).is_multiple_of(BLOCK as u64));

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
