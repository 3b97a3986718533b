//! Writes a planned volume from its first sector to its last one.

use super::plan::{Extent, Plan};
use super::{END_OF_CHAIN, Error};
use crate::image::copy::{self, copy_file};
use crate::image::{SECTOR, Sink};

const BACKUP_BOOT_SECTOR: u64 = 6;

impl Plan {
    /// Streams the volume into `out`.
    ///
    /// # Errors
    /// When a file cannot be read or has another size than planned, or when writing fails.
    pub fn write(&self, out: &mut dyn Sink) -> Result<(), Error> {
        let geometry = &self.geometry;
        let boot = self.boot_sector();
        let info = self.info_sector();
        let empty = signed(vec![0; 510]);
        let mut head = Vec::new();
        for part in [&boot, &info, &empty] {
            head.extend_from_slice(part);
        }
        let copy_at = BACKUP_BOOT_SECTOR * SECTOR;
        let mut reserved = head.clone();
        reserved.resize(usize::try_from(copy_at).unwrap_or(usize::MAX), 0);
        reserved.extend(head);
        let write = Error::Write;
        out.data(&reserved).map_err(write)?;
        out.zeroes(geometry.reserved * SECTOR - reserved.len() as u64).map_err(write)?;
        for _ in 0..2 {
            self.write_fat(out).map_err(write)?;
        }
        for (extent, table) in self.dirs.iter().zip(&self.tables) {
            out.data(table).map_err(write)?;
            out.zeroes(self.bytes(*extent) - table.len() as u64).map_err(write)?;
        }
        let mut next = 2 + self.dirs.iter().map(|extent| extent.count).sum::<u32>();
        for (path, content, extent) in &self.files {
            if extent.count > 0 {
                // Before a file that must begin at a certain place.
                let gap = u64::from(extent.first.saturating_sub(next));
                out.unused(gap * geometry.cluster_bytes()).map_err(write)?;
                next = extent.first + extent.count;
            }
            copy_file(path, content, out).map_err(|error| match error {
                copy::Error::Read(source) => Error::Content { path: path.clone(), source },
                copy::Error::Write(source) => Error::Write(source),
            })?;
            out.zeroes(self.bytes(*extent) - content.size()).map_err(write)?;
        }
        let written = geometry.data + u64::from(next - 2) * geometry.cluster;
        out.unused((geometry.sectors - written) * SECTOR).map_err(write)
    }

    fn bytes(&self, extent: Extent) -> u64 {
        u64::from(extent.count) * self.geometry.cluster_bytes()
    }

    fn boot_sector(&self) -> Vec<u8> {
        let geometry = &self.geometry;
        // All of these fit: the geometry was made so.
        let low16 = |value: u64| u16::try_from(value).unwrap_or(0).to_le_bytes();
        let low32 = |value: u64| u32::try_from(value).unwrap_or(0).to_le_bytes();
        let mut sector = vec![0xeb, 0x58, 0x90];
        sector.extend(b"HEADNODE");
        sector.extend(low16(SECTOR));
        sector.push(u8::try_from(geometry.cluster).unwrap_or(0));
        sector.extend(low16(geometry.reserved));
        sector.push(2); // FATs
        sector.extend([0, 0, 0, 0]); // root entries and sectors of FAT16
        sector.push(0xf8); // a fixed disk
        sector.extend([0, 0]); // sectors per FAT of FAT16
        sector.extend(63_u16.to_le_bytes()); // sectors per track
        sector.extend(255_u16.to_le_bytes()); // heads
        sector.extend(self.format.hidden.to_le_bytes());
        sector.extend(low32(geometry.sectors));
        sector.extend(low32(geometry.fat));
        sector.extend([0, 0, 0, 0]); // both FATs are kept alike; version 0.0
        sector.extend(2_u32.to_le_bytes()); // the root's first cluster
        sector.extend(1_u16.to_le_bytes()); // information sector
        sector.extend(low16(BACKUP_BOOT_SECTOR));
        sector.extend([0; 12]);
        sector.extend([0x80, 0, 0x29]); // drive number; the next three fields are there
        sector.extend(self.format.id.to_le_bytes());
        sector.extend(format!("{:<11}", self.format.label).bytes());
        sector.extend(b"FAT32   ");
        // For firmware that starts the volume itself: int 18h, "try the next device", then halt.
        sector.extend([0xcd, 0x18, 0xf4, 0xeb, 0xfd]);
        signed(sector)
    }

    fn info_sector(&self) -> Vec<u8> {
        let mut sector = b"RRaA".to_vec();
        sector.resize(484, 0);
        sector.extend(b"rrAa");
        sector.extend((self.geometry.clusters - self.used).to_le_bytes());
        sector.extend(self.next.to_le_bytes());
        signed(sector)
    }

    fn write_fat(&self, out: &mut dyn Sink) -> std::io::Result<()> {
        let mut table = Vec::with_capacity(64 * 1024);
        let mut written = 0;
        table.extend(0x0fff_fff8_u32.to_le_bytes());
        // No error, shut down cleanly.
        table.extend(END_OF_CHAIN.to_le_bytes());
        let mut next = 2;
        let chains = self.dirs.iter().chain(self.files.iter().map(|(_, _, extent)| extent));
        for extent in chains.filter(|extent| extent.count > 0) {
            // Free clusters before a file that must begin at a certain place: less than 64 KiB of them.
            for _ in next..extent.first {
                table.extend(0_u32.to_le_bytes());
            }
            next = extent.first + extent.count;
            for cluster in extent.first + 1..extent.first + extent.count {
                table.extend(cluster.to_le_bytes());
                if table.len() >= 64 * 1024 {
                    out.data(&table)?;
                    written += table.len() as u64;
                    table.clear();
                }
            }
            table.extend(END_OF_CHAIN.to_le_bytes());
        }
        out.data(&table)?;
        written += table.len() as u64;
        out.zeroes(self.geometry.fat * SECTOR - written)
    }
}

/// Fills a sector up to its signature.
fn signed(mut sector: Vec<u8>) -> Vec<u8> {
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}
