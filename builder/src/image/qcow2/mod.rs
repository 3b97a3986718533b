//! QEMU's disk format, version 3 (QEMU: `docs/interop/qcow2.txt`): compressed, holes left out, the
//! same bytes for the same content.
//!
//! Written from front to back, but for the header, which comes last: a header cluster, the data
//! with a table behind each 512 MiB of it, the table of tables, the reference counts.

pub mod reader;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::image::Sink;
use crate::image::deflate::{self, Wrap};
use crate::image::output::{BLOCK, ImageSink};
use crate::image::pool::{Ordered, Pool};

/// Bytes of a cluster; that of the image's blocks, so that a block is a cluster.
const CLUSTER: u64 = BLOCK as u64;
const CLUSTER_BITS: u32 = CLUSTER.trailing_zeros();
/// Entries of a table of clusters.
const L2_ENTRIES: u64 = CLUSTER / 8;
/// Counts in a cluster of reference counts of 16 bits.
const COUNTS: u64 = CLUSTER / 2;
/// Marks a cluster that is used once only.
const COPIED: u64 = 1 << 63;
/// Marks a compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// Where the number of additional sectors begins in the entry of a compressed cluster.
const SECTORS_SHIFT: u32 = 62 - (CLUSTER_BITS - 8);
const HEADER_LENGTH: u32 = 104;

/// A cluster of the image: its number, content, and compressed content if that is smaller.
struct Packed {
    number: u64,
    bytes: Vec<u8>,
    packed: Option<Vec<u8>>,
}

/// Makes a qcow2 file of an image's stream.
pub struct Qcow2 {
    file: File,
    queue: Ordered<io::Result<Packed>>,
    /// Bytes of the image so far.
    size: u64,
    /// Reference counts of the file's clusters; its length is where the next one goes.
    counts: Vec<u16>,
    /// Where compressed clusters go: offset in the file, within the last cluster begun for them.
    next_packed: u64,
    /// Number and entries of the table that is being filled.
    table: (u64, Vec<u64>),
    /// Offsets of the tables that are written.
    tables: Vec<u64>,
}

impl Qcow2 {
    /// Writes into an empty file.
    pub fn new(file: File, pool: Arc<Pool>) -> Self {
        Self {
            file,
            queue: Ordered::new(pool),
            size: 0,
            // The header.
            counts: vec![1],
            next_packed: 0,
            table: (0, Vec::new()),
            tables: Vec::new(),
        }
    }

    fn place(&mut self, cluster: io::Result<Packed>) -> io::Result<()> {
        let Packed { number, bytes, packed } = cluster?;
        let entry = match packed {
            Some(packed) => {
                let at = self.room_for(packed.len() as u64);
                self.file.write_all_at(&packed, at)?;
                self.next_packed = at + packed.len() as u64;
                let last = self.next_packed - 1;
                for cluster in at / CLUSTER..=last / CLUSTER {
                    self.use_cluster(cluster)?;
                }
                COMPRESSED | (last / 512 - at / 512) << SECTORS_SHIFT | at
            }
            None => {
                let at = self.append(1);
                self.file.write_all_at(&bytes, at)?;
                COPIED | at
            }
        };
        if number / L2_ENTRIES != self.table.0 {
            self.end_table()?;
            self.table.0 = number / L2_ENTRIES;
        }
        self.table.1.resize(L2_ENTRIES as usize, 0);
        if let Some(slot) = self.table.1.get_mut((number % L2_ENTRIES) as usize) {
            *slot = entry;
        }
        Ok(())
    }

    /// Where a compressed cluster of this length goes: behind the last one, even across the border
    /// of a cluster when the next one is free.
    fn room_for(&mut self, length: u64) -> u64 {
        let at = self.next_packed;
        let room = at.next_multiple_of(CLUSTER) - at;
        let end = self.counts.len() as u64 * CLUSTER;
        if length <= room {
            return at;
        }
        // Counted when it is used.
        self.counts.push(0);
        if room > 0 && at + room == end { at } else { end }
    }

    fn use_cluster(&mut self, cluster: u64) -> io::Result<()> {
        let count = usize::try_from(cluster).ok().and_then(|at| self.counts.get_mut(at));
        let count = count.and_then(|count| count.checked_add(1).map(|more| *count = more));
        count.ok_or_else(|| io::Error::other("a cluster of the qcow2 file is used too often"))
    }

    /// The offset of so many new clusters.
    fn append(&mut self, clusters: u64) -> u64 {
        let at = self.counts.len();
        self.counts.resize(at + clusters as usize, 1);
        at as u64 * CLUSTER
    }

    fn end_table(&mut self) -> io::Result<()> {
        let (number, entries) = (self.table.0, std::mem::take(&mut self.table.1));
        if entries.is_empty() {
            return Ok(());
        }
        let at = self.append(1);
        self.file.write_all_at(&big_endian(&entries), at)?;
        self.tables.resize(number as usize, 0);
        self.tables.push(COPIED | at);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        while let Some(cluster) = self.queue.pop()? {
            self.place(cluster)?;
        }
        self.end_table()?;
        let l1_entries = self.size.div_ceil(CLUSTER * L2_ENTRIES).max(1);
        self.tables.resize(l1_entries as usize, 0);
        let l1 = self.append((l1_entries * 8).div_ceil(CLUSTER));
        self.file.write_all_at(&big_endian(&self.tables), l1)?;

        // The counts count themselves and the table of their clusters.
        let used = self.counts.len() as u64;
        let (mut blocks, mut table_clusters) = (0, 0);
        loop {
            let needed = (used + blocks + table_clusters).div_ceil(COUNTS);
            let table = (needed * 8).div_ceil(CLUSTER);
            if (needed, table) == (blocks, table_clusters) {
                break;
            }
            (blocks, table_clusters) = (needed, table);
        }
        let table_at = self.append(table_clusters);
        let blocks_at = self.append(blocks);
        let places: Vec<u64> = (0..blocks).map(|block| blocks_at + block * CLUSTER).collect();
        self.file.write_all_at(&big_endian(&places), table_at)?;
        let counts: Vec<u8> = self.counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        self.file.write_all_at(&counts, blocks_at)?;
        self.file.set_len(self.counts.len() as u64 * CLUSTER)?;

        let mut header = Vec::new();
        header.extend(b"QFI\xfb");
        header.extend(3_u32.to_be_bytes());
        header.extend([0; 12]); // no backing file
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(self.size.to_be_bytes());
        header.extend([0; 4]); // not encrypted
        header.extend(u32::try_from(l1_entries).map_err(io::Error::other)?.to_be_bytes());
        header.extend(l1.to_be_bytes());
        header.extend(table_at.to_be_bytes());
        header.extend(u32::try_from(table_clusters).map_err(io::Error::other)?.to_be_bytes());
        header.extend([0; 12]); // no snapshots
        header.extend([0; 24]); // nothing that not every QEMU knows
        header.extend(4_u32.to_be_bytes()); // counts of 16 bits
        header.extend(HEADER_LENGTH.to_be_bytes());
        header.extend([0; 8]); // no extensions
        self.file.write_all_at(&header, 0)
    }
}

fn big_endian(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

impl Sink for Qcow2 {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let number = self.size / CLUSTER;
        self.size += bytes.len() as u64;
        let mut bytes = bytes.to_vec();
        bytes.resize(BLOCK, 0);
        let oldest = self.queue.push(move || {
            let packed = deflate::whole(&bytes, Wrap::RawSmallWindow)?;
            let packed = (packed.len() < bytes.len()).then_some(packed);
            Ok(Packed { number, bytes, packed })
        })?;
        oldest.map_or(Ok(()), |cluster| self.place(cluster))
    }

    fn zeroes(&mut self, count: u64) -> io::Result<()> {
        self.size += count;
        Ok(())
    }
}

impl ImageSink for Qcow2 {
    fn finish(mut self: Box<Self>) -> io::Result<File> {
        self.end()?;
        Ok(self.file)
    }
}
