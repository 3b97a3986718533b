//! Small files that are made for each machine: `networking.json`, CNAPI's boot modules, digests.
//!
//! What a script names has to be what is fetched a moment later, though CNAPI may have changed its
//! mind in between: the files are kept for some minutes as they were when the script was made.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cpio::newc::{Builder, ModeFileType, trailer};
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use headnode_model::boot::BootModule;
use headnode_model::net::MacAddr;

use super::digests::sha1_of;
use super::smartos::OWN_HASH;

/// How long a machine's files are kept as they were.
const KEPT: Duration = Duration::from_secs(600);
/// Bytes of all files that are kept; those of further machines are made anew when they are asked for. A
/// storm of 10,000 machines fits, each with `networking.json` and its copy in an archive.
const MEMORY: usize = 48 << 20;
/// How often old ones are looked for when there is no room.
const PAUSE: Duration = Duration::from_secs(10);
/// Bytes of memory beside the contents, for each file.
const BESIDE: usize = 200;
/// Largest module in bytes; CNAPI's own limit is 4 KiB (C§4.2).
const LARGEST: usize = 64 << 10;
/// The name of [`archive`].
pub(super) const ARCHIVE: &str = "boot-files.cpio.gz";
/// What its entries' names begin with (C§4.5).
const IN_LINUX: &str = "etc/triton-";
/// Longest path of a module.
const LONGEST: usize = 128;

/// A file for one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFile {
    /// Its path below `/bootfs/<mac>/`, also where the booted system finds it.
    pub name: String,
    /// Its content.
    pub content: Bytes,
    /// Whether it comes with its digest, for the kernel to check.
    pub hash: bool,
}

impl BootFile {
    pub(super) fn new(name: &str, content: Vec<u8>) -> Self {
        Self { name: name.to_owned(), content: content.into(), hash: true }
    }
}

/// A boot module as a file.
pub(super) fn module(module: &BootModule) -> Result<BootFile, &'static str> {
    let name = &module.path;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.+/".contains(c);
    let parts = || name.split('/');
    if name.is_empty() || name.len() > LONGEST || !name.chars().all(plain) {
        return Err("its path is not 1 to 128 letters, digits, _, -, ., + and /");
    }
    if parts().any(|part| matches!(part, "" | "." | "..")) {
        return Err("its path is not relative, or has . or .. in it");
    }
    if [ARCHIVE, OWN_HASH].contains(&name.as_str()) {
        return Err("its path is kept for a file of the booter's own");
    }
    if module.kind != "base64" {
        return Err("its type is not base64");
    }
    if module.content.len() / 4 * 3 > LARGEST {
        return Err("it is larger than 64 KiB");
    }
    let content = STANDARD.decode(&module.content).map_err(|_| "its content is not base64")?;
    Ok(BootFile::new(name, content))
}

/// Files as an archive that Linux unpacks over its root: `/etc/triton-<name>` each (C§4.5), and `config` as
/// `/etc/node.config`, for root alone, as a server's modules may hold keys. Compressed: an EFI kernel puts
/// its archives together without padding, and only looks for others than compressed ones at multiples of
/// 4 bytes.
///
/// # Errors
/// When a file is too large for the format.
pub(super) fn archive(files: &[BootFile], config: Option<&[u8]>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut folders = BTreeSet::new();
    let own = files.iter().map(|file| (format!("{IN_LINUX}{}", file.name), &*file.content));
    let config = config.map(|content| ("etc/node.config".to_owned(), content));
    for (name, content) in own.chain(config) {
        for (end, _) in name.match_indices('/').skip(1) {
            let folder = name.get(..end).unwrap_or_default();
            if folders.insert(folder.to_owned()) {
                let entry =
                    Builder::new(folder).mode(0o755).set_mode_file_type(ModeFileType::Directory);
                out = entry.nlink(2).write(out, 0).finish()?;
            }
        }
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let entry = Builder::new(&name).mode(0o600).set_mode_file_type(ModeFileType::Regular);
        let mut entry = entry.nlink(1).write(out, size);
        entry.write_all(content)?;
        out = entry.finish()?;
    }
    gzip(&trailer(out)?)
}

thread_local! {
    /// Its 370 KiB are taken once. Taking them for each machine leaves holes among what is kept for the
    /// machines, a storm of 1,000 of them was seen to take 200 MB so.
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

/// A member of a gzip file (RFC 1952 §2.3), without name and time.
fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    // Compressed by deflate, no flags, no time, by the fastest algorithm, on Unix.
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 3];
    DEFLATE.with_borrow_mut(|deflate| {
        deflate.reset();
        loop {
            out.reserve(1024 + bytes.len() / 4);
            let read = usize::try_from(deflate.total_in()).map_err(io::Error::other)?;
            let rest = bytes.get(read..).unwrap_or_default();
            if deflate.compress_vec(rest, &mut out, FlushCompress::Finish)? == Status::StreamEnd {
                return Ok::<_, io::Error>(());
            }
        }
    })?;
    let mut crc = Crc::new();
    crc.update(bytes);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    out.shrink_to_fit();
    Ok(out)
}

/// A file by the name that a machine asks for, with `.hash` at its end for the digest.
pub(super) fn find(files: &[BootFile], name: &str) -> Option<Bytes> {
    if let Some(file) = files.iter().find(|file| file.name == name) {
        return Some(file.content.clone());
    }
    let hashed = name.strip_suffix(".hash")?;
    let file = files.iter().find(|file| file.name == hashed)?;
    Some(Bytes::from(sha1_of(&file.content)))
}

type Kept = (Instant, Arc<Vec<BootFile>>);

/// The files of machines that got a script lately.
#[derive(Debug, Default)]
pub(super) struct Store(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    files: HashMap<MacAddr, Kept>,
    /// Of all of them.
    bytes: usize,
    /// When old ones were looked for.
    swept: Option<Instant>,
}

impl Store {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, mac: MacAddr, files: Arc<Vec<BootFile>>) {
        let mut all = self.all();
        if let Some((_, before)) = all.files.remove(&mac) {
            all.bytes -= size(&before);
        }
        let more = size(&files);
        if all.bytes + more > MEMORY && all.swept.is_none_or(|at| at.elapsed() > PAUSE) {
            all.swept = Some(Instant::now());
            all.files.retain(|_, (at, _)| at.elapsed() < KEPT);
            all.bytes = all.files.values().map(|(_, files)| size(files)).sum();
        }
        if all.bytes + more <= MEMORY {
            all.bytes += more;
            all.files.insert(mac, (Instant::now(), files));
        }
    }

    pub fn get(&self, mac: MacAddr) -> Option<Arc<Vec<BootFile>>> {
        let all = self.all();
        let (at, files) = all.files.get(&mac)?;
        (at.elapsed() < KEPT).then(|| Arc::clone(files))
    }
}

fn size(files: &[BootFile]) -> usize {
    let one = |file: &BootFile| BESIDE + file.name.len() + file.content.len();
    BESIDE + files.iter().map(one).sum::<usize>()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(path: &str, content: &str) -> BootModule {
        BootModule { path: path.into(), kind: "base64".into(), content: content.into() }
    }

    #[test]
    fn modules_become_files_with_digests_and_bad_ones_do_not() {
        let files = [module(&of("etc/abc", "YWJj")).unwrap()];
        assert_eq!(find(&files, "etc/abc").unwrap(), "abc");
        let digest = "a9993e364706816aba3e25717850c26c9cd0d89d";
        assert_eq!(find(&files, "etc/abc.hash").unwrap(), digest);
        assert_eq!(find(&files, "etc"), None);
        for (path, content) in
            [("", ""), ("/a", ""), ("a/../b", ""), ("a b", ""), ("a${b}", ""), ("a", "%")]
        {
            assert!(module(&of(path, content)).is_err(), "{path}");
        }
        assert!(module(&of("a", &"A".repeat(200_000))).is_err());
        assert!(module(&of(ARCHIVE, "")).is_err());
        assert!(module(&BootModule { kind: "text".into(), ..of("a", "") }).is_err());
    }

    pub(in crate::script) fn unpacked(archive: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(archive), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_archive_for_linux_has_all_files_and_their_folders() {
        let files = ["a", "b/c/d", "b/c/e"].map(|name| BootFile::new(name, name.into()));
        let bytes = unpacked(&archive(&files, Some(b"config")).unwrap());
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            let entry = reader.entry();
            let content = String::from_utf8(content).unwrap();
            found.push((entry.name().to_owned(), entry.mode(), content));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("etc/triton-a", 0o100_600, "a"),
            ("etc/triton-b", 0o40755, ""),
            ("etc/triton-b/c", 0o40755, ""),
            ("etc/triton-b/c/d", 0o100_600, "b/c/d"),
            ("etc/triton-b/c/e", 0o100_600, "b/c/e"),
            ("etc/node.config", 0o100_600, "config"),
        ];
        let expected = expected.map(|(name, mode, text)| (name.to_owned(), mode, text.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn the_files_of_so_many_machines_are_kept() {
        let store = Store::default();
        let mac = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            MacAddr([2, 0, a, b, c, d])
        };
        let files = Arc::new(vec![BootFile::new("a", vec![0; 2000])]);
        for n in 0..100_000 {
            store.put(mac(n), Arc::clone(&files));
            store.put(mac(n), Arc::clone(&files));
        }
        let kept = store.all().files.len();
        let bytes = store.all().bytes;
        assert_eq!(kept, MEMORY / size(&files));
        assert!(kept > 10_000 && bytes == kept * size(&files));
        assert!(store.get(mac(1)).is_some() && store.get(mac(99_999)).is_none());
    }

    proptest! {
        #[test]
        fn what_is_compressed_is_unpacked_again(
            all in proptest::collection::vec((any::<u8>(), 0_usize..200_000, any::<bool>()), 1..6)
        ) {
            // The same compressor for one after the other.
            let mut seed = 1_u32;
            let mut chance = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed.to_be_bytes()[0]
            };
            for (byte, length, dense) in all {
                let bytes: Vec<u8> = (0..length).map(|_| if dense { chance() } else { byte }).collect();
                let packed = gzip(&bytes).unwrap();
                prop_assert!(unpacked(&packed) == bytes);
                prop_assert_eq!(gzip(&bytes).unwrap(), packed);
            }
        }

        #[test]
        fn no_module_panics(path: String, content: String) {
            let _ = module(&of(&path, &content));
        }
    }
}
