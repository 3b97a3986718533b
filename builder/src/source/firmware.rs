//! Boot firmware that an image carries: programs of others, each listed in the catalogue with its
//! Debian package, licence and origin.

use std::fs;
use std::path::{Path, PathBuf};

use headnode_command::Command;
use serde::Deserialize;

use super::platform::Kind;

/// The catalogue's name in the source tree.
pub const CATALOGUE: &str = "firmware/catalogue.toml";

/// The catalogue of firmware.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Its entries.
    pub firmware: Vec<Entry>,
}

/// A piece of firmware.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The Debian package that it comes from.
    pub package: String,
    /// Where the package puts it; absent when it is made from the package's files.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Where it lies in the image: a path on the key, or the name of its partition before a colon:
    /// `loader:efi/boot/bootx64.efi`.
    pub path: String,
    /// The boot loader with which an image carries it; every image when absent.
    #[serde(default)]
    pub loader: Option<LoaderKind>,
    /// The kind of platform that an image which carries it boots; every image when absent.
    #[serde(default)]
    pub platform: Option<Kind>,
    /// Its licence, SPDX.
    pub licence: String,
    /// Where its sources are.
    pub origin: String,
}

/// A boot loader that an image may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoaderKind {
    /// GRUB, which is made from Debian's packages.
    Grub,
    /// The illumos loader, which the user gives.
    Illumos,
}

/// Why the catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("reading the catalogue of boot firmware {path}: {source}")]
    Read {
        /// The catalogue.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It is wrong.
    #[error("the catalogue of boot firmware {path}: {source}")]
    Syntax {
        /// The catalogue.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
}

/// Reads the catalogue.
///
/// # Errors
/// When it cannot be read or is wrong.
pub fn read(path: &Path) -> Result<Catalogue, Error> {
    let text =
        fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|source| Error::Syntax { path: path.to_owned(), source: Box::new(source) })
}

/// Reads a catalogue's text.
///
/// # Errors
/// When it is wrong.
pub fn parse(text: &str) -> Result<Catalogue, toml::de::Error> {
    toml::from_str(text)
}

/// The installed version of a Debian package; `None` when it is not installed, or this is not
/// Debian.
pub fn package_version(package: &str) -> Option<String> {
    let output = Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).run().ok()?;
    let version = output.stdout.trim();
    (!version.is_empty()).then(|| version.to_owned())
}
