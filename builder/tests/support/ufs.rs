//! UFS file systems for tests: made by makefs, turned into what illumos makes where the two differ,
//! and checked by a walk through everything that `fsck` looks at, with code of its own. Needs makefs
//! and sleuthkit, as `ci/setup` installs them.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use headnode::image::Content;
use headnode::image::ufs::Entry;

// A test may have more than one of the supports.
#[allow(clippy::duplicate_mod)]
#[path = "noise.rs"]
mod noise;

pub use noise::noise;

/// What is wrong makes illumos refuse the file system: `fs_state` is this less `fs_time`.
const OKAY: u32 = 0x7c26_9d38;
const SUPER: usize = 8192;
/// The time of what tests add.
pub const TIME: u32 = 1_767_225_600;

/// A file or folder: its mode as `stat` has it, and its content.
pub type Found = BTreeMap<String, (u16, Vec<u8>)>;

fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}; ci/setup --test installs it"))
}

/// A file to be added.
pub fn file(content: Vec<u8>, mode: u16) -> Entry {
    Entry::File { content: Content::from(content), mode }
}

/// A program's output, which must succeed.
pub fn said(program: &str, args: &[&str]) -> Vec<u8> {
    let output = run(program, args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}");
    output.stdout
}

/// A file system of `size` bytes with a folder's content, made by makefs as BSD has it.
pub fn makefs(image: &Path, folder: &Path, size: u64, options: &str) {
    let options = format!("version=1,minfree=0,{options}");
    let size = size.to_string();
    let [image, folder] = [image, folder].map(|path| path.to_str().unwrap());
    said("makefs", &["-t", "ffs", "-o", &options, "-s", &size, "-T", "1000000", image, folder]);
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn quad(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Sets a number in an image.
pub fn set(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// Turns what makefs made into what illumos' mkfs would have: no BSD fields in the superblock and the
/// groups, a vouched state, folders without types.
pub fn to_solaris(bytes: &mut [u8]) {
    assert_eq!(long(bytes, SUPER + 1324), 2, "it is of BSD's format");
    let mut folders = Vec::new();
    Check::new(bytes).walk(|pieces| folders.extend_from_slice(pieces));
    for at in folders {
        let mut entry = at;
        while entry < at + 512 {
            let name = bytes[entry + 7];
            bytes[entry + 6..entry + 8].copy_from_slice(&[name, 0]);
            entry += usize::from(word(bytes, entry + 4));
        }
    }
    let [block, fragment] = [48, 52].map(|at| long(bytes, SUPER + at));
    let time = long(bytes, SUPER + 32);
    bytes[SUPER + 211] = 0;
    bytes[SUPER + 860..SUPER + 1356].fill(0);
    set(bytes, SUPER + 132, OKAY.wrapping_sub(time));
    set(bytes, SUPER + 136, 0);
    set(bytes, SUPER + 1336, long(bytes, SUPER + 168));
    set(bytes, SUPER + 1340, block - 1);
    set(bytes, SUPER + 1348, fragment - 1);
    for group in 0..long(bytes, SUPER + 44) as usize {
        let at = Check::new(bytes).map(group);
        bytes[at + 104..at + 168].fill(0);
    }
}

/// A look at a file system.
pub struct Check<'a> {
    bytes: &'a [u8],
    block: usize,
    fragment: usize,
    per_block: usize,
    size: usize,
    group: usize,
    inodes: usize,
    bsd: bool,
    used: Vec<bool>,
    links: BTreeMap<usize, u16>,
    inode_seen: BTreeMap<usize, bool>,
}

impl<'a> Check<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let get = |at| long(bytes, SUPER + at) as usize;
        assert_eq!(get(1372), 0x0001_1954);
        Self {
            bytes,
            block: get(48),
            fragment: get(52),
            per_block: get(56),
            size: get(36),
            group: get(188),
            inodes: get(184),
            bsd: get(1324) == 2,
            used: vec![false; get(36)],
            links: BTreeMap::new(),
            inode_seen: BTreeMap::new(),
        }
    }

    fn get(&self, at: usize) -> usize {
        long(self.bytes, SUPER + at) as usize
    }

    fn start(&self, group: usize) -> usize {
        let mask = long(self.bytes, SUPER + 28);
        group * self.group + self.get(24) * (u32::try_from(group).unwrap() & !mask) as usize
    }

    /// The place of a group's maps in bytes.
    pub fn map(&self, group: usize) -> usize {
        (self.start(group) + self.get(12)) * self.fragment
    }

    fn inode(&self, number: usize) -> &'a [u8] {
        let table = (self.start(number / self.inodes) + self.get(16)) * self.fragment;
        &self.bytes[table + number % self.inodes * 128..][..128]
    }

    fn take(&mut self, first: usize, count: usize) {
        assert_eq!(first / self.per_block, (first + count - 1) / self.per_block, "over a block");
        for fragment in first..first + count {
            assert!(!self.used[fragment], "fragment {fragment} is used twice");
            self.used[fragment] = true;
        }
    }

    /// Addresses of a file's blocks and the bytes in each; takes them.
    fn blocks(&mut self, number: usize) -> Vec<(usize, usize)> {
        let inode = self.inode(number);
        let size = usize::try_from(quad(inode, 8)).unwrap();
        let address = |place: usize| long(inode, 40 + 4 * place) as usize;
        let mut sectors = 0;
        let mut found = Vec::new();
        let count = size.div_ceil(self.block);
        let per_table = self.block / 4;
        let mut tables = Vec::new();
        if count > 12 {
            tables.push(address(12));
        } else {
            assert_eq!(address(12), 0);
        }
        if count > 12 + per_table {
            let at = address(13);
            self.take(at, self.per_block);
            sectors += self.block / 512;
            let entries = (count - 12 - per_table).div_ceil(per_table);
            let table = &self.bytes[at * self.fragment..][..self.block];
            tables.extend((0..entries).map(|n| long(table, 4 * n) as usize));
            assert!(table[4 * entries..].iter().all(|byte| *byte == 0));
        } else {
            assert_eq!(address(13), 0);
        }
        assert_eq!(address(14), 0);
        for at in &tables {
            self.take(*at, self.per_block);
            sectors += self.block / 512;
        }
        for n in 0..count {
            let here = self.block.min(size - n * self.block);
            let at = if n < 12 {
                address(n)
            } else {
                let within = n - 12;
                let table = tables[within / per_table] * self.fragment;
                long(self.bytes, table + 4 * (within % per_table)) as usize
            };
            assert_ne!(at, 0, "no file here has holes");
            let fragments = if n < 12 { here.div_ceil(self.fragment) } else { self.per_block };
            self.take(at, fragments);
            sectors += fragments * self.fragment / 512;
            found.push((at * self.fragment, here));
        }
        for place in count..12 {
            assert_eq!(address(place), 0);
        }
        assert_eq!(sectors, long(inode, 104) as usize, "sectors of inode {number}");
        found
    }

    /// Walks through all folders; `pieces` gets the places of each one's pieces of 512 bytes.
    pub fn walk(&mut self, mut pieces: impl FnMut(&[usize])) -> Found {
        let mut found = Found::new();
        let mut todo = vec![(String::new(), 2, 2)];
        while let Some((path, number, parent)) = todo.pop() {
            let mode = word(self.inode(number), 0);
            assert!(self.inode_seen.insert(number, true).is_none(), "{path:?} is in two places");
            let places: Vec<usize> = self
                .blocks(number)
                .into_iter()
                .flat_map(|(at, here)| (at..at + here).step_by(512))
                .collect();
            pieces(&places);
            assert_eq!(mode & 0xf000, 0x4000);
            found.insert(path.clone(), (mode, Vec::new()));
            let mut names = Vec::new();
            for at in places {
                let mut entry = at;
                while entry < at + 512 {
                    let length = usize::from(word(self.bytes, entry + 4));
                    let inode = long(self.bytes, entry) as usize;
                    let (kind, count) = match self.bsd {
                        true => (self.bytes[entry + 6], usize::from(self.bytes[entry + 7])),
                        false => (0, usize::from(word(self.bytes, entry + 6))),
                    };
                    assert!(length >= 8 && length % 4 == 0 && entry + length <= at + 512);
                    if inode != 0 {
                        assert!(8 + count < length, "room for the name's end");
                        let name = &self.bytes[entry + 8..entry + 8 + count];
                        assert_eq!(self.bytes[entry + 8 + count], 0);
                        let name = String::from_utf8(name.to_vec()).unwrap();
                        *self.links.entry(inode).or_default() += 1;
                        names.push((name, inode, kind));
                    }
                    entry += length;
                }
            }
            assert_eq!(names[0].0, ".");
            assert_eq!(names[1].0, "..");
            assert_eq!((names[0].1, names[1].1), (number, parent), "{path:?}");
            for (name, inode, kind) in names.into_iter().skip(2) {
                let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                let mode = word(self.inode(inode), 0);
                if self.bsd {
                    assert_eq!(u16::from(kind), mode >> 12, "{path:?}");
                }
                assert!(!found.contains_key(&path), "{path:?} is there twice");
                if mode & 0xf000 == 0x4000 {
                    todo.push((path, inode, number));
                    continue;
                }
                if mode & 0xf000 != 0x8000 {
                    self.inode_seen.insert(inode, false);
                    continue;
                }
                let first = self.inode_seen.insert(inode, false).is_none();
                let blocks = if first { self.blocks(inode) } else { Vec::new() };
                let mut content = Vec::new();
                for (at, here) in blocks {
                    content.extend_from_slice(&self.bytes[at..at + here]);
                }
                found.insert(path, (mode, content));
            }
        }
        found
    }

    /// Checks all that is counted, and gives what there is.
    pub fn everything(mut self) -> Found {
        let found = self.walk(|_| ());
        let groups = self.get(44);
        for group in 0..groups {
            let start = self.start(group);
            let first = if group == 0 { 0 } else { start + self.get(8) };
            (first..start + self.get(20)).for_each(|fragment| self.used[fragment] = true);
        }
        let summary = self.get(152);
        let summary_size = self.get(156).div_ceil(self.fragment);
        (summary..summary + summary_size).for_each(|fragment| self.used[fragment] = true);
        let mut total = [0_usize; 4];
        for group in 0..groups {
            let counts = self.check_group(group);
            let summary = summary * self.fragment + 16 * group;
            for (n, count) in counts.into_iter().enumerate() {
                assert_eq!(long(self.bytes, summary + 4 * n) as usize, count, "summary {group}");
                total[n] += count;
            }
        }
        for (n, count) in total.into_iter().enumerate() {
            assert_eq!(self.get(192 + 4 * n), count, "total {n}");
            if self.bsd && self.bytes[SUPER + 211] & 0x80 != 0 {
                assert_eq!(quad(self.bytes, SUPER + 1008 + 8 * n), count as u64, "total {n}");
                assert_eq!(quad(self.bytes, SUPER + 1072), self.get(32) as u64);
            }
        }
        for (inode, folder) in &self.inode_seen {
            let links = word(self.inode(*inode), 2);
            assert_eq!(self.links.get(inode), Some(&links), "links of {inode}, folder: {folder}");
        }
        assert_eq!(self.bytes[SUPER + 208], 0);
        assert_eq!(self.bytes[SUPER + 209], 1);
        if !self.bsd {
            let time = long(self.bytes, SUPER + 32);
            assert_eq!(long(self.bytes, SUPER + 132), OKAY.wrapping_sub(time));
        }
        found
    }

    fn check_group(&self, group: usize) -> [usize; 4] {
        let map = &self.bytes[self.map(group)..][..self.get(160)];
        let get = |at| long(map, at) as usize;
        assert_eq!((get(4), get(12)), (0x0009_0255, group));
        let bit = |at: usize, n: usize| map[at + n / 8] >> (n % 8) & 1 == 1;
        let [mut folders, mut blocks, mut inodes, mut fragments] = [0; 4];
        for n in 0..self.inodes {
            let number = group * self.inodes + n;
            let used = bit(get(92), n);
            let seen = self.inode_seen.get(&number);
            assert_eq!(used, seen.is_some() || number < 2, "map of inode {number}");
            if number >= 2 {
                assert_eq!(used, word(self.inode(number), 0) != 0, "mode of inode {number}");
            }
            inodes += usize::from(!used);
            folders += usize::from(seen == Some(&true));
        }
        let first = group * self.group;
        let last = (first + self.group).min(self.size);
        let mut pieces = [0_usize; 8];
        let mut free_blocks = Vec::new();
        for block in (first..last).step_by(self.per_block) {
            let free: Vec<bool> = (block..(block + self.per_block).min(last))
                .inspect(|n| assert_eq!(bit(get(96), n - first), !self.used[*n], "map of {n}"))
                .map(|n| !self.used[n])
                .collect();
            let whole = free.len() == self.per_block && free.iter().all(|free| *free);
            free_blocks.push(whole);
            if whole {
                blocks += 1;
                continue;
            }
            for run in free.split(|free| !free).filter(|run| !run.is_empty()) {
                fragments += run.len();
                pieces[run.len()] += 1;
            }
        }
        for (length, count) in pieces.into_iter().enumerate().skip(1) {
            assert_eq!(get(52 + 4 * length), count, "runs of {length} in group {group}");
        }
        let longest = if self.bsd { self.get(1316) } else { 0 };
        if longest > 0 {
            let mut sums = vec![0; longest + 1];
            for run in free_blocks.split(|free| !free).filter(|run| !run.is_empty()) {
                sums[run.len().min(longest)] += 1;
            }
            for (length, sum) in sums.into_iter().enumerate().skip(1) {
                assert_eq!(get(get(104) + 4 * length), sum, "clusters of {length} in {group}");
            }
            for (n, free) in free_blocks.iter().enumerate().take(get(112)) {
                assert_eq!(bit(get(108), n), *free, "cluster map of block {n} in {group}");
            }
        }
        let counts = [folders, blocks, inodes, fragments];
        for (n, count) in counts.into_iter().enumerate() {
            assert_eq!(get(24 + 4 * n), count, "count {n} of group {group}");
        }
        counts
    }
}

/// Files and folders as the Sleuth Kit lists them: path, and its number.
pub fn listed(image: &Path) -> BTreeMap<String, String> {
    let text = said("fls", &["-r", "-p", "-f", "ufs", image.to_str().unwrap()]);
    let text = String::from_utf8(text).unwrap();
    let entries = text.lines().filter_map(|line| {
        let (kind, path) = line.split_once('\t')?;
        let number = kind.rsplit(' ').next()?.trim_end_matches(':');
        (!path.starts_with('$')).then(|| (path.to_owned(), number.to_owned()))
    });
    entries.collect()
}

/// A file's content as the Sleuth Kit reads it.
pub fn content(image: &Path, number: &str) -> Vec<u8> {
    said("icat", &["-f", "ufs", image.to_str().unwrap(), number])
}
