//! Turning a root file system into the boot archive: tar in, cpio "newc" out.
//!
//! The tar that `mmdebstrap` writes carries the owners that files shall have, which a folder on an
//! ordinary user's disk cannot. It is read in place: an index of its entries is kept, contents are
//! copied straight from the tar. The cpio depends on names, modes, owners and contents alone:
//! entries sorted by path, one time for all, inode numbers counted up, no device numbers.
//!
//! Extended attributes are dropped knowingly: cpio cannot carry them. In Debian's packages of the
//! reference platform only `ping` has one (`cap_net_raw`), and only root logs in there.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, ModeFileType, trailer};

/// Why a tar cannot become a boot archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The name of an entry cannot be used.
    #[error("the entry {path:?} cannot go into a boot archive: {why}")]
    Entry {
        /// The entry's path as the tar has it.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A symbolic link and where it points.
    Symlink(String),
    /// A regular file; files with the same number are one file under several names.
    File {
        /// Where the bytes are.
        content: Content,
        /// Equal for all hard links to one file.
        id: usize,
    },
}

/// Bytes of a file, by reference where they are large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A range of the tar that the tree was read from.
    Range {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        size: u64,
    },
    /// Held in memory.
    Bytes(Vec<u8>),
    /// A file on this machine.
    Path {
        /// Where it is.
        path: PathBuf,
        /// Number of bytes.
        size: u64,
    },
}

impl Content {
    /// Number of bytes.
    pub fn size(&self) -> u64 {
        match self {
            Content::Range { size, .. } | Content::Path { size, .. } => *size,
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Permission bits, with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner's user number.
    pub uid: u32,
    /// Owner's group number.
    pub gid: u32,
    /// What it is.
    pub kind: Kind,
}

/// A file tree: paths without a leading slash, in order, so that a folder comes before what is in it.
#[derive(Debug, Default)]
pub struct Tree {
    /// The entries by path.
    pub nodes: BTreeMap<String, Node>,
    source: Option<File>,
    files: usize,
}

/// The type bits of `st_mode`.
const TYPE_MASK: u32 = 0o170_000;

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the index of a tar. Device nodes and FIFOs are left out: the kernel and systemd make
    /// them. Contents stay in the file, which is kept open.
    ///
    /// # Errors
    /// A broken tar, a path that leaves the root or is not UTF-8, a hard link to nothing.
    pub fn from_tar(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(io_error(format!("opening {name}")))?;
        let reading = || format!("reading {name}");
        let index = file.try_clone().map_err(io_error(reading()))?;
        let mut tree = Self { source: Some(file), ..Self::default() };
        let mut ids: HashMap<String, (usize, Content)> = HashMap::new();
        let mut archive = tar::Archive::new(index);
        let entries = archive.entries_with_seek().map_err(io_error(reading()))?;
        for entry in entries {
            let entry = entry.map_err(io_error(reading()))?;
            let path = clean(&entry.path_bytes())?;
            let Some(path) = path else { continue };
            let header = entry.header();
            let number = |n: io::Result<u64>| {
                n.and_then(|n| u32::try_from(n).map_err(io::Error::other))
                    .map_err(io_error(format!("reading the owner of {path}")))
            };
            let uid = number(header.uid())?;
            let gid = number(header.gid())?;
            let mode = header.mode().map_err(io_error(format!("reading the mode of {path}")))?
                & !TYPE_MASK;
            let kind = match header.entry_type() {
                tar::EntryType::Directory => Kind::Folder,
                tar::EntryType::Symlink => Kind::Symlink(link_target(&entry, &path)?),
                tar::EntryType::Link => {
                    let target = link_target(&entry, &path)?;
                    let first = clean(target.as_bytes())?
                        .and_then(|target| ids.get(&target).cloned())
                        .ok_or_else(|| Error::Entry {
                            path: path.clone(),
                            why: format!("it is a hard link to {target:?}, which comes not before"),
                        })?;
                    ids.insert(path.clone(), first.clone());
                    Kind::File { id: first.0, content: first.1 }
                }
                tar::EntryType::Regular
                | tar::EntryType::Continuous
                | tar::EntryType::GNUSparse => {
                    if header.entry_type() == tar::EntryType::GNUSparse {
                        return Err(Error::Entry { path, why: "it is a sparse file".to_owned() });
                    }
                    let content =
                        Content::Range { offset: entry.raw_file_position(), size: entry.size() };
                    let id = tree.next_file();
                    ids.insert(path.clone(), (id, content.clone()));
                    Kind::File { id, content }
                }
                _ => continue,
            };
            tree.nodes.insert(path, Node { mode, uid, gid, kind });
        }
        Ok(tree)
    }

    /// Reads a folder of this machine: everything in it becomes root's, with the modes that git can
    /// keep (0644 or 0755).
    ///
    /// # Errors
    /// An unreadable file, a name that is not UTF-8, anything but folders, files and links.
    pub fn from_folder(folder: &Path) -> Result<Self, Error> {
        let mut tree = Self::new();
        let mut waiting = vec![(folder.to_owned(), String::new())];
        while let Some((place, prefix)) = waiting.pop() {
            let what = || format!("reading {}", place.display());
            for entry in std::fs::read_dir(&place).map_err(io_error(what()))? {
                let entry = entry.map_err(io_error(what()))?;
                let path = entry.path();
                let odd = |why: &str| Error::Entry {
                    path: path.display().to_string(),
                    why: why.to_owned(),
                };
                let name = entry.file_name();
                let name = name.to_str().ok_or_else(|| odd("its name is not UTF-8"))?;
                let inside = format!("{prefix}{name}");
                let meta = entry.metadata().map_err(io_error(what()))?;
                let (mode, kind) = if meta.is_dir() {
                    waiting.push((path.clone(), format!("{inside}/")));
                    (0o755, Kind::Folder)
                } else if meta.is_symlink() {
                    let target = std::fs::read_link(&path).map_err(io_error(what()))?;
                    let target =
                        target.to_str().ok_or_else(|| odd("its target is not UTF-8"))?.to_owned();
                    (0o777, Kind::Symlink(target))
                } else if meta.is_file() {
                    let content = Content::Path { path: path.clone(), size: meta.len() };
                    let run = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o111;
                    let id = tree.next_file();
                    (if run == 0 { 0o644 } else { 0o755 }, Kind::File { content, id })
                } else {
                    return Err(odd("it is neither a folder, a file nor a symbolic link"));
                };
                tree.nodes.insert(inside, Node { mode, uid: 0, gid: 0, kind });
            }
        }
        Ok(tree)
    }

    fn next_file(&mut self) -> usize {
        self.files += 1;
        self.files
    }

    /// Adds a file that is held in memory, owned by root.
    pub fn add_file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        let id = self.next_file();
        let kind = Kind::File { content: Content::Bytes(bytes.into()), id };
        self.nodes.insert(path.to_owned(), Node { mode, uid: 0, gid: 0, kind });
    }

    /// Adds a folder, owned by root, unless it is there.
    pub fn add_folder(&mut self, path: &str) {
        let folder = Node { mode: 0o755, uid: 0, gid: 0, kind: Kind::Folder };
        self.nodes.entry(path.to_owned()).or_insert(folder);
    }

    /// Keeps only the entries whose path the predicate accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.nodes.retain(|path, _| keep(path));
    }

    /// A reader of a file's bytes.
    ///
    /// # Errors
    /// When the file that holds them cannot be opened.
    pub fn open<'a>(&'a self, content: &'a Content) -> Result<Box<dyn Read + 'a>, Error> {
        Ok(match content {
            Content::Bytes(bytes) => Box::new(bytes.as_slice()),
            Content::Path { path, .. } => {
                Box::new(File::open(path).map_err(io_error(format!("opening {}", path.display())))?)
            }
            Content::Range { offset, size } => {
                let file = self.source.as_ref().ok_or_else(|| Error::Io {
                    what: "reading the root's tar".to_owned(),
                    source: io::Error::other("the tree was not read from a tar"),
                })?;
                Box::new(RangeReader { file, offset: *offset, left: *size })
            }
        })
    }

    /// The bytes of the file at `path`; `None` when there is no such file.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(Node { kind: Kind::File { content, .. }, .. }) = self.nodes.get(path) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        self.open(content)?
            .read_to_end(&mut bytes)
            .map_err(io_error(format!("reading {path} from the root")))?;
        Ok(Some(bytes))
    }

    /// Bytes of all files together, each hard-linked file once.
    pub fn content_size(&self) -> u64 {
        let mut files: HashMap<usize, u64> = HashMap::new();
        for node in self.nodes.values() {
            if let Kind::File { content, id } = &node.kind {
                files.insert(*id, content.size());
            }
        }
        files.values().sum()
    }

    /// Writes the tree as a cpio archive (newc), with `mtime` (seconds since 1970) on every entry,
    /// and gives back the writer.
    ///
    /// # Errors
    /// Reading contents or writing; a file of 4 GiB or more, which the format cannot hold.
    pub fn write_cpio<W: Write>(&self, out: W, mtime: u32) -> Result<W, Error> {
        let mut out = Unflushed(out);
        let mut links: HashMap<usize, (u32, u32)> = HashMap::new();
        for node in self.nodes.values() {
            if let Kind::File { id, .. } = &node.kind {
                links.entry(*id).or_insert((0, 0)).0 += 1;
            }
        }
        let mut inode = 0_u32;
        for (path, node) in &self.nodes {
            let writing = || format!("writing {path} into the boot archive");
            inode += 1;
            let entry = |inode: u32, links: u32, kind: ModeFileType| {
                Builder::new(path)
                    .ino(inode)
                    .nlink(links)
                    .mode(node.mode)
                    .set_mode_file_type(kind)
                    .uid(node.uid)
                    .gid(node.gid)
                    .mtime(mtime)
            };
            match &node.kind {
                Kind::Folder => {
                    let writer = entry(inode, 2, ModeFileType::Directory).write(out, 0);
                    out = writer.finish().map_err(io_error(writing()))?;
                }
                Kind::Symlink(target) => {
                    let size = size32(path, target.len() as u64)?;
                    let mut writer = entry(inode, 1, ModeFileType::Symlink).write(out, size);
                    writer.write_all(target.as_bytes()).map_err(io_error(writing()))?;
                    out = writer.finish().map_err(io_error(writing()))?;
                }
                Kind::File { content, id } => {
                    let (count, known) = links.get(id).copied().unwrap_or((1, 0));
                    // The kernel writes the bytes with the first name and only links the others.
                    let (number, size) = if known == 0 {
                        links.insert(*id, (count, inode));
                        (inode, size32(path, content.size())?)
                    } else {
                        (known, 0)
                    };
                    let mut writer = entry(number, count, ModeFileType::Regular).write(out, size);
                    if size > 0 {
                        let mut from = self.open(content)?.take(u64::from(size));
                        let copied =
                            io::copy(&mut from, &mut writer).map_err(io_error(writing()))?;
                        if copied != u64::from(size) {
                            let why = format!("only {copied} of its {size} bytes could be read");
                            return Err(Error::Entry { path: path.clone(), why });
                        }
                    }
                    out = writer.finish().map_err(io_error(writing()))?;
                }
            }
        }
        let out = trailer(out).map_err(io_error("writing the end of the boot archive"))?;
        Ok(out.0)
    }
}

/// Crate `cpio` flushes after each entry, which would cut a compressor's blocks short.
struct Unflushed<W>(W);

impl<W: Write> Write for Unflushed<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn size32(path: &str, size: u64) -> Result<u32, Error> {
    u32::try_from(size).map_err(|_| Error::Entry {
        path: path.to_owned(),
        why: format!("{size} bytes are too many for a cpio archive (4 GiB at most)"),
    })
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>, path: &str) -> Result<String, Error> {
    let target = entry.link_name_bytes().unwrap_or_default();
    match std::str::from_utf8(&target) {
        Ok(target) if !target.is_empty() && !target.contains('\0') => Ok(target.to_owned()),
        _ => Err(Error::Entry {
            path: path.to_owned(),
            why: "it is a link whose target is empty or not UTF-8".to_owned(),
        }),
    }
}

/// A path of the tar without leading `./` and `/`, `None` for the root itself.
fn clean(bytes: &[u8]) -> Result<Option<String>, Error> {
    let odd = |why: &str| Error::Entry {
        path: String::from_utf8_lossy(bytes).into_owned(),
        why: why.to_owned(),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| odd("its name is not UTF-8"))?;
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(odd("its path leaves the root")),
            part if part.contains('\0') => return Err(odd("its name has a zero byte")),
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    if path == "TRAILER!!!" {
        return Err(odd("cpio ends an archive with that name"));
    }
    Ok((!path.is_empty()).then_some(path))
}

struct RangeReader<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for RangeReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        let Some(buf) = buf.get_mut(..most) else { return Ok(0) };
        let n = self.file.read_at(buf, self.offset)?;
        if n == 0 && self.left > 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the tar ends too early"));
        }
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(entries: &[(&str, tar::EntryType, &str)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.as_file());
        for (path, kind, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(5);
            // The safe setters refuse what a hostile tar may hold.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            let link = matches!(kind, tar::EntryType::Link | tar::EntryType::Symlink);
            let body = if link {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
                ""
            } else {
                *text
            };
            header.set_size(body.len() as u64);
            header.set_cksum();
            builder.append(&header, body.as_bytes()).unwrap();
        }
        builder.finish().unwrap();
        drop(builder);
        file
    }

    fn cpio_of(tree: &Tree) -> Vec<(String, u32, u32, u32, Vec<u8>)> {
        let bytes = tree.write_cpio(Vec::new(), 77).unwrap();
        let mut rest = bytes.as_slice();
        let mut entries = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            let entry = reader.entry();
            let (ino, nlink) = (entry.ino(), entry.nlink());
            assert_eq!(entry.mtime(), 77);
            entries.push((entry.name().to_owned(), entry.mode(), ino, nlink, content));
            rest = reader.finish().unwrap();
        }
    }

    use tar::EntryType::{Char, Directory, Link, Regular, Symlink};

    #[test]
    fn entries_are_sorted_and_folders_come_first() {
        let tar = tar_of(&[
            ("./", Directory, ""),
            ("./b/", Directory, ""),
            ("./b/file", Regular, "text"),
            ("./a-z", Symlink, "b/file"),
            ("./dev/null", Char, ""),
            ("./a/", Directory, ""),
            ("./a/x", Regular, ""),
        ]);
        let tree = Tree::from_tar(tar.path()).unwrap();
        let entries = cpio_of(&tree);
        let names: Vec<_> = entries.iter().map(|e| e.0.as_str()).collect();
        assert_eq!(names, ["a", "a-z", "a/x", "b", "b/file"]);
        assert_eq!(entries[0].1, 0o040_755);
        assert_eq!((entries[1].1, entries[1].4.as_slice()), (0o120_755, b"b/file".as_slice()));
        assert_eq!((entries[4].1, entries[4].4.as_slice()), (0o100_755, b"text".as_slice()));
        assert_eq!(tree.content_size(), 4);
        assert_eq!(tree.read("b/file").unwrap().unwrap(), b"text");
        assert_eq!(tree.read("b").unwrap(), None);
    }

    #[test]
    fn hard_links_share_a_number_and_carry_their_bytes_once_with_the_first_name() {
        let tar = tar_of(&[("z", Regular, "body"), ("a", Link, "./z"), ("m", Link, "a")]);
        let entries = cpio_of(&Tree::from_tar(tar.path()).unwrap());
        assert!(entries.iter().all(|e| e.2 == entries[0].2 && e.3 == 3), "{entries:?}");
        let sizes: Vec<_> = entries.iter().map(|e| (e.0.as_str(), e.4.len())).collect();
        assert_eq!(sizes, [("a", 4), ("m", 0), ("z", 0)]);
    }

    #[test]
    fn what_cannot_be_in_an_archive_is_refused_by_name() {
        for (entries, part) in [
            (vec![("../etc/passwd", Regular, "x")], "leaves the root"),
            (vec![("a", Link, "gone")], "hard link"),
            (vec![("a", Link, "../x")], "leaves the root"),
            (vec![("TRAILER!!!", Regular, "x")], "ends an archive"),
            (vec![("a", Symlink, "")], "empty"),
        ] {
            let error = Tree::from_tar(tar_of(&entries).path()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(clean(b"a\xff").is_err());
        assert!(clean(b"a\0b").is_err());
        assert_eq!(clean(b"/./a//b/").unwrap().as_deref(), Some("a/b"));
        assert_eq!(clean(b"./").unwrap(), None);
    }

    #[test]
    fn a_tar_that_is_cut_off_is_noticed() {
        let tar = tar_of(&[("a", Regular, &"x".repeat(4000))]);
        tar.as_file().set_len(1500).unwrap();
        let outcome = Tree::from_tar(tar.path()).and_then(|t| t.write_cpio(io::sink(), 0));
        assert!(outcome.is_err());
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_packed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), "long text").unwrap();
        let tree = Tree::from_folder(folder.path()).unwrap();
        std::fs::write(folder.path().join("f"), "short").unwrap();
        let error = tree.write_cpio(io::sink(), 0).unwrap_err().to_string();
        assert!(error.contains("only 5 of its 9 bytes"), "{error}");
    }

    #[test]
    fn a_folder_becomes_roots_with_two_modes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("etc")).unwrap();
        std::fs::write(at("etc/run"), "#!").unwrap();
        let odd = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(at("etc/run"), odd).unwrap();
        std::os::unix::fs::symlink("run", at("etc/link")).unwrap();
        let tree = Tree::from_folder(folder.path()).unwrap();
        let modes: Vec<_> = tree.nodes.iter().map(|(p, n)| (p.as_str(), n.mode, n.uid)).collect();
        assert_eq!(modes, [("etc", 0o755, 0), ("etc/link", 0o777, 0), ("etc/run", 0o755, 0)]);
    }
}
