//! Directory records (ECMA-119, 9.1) and what Rock Ridge adds to them.

use time::OffsetDateTime;

use super::names::IsoName;
use super::{BLOCK, both16, both32};

/// The longest record; its length is one byte and even.
const MAX_RECORD: usize = 254;
/// The most bytes of a name in one NM entry.
const MAX_PART: usize = 250;
/// Marks a record of a folder.
pub(super) const FLAG_FOLDER: u8 = 0x02;
/// Marks a record that another one of the same file follows.
pub(super) const FLAG_MORE: u8 = 0x80;

/// As on FAT, everything may be run; as on every CD, nothing may be written.
const MODE_FILE: u32 = 0o100_555;
const MODE_FOLDER: u32 = 0o040_555;

/// A time as records hold it: years since 1900, month, day, hour, minute, second, offset from UTC.
pub(super) fn short_time(time: OffsetDateTime) -> [u8; 7] {
    let year = u8::try_from(time.year() - 1900).unwrap_or(0);
    [year, time.month().into(), time.day(), time.hour(), time.minute(), time.second(), 0]
}

/// A time as the volume's descriptor holds it.
pub(super) fn long_time(time: OffsetDateTime) -> [u8; 17] {
    let (date, clock) = (time.date(), time.time());
    let text = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}00",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    );
    let mut bytes = [0; 17];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}

/// Which record of a folder it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// `.`; for the root also what tells readers that there is Rock Ridge.
    This {
        /// Whether it is the root's.
        root: bool,
    },
    /// `..`
    Parent,
    /// A child: its name for ISO 9660 and its real one.
    Child(IsoName, String),
}

/// A record but for the place of what it describes.
pub(super) struct Record {
    identifier: Vec<u8>,
    folder: bool,
    time: [u8; 7],
    /// What Rock Ridge adds; without the entry that tells where more of it is.
    extra: Vec<u8>,
    /// What has no room in the record.
    pub continuation: Vec<u8>,
}

/// The length of the entry that tells where the continuation is.
const CONTINUES: usize = 28;

impl Record {
    /// A record of a folder with so many folders in it, or of a file without.
    pub fn new(name: &Name, folders: Option<u32>, time: [u8; 7]) -> Self {
        let (mode, links) = match folders {
            Some(folders) => (MODE_FOLDER, 2 + folders),
            None => (MODE_FILE, 1),
        };
        let mut extra = Vec::new();
        let mut continuation = Vec::new();
        if *name == (Name::This { root: true }) {
            extra.extend(b"SP\x07\x01\xbe\xef\x00");
            continuation.extend(rock_ridge());
        }
        extra.extend(b"PX\x24\x01");
        for value in [mode, links, 0, 0] {
            extra.extend(both32(value));
        }
        // Of modification, access, change.
        extra.extend(b"TF\x1a\x01\x0e");
        extra.extend([time; 3].concat());
        let identifier = match name {
            Name::This { .. } => vec![0],
            Name::Parent => vec![1],
            Name::Child(iso, _) => iso.bytes(),
        };
        if let Name::Child(_, real) = name {
            let room = MAX_RECORD - base(&identifier) - extra.len();
            let names = name_entries(real.as_bytes());
            if names.len() <= room {
                extra.extend(names);
            } else {
                continuation.extend(names);
            }
        }
        Self { identifier, folder: folders.is_some(), time, extra, continuation }
    }

    /// Its length in bytes.
    pub fn length(&self) -> usize {
        let continues = if self.continuation.is_empty() { 0 } else { CONTINUES };
        (base(&self.identifier) + self.extra.len() + continues).next_multiple_of(2)
    }

    /// The record of an extent (first block, length in bytes); `more` when others follow, and the
    /// continuation at this offset in bytes from the start of the image.
    pub fn bytes(&self, extent: (u32, u32), more: bool, continuation: u64) -> Vec<u8> {
        let length = self.length();
        // It is made no longer than 254 bytes.
        let mut record = vec![u8::try_from(length).unwrap_or(u8::MAX), 0];
        record.extend(both32(extent.0));
        record.extend(both32(extent.1));
        record.extend(self.time);
        let folder = if self.folder { FLAG_FOLDER } else { 0 };
        record.extend([folder | if more { FLAG_MORE } else { 0 }, 0, 0]);
        record.extend(both16(1));
        record.push(u8::try_from(self.identifier.len()).unwrap_or(u8::MAX));
        record.extend(&self.identifier);
        record.resize(base(&self.identifier), 0);
        record.extend(&self.extra);
        if !self.continuation.is_empty() {
            record.extend(b"CE\x1c\x01");
            record.extend(both32(u32::try_from(continuation / BLOCK).unwrap_or(0)));
            record.extend(both32(u32::try_from(continuation % BLOCK).unwrap_or(0)));
            record.extend(both32(u32::try_from(self.continuation.len()).unwrap_or(0)));
        }
        record.resize(length, 0);
        record
    }
}

/// The root's record in the volume's descriptor, which has no room for Rock Ridge.
pub(super) fn bare_root(extent: (u32, u32), time: [u8; 7]) -> Vec<u8> {
    let root = Record {
        identifier: vec![0],
        folder: true,
        time,
        extra: Vec::new(),
        continuation: Vec::new(),
    };
    root.bytes(extent, false, 0)
}

/// The length of a record with this identifier before what Rock Ridge adds.
fn base(identifier: &[u8]) -> usize {
    (33 + identifier.len()).next_multiple_of(2)
}

/// NM entries for a name; all but the last one say that the name goes on.
fn name_entries(name: &[u8]) -> Vec<u8> {
    let mut entries = Vec::new();
    let parts = name.len().div_ceil(MAX_PART);
    for (number, part) in (1..).zip(name.chunks(MAX_PART)) {
        entries.extend(b"NM");
        entries.push(u8::try_from(5 + part.len()).unwrap_or(u8::MAX));
        entries.extend([1, u8::from(number < parts)]);
        entries.extend(part);
    }
    entries
}

/// The ER entry by which readers know Rock Ridge, with the texts that the protocol prescribes.
fn rock_ridge() -> Vec<u8> {
    let texts: [&[u8]; 3] = [
        b"RRIP_1991A",
        b"THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS",
        b"PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION.",
    ];
    let length = 8 + texts.iter().map(|text| text.len()).sum::<usize>();
    let mut entry = b"ER".to_vec();
    entry.extend([u8::try_from(length).unwrap_or(u8::MAX), 1]);
    entry.extend(texts.iter().map(|text| u8::try_from(text.len()).unwrap_or(u8::MAX)));
    entry.push(1);
    entry.extend(texts.concat());
    entry
}
