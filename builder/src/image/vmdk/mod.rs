//! VMware's disk format in the form made for transport, `streamOptimized` (VMware, "Virtual Disk
//! Format 5.0"): compressed grains, each behind a marker, then the tables that tell where they are.
//!
//! Written from front to back, but for the first header and the description behind it, which name
//! the size and a content identifier and come last.

pub mod blank;
pub mod reader;

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::sync::Arc;

use crate::image::deflate::{self, Wrap};
use crate::image::output::{BLOCK, ImageSink};
use crate::image::pool::{Ordered, Pool};
use crate::image::{SECTOR, Sink};

/// Sectors of a grain; a block of the image is a grain.
const GRAIN: u64 = BLOCK as u64 / SECTOR;
/// Entries of a table of grains.
const TABLE: u64 = 512;
/// Sectors before the first grain.
const OVERHEAD: u64 = 128;
/// Sectors of the description.
const DESCRIPTION: u64 = 20;
/// The longest name that the description has room for, in bytes.
const MAX_NAME: usize = 255;
/// New lines are not mangled, grains are compressed, markers are there.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;
/// Version of the format with markers.
const VERSION: u32 = 3;
/// How grains are packed: not at all, or by deflate.
const PLAIN: u16 = 0;
const DEFLATE: u16 = 1;
/// A header with this place of the directory says that it is in the footer.
const DIRECTORY_AT_END: u64 = u64::MAX;

/// The kinds of markers that stand before metadata.
#[derive(Clone, Copy)]
enum Marker {
    Table = 1,
    Directory = 2,
    Footer = 3,
}

struct Packed {
    number: u64,
    checksum: u32,
    packed: Vec<u8>,
}

/// Makes a vmdk file of an image's stream.
pub struct Vmdk {
    out: BufWriter<File>,
    queue: Ordered<io::Result<Packed>>,
    name: String,
    /// Bytes of the image so far.
    size: u64,
    /// The next sector of the file.
    sector: u64,
    /// Number and entries of the table that is being filled.
    table: (u64, Vec<u32>),
    directory: Vec<u32>,
    content: crc32fast::Hasher,
}

impl Vmdk {
    /// Writes into an empty file, which its description calls `name` (letters, digits, `.`, `-`,
    /// `_`, blanks; others become `_`).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(file: File, name: &str, pool: Arc<Pool>) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(2 * BLOCK, file);
        out.seek(SeekFrom::Start(OVERHEAD * SECTOR))?;
        Ok(Self {
            out,
            queue: Ordered::new(pool),
            name: plain(name),
            size: 0,
            sector: OVERHEAD,
            table: (0, Vec::new()),
            directory: Vec::new(),
            content: crc32fast::Hasher::new(),
        })
    }

    fn place(&mut self, grain: io::Result<Packed>) -> io::Result<()> {
        let Packed { number, checksum, packed } = grain?;
        if number / TABLE != self.table.0 {
            self.end_table()?;
            self.table.0 = number / TABLE;
        }
        self.content.update(&number.to_le_bytes());
        self.content.update(&checksum.to_le_bytes());
        let place = self.here()?;
        self.table.1.resize(TABLE as usize, 0);
        if let Some(slot) = self.table.1.get_mut((number % TABLE) as usize) {
            *slot = place;
        }
        let mut marker = (number * GRAIN).to_le_bytes().to_vec();
        marker.extend(u32::try_from(packed.len()).map_err(io::Error::other)?.to_le_bytes());
        self.write(&[&marker, &packed])
    }

    fn here(&self) -> io::Result<u32> {
        u32::try_from(self.sector)
            .map_err(|_| io::Error::other("the vmdk file would be larger than 2 TiB"))
    }

    /// Writes parts one behind the other and fills up the sector.
    fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let mut length = 0;
        for part in parts {
            self.out.write_all(part)?;
            length += part.len() as u64;
        }
        let whole = length.next_multiple_of(SECTOR);
        self.out.write_all(&[0; SECTOR as usize][..(whole - length) as usize])?;
        self.sector += whole / SECTOR;
        Ok(())
    }

    fn write_marked(&mut self, kind: Marker, bytes: &[u8]) -> io::Result<()> {
        let mut marker = (bytes.len() as u64).div_ceil(SECTOR).to_le_bytes().to_vec();
        marker.extend([0; 4]); // this is no grain
        marker.extend((kind as u32).to_le_bytes());
        self.write(&[&marker])?;
        self.write(&[bytes])
    }

    fn end_table(&mut self) -> io::Result<()> {
        let (number, entries) = (self.table.0, std::mem::take(&mut self.table.1));
        if entries.is_empty() {
            return Ok(());
        }
        self.directory.resize(number as usize, 0);
        // The table comes behind its marker.
        let place = self.here()?.saturating_add(1);
        self.directory.push(place);
        self.write_marked(Marker::Table, &little_endian(&entries))
    }

    fn end(&mut self) -> io::Result<()> {
        while let Some(grain) = self.queue.pop()? {
            self.place(grain)?;
        }
        self.end_table()?;
        let capacity = self.size.div_ceil(SECTOR);
        let tables = capacity.div_ceil(GRAIN * TABLE);
        self.directory.resize(usize::try_from(tables).map_err(io::Error::other)?, 0);
        let directory_at = self.sector + 1;
        let directory = little_endian(&self.directory);
        self.write_marked(Marker::Directory, &directory)?;
        self.write_marked(Marker::Footer, &header(capacity, directory_at))?;
        // The end of the stream: a marker without anything.
        self.write(&[&[0; SECTOR as usize]])?;
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&header(capacity, DIRECTORY_AT_END))?;
        let description = self.description(capacity);
        self.out.write_all(description.as_bytes())?;
        self.out.flush()
    }

    fn description(&self, capacity: u64) -> String {
        let mut content = self.content.clone();
        content.update(&capacity.to_le_bytes());
        // The two highest values mean "none".
        let id = content.finalize().min(0xffff_fffd);
        description("streamOptimized", Adapter::Ide, id, capacity, &self.name)
    }
}

/// What a disk is attached to; its description says so, and VMware's programs go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adapter {
    Ide,
    Scsi,
}

/// The description of a disk of `capacity` sectors that is one file, `name`; `id` tells its content.
fn description(kind: &str, adapter: Adapter, id: u32, capacity: u64, name: &str) -> String {
    let (adapter, heads, most) = match adapter {
        // The geometry that ATA disks tell, then that which BIOSes make up for large ones.
        Adapter::Ide => ("ide", 16, 16_383),
        Adapter::Scsi => ("lsilogic", 255, 65_535),
    };
    let cylinders = (capacity / (heads * 63)).min(most);
    // The machine's version is the oldest that Triton's machines have: newer ones take it as well.
    format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         CID={id:08x}\n\
         parentCID=ffffffff\n\
         createType=\"{kind}\"\n\
         \n\
         # Extent description\n\
         RW {capacity} SPARSE \"{name}\"\n\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.adapterType = \"{adapter}\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"63\"\n\
         ddb.virtualHWVersion = \"7\"\n"
    )
}

/// A name as descriptions may hold it.
fn plain(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_ ".contains(c) { c } else { '_' };
    name.chars().map(plain).take(MAX_NAME).collect()
}

/// What a header tells: places and sizes in sectors.
struct Header {
    version: u32,
    flags: u32,
    capacity: u64,
    /// The second directory, which stands before the first; 0 without one.
    redundant_at: u64,
    directory_at: u64,
    overhead: u64,
    packing: u16,
}

impl Header {
    fn bytes(&self) -> Vec<u8> {
        let mut header = b"KDMV".to_vec();
        header.extend(self.version.to_le_bytes());
        header.extend(self.flags.to_le_bytes());
        for value in [self.capacity, GRAIN, 1, DESCRIPTION] {
            header.extend(value.to_le_bytes());
        }
        header.extend((TABLE as u32).to_le_bytes());
        for value in [self.redundant_at, self.directory_at, self.overhead] {
            header.extend(value.to_le_bytes());
        }
        header.push(0); // closed cleanly
        header.extend(b"\n \r\n"); // mangled new lines would show here
        header.extend(self.packing.to_le_bytes());
        header.resize(SECTOR as usize, 0);
        header
    }
}

/// The header, and with the place of the directory the footer.
fn header(capacity: u64, directory_at: u64) -> Vec<u8> {
    let header = Header {
        version: VERSION,
        flags: FLAGS,
        capacity,
        redundant_at: 0,
        directory_at,
        overhead: OVERHEAD,
        packing: DEFLATE,
    };
    header.bytes()
}

fn little_endian(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl Sink for Vmdk {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let number = self.size / BLOCK as u64;
        self.size += bytes.len() as u64;
        let mut bytes = bytes.to_vec();
        bytes.resize(BLOCK, 0);
        let oldest = self.queue.push(move || {
            let packed = deflate::whole(&bytes, Wrap::Zlib)?;
            Ok(Packed { number, checksum: crc32fast::hash(&bytes), packed })
        })?;
        oldest.map_or(Ok(()), |grain| self.place(grain))
    }

    fn zeroes(&mut self, count: u64) -> io::Result<()> {
        self.size += count;
        Ok(())
    }
}

impl ImageSink for Vmdk {
    fn finish(mut self: Box<Self>) -> io::Result<File> {
        self.end()?;
        self.out.into_inner().map_err(|error| error.into_error())
    }
}
