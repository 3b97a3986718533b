//! The key's tree as an archive: a gzip tar that depends on paths and contents only.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter};
use std::sync::Arc;

use tar::{Builder, EntryType, Header};

use super::Content;
use super::copy::Exact;
use super::deflate::GzipWriter;
use super::pool::Pool;

/// As on FAT, everything may be run.
const MODE: u32 = 0o755;

/// Why an archive cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path cannot be part of it.
    #[error("{path:?} cannot be part of an archive: {why}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file cannot be read or added.
    #[error("adding {path:?} to the archive: {source}")]
    Add {
        /// Its path.
        path: String,
        /// What went wrong.
        source: io::Error,
    },
    /// Writing failed.
    #[error("writing the archive: {0}")]
    Write(#[source] io::Error),
}

/// Writes these files, by path with `/`, as a gzip tar into `file`: sorted, every folder before what
/// is in it, all of it root's, of the time `time` (seconds since 1970).
///
/// # Errors
/// See [`Error`].
pub fn write_tgz<'a>(
    files: impl IntoIterator<Item = &'a (String, Content)>,
    time: i64,
    file: File,
    pool: Arc<Pool>,
) -> Result<File, Error> {
    write_tgz_with_links(files, &[], time, file, pool)
}

/// What has a path in an archive.
enum Item<'a> {
    File(&'a Content),
    /// A symbolic link to this path.
    Link(&'a str),
}

/// As [`write_tgz`], with symbolic links among the files: each a path, and where it leads from its
/// folder.
///
/// # Errors
/// See [`Error`].
pub fn write_tgz_with_links<'a>(
    files: impl IntoIterator<Item = &'a (String, Content)>,
    links: &'a [(String, String)],
    time: i64,
    file: File,
    pool: Arc<Pool>,
) -> Result<File, Error> {
    let files = files.into_iter().map(|(path, content)| (path, Item::File(content)));
    let links = links.iter().map(|(path, target)| (path, Item::Link(target)));
    let mut files: Vec<(&String, Item<'_>)> = files.chain(links).collect();
    files.sort_by(|a, b| a.0.split('/').cmp(b.0.split('/')));
    let gzip = GzipWriter::new(BufWriter::new(file), pool).map_err(Error::Write)?;
    let mut archive = Builder::new(gzip);
    archive.sparse(false);
    let time = u64::try_from(time).unwrap_or(0);
    let mut folders = BTreeSet::new();
    let mut last: Option<&String> = None;
    for (path, item) in files {
        let refuse = |why| Error::Path { path: path.clone(), why };
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.contains('\0') {
            return Err(refuse("it is not a plain path"));
        }
        if last == Some(path) {
            return Err(refuse("it is there twice"));
        }
        let failed = |source| Error::Add { path: path.clone(), source };
        for folder in path.match_indices('/').filter_map(|(at, _)| path.get(..at)) {
            // A file sorts right before what would be in a folder of that name.
            if last.is_some_and(|last| last == folder) {
                return Err(refuse("a part of it is a file, too"));
            }
            if folders.insert(folder) {
                let mut header = header(EntryType::Directory, 0, time);
                let name = format!("{folder}/");
                archive.append_data(&mut header, name, io::empty()).map_err(failed)?;
            }
        }
        match item {
            Item::File(content) => {
                let mut header = header(EntryType::Regular, content.size(), time);
                let data = Exact::open(content).map_err(failed)?;
                archive.append_data(&mut header, path, data).map_err(failed)?;
            }
            Item::Link(target) => {
                let mut header = header(EntryType::Symlink, 0, time);
                archive.append_link(&mut header, path, target).map_err(failed)?;
            }
        }
        last = Some(path);
    }
    let gzip = archive.into_inner().map_err(Error::Write)?;
    let out = gzip.finish().map_err(Error::Write)?;
    out.into_inner().map_err(|error| Error::Write(error.into_error()))
}

fn header(kind: EntryType, size: u64, time: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(MODE);
    header.set_mtime(time);
    header.set_uid(0);
    header.set_gid(0);
    header
}
