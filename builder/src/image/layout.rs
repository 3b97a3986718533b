//! Where the parts of a disk image lie: the layout for GRUB, which is this program's own, and the
//! one for the illumos loader, which Triton's tools know by heart (C§1.13).

use uuid::Uuid;

use super::{SECTOR, gpt};

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
/// Where UEFI firmware looks for a loader on removable media.
pub const ESP_LOADER: &str = "efi/boot/bootx64.efi";
/// Number of the partition that illumos reserves, with the illumos loader only.
pub const RESERVED_NUMBER: u32 = 9;

/// Sectors of the ESP with the illumos loader: 256 MiB.
const ILLUMOS_ESP_SECTORS: u64 = 256 * ALIGNMENT;
/// Sectors that illumos reserves: 8 MiB.
const RESERVED_SECTORS: u64 = 16_384;
/// Where the illumos loader's boot code keeps the disk's identifier.
const BOOT_CODE_GUID: usize = 0x106;

/// Where the parts of an image lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// For GRUB: a small ESP, the core image, the key.
    Grub,
    /// For the illumos loader, exactly as Triton's images are (C§1.13).
    Illumos,
}

/// A partition's place, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its number in the table.
    pub number: u32,
    /// Its name in the table.
    pub name: &'static str,
    /// Its type.
    pub kind: Uuid,
    /// What illumos calls its use (`sys/vtoc.h`), as `partition.map` tells it.
    pub tag: u16,
    /// First sector.
    pub start: u64,
    /// Number of sectors.
    pub sectors: u64,
}

impl Layout {
    /// The partitions of a disk of `sectors`; `None` when there is no room for a root partition.
    pub fn places(self, sectors: u64) -> Option<Vec<Place>> {
        let place = |number, name, kind, tag, start, sectors| Place {
            number,
            name,
            kind,
            tag,
            start,
            sectors,
        };
        let (boot_kind, root_kind) = match self {
            Self::Grub => (gpt::TYPE_BIOS_BOOT, gpt::TYPE_DATA),
            Self::Illumos => (gpt::TYPE_ILLUMOS_BOOT, gpt::TYPE_ILLUMOS_ROOT),
        };
        let boot = ESP_START + self.esp_sectors();
        let root = self.root_start();
        let behind = sectors.checked_sub(self.behind_root())?;
        let room = behind.checked_sub(root)? / ALIGNMENT * ALIGNMENT;
        let mut places = vec![
            place(ESP_NUMBER, "loader", gpt::TYPE_ESP, 12, ESP_START, self.esp_sectors()),
            place(CORE_NUMBER, "boot", boot_kind, 1, boot, CORE_SECTORS),
            place(ROOT_NUMBER, "root", root_kind, 2, root, room),
        ];
        if self == Self::Illumos {
            let kind = gpt::TYPE_ILLUMOS_RESERVED;
            places.push(place(RESERVED_NUMBER, "reserved", kind, 11, behind, RESERVED_SECTORS));
        }
        (room > 0).then_some(places)
    }

    /// First sector of the root partition.
    pub fn root_start(self) -> u64 {
        ESP_START + self.esp_sectors() + CORE_SECTORS
    }

    fn esp_sectors(self) -> u64 {
        match self {
            Self::Grub => ESP_SECTORS,
            Self::Illumos => ILLUMOS_ESP_SECTORS,
        }
    }

    /// Sectors behind the last one that the root partition may use: for GRUB a MiB with the table's
    /// backup in it.
    fn behind_root(self) -> u64 {
        match self {
            Self::Grub => ALIGNMENT,
            Self::Illumos => RESERVED_SECTORS + gpt::TAIL_SECTORS,
        }
    }

    /// Bytes of a disk that are not the root partition's, in whole MiB.
    pub fn around(self) -> u64 {
        ((self.root_start() + self.behind_root()) * SECTOR).next_multiple_of(ALIGNMENT * SECTOR)
    }

    /// The size of a disk that is asked to have `bytes`: Triton's sizes are taken to the sector.
    pub fn size(self, bytes: u64) -> u64 {
        let unit = match self {
            Self::Grub => ALIGNMENT * SECTOR,
            Self::Illumos => SECTOR,
        };
        bytes / unit * unit
    }

    /// Volume label of the root partition.
    pub fn root_label(self) -> &'static str {
        match self {
            Self::Grub => "HEADNODE",
            Self::Illumos => "SMARTOSBOOT",
        }
    }

    /// Bytes of the boot code that are taken: up to the disk signature, or to the table of the MBR.
    pub fn boot_code(self) -> usize {
        match self {
            Self::Grub => gpt::BOOT_CODE,
            Self::Illumos => gpt::MBR_TABLE,
        }
    }

    /// Where in the boot code the disk's identifier belongs.
    pub fn boot_code_guid(self) -> Option<usize> {
        (self == Self::Illumos).then_some(BOOT_CODE_GUID)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_illumos_layout_is_that_of_triton_s_images() {
        // C§1.13: total sectors, root sectors, start of the reserved partition.
        for (bytes, total, root, reserved) in [
            (4_000_000_000, 7_812_500, 7_266_304, 7_796_083),
            (8_000_000_000, 15_625_000, 15_079_424, 15_608_583),
            (16_000_000_000, 31_250_000, 30_703_616, 31_233_583),
        ] {
            let sectors = Layout::Illumos.size(bytes) / SECTOR;
            assert_eq!(sectors, total);
            let places = Layout::Illumos.places(sectors).unwrap();
            let found: Vec<_> = places.iter().map(|p| (p.number, p.start, p.sectors)).collect();
            let expected =
                [(1, 2048, 524_288), (2, 526_336, 2048), (3, 528_384, root), (9, reserved, 16_384)];
            assert_eq!(found, expected);
        }
        let plain = Layout::Illumos.places(3_789_063).unwrap();
        assert_eq!(plain[2].sectors, 3_244_032);
    }

    #[test]
    fn a_disk_without_room_for_the_key_has_no_places() {
        for layout in [Layout::Grub, Layout::Illumos] {
            for sectors in [0, 33, layout.root_start(), layout.around() / SECTOR] {
                assert_eq!(layout.places(sectors), None, "{layout:?} {sectors}");
            }
            assert!(layout.places(layout.around() / SECTOR + ALIGNMENT).is_some());
        }
    }
}
