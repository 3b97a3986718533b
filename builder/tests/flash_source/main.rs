//! Images as the flasher reads them: packed by the tools themselves, described by bmaptool, sha256sum
//! and minisign, on disk and at a web server with faults. Needs bmap-tools, zstd, xz-utils, minisign
//! and qemu-utils.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod described;
mod local;
mod remote;
mod server;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use headnode::flash::source::{Error, Map, Options, Reader, Source};
use headnode::manifest::bmap::{self, Mapped};
use headnode::source::digest::sha256;
use headnode::source::http::Patience;
use headnode_model::manifest::{FORMAT, Image, Manifest, Range};

pub const MIB: u64 = 1 << 20;

/// Bytes that do not pack well and are the same each time. They look like nothing but a raw image: no
/// bytes that tell of anything else are, by chance, where such bytes are looked for.
pub fn noise(length: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(usize::try_from(length).unwrap());
    // Files of any kind, VirtualBox' disks, tar archives.
    for telling in [0, 64, 257] {
        if let Some(byte) = bytes.get_mut(telling) {
            *byte = 0;
        }
    }
    bytes
}

/// An image with data in three places, with large gaps between: its bytes and those places.
pub struct Made {
    pub bytes: Vec<u8>,
    pub ranges: Vec<(u64, u64)>,
}

pub fn made() -> Made {
    let ranges = vec![(0, 2 * MIB), (5 * MIB, 3 * MIB), (20 * MIB, 64 << 10)];
    let mut bytes = vec![0; usize::try_from(24 * MIB).unwrap()];
    for (offset, length) in &ranges {
        let at = usize::try_from(*offset).unwrap();
        let noise = noise(*length, *offset + 3);
        bytes[at..at + noise.len()].copy_from_slice(&noise);
    }
    Made { bytes, ranges }
}

impl Made {
    pub fn part(&self, (offset, length): (u64, u64)) -> &[u8] {
        &self.bytes[offset as usize..(offset + length) as usize]
    }

    /// Writes it sparse.
    pub fn store(&self, path: &Path) {
        let file = fs::File::create(path).unwrap();
        file.set_len(self.bytes.len() as u64).unwrap();
        for range in &self.ranges {
            file.write_all_at(self.part(*range), range.0).unwrap();
        }
    }

    fn model(&self) -> Vec<Range> {
        let range = |range: &(u64, u64)| Range {
            offset: range.0,
            length: range.1,
            sha256: sha256(self.part(*range)),
        };
        self.ranges.iter().map(range).collect()
    }

    pub fn manifest(&self) -> Vec<u8> {
        let manifest = Manifest {
            format: FORMAT,
            name: "test".to_owned(),
            version: "1".to_owned(),
            created: 0,
            platforms: Vec::new(),
            services: Vec::new(),
            firmware: Vec::new(),
            files: Vec::new(),
            image: Some(Image {
                size: self.bytes.len() as u64,
                sector_size: 4096,
                disk_guid: String::new(),
                partitions: Vec::new(),
                ranges: self.model(),
                personal: Vec::new(),
            }),
        };
        headnode::manifest::text(&manifest).unwrap()
    }

    pub fn bmap(&self) -> String {
        let parts: Vec<_> = self.model().iter().map(Mapped::from).collect();
        bmap::text(self.bytes.len() as u64, &parts).unwrap()
    }
}

/// Runs a tool and gives what it says.
pub fn tool(dir: &Path, tool: &str, args: &[&str]) -> Vec<u8> {
    let mut command = Command::new(tool);
    command.args(args).current_dir(dir).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{tool}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {args:?}: {said}");
    output.stdout
}

/// Packs a file by the tool, with its content in two members; gives the path.
pub fn pack(path: &Path, tool_name: &str) -> PathBuf {
    let suffix = match tool_name {
        "zstd" => "zst",
        "gzip" => "gz",
        "bzip2" => "bz2",
        other => other,
    };
    let bytes = fs::read(path).unwrap();
    let dir = path.parent().unwrap();
    let mut packed = Vec::new();
    for half in bytes.chunks(bytes.len() / 2 + 1) {
        fs::write(dir.join("half"), half).unwrap();
        packed.extend(tool(dir, tool_name, &["-1", "-c", "-q", "half"]));
    }
    fs::remove_file(dir.join("half")).unwrap();
    let name = format!("{}.{suffix}", path.file_name().unwrap().to_str().unwrap());
    let packed_path = path.with_file_name(name);
    fs::write(&packed_path, packed).unwrap();
    packed_path
}

pub fn patience() -> Patience {
    Patience { attempts: 3, wait: Duration::from_millis(1), stall: Duration::from_millis(500) }
}

pub fn options<'a>() -> Options<'a> {
    Options { patience: patience(), ..Options::default() }
}

pub fn unverified<'a>() -> Options<'a> {
    Options { unverified: true, ..options() }
}

pub fn open(what: impl AsRef<Path>, options: &Options<'_>) -> Result<Source, Error> {
    Source::open(what.as_ref().to_str().unwrap(), options)
}

/// Reads what is mapped (all, without a map), and finishes: what a flash does.
pub fn flashed(source: &Source) -> Result<Vec<u8>, Error> {
    let mut reader = source.reader()?;
    let mut image = Vec::new();
    match &source.map().ranges {
        Some(ranges) => {
            for range in ranges {
                image.resize(range.offset as usize, 0);
                read(&mut reader, range.offset, range.length, &mut image)?;
            }
            image.resize(source.map().size.unwrap() as usize, 0);
        }
        None => read(&mut reader, 0, u64::MAX, &mut image)?,
    }
    reader.finish()?;
    Ok(image)
}

fn read(reader: &mut Reader, offset: u64, length: u64, to: &mut Vec<u8>) -> Result<(), Error> {
    let mut done = 0;
    let mut buffer = vec![0; 300_000];
    while done < length {
        let most = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
        let count = reader.read(offset + done, &mut buffer[..most])?;
        to.extend_from_slice(&buffer[..count]);
        done += count as u64;
        if count < most {
            break;
        }
    }
    Ok(())
}

pub fn ranges(map: &Map) -> Vec<(u64, u64)> {
    map.ranges.as_ref().unwrap().iter().map(|range| (range.offset, range.length)).collect()
}

/// Whether two images are the same, without printing them.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    one == other
}
