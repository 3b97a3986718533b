//! UFS file systems are added to, and others find what was added: GRUB in Solaris' dialect, the
//! Sleuth Kit in BSD's, and a check of everything that `fsck` looks at in both. Needs makefs, sleuthkit and grub-common, as `ci/setup`
//! installs them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/ufs.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use headnode::image::Content;
use headnode::image::ufs::{Entry, Error, Ufs};
use support::{
    Check, Found, TIME, content, file, listed, long, makefs, noise, said, set, to_solaris,
};

const SUPER: usize = 8192;

/// A folder with files of many sizes.
fn tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    for (n, (path, size)) in [
        ("etc/passwd", 700),
        ("etc/motd", 0),
        ("usr/lib/large", 300_000),
        ("usr/lib/small", 5000),
        ("kernel/unix", 60_000),
    ]
    .into_iter()
    .enumerate()
    {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(n as u32, size)).unwrap();
    }
    for n in 0..12 {
        fs::write(tree.join(format!("usr/lib/lib{n}.so")), noise(n, 2900 * n as usize)).unwrap();
    }
    tree
}

/// Sizes of blocks and fragments, bytes of the file system, and more for makefs.
const FORMS: [(&str, u64, bool); 7] = [
    // As SmartOS' build makes it.
    ("bsize=4096,fsize=1024,density=50000", 24 << 20, true),
    ("bsize=8192,fsize=1024,density=8192", 16 << 20, true),
    ("bsize=8192,fsize=1024,density=4096,maxbpcg=300", 72 << 20, false),
    ("bsize=4096,fsize=1024,density=8192,maxbpcg=300", 8 << 20, true),
    ("bsize=4096,fsize=512,density=600", 24 << 20, true),
    ("bsize=8192,fsize=8192,density=16384", 16 << 20, true),
    ("bsize=4096,fsize=2048,density=16384", 8 << 20, false),
];

fn made(dir: &Path, form: (&str, u64, bool)) -> PathBuf {
    let image = dir.join("ufs.img");
    makefs(&image, &tree(dir), form.1, form.0);
    if form.2 {
        let mut bytes = fs::read(&image).unwrap();
        to_solaris(&mut bytes);
        if form.0.contains("fsize=512") {
            cut(&mut bytes);
        }
        fs::write(&image, bytes).unwrap();
    }
    image
}

/// Takes the last fragment off, so that the last block is none.
fn cut(bytes: &mut [u8]) {
    let get = |bytes: &[u8], at| long(bytes, SUPER + at);
    let last = get(bytes, 44) as usize - 1;
    let per_block = get(bytes, 56);
    let map = Check::new(bytes).map(last);
    let summary = (get(bytes, 152) * get(bytes, 52)) as usize + 16 * last;
    let size = long(bytes, map + 20) - 1;
    set(bytes, map + 20, size);
    set(bytes, SUPER + 36, get(bytes, 36) - 1);
    bytes[map + long(bytes, map + 96) as usize + size as usize / 8] &= !(1 << (size % 8));
    for counts in [map + 24, summary, SUPER + 192] {
        set(bytes, counts + 4, long(bytes, counts + 4) - 1);
        set(bytes, counts + 12, long(bytes, counts + 12) + per_block - 1);
    }
    let runs = map + 52 + 4 * (per_block as usize - 1);
    set(bytes, runs, long(bytes, runs) + 1);
}

fn open(image: &Path) -> Result<Ufs, Error> {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let length = file.metadata().unwrap().len();
    Ufs::open(file, length)
}

fn add(image: &Path, entries: &BTreeMap<String, Entry>) -> Result<(), Error> {
    open(image)?.add(entries, TIME)
}

fn checked(image: &Path) -> Found {
    Check::new(&fs::read(image).unwrap()).everything()
}

/// Files of all the sizes at which something changes, large ones where there is room.
fn entries(block: usize, room: u64) -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    let indirect = block / 4;
    let sizes = [0, 1, 511, 1024, 1025, block, block + 1, 12 * block - 1, 12 * block];
    let large = [12 * block + 1, (12 + indirect) * block, (12 + indirect) * block + 1, 5 << 20];
    let fits = room > 4 * large[1] as u64;
    let large = large.into_iter().filter(|_| fits);
    for (n, size) in sizes.into_iter().chain(large).enumerate() {
        let path = format!("scripts/of-{size}-bytes");
        entries.insert(path, file(noise(n as u32, size), 0o755));
    }
    for n in 0..25 {
        let path = format!("config.inc/deep/er/{}-{n}", "x".repeat(n * 9));
        entries.insert(path, file(vec![n as u8; n * 97], 0o644));
    }
    entries.insert("testdomain.txt".to_owned(), file(b"example.org\n".to_vec(), 0o644));
    entries.insert("empty/folder".to_owned(), Entry::Folder);
    entries.insert("usr/lib".to_owned(), Entry::Folder);
    // It replaces one.
    entries.insert("usr/lib/large".to_owned(), file(b"now small".to_vec(), 0o600));
    entries.insert("etc/motd".to_owned(), file(noise(9, 100_000), 0o644));
    entries
}

#[test]
fn others_find_what_was_added() {
    for form in FORMS {
        let dir = tempfile::tempdir().unwrap();
        let image = made(dir.path(), form);
        let before = checked(&image);
        let bytes = fs::read(&image).unwrap();
        let entries = entries(long(&bytes, SUPER + 48) as usize, form.1);
        let free = open(&image).unwrap().free();
        add(&image, &entries).unwrap();
        let after = open(&image).unwrap().free();
        assert!(after.1 < free.1, "{form:?}: {free:?}, {after:?}");

        let found = checked(&image);
        let mut expected = before.clone();
        for (path, entry) in &entries {
            for (at, _) in path.match_indices('/') {
                expected.entry(path[..at].to_owned()).or_insert((0o040_755, Vec::new()));
            }
            let node = match entry {
                Entry::Folder => (0o040_755, Vec::new()),
                Entry::File { content: Content::Bytes(bytes), mode } => {
                    (0o100_000 | mode, bytes.to_vec())
                }
                Entry::File { .. } => unreachable!(),
            };
            expected
                .entry(path.clone())
                .and_modify(|old| old.1.clone_from(&node.1))
                .or_insert(node);
            if let Entry::File { mode, .. } = entry {
                expected.get_mut(path).unwrap().0 = 0o100_000 | mode;
            }
        }
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert!(found == expected, "{form:?}");

        for (path, (mode, bytes)) in expected.iter().filter(|node| node.1.0 >> 12 == 8) {
            let mut own = Vec::new();
            let read = open(&image).unwrap().read(path, &mut own).unwrap();
            assert_eq!((read, own == *bytes), (Some(*mode), true), "{form:?}: {path}");
        }
        if form.2 { grub_finds(&image, &expected) } else { sleuthkit_finds(&image, &expected) }
    }
}

/// GRUB knows folders as Solaris has them only.
fn grub_finds(image: &Path, expected: &Found) {
    let image = image.to_str().unwrap();
    for (path, (mode, bytes)) in expected {
        let place = format!("(loop0)/{path}");
        if mode >> 12 == 8 {
            assert!(said("grub-fstest", &[image, "cat", &place]) == *bytes, "{path}");
            continue;
        }
        let names = String::from_utf8(said("grub-fstest", &[image, "ls", &format!("{place}/")]));
        let mut names: Vec<String> = names.unwrap().split_whitespace().map(str::to_owned).collect();
        names.sort();
        let within = |node: &(&String, &(u16, Vec<u8>))| {
            let (above, name) = node.0.rsplit_once('/').unwrap_or(("", node.0));
            (above == path && !name.is_empty())
                .then(|| name.to_owned() + if node.1.0 >> 12 == 4 { "/" } else { "" })
        };
        let mut wanted: Vec<String> = expected.iter().filter_map(|node| within(&node)).collect();
        wanted.sort();
        assert_eq!(names, wanted, "{path}");
    }
}

/// The Sleuth Kit knows folders as BSD has them only.
fn sleuthkit_finds(image: &Path, expected: &Found) {
    let others = listed(image);
    assert_eq!(others.len(), expected.len() - 1, "all but the root");
    for (path, (mode, bytes)) in expected.iter().filter(|node| !node.0.is_empty()) {
        let number = &others[path];
        if mode >> 12 == 8 {
            assert!(content(image, number) == *bytes, "{path}");
        }
    }
}

#[test]
fn the_same_is_made_of_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), FORMS[0]);
    let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
    fs::copy(&image, &one).unwrap();
    fs::copy(&image, &other).unwrap();
    add(&one, &entries(4096, 0)).unwrap();
    add(&other, &entries(4096, 0)).unwrap();
    assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap());
    assert!(fs::read(&one).unwrap() != fs::read(&image).unwrap());
    // Once more over what is there already.
    add(&one, &entries(4096, 0)).unwrap();
    assert!(checked(&one) == checked(&other));
    assert_eq!(open(&one).unwrap().free(), open(&other).unwrap().free());
}

#[test]
fn a_full_one_is_left_as_it_was_and_what_is_missing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), FORMS[0]);
    let before = fs::read(&image).unwrap();
    let (bytes, inodes) = open(&image).unwrap().free();
    let large = |size: u64| {
        BTreeMap::from([("a".to_owned(), file(vec![1; usize::try_from(size).unwrap()], 0o644))])
    };
    let error = add(&image, &large(bytes + 100_000)).unwrap_err();
    let Error::Full { bytes: missing, inodes: 0 } = error else { panic!("{error}") };
    // With the blocks that tell where its blocks are, and less what is free in pieces.
    assert!((100_000..250_000).contains(&missing), "{missing}");
    let text = Error::Full { bytes: missing, inodes: 0 }.to_string();
    assert!(text.contains(&format!("is full: {missing} bytes are missing")), "{text}");
    assert!(fs::read(&image).unwrap() == before);

    let many = (0..inodes + 5).map(|n| (format!("many/{n}"), file(Vec::new(), 0o644))).collect();
    let error = add(&image, &many).unwrap_err();
    assert!(matches!(error, Error::Full { bytes: 0, inodes: 6 }), "{error}");
    assert!(error.to_string().contains("6 inodes are missing"), "{error}");
    assert!(fs::read(&image).unwrap() == before);

    // All but the last bytes fit: fill it up, first with blocks, then with pieces.
    let mut size = bytes;
    while let Err(Error::Full { .. }) = add(&image, &large(size)) {
        size -= 4096;
    }
    checked(&image);
    let mut count = 0;
    let piece = |n: u32| BTreeMap::from([(format!("p{n}"), file(noise(n, 1000), 0o644))]);
    while add(&image, &piece(count)).is_ok() {
        count += 1;
    }
    checked(&image);
    assert_eq!(open(&image).unwrap().free().0, 0, "the last fragment is used");
    // A folder that is there grows into nothing any more; what is replaced makes room.
    add(&image, &BTreeMap::from([("a".to_owned(), file(vec![2; 9], 0o644))])).unwrap();
    add(&image, &piece(count)).unwrap();
    checked(&image);
}

#[test]
fn a_name_that_is_taken_by_something_else_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    std::os::unix::fs::symlink("etc", tree.join("link")).unwrap();
    fs::hard_link(tree.join("etc/passwd"), tree.join("etc/shadow")).unwrap();
    let image = dir.path().join("ufs.img");
    makefs(&image, &tree, 16 << 20, "bsize=4096,fsize=1024,density=16384");
    let before = fs::read(&image).unwrap();
    let long = "x".repeat(256);
    for (path, words) in [
        ("etc", "\"etc\" cannot be stored on this UFS file system: there is a folder of this name"),
        ("link", "a link or a device"),
        ("link/x", "a file or a link is where its folder should be"),
        ("kernel/unix/x", "a file or a link is where its folder should be"),
        ("", "no plain path"),
        ("/etc/x", "no plain path"),
        ("etc/../x", "no plain path"),
        ("a\0b", "NUL"),
        (long.as_str(), "longer than 255 bytes"),
    ] {
        let error = add(&image, &BTreeMap::from([(path.to_owned(), file(vec![1], 0o644))]));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(words), "{path:?}: {error}");
        assert!(fs::read(&image).unwrap() == before, "{path:?}");
    }
    // The other name of a file keeps what it had.
    let was = fs::read(tree.join("etc/passwd")).unwrap();
    let entries = BTreeMap::from([("etc/passwd".to_owned(), file(b"new".to_vec(), 0o644))]);
    add(&image, &entries).unwrap();
    let found = checked(&image);
    assert!(found["etc/shadow"].1 == was && found["etc/passwd"].1 == b"new");
}

type Change<'a> = &'a dyn Fn(&mut Vec<u8>);

#[test]
fn what_is_none_or_not_in_order_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), ("bsize=4096,fsize=1024,density=8192", 4 << 20, true));
    let good = fs::read(&image).unwrap();
    let map = Check::new(&good).map(0);
    let refused = |change: Change| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&image, bytes).unwrap();
        add(&image, &entries(4096, 0)).unwrap_err()
    };
    let [magic, time] = [SUPER + 1372, SUPER + 32];
    let cases: &[(&str, &str, Change)] = &[
        ("none", "too few", &|b| b.truncate(10_000)),
        ("none", "no magic number", &|b| set(b, magic, 5)),
        ("none", "UFS2", &|b| set(b, magic, 0x1954_0119)),
        ("none", "big-endian", &|b| set(b, magic, 0x0001_1954_u32.swap_bytes())),
        ("state", "not unmounted in order", &|b| b[SUPER + 209] = 0),
        ("state", "not unmounted in order", &|b| set(b, time, 7)),
        ("state", "-o nologging", &|b| b[SUPER + 209] = 0xfd),
        ("state", "-o nologging", &|b| set(b, SUPER + 1324, 900)),
        ("damaged", "larger than its file", &|b| b.truncate(3 << 20)),
        ("damaged", "blocks have an impossible size", &|b| set(b, SUPER + 48, 4097)),
        ("damaged", "fragments have an impossible size", &|b| set(b, SUPER + 52, 0)),
        ("damaged", "number of groups", &|b| set(b, SUPER + 44, 1 << 30)),
        ("damaged", "number of inodes", &|b| set(b, SUPER + 184, 0)),
        ("damaged", "cylinder group 0: it is not where", &|b| set(b, map + 4, 0)),
        ("damaged", "cylinder group 0: its counts", &|b| b[map + 52 + 4] ^= 1),
        ("damaged", "sums of the groups' counts", &|b| b[SUPER + 196] ^= 1),
    ];
    for (kind, words, change) in cases {
        let error = refused(*change);
        let found = match error {
            Error::NotUfs(_) => "none",
            Error::State(_) | Error::HasLog => "state",
            Error::Damaged { .. } => "damaged",
            _ => "other",
        };
        let text = error.to_string();
        assert!(found == *kind && text.contains(words), "{kind}, {words:?}: {text}");
    }
}
