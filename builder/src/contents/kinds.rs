//! What partitions are for, by the identifiers of their types.

use uuid::{Uuid, uuid};

use crate::image::gpt;

/// Types of GUID partition tables: UEFI's, Linux' and illumos' (C§1.13).
const GUIDS: [(Uuid, &str); 13] = [
    (gpt::TYPE_ESP, "EFI system (FAT)"),
    (gpt::TYPE_BIOS_BOOT, "BIOS boot"),
    (gpt::TYPE_DATA, "data (FAT)"),
    (uuid!("6a82cb45-1dd2-11b2-99a6-080020736631"), "illumos boot"),
    (uuid!("6a85cf4d-1dd2-11b2-99a6-080020736631"), "illumos root"),
    (uuid!("6a87c46f-1dd2-11b2-99a6-080020736631"), "illumos swap"),
    (uuid!("6a8b642b-1dd2-11b2-99a6-080020736631"), "illumos backup"),
    (uuid!("6a898cc3-1dd2-11b2-99a6-080020736631"), "illumos usr (ZFS)"),
    (uuid!("6a945a3b-1dd2-11b2-99a6-080020736631"), "illumos reserved"),
    (uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4"), "Linux file system"),
    (uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"), "Linux swap"),
    (uuid!("e6d6d379-f507-44c2-a23c-238f2a3df928"), "Linux LVM"),
    (uuid!("e3c9e316-0b5c-4db8-817d-f92df00215ae"), "Microsoft reserved"),
];

/// Types of MBR partitions.
const BYTES: [(u8, &str); 15] = [
    (0x01, "FAT12"),
    (0x04, "FAT16"),
    (0x05, "extended"),
    (0x06, "FAT16"),
    (0x07, "NTFS or exFAT"),
    (0x0b, "FAT32"),
    (0x0c, "FAT32"),
    (0x0e, "FAT16"),
    (0x0f, "extended"),
    (0x17, "hidden NTFS (ISO hybrid)"),
    (0x82, "Linux swap or Solaris"),
    (0x83, "Linux"),
    (0xbf, "illumos"),
    (0xee, "protective (GPT)"),
    (0xef, "EFI system (FAT)"),
];

/// What a GUID partition is for.
pub fn of_guid(kind: Uuid) -> &'static str {
    GUIDS.iter().find(|(guid, _)| *guid == kind).map_or("other", |(_, name)| name)
}

/// What an MBR partition is for.
pub fn of_byte(kind: u8) -> &'static str {
    BYTES.iter().find(|(byte, _)| *byte == kind).map_or("other", |(_, name)| name)
}
