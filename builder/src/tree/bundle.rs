//! Bundles: small archives of our software that the loader lays over a generic platform.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use zstd::zstd_safe::CParameter;

use super::overlay::Entry;
use crate::image::cpio::{self, Writer};

/// zstd's level: bundles are made on every build and unpacked on every boot.
const LEVEL: i32 = 9;
/// Bytes that a thread compresses at once. By itself zstd takes four windows, 16 MiB, and holds some of
/// them for each thread: more memory than the rest of a build.
const JOB: u32 = 4 << 20;

/// Why a bundle cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive cannot be written.
    #[error(transparent)]
    Cpio(#[from] cpio::Error),
    /// A path would replace a link of the platform.
    #[error(
        "{0:?}: in the root of the platform, bin, sbin and lib are links to usr/…: put the file there"
    )]
    Merged(String),
    /// A path is both a file and a folder.
    #[error("{0:?} is both a file and a folder of the bundle")]
    FileAndFolder(String),
    /// A file cannot be opened.
    #[error("opening the content of {path:?}: {source}")]
    Open {
        /// Path in the bundle.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Compressing or writing failed.
    #[error("writing the bundle: {0}")]
    Write(#[source] io::Error),
}

/// Writes a bundle: a zstd cpio archive, all of it root's, all times `mtime` (seconds since 1970).
///
/// # Errors
/// See [`Error`].
pub fn write(entries: &BTreeMap<String, Entry>, mtime: u32, out: &Path) -> Result<(), Error> {
    let file = File::create(out).map_err(Error::Write)?;
    let mut encoder = zstd::Encoder::new(BufWriter::new(file), LEVEL).map_err(Error::Write)?;
    // The result is the same for any number of threads above 0.
    encoder.multithread(2).map_err(Error::Write)?;
    encoder.set_parameter(CParameter::JobSize(JOB)).map_err(Error::Write)?;
    encoder.include_checksum(true).map_err(Error::Write)?;
    let encoder = archive(entries, mtime, encoder)?;
    encoder.finish().and_then(|mut buffer| buffer.flush()).map_err(Error::Write)
}

/// Writes the archive uncompressed.
///
/// # Errors
/// See [`Error`].
pub fn archive<W: Write>(
    entries: &BTreeMap<String, Entry>,
    mtime: u32,
    out: W,
) -> Result<W, Error> {
    let mut folders = BTreeSet::new();
    for path in entries.keys() {
        let top = path.split('/').next().unwrap_or_default();
        if matches!(top, "bin" | "sbin" | "lib" | "lib32" | "lib64") {
            return Err(Error::Merged(path.clone()));
        }
        folders.extend(path.match_indices('/').filter_map(|(at, _)| path.get(..at)));
    }
    let files = entries.keys().map(String::as_str);
    let mut paths: Vec<&str> = files.chain(folders.iter().copied()).collect();
    paths.sort_by(|a, b| a.split('/').cmp(b.split('/')));
    let mut archive = Writer::new(out);
    for path in paths {
        match entries.get(path) {
            Some(_) if folders.contains(path) => {
                return Err(Error::FileAndFolder(path.to_owned()));
            }
            None => {
                let entry = cpio::Entry::dir(path, folder_mode(path), mtime);
                archive.append(&entry, 0, &mut io::empty())?;
            }
            Some(Entry::Symlink(target)) => {
                let entry = cpio::Entry::symlink(path, mtime);
                archive.append(&entry, target.len() as u64, &mut target.as_bytes())?;
            }
            Some(Entry::File { content, executable }) => {
                let mode = if *executable { 0o755 } else { 0o644 };
                let mut data = content
                    .open()
                    .map_err(|source| Error::Open { path: path.to_owned(), source })?;
                archive.append(&cpio::Entry::file(path, mode, mtime), content.size(), &mut data)?;
            }
        }
    }
    Ok(archive.finish()?)
}

/// The kernel gives a folder that is already there the mode of the later archive, so those of the
/// platform that are special must be told alike.
fn folder_mode(path: &str) -> u32 {
    match path {
        "root" | "root/.ssh" => 0o700,
        "tmp" | "var/tmp" => 0o1777,
        _ => 0o755,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Content;

    fn file(text: &str) -> Entry {
        Entry::File { content: Content::from(text), executable: true }
    }

    #[test]
    fn folders_come_before_their_files() {
        let entries = BTreeMap::from([
            ("usr/bin/sdc".to_owned(), file("x")),
            ("usr/bin.old".to_owned(), file("y")),
            ("root/note".to_owned(), Entry::Symlink("/usr".to_owned())),
        ]);
        let bytes = archive(&entries, 5, Vec::new()).unwrap();
        let mut names = Vec::new();
        let mut rest = &bytes[..];
        loop {
            let reader = cpio_names(rest);
            let Some((name, mode, next)) = reader else { break };
            names.push((name, mode & 0o7777));
            rest = next;
        }
        let expected = [
            ("root", 0o700),
            ("root/note", 0o777),
            ("usr", 0o755),
            ("usr/bin", 0o755),
            ("usr/bin/sdc", 0o755),
            ("usr/bin.old", 0o755),
        ];
        assert_eq!(names, expected.map(|(name, mode)| (name.to_owned(), mode)));
    }

    fn cpio_names(bytes: &[u8]) -> Option<(String, u32, &[u8])> {
        let reader = ::cpio::newc::Reader::new(bytes).unwrap();
        let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
        (!reader.entry().is_trailer()).then(|| (name, mode, reader.finish().unwrap()))
    }

    #[test]
    fn links_of_the_platform_are_not_replaced() {
        let entries = BTreeMap::from([("lib/systemd/system/a.service".to_owned(), file(""))]);
        assert!(matches!(archive(&entries, 0, Vec::new()), Err(Error::Merged(_))));
    }
}
