//! Triton's own part of its keys (C§1.10): first boot's scripts, what describes the first zones,
//! SAPI's configuration, defaults, banner, the loader's menu. They come from a checkout of its
//! repository sdc-headnode, or from a folder laid out as the key, as Triton's build gathers it; each
//! as a folder of this machine or as a gzipped tarball.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::key::{self, Filling};
use super::platform::tarball;
use crate::image::Content;

/// What is taken of a checkout and where it goes on the key; with `/` at the end a folder.
const CHECKOUT: &[(&str, &str)] = &[
    ("scripts/", "scripts/"),
    ("default/", "default/"),
    ("zones/", "zones/"),
    ("config/sapi/application.json", "application.json"),
    ("config/sapi/services/", "services/"),
    ("config/sapi/manifests/", "manifests/"),
    ("config/config.inc/", "config.inc/"),
    ("config/banner", "banner"),
    ("LICENSE", "license"),
    ("tools.tar.gz", "tools.tar.gz"),
    ("cn_tools.tar.gz", "cn_tools.tar.gz"),
    (MENU, MENU),
];
/// The same of a folder that is laid out as the key. What other keys of the build.spec bring is not
/// taken: it may be of another build.
const KEY: &[(&str, &str)] = &[
    ("scripts/", "scripts/"),
    ("default/", "default/"),
    ("zones/", "zones/"),
    ("application.json", "application.json"),
    ("services/", "services/"),
    ("manifests/", "manifests/"),
    ("config.inc/", "config.inc/"),
    ("banner", "banner"),
    ("LICENSE", "license"),
    ("license", "license"),
    ("tools.tar.gz", "tools.tar.gz"),
    ("cn_tools.tar.gz", "cn_tools.tar.gz"),
    (MENU, MENU),
];
/// What only a checkout has.
const OF_CHECKOUT: [&str; 2] = ["config/sapi/", "config/config.inc/"];
/// The menu of the illumos loader.
const MENU: &str = "boot/forth/menu.rc";
/// The defaults, and the line that Triton's build adds to them (C§1.12).
const GENERIC: &str = "config.inc/generic";
const USE_SAPI: &str = "USE_SAPI=";
/// What SAPI is set up with.
const SAPI: [&str; 3] = ["application.json", "services/", "manifests/"];
/// Folders within folders that are looked into: a link may lead back.
const DEPTH: usize = 16;
/// A checkout has some hundred files that are taken, and some thousand others.
const MAX_ENTRIES: usize = 100_000;

/// Why a checkout cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The tarball cannot be unpacked.
    #[error("unpacking {path}: {source}")]
    Tarball {
        /// The tarball.
        path: PathBuf,
        /// What is wrong with it.
        source: tarball::Error,
    },
    /// It is something else, or has names that a key cannot have.
    #[error("{path}: {why}")]
    Form {
        /// The checkout.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Something cannot be filled in.
    #[error(transparent)]
    Filling(#[from] key::Error),
}

/// A checkout that a build.spec names, and what of it is wanted.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// The folder or tarball.
    pub path: PathBuf,
    /// What is filled into SAPI's configuration.
    pub filling: Filling,
    /// Whether SAPI's configuration is taken from it.
    pub sapi: bool,
    /// Whether the loader's menu is: only the illumos loader has one of this form.
    pub menu: bool,
}

impl Checkout {
    /// The files for the key: path on it, in lower case, and content, sorted. A tarball is unpacked
    /// into the folder `into`, which is made.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn files(&self, into: &Path) -> Result<Vec<(String, Content)>, Error> {
        let found = if self.path.is_dir() { in_folder(&self.path)? } else { self.unpack(into)? };
        let mut files: BTreeMap<String, Content> = BTreeMap::new();
        for (path, place) in places(found.keys().map(String::as_str)) {
            let unwanted = (!self.menu && place == MENU)
                || (!self.sapi && SAPI.iter().any(|part| place.starts_with(part)));
            let Some(file) = found.get(path).filter(|_| !unwanted) else { continue };
            let content = match place.as_str() {
                GENERIC => generic(file)?,
                _ => self.filling.content(&place, file)?,
            };
            let place = place.to_lowercase();
            if files.insert(place, content).is_some() {
                let why = format!("its file {path} has the name of another one on the key");
                return Err(self.form(why));
            }
        }
        if files.is_empty() {
            let why = "it holds nothing of Triton's headnode, neither config/sapi nor scripts, zones \
                       and so on. Name a checkout of the repository sdc-headnode, a tarball of one, \
                       or a folder laid out as the key";
            return Err(self.form(why.to_owned()));
        }
        Ok(files.into_iter().collect())
    }

    fn form(&self, why: String) -> Error {
        Error::Form { path: self.path.clone(), why }
    }

    /// Unpacks what is taken of a tarball: by its path there, without the one folder that all may be
    /// below, as in archives that git makes.
    fn unpack(&self, into: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
        fs::create_dir(into).map_err(reading(into))?;
        let tops = RefCell::new(BTreeSet::new());
        let wanted = |path: &str| {
            let (top, rest) = path.split_once('/').unwrap_or((path, ""));
            let mut tops = tops.borrow_mut();
            // Two are enough to know that there is more than one.
            if tops.len() < 2 && !tops.contains(top) {
                tops.insert(top.to_owned());
            }
            taken(path) || taken(rest)
        };
        let unpacked =
            tarball::unpack_gzip_some(&self.path, into, &wanted).map_err(
                |source| match source {
                    tarball::Error::Link { .. } => self.form(format!(
                        "{source}. Unpack it and name the folder instead: there they are followed"
                    )),
                    source => Error::Tarball { path: self.path.clone(), source },
                },
            )?;
        let tops = tops.into_inner();
        let top = tops.first().filter(|top| tops.len() == 1 && !is_top(top));
        let below = |path: String| match top {
            Some(top) => path.strip_prefix(top)?.strip_prefix('/').map(str::to_owned),
            None => Some(path),
        };
        let files =
            unpacked.into_iter().filter_map(|(path, item)| Some((below(path)?, item.place)));
        Ok(files.collect())
    }
}

/// What of a checkout goes onto the key, for the lock file: names and files of this machine, sorted. A
/// tarball is one file, without a name; what cannot be read is told by [`Checkout::files`].
pub fn local(path: &Path) -> Vec<(String, PathBuf)> {
    if !path.is_dir() {
        return vec![(String::new(), path.to_owned())];
    }
    let mut found = in_folder(path).unwrap_or_default();
    let paths: Vec<String> = found.keys().cloned().collect();
    let taken = places(paths.iter().map(String::as_str));
    taken.iter().filter_map(|(path, _)| Some(((*path).to_owned(), found.remove(*path)?))).collect()
}

/// The paths that go onto the key, and their places there as they are written.
fn places<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Vec<(&'a str, String)> {
    let checkout = paths.clone().any(|path| OF_CHECKOUT.iter().any(|own| path.starts_with(own)));
    let table = if checkout { CHECKOUT } else { KEY };
    paths.filter_map(|path| Some((path, place(path, table)?))).collect()
}

/// Where a path goes.
fn place(path: &str, table: &[(&str, &str)]) -> Option<String> {
    // Git's and editors' files; and the UUID of an image that need not be on this key.
    let hidden = path.split('/').any(|part| part.starts_with('.'));
    if hidden || (path.starts_with("zones/") && path.ends_with("/image")) {
        return None;
    }
    table.iter().find_map(|(from, to)| {
        let rest = path.strip_prefix(from)?;
        (rest.is_empty() != from.ends_with('/')).then(|| format!("{to}{rest}"))
    })
}

fn taken(path: &str) -> bool {
    place(path, CHECKOUT).is_some() || place(path, KEY).is_some()
}

/// Whether a name is one of those at the top of a checkout or key.
fn is_top(name: &str) -> bool {
    let rows = CHECKOUT.iter().chain(KEY);
    rows.into_iter().any(|(from, _)| from.split('/').next() == Some(name))
}

fn reading(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Read { path, source }
}

/// The files of a folder that may go onto the key, by path. Links are followed, as Triton's build does.
fn in_folder(folder: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut found = BTreeMap::new();
    let mut open = vec![(folder.to_owned(), String::new(), 0)];
    let mut seen = 0;
    while let Some((below, prefix, depth)) = open.pop() {
        for item in fs::read_dir(&below).map_err(reading(&below))? {
            let item = item.map_err(reading(&below))?;
            seen += 1;
            if seen > MAX_ENTRIES {
                let why = format!("it holds more than {MAX_ENTRIES} files: this is no checkout");
                return Err(Error::Form { path: folder.to_owned(), why });
            }
            let name = item.file_name();
            let path = item.path();
            let Some(name) = name.to_str() else {
                // Names that are taken are all plain ones.
                continue;
            };
            let inside = format!("{prefix}{name}");
            // What is not taken need not be readable.
            let leads = leads(&inside);
            if !leads && !taken(&inside) {
                continue;
            }
            let meta = fs::metadata(&path).map_err(reading(&path))?;
            if meta.is_dir() && leads && depth < DEPTH {
                open.push((path, format!("{inside}/"), depth + 1));
            } else if meta.is_file() && taken(&inside) {
                found.insert(inside, path);
            }
        }
    }
    Ok(found)
}

/// Whether a folder of this path may hold what is taken.
fn leads(path: &str) -> bool {
    let path = format!("{path}/");
    let rows = CHECKOUT.iter().chain(KEY);
    let hidden = path.split('/').any(|part| part.starts_with('.'));
    !hidden
        && rows.into_iter().any(|(from, _)| {
            from.starts_with(&path) || (from.ends_with('/') && path.starts_with(from))
        })
}

/// The defaults, with the line that tells Triton's scripts of SAPI.
fn generic(path: &Path) -> Result<Content, Error> {
    let mut text = fs::read(path).map_err(reading(path))?;
    let has = text.split(|byte| *byte == b'\n').any(|line| line.starts_with(USE_SAPI.as_bytes()));
    if !has {
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        text.extend(format!("{USE_SAPI}\"true\"\n").into_bytes());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checkout(path: &Path) -> Checkout {
        Checkout { path: path.to_owned(), filling: Filling::default(), sapi: true, menu: true }
    }

    fn text(content: &Content) -> String {
        io::read_to_string(content.open().unwrap()).unwrap()
    }

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn names(files: &[(String, Content)]) -> Vec<&str> {
        files.iter().map(|(path, _)| path.as_str()).collect()
    }

    #[test]
    fn a_checkout_and_a_key_s_layout_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("none");
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        write(
            &one,
            &[
                ("config/sapi/application.json", "{}"),
                ("config/config.inc/generic", "a=1"),
                ("manifests/gz-tools.manifest.tmpl", "not SAPI's"),
                ("zones/sapi/create.json", "{}"),
                ("zones/sapi/.do-not-delete-me", ""),
                ("LICENSE", "MPL"),
                ("Makefile", ""),
                ("deps/scripts/x", ""),
                (".git/scripts/x", ""),
            ],
        );
        std::os::unix::fs::symlink(".", one.join("zones/loop")).unwrap();
        std::os::unix::fs::symlink("nowhere", one.join("deps/dangling")).unwrap();
        let files = checkout(&one).files(&into).unwrap();
        let found: Vec<&str> =
            names(&files).into_iter().filter(|name| !name.contains("loop")).collect();
        let expected =
            ["application.json", "config.inc/generic", "license", "zones/sapi/create.json"];
        assert_eq!(found, expected);
        let defaults = files.iter().find(|(path, _)| path == GENERIC).unwrap();
        assert_eq!(text(&defaults.1), "a=1\nUSE_SAPI=\"true\"\n");

        write(
            &two,
            &[
                ("application.json", "{}"),
                ("config", "written by first boot"),
                ("config.inc/generic", "USE_SAPI=\"true\"\n"),
                ("manifests/applications/sdc/x/template", ""),
                ("zones/sapi/image", "of another build"),
                ("images/x.imgfile", ""),
            ],
        );
        let files = checkout(&two).files(&into).unwrap();
        let expected =
            ["application.json", "config.inc/generic", "manifests/applications/sdc/x/template"];
        assert_eq!(names(&files), expected);
        assert_eq!(text(&files[1].1), "USE_SAPI=\"true\"\n");
        let pinned: Vec<String> = local(&two).into_iter().map(|(path, _)| path).collect();
        assert_eq!(pinned, expected);
        let without = Checkout { sapi: false, ..checkout(&two) }.files(&into).unwrap();
        assert_eq!(names(&without), ["config.inc/generic"]);

        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let error = checkout(&empty).files(&into).unwrap_err().to_string();
        assert!(error.contains("nothing of Triton's headnode"), "{error}");
        write(&two, &[("LICENSE", ""), ("license", "")]);
        let error = checkout(&two).files(&into).unwrap_err().to_string();
        assert!(error.contains("the name of another one"), "{error}");
    }

    proptest! {
        /// Whatever a checkout holds, what is taken of it stays below the key's top.
        #[test]
        fn places_are_plain(paths in proptest::collection::vec("(scripts|zones|config/sapi|config/config.inc|x|boot/forth|LICENSE|/|\\.\\.|\\.|menu.rc){1,5}", 0..8)) {
            for (path, place) in places(paths.iter().map(String::as_str)) {
                prop_assert!(taken(path));
                prop_assert!(!place.split('/').any(|part| part.starts_with('.')), "{place:?}");
                prop_assert!(!place.starts_with('/'), "{place:?}");
            }
        }
    }
}
