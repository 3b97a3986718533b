//! Writes a planned image from its first block to its last one.

use headnode_model::manifest::Partition;

use super::plan::{ESP_NUMBER, File, Folder, Iso, Target, extents, room};
use super::records::{bare_root, long_time, short_time};
use super::{BLOCK, Error, SYSTEM_BLOCKS, boot, both16, both32};
use crate::image::copy::{self, copy_file};
use crate::image::gpt::BOOT_CODE;
use crate::image::output::Output;
use crate::image::{SECTOR, Sink};

impl Iso {
    /// Streams the image into `out` and returns its partitions.
    ///
    /// # Errors
    /// When a file cannot be read or has another size than planned, or when writing fails.
    pub fn write(&self, out: &mut Output) -> Result<Vec<Partition>, Error> {
        let put = |out: &mut Output, block: u32, bytes: &[u8]| {
            out.zeroes_to(u64::from(block) * BLOCK).and_then(|()| out.data(bytes))
        };
        put(out, 0, &self.system_area()?).map_err(Error::Write)?;
        let mut descriptors = vec![self.primary()];
        descriptors.extend(self.catalogue.map(boot_record));
        descriptors.push(terminator());
        for (block, bytes) in (SYSTEM_BLOCKS as u32..).zip(descriptors) {
            put(out, block, &bytes).map_err(Error::Write)?;
        }
        let table = self.path_table_bytes(u32::to_le_bytes, u16::to_le_bytes);
        put(out, self.path_table, &table).map_err(Error::Write)?;
        let table = self.path_table_bytes(u32::to_be_bytes, u16::to_be_bytes);
        put(out, self.second_path_table(), &table).map_err(Error::Write)?;
        for folder in &self.folders {
            put(out, folder.block, &self.folder(folder)).map_err(Error::Write)?;
        }
        put(out, self.continuations, &self.continuation_bytes()).map_err(Error::Write)?;
        if let Some(block) = self.catalogue {
            let bios = self.boot.bios.as_ref().zip(self.loader());
            let bios = bios.map(|(bios, file)| (file.block, bios.load_sectors));
            let bytes = boot::catalogue(bios, self.esp.as_ref().map(|esp| esp.block));
            put(out, block, &bytes).map_err(Error::Write)?;
        }
        for file in &self.files {
            out.zeroes_to(u64::from(file.block) * BLOCK).map_err(Error::Write)?;
            match self.boot.bios.as_ref().filter(|_| file.loader) {
                Some(bios) => out.data(&bios.placed(file.block)?).map_err(Error::Write)?,
                None => copy_file(&file.path, &file.content, out).map_err(|error| match error {
                    copy::Error::Read(source) => Error::Content { path: file.path.clone(), source },
                    copy::Error::Write(source) => Error::Write(source),
                })?,
            }
        }
        self.write_tail(out)
    }

    fn write_tail(&self, out: &mut Output) -> Result<Vec<Partition>, Error> {
        let mut partitions = Vec::new();
        if let Some(esp) = &self.esp {
            out.zeroes_to(u64::from(esp.block) * BLOCK).map_err(Error::Write)?;
            esp.plan.write(out)?;
            let listed = self.table.as_ref().and_then(|table| table.partitions.first());
            partitions.extend(listed.map(|(_, partition)| Partition {
                number: ESP_NUMBER,
                name: partition.name.clone(),
                type_guid: partition.kind.to_string(),
                guid: partition.guid.to_string(),
                start: partition.start,
                sectors: partition.sectors,
            }));
        }
        let tail = self.table.as_ref().map(|table| table.tail()).unwrap_or_default();
        out.zeroes_to(self.size() - tail.len() as u64)
            .and_then(|()| out.data(&tail))
            .map_err(Error::Write)?;
        Ok(partitions)
    }

    fn loader(&self) -> Option<&File> {
        self.files.iter().find(|file| file.loader)
    }

    /// What ISO 9660 leaves to the system: the MBR and the partition table.
    fn system_area(&self) -> Result<Vec<u8>, Error> {
        let code = match (&self.boot.mbr, self.loader()) {
            (None, _) => Vec::new(),
            (Some(_), None) => {
                let why = "there is no BIOS loader that it could load";
                return Err(Error::Loader { name: "of the MBR".to_owned(), why });
            }
            (Some(mbr), Some(file)) => mbr.placed("of the MBR", file.block)?,
        };
        if code.len() > BOOT_CODE {
            let why = "it is longer than the 440 bytes that an MBR has room for";
            return Err(Error::Loader { name: "of the MBR".to_owned(), why });
        }
        Ok(self.table.as_ref().map(|table| table.head(&code)).unwrap_or_default())
    }

    fn path_table_size(&self) -> u32 {
        let size = self.path_table_bytes(u32::to_le_bytes, u16::to_le_bytes).len();
        u32::try_from(size).unwrap_or(u32::MAX)
    }

    fn second_path_table(&self) -> u32 {
        self.path_table + self.path_table_size().div_ceil(BLOCK as u32)
    }

    fn path_table_bytes(&self, long: fn(u32) -> [u8; 4], short: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mut table = Vec::new();
        for folder in &self.folders {
            let mut name = folder.name.bytes();
            name.resize(name.len().max(1), 0);
            table.extend([u8::try_from(name.len()).unwrap_or(u8::MAX), 0]);
            table.extend(long(folder.block));
            // Counted from 1; there are fewer than 65,536.
            table.extend(short(u16::try_from(folder.parent + 1).unwrap_or(u16::MAX)));
            table.extend(&name);
            table.resize(table.len().next_multiple_of(2), 0);
        }
        table
    }

    fn folder(&self, folder: &Folder) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        let continuations = u64::from(self.continuations) * BLOCK;
        for (record, target, place) in &folder.records {
            let parts = match *target {
                Target::Folder(at) => {
                    self.folders.get(at).map(|folder| vec![(folder.block, folder.size)])
                }
                Target::File(at) => {
                    self.files.get(at).map(|file| extents(file.block, file.content.size()))
                }
                Target::Esp => self.esp.as_ref().map(|esp| extents(esp.block, esp.size)),
            }
            .unwrap_or_default();
            for (number, part) in (1..).zip(&parts) {
                let record = record.bytes(*part, number < parts.len(), continuations + place);
                let at = room(bytes.len() as u64, record.len() as u64);
                bytes.resize(usize::try_from(at).unwrap_or(bytes.len()), 0);
                bytes.extend(record);
            }
        }
        bytes.resize(usize::try_from(folder.size).unwrap_or(bytes.len()), 0);
        bytes
    }

    fn continuation_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (record, _, place) in self.folders.iter().flat_map(|folder| &folder.records) {
            if !record.continuation.is_empty() {
                bytes.resize(usize::try_from(*place).unwrap_or(bytes.len()), 0);
                bytes.extend(&record.continuation);
            }
        }
        bytes
    }

    /// The primary volume descriptor (ECMA-119, 8.4).
    fn primary(&self) -> Vec<u8> {
        let blank = |text: &str, length: usize| {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(length, b' ');
            bytes
        };
        let mut bytes = b"\x01CD001\x01\x00".to_vec();
        bytes.extend(blank("", 32));
        bytes.extend(blank(&self.volume, 32));
        bytes.extend([0; 8]);
        bytes.extend(both32(self.blocks));
        bytes.extend([0; 32]);
        for value in [1, 1, BLOCK as u16] {
            bytes.extend(both16(value));
        }
        bytes.extend(both32(self.path_table_size()));
        bytes.extend(self.path_table.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.second_path_table().to_be_bytes());
        bytes.extend([0; 4]);
        let root = self.folders.first().map_or((0, 0), |root| (root.block, root.size));
        bytes.extend(bare_root(root, short_time(self.time)));
        // Volume set, publisher, preparer, application; three files of legal texts.
        for (text, length) in
            [("", 128), ("", 128), ("", 128), ("HEADNODE", 128), ("", 37), ("", 37), ("", 37)]
        {
            bytes.extend(blank(text, length));
        }
        let (never, time) = (*b"0000000000000000\0", long_time(self.time));
        for time in [time, time, never, never] {
            bytes.extend(time);
        }
        bytes.push(1);
        bytes.resize(BLOCK as usize, 0);
        bytes
    }
}

/// The descriptor that says where the boot catalogue is.
fn boot_record(catalogue: u32) -> Vec<u8> {
    let mut bytes = b"\x00CD001\x01EL TORITO SPECIFICATION".to_vec();
    bytes.resize(0x47, 0);
    bytes.extend(catalogue.to_le_bytes());
    bytes.resize(BLOCK as usize, 0);
    bytes
}

/// The last descriptor.
fn terminator() -> Vec<u8> {
    let mut bytes = b"\xffCD001\x01".to_vec();
    bytes.resize(BLOCK as usize, 0);
    bytes
}

// The partition table lies before the descriptors.
const _: () = assert!(crate::image::gpt::HEAD_SECTORS * SECTOR <= SYSTEM_BLOCKS * BLOCK);
