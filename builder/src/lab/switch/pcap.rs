//! Recording of the lab's traffic in the classic pcap format with microseconds, which tcpdump,
//! Wireshark and every other tool read
//! (<https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/>).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many bytes of a frame are kept: more than any frame of the lab has.
const SNAPLEN: u32 = 262_144;
/// `LINKTYPE_ETHERNET`.
const LINKTYPE: u32 = 1;

/// A pcap file that is being written.
#[derive(Debug)]
pub struct Recorder {
    out: BufWriter<File>,
    dirty: bool,
}

impl Recorder {
    /// Creates the file, replacing one of that name, and writes its header.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let mut out = BufWriter::with_capacity(1 << 18, File::create(path)?);
        out.write_all(&0xa1b2_c3d4_u32.to_le_bytes())?;
        out.write_all(&2u16.to_le_bytes())?;
        out.write_all(&4u16.to_le_bytes())?;
        out.write_all(&[0; 8])?;
        out.write_all(&SNAPLEN.to_le_bytes())?;
        out.write_all(&LINKTYPE.to_le_bytes())?;
        out.flush()?;
        Ok(Self { out, dirty: false })
    }

    /// Adds one frame.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&mut self, when: SystemTime, frame: &[u8]) -> std::io::Result<()> {
        let since = when.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        // The format's seconds are 32 bits wide and wrap in 2106.
        let seconds = (since.as_secs() & u64::from(u32::MAX)) as u32;
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX).min(SNAPLEN);
        self.out.write_all(&seconds.to_le_bytes())?;
        self.out.write_all(&since.subsec_micros().to_le_bytes())?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&frame[..length as usize])?;
        self.dirty = true;
        Ok(())
    }

    /// Writes out what is held back, so that a reader of the file sees whole frames.
    ///
    /// # Errors
    /// What the file system says.
    pub fn flush(&mut self) -> std::io::Result<()> {
        if std::mem::take(&mut self.dirty) {
            self.out.flush()?;
        }
        Ok(())
    }
}
