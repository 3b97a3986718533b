//! Images, and disks without faults.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use headnode::image::SECTOR;
use headnode::image::gpt::{TYPE_ESP, Table};
use headnode::manifest::bmap::{self, Mapped};
use headnode_model::manifest::Manifest;

use crate::faulty::attach;
use crate::linux::{Parts, run, text};
use crate::{MIB, OLD, PROGRAM};

/// A small headnode image, signed, with all that goes with it.
pub struct Image {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
    pub public: PathBuf,
    pub size: u64,
    pub ranges: Vec<Mapped>,
}

impl Image {
    pub fn new() -> Self {
        let parts = Parts::new(6_000_000);
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("release.key");
        run(PROGRAM, &["key", "new", "--no-passphrase", "--output", text(&secret)]);
        let path = dir.path().join("key.img");
        parts.build(&path, &["--sign", text(&secret), "--size", "160MiB"]);
        let manifest = fs::read(beside(&path, ".manifest.json")).unwrap();
        let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
        let ranges = bmap::parts(&manifest.image.unwrap());
        let (public, size) = (dir.path().join("release.pub"), fs::metadata(&path).unwrap().len());
        Self { dir, path, public, size, ranges }
    }

    /// The middle of its largest part, a multiple of 4096.
    pub fn middle(&self) -> u64 {
        let largest = self.ranges.iter().max_by_key(|range| range.length).unwrap();
        assert!(largest.length > 4 * MIB && largest.offset >= MIB);
        (largest.offset + largest.length / 2) & !4095
    }

    pub fn mapped(&self) -> u64 {
        self.ranges.iter().map(|range| range.length).sum()
    }

    /// A copy that can be harmed, in a folder of its own.
    pub fn copy(&self, ends: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.img");
        for end in ends {
            fs::copy(beside(&self.path, end), beside(&path, end)).unwrap();
        }
        (dir, path)
    }
}

pub fn beside(path: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}{end}", path.display()))
}

/// An image of others: used parts that hold noise, described by a block map that `bmaptool` made.
pub fn foreign(dir: &Path, used: u64) -> PathBuf {
    let path = dir.join("other.img");
    let file = File::create(&path).unwrap();
    file.set_len(used + 9 * MIB).unwrap();
    let mut state = 7_u64;
    let mut chunk = vec![0_u8; MIB as usize];
    for number in 0..used / MIB {
        for word in chunk.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number | 1);
            word.copy_from_slice(&state.rotate_left(29).to_le_bytes());
        }
        // A hole behind the first third.
        let at = number * MIB + if number > used / MIB / 3 { 8 * MIB } else { 0 };
        file.write_all_at(&chunk, at).unwrap();
    }
    file.sync_all().unwrap();
    run("bmaptool", &["create", "-o", text(&beside(&path, ".bmap")), text(&path)]);
    path
}

/// A good disk: a loop device on a file.
pub struct Good {
    pub file: PathBuf,
    pub path: String,
    pub name: String,
    pub id: String,
    pub _held: File,
    pub dir: tempfile::TempDir,
}

impl Good {
    pub fn new(size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("stick.img");
        let stick = File::create(&file).unwrap();
        stick.set_len(size).unwrap();
        for place in [0, size - MIB] {
            stick.write_all_at(&vec![OLD; MIB as usize], place).unwrap();
        }
        let (path, held) = attach(&file, &["--direct-io=on"]);
        let name = path.strip_prefix("/dev/").unwrap().to_owned();
        let id = format!("loop:{}", file.display());
        Self { file, path, name, id, _held: held, dir }
    }

    pub fn at(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        File::open(&self.file).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    pub fn digest(&self) -> String {
        run("sha256sum", &["-b", text(&self.file)])[..64].to_owned()
    }

    /// Holds it to the image and to other people's tools.
    pub fn is_whole(&self, image: &Image) {
        let source = File::open(&image.path).unwrap();
        for range in &image.ranges {
            let mut expected = vec![0; range.length as usize];
            source.read_exact_at(&mut expected, range.offset).unwrap();
            let mut found = self.at(range.offset, range.length);
            if range.offset < 2 * SECTOR {
                // Where the disk ends is told in the protective MBR and in the table's header.
                for bytes in [&mut expected, &mut found] {
                    bytes[458..462].fill(0);
                    bytes[512 + 16..512 + 56].fill(0);
                }
            }
            assert!(found == expected, "bytes {} and on differ", range.offset);
        }
        let told = run("sgdisk", &["-v", text(&self.file)]);
        assert!(told.contains("No problems found"), "{told}");
        let size = fs::metadata(&self.file).unwrap().len();
        let table = Table::read(&mut File::open(&self.file).unwrap(), size).unwrap();
        let mut checked = 0;
        for (_, partition) in &table.partitions {
            let bytes = self.at(partition.start * SECTOR, partition.sectors * SECTOR);
            if bytes.get(54..57) == Some(b"FAT") || bytes.get(82..85) == Some(b"FAT") {
                let part = self.dir.path().join("part.img");
                fs::write(&part, bytes).unwrap();
                run("fsck.fat", &["-n", text(&part)]);
                checked += 1;
            }
            assert!(partition.kind != TYPE_ESP || checked > 0, "the ESP is no FAT");
        }
        assert!(checked > 0, "no FAT was found");
        // By what the key itself has of its manifest.
        run(PROGRAM, &["verify", text(&self.file)]);
    }
}

/// What a disk looks like that no firmware starts from.
pub fn does_not_boot(head: &[u8]) {
    assert!(head[..1024].iter().all(|byte| *byte == 0), "{:x?}", &head[..64]);
}
