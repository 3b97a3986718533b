//! UFS file systems with any damage, and any files added to those without. Needs makefs, as `ci/setup`
//! installs it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/ufs.rs"]
mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

use headnode::image::ufs::{Error, Ufs};
use proptest::prelude::*;
use support::{Check, TIME, file, long, makefs, noise, to_solaris};

const SUPER: usize = 8192;

/// A disk in memory.
struct Disk(RefCell<Vec<u8>>);

impl FileExt for &Disk {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = self.0.borrow();
        let rest = bytes.get(usize::try_from(at).unwrap()..).unwrap_or_default();
        let count = buffer.len().min(rest.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, buffer: &[u8], at: u64) -> io::Result<usize> {
        let at = usize::try_from(at).unwrap();
        self.0.borrow_mut()[at..at + buffer.len()].copy_from_slice(buffer);
        Ok(buffer.len())
    }
}

/// A small file system of each dialect, made once.
fn small() -> &'static [Vec<u8>; 2] {
    static MADE: std::sync::OnceLock<[Vec<u8>; 2]> = std::sync::OnceLock::new();
    MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("scripts")).unwrap();
        fs::write(tree.join("scripts/large"), noise(1, 70_000)).unwrap();
        fs::write(tree.join("small"), noise(2, 700)).unwrap();
        let image = dir.path().join("ufs.img");
        makefs(&image, &tree, 400 << 10, "bsize=4096,fsize=1024,density=8192");
        let bsd = fs::read(&image).unwrap();
        let mut solaris = bsd.clone();
        to_solaris(&mut solaris);
        [bsd, solaris]
    })
}

/// Where a change is of interest: the numbers of the superblock and the group, the first inodes, the
/// root.
fn place(bytes: &[u8], at: usize) -> usize {
    let map = Check::new(bytes).map(0);
    let inodes = (long(bytes, SUPER + 16) * long(bytes, SUPER + 52)) as usize;
    let root = long(bytes, inodes + 2 * 128 + 40) * long(bytes, SUPER + 52);
    match at {
        0..220 => SUPER + at,
        220..300 => SUPER + 1300 + (at - 220),
        300..600 => map + (at - 300),
        600..1400 => inodes + 2 * 128 + (at - 600),
        _ => root as usize + (at - 1400),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn damage_never_panics(
        bsd in any::<bool>(),
        changes in proptest::collection::vec((0usize..1600, any::<u8>()), 1..6),
    ) {
        let good = &small()[usize::from(!bsd)];
        let mut bytes = good.clone();
        for (at, value) in changes {
            bytes[place(good, at)] = value;
        }
        let length = bytes.len() as u64;
        let disk = Disk(RefCell::new(bytes));
        if let Ok(mut ufs) = Ufs::open(&disk, length) {
            let mut room = vec![0; 100_000];
            let _ = ufs.read("scripts/large", &mut room.as_mut_slice());
            let entries = BTreeMap::from([
                ("scripts/large".to_owned(), file(vec![1; 60_000], 0o755)),
                ("scripts/more/small".to_owned(), file(vec![2; 10], 0o755)),
                ("small".to_owned(), file(vec![3; 1], 0o644)),
            ]);
            let _ = ufs.add(&entries, TIME);
            let _ = ufs.add(&entries, TIME);
            let _ = ufs.read("scripts/large", &mut room.as_mut_slice());
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Whatever is added, all counts are right and all of it is found.
    #[test]
    fn any_files_are_found(
        bsd in any::<bool>(),
        rounds in proptest::collection::vec(
            proptest::collection::btree_map("[abc]{1,2}(/[a-e]{1,3}){0,2}", 0usize..70_000, 1..12),
            1..4,
        ),
    ) {
        let mut bytes = small()[usize::from(!bsd)].clone();
        let length = bytes.len() as u64;
        let mut expected = BTreeMap::new();
        for (seed, files) in rounds.into_iter().enumerate() {
            let contents: BTreeMap<String, Vec<u8>> =
                files.into_iter().map(|(path, size)| (path, noise(seed as u32, size))).collect();
            let entries =
                contents.iter().map(|(path, bytes)| (path.clone(), file(bytes.clone(), 0o644)));
            let disk = Disk(RefCell::new(bytes.clone()));
            let added = Ufs::open(&disk, length).unwrap().add(&entries.collect(), TIME);
            match added {
                Ok(()) => expected.extend(contents),
                Err(Error::Full { .. } | Error::Path { .. }) => {
                    prop_assert!(*disk.0.borrow() == bytes);
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
            bytes = disk.0.into_inner();
            let found = Check::new(&bytes).everything();
            for (path, bytes) in &expected {
                prop_assert!(found[path].1 == *bytes, "{path}");
            }
        }
    }
}
