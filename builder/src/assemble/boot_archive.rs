//! The boot archive of a SmartOS platform, with what an installer that came by the network looks for
//! in its own ramdisk: `/scripts`, `/config.inc`, `/testdomain.txt`, `/isourl.txt` (C§1.14).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, bail};
use sha1::{Digest, Sha1};

use crate::image::Content;
use crate::image::ufs::{Entry, Error, Ufs};
use crate::platform::cache::hex;
use crate::source::platform::tarball::Item;
use crate::source::platform::{Platform, SMARTOS};
use crate::tree::Tree;

/// Where Triton publishes the archives of its installer (C§1.14). The archive's own name comes behind
/// an address that ends with a slash.
pub(super) const ISO_URL: &str = "https://netboot.smartos.org/triton-installer/";

/// Folders of the key that the installer needs, and the modes of their files.
const FOLDERS: [(&str, u16); 2] = [("scripts", 0o755), ("config.inc", 0o644)];

/// Why nothing can be added to a platform's boot archive, when it is no UFS file system; none when it
/// is a good one.
///
/// # Errors
/// When it is one that is damaged or not in a state to be changed, or cannot be read.
pub(super) fn refuses(platform: &Platform) -> anyhow::Result<Option<String>> {
    let item = archive(platform)?;
    let mut head = Vec::new();
    let opened = File::open(&item.place).and_then(|file| {
        (&file).take(6).read_to_end(&mut head)?;
        Ok(Ufs::open(file, item.size))
    });
    match opened.with_context(|| reading(platform))? {
        Ok(_) => Ok(None),
        Err(Error::NotUfs(why)) => Ok(Some(match head.as_slice() {
            [0x1f, 0x8b, ..] => "it is compressed with gzip".to_owned(),
            b"070701" | b"070702" | b"070707" => "it is a cpio archive".to_owned(),
            _ => format!("it is no UFS file system: {why}"),
        })),
        // Some platforms are made so: the rest of such a bundle is still of use.
        Err(error @ Error::HasLog) => Ok(Some(error.to_string())),
        Err(error) => Err(error).with_context(|| reading(platform)),
    }
}

/// A platform's boot archive with what the installer needs, taken from a disc's tree, and its new
/// hash, by their paths; nothing when it is no UFS file system, see [`refuses`]. `url` is where the
/// disc's archive, a file called `disc`, can be had when the boot server does not have it.
///
/// # Errors
/// When the archive is too full or cannot be changed.
pub(super) fn with_installer(
    platform: &Platform,
    tree: &Tree,
    url: Option<&str>,
    disc: &str,
    time: i64,
    work: &Path,
) -> anyhow::Result<Vec<(String, Content)>> {
    if refuses(platform)?.is_some() {
        return Ok(Vec::new());
    }
    let mut entries = BTreeMap::new();
    for (folder, mode) in FOLDERS {
        entries.insert(folder.to_owned(), Entry::Folder);
        for (path, content) in tree.files() {
            if path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')) {
                entries.insert(path, Entry::File { content, mode });
            }
        }
    }
    let url = url.unwrap_or(ISO_URL);
    let url = if url.ends_with('/') { format!("{url}{disc}") } else { url.to_owned() };
    for (path, text) in [("testdomain.txt", host(&url)), ("isourl.txt", url.as_str())] {
        let content = Content::from(format!("{text}\n"));
        entries.insert(path.to_owned(), Entry::File { content, mode: 0o644 });
    }

    let item = archive(platform)?;
    let place = work.join("boot_archive");
    fs::copy(&item.place, &place).context("copying the boot archive")?;
    let file = File::options().read(true).write(true).open(&place);
    let file = file.context("opening the copy of the boot archive")?;
    let adding = || format!("adding the installer's files to {}", name(platform));
    // Later than 2038 is not told apart by UFS1.
    let time = u32::try_from(time.clamp(0, i64::from(i32::MAX))).unwrap_or_default();
    let mut ufs = Ufs::open(file, item.size).with_context(adding)?;
    match ufs.add(&entries, time) {
        Err(Error::Full { bytes, inodes }) => {
            let size: u64 = entries.values().map(size).sum();
            bail!(
                "{}: {}. They are the key's scripts/ and config.inc/, {size} bytes: take a platform \
                 with a larger boot archive, or leave the format pxe out",
                adding(),
                Error::Full { bytes, inodes }
            );
        }
        added => added.with_context(adding)?,
    }
    let hash = sha1(&place).context("reading the changed boot archive")?;
    let content = Content::of_file(&place).context("looking at the changed boot archive")?;
    let [_, archive, hash_file] = SMARTOS.map(str::to_owned);
    Ok(vec![(archive, content), (hash_file, Content::from(format!("{hash}\n")))])
}

fn archive(platform: &Platform) -> anyhow::Result<&Item> {
    platform.files.get(SMARTOS[1]).with_context(|| format!("there is no {}", name(platform)))
}

fn name(platform: &Platform) -> String {
    format!("the boot archive of the platform {}", platform.stamp)
}

fn reading(platform: &Platform) -> String {
    format!("reading {}", name(platform))
}

fn size(entry: &Entry) -> u64 {
    match entry {
        Entry::Folder => 0,
        Entry::File { content, .. } => content.size(),
    }
}

/// The host of an address, without its port.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match host.split_once(']') {
        Some((address, _)) => address.trim_start_matches('['),
        None => host.split(':').next().unwrap_or_default(),
    }
}

fn sha1(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha1::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found() {
        for (url, expected) in [
            (ISO_URL, "netboot.smartos.org"),
            ("http://10.0.0.1:8080/x/fulliso.tgz", "10.0.0.1"),
            ("https://[fd00::1]:8443", "fd00::1"),
            ("https://boot?x", "boot"),
        ] {
            assert_eq!(host(url), expected);
        }
    }
}
