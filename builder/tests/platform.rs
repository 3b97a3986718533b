//! The boot archive depends on what is in the root alone, not on how its tar came to be.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::Read;

use headnode::platform::archive::Tree;
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Folder,
    Symlink(String),
    File(Vec<u8>),
}

/// Writes the nodes as a tar; `reversed`, `mtime` and `dotted` are what must not matter.
fn tar_of(
    nodes: &BTreeMap<String, Node>,
    reversed: bool,
    mtime: u64,
    dotted: bool,
) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut builder = tar::Builder::new(file.as_file());
    let mut entries: Vec<_> = nodes.iter().collect();
    if reversed {
        entries.reverse();
    }
    for (path, node) in entries {
        let name = if dotted { format!("./{path}") } else { path.clone() };
        let mut header = tar::Header::new_gnu();
        header.set_mtime(mtime);
        header.set_mode(0o640);
        header.set_uid(100_000);
        header.set_gid(42);
        header.set_size(0);
        match node {
            Node::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, name, std::io::empty()).unwrap();
            }
            Node::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, name, target).unwrap();
            }
            Node::File(bytes) => {
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
            }
        }
    }
    builder.finish().unwrap();
    drop(builder);
    file
}

fn cpio_of(tar: &tempfile::NamedTempFile) -> Vec<u8> {
    Tree::from_tar(tar.path()).unwrap().write_cpio(Vec::new(), 1_700_000_000).unwrap()
}

/// What a cpio archive holds; asserts that its order lets a kernel unpack it.
fn read_cpio(bytes: &[u8]) -> BTreeMap<String, Node> {
    let mut nodes = BTreeMap::new();
    let mut rest = bytes;
    loop {
        let mut reader = cpio::newc::Reader::new(rest).unwrap();
        let entry = reader.entry();
        if entry.is_trailer() {
            return nodes;
        }
        let (name, kind) = (entry.name().to_owned(), entry.mode() & 0o170_000);
        assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (100_000, 42, 1_700_000_000));
        assert_eq!((entry.rdev_major(), entry.rdev_minor()), (0, 0));
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        rest = reader.finish().unwrap();
        let node = match kind {
            0o040_000 => Node::Folder,
            0o120_000 => Node::Symlink(String::from_utf8(content).unwrap()),
            0o100_000 => Node::File(content),
            other => panic!("{name} is of type {other:o}"),
        };
        if let Some((parent, _)) = name.rsplit_once('/') {
            assert_eq!(nodes.get(parent), Some(&Node::Folder), "{name} comes before its folder");
        }
        assert!(nodes.insert(name, node).is_none());
    }
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        "([a-z]{1,30}/){0,6}[a-z]{1,9}".prop_map(Node::Symlink),
        prop::collection::vec(any::<u8>(), 0..3000).prop_map(Node::File),
    ]
}

/// A tree: every leaf with the folders above it. Names are long enough to need tar's extensions.
fn tree() -> impl Strategy<Value = BTreeMap<String, Node>> {
    let leaf = ("([a-c!~-]{1,40}/){0,4}", "[d-fé]{1,60}", node());
    prop::collection::vec(leaf, 0..20).prop_map(|leaves| {
        let mut nodes = BTreeMap::new();
        for (folders, name, node) in leaves {
            for (end, _) in folders.match_indices('/') {
                nodes.insert(folders[..end].to_owned(), Node::Folder);
            }
            nodes.insert(format!("{folders}{name}"), node);
        }
        nodes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_archive_holds_the_tree_and_nothing_of_the_tar(nodes in tree()) {
        let one = cpio_of(&tar_of(&nodes, false, 1, true));
        let other = cpio_of(&tar_of(&nodes, true, 2_000_000_000, false));
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(read_cpio(&one), nodes);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        if let Ok(tree) = Tree::from_tar(file.path()) {
            drop(tree.write_cpio(std::io::sink(), 0));
        }
    }

    #[test]
    fn a_damaged_tar_does_not_make_the_reader_panic(
        nodes in tree(), place: prop::sample::Index, byte: u8,
    ) {
        let file = tar_of(&nodes, false, 0, true);
        let mut bytes = std::fs::read(file.path()).unwrap();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        std::fs::write(file.path(), bytes).unwrap();
        if let Ok(tree) = Tree::from_tar(file.path()) {
            drop(tree.write_cpio(std::io::sink(), 0));
        }
    }
}
