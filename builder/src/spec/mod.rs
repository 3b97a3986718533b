//! What to build: one description, from a file (`build.spec`, JSON as Triton's is) and from the
//! command line, whose flags win.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::image::output::Compression;

/// The file that is read when no other is named and it exists.
pub const DEFAULT: &str = "build.spec";

/// The keys that a file may have.
const KEYS: [&str; 12] = [
    "answer-file",
    "authorized-keys",
    "boot",
    "compress",
    "console",
    "firmware",
    "output",
    "overlays",
    "platform",
    "runtime-dir",
    "size",
    "timeout",
];

/// What to build. Everything is optional; absent parts get defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case")]
pub struct Spec {
    /// Platform tarball, Linux or SmartOS; by default the newest out/platform-<stamp>.tgz. May be given
    /// several times: the first one boots, the second one is for rolling back
    #[arg(long, value_name = "FILE")]
    #[serde(default, deserialize_with = "one_or_many")]
    pub platform: Vec<PathBuf>,
    /// The illumos loader's tarball, boot-<stamp>.tgz, to boot SmartOS as Triton's keys do; by default
    /// GRUB boots it
    #[arg(long, value_name = "FILE")]
    pub boot: Option<PathBuf>,
    /// Folder with ready, static programs (sdc, sdc-agent, …); by default they are built by cargo
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// Folder of overlays; by default overlays/ of this workspace
    #[arg(long, value_name = "DIR")]
    pub overlays: Option<PathBuf>,
    /// Catalogue of boot firmware; by default firmware/catalogue.toml of this workspace
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Answers to first boot's questions (JSON); without them the console asks
    #[arg(long = "answers", value_name = "FILE")]
    pub answer_file: Option<PathBuf>,
    /// Public keys that may log in as root
    #[arg(long, value_name = "FILE")]
    pub authorized_keys: Option<PathBuf>,
    /// The image; by default out/headnode-<version>-<stamp>.img, with .zst or .gz when compressed
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How to compress the image
    #[arg(long, value_enum)]
    pub compress: Option<Compression>,
    /// Size of the image: auto, or a number with MiB, GiB, MB or GB
    #[arg(long, value_name = "SIZE")]
    pub size: Option<Size>,
    /// The console of the default menu entry
    #[arg(long, value_enum)]
    pub console: Option<Console>,
    /// Seconds that the boot menu waits
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u16>,
}

/// One path, or a list of them.
fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Paths {
        One(PathBuf),
        Many(Vec<PathBuf>),
    }
    Ok(match Option::deserialize(from)? {
        None => Vec::new(),
        Some(Paths::One(path)) => vec![path],
        Some(Paths::Many(paths)) => paths,
    })
}

/// A console of the boot menu.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
pub enum Console {
    /// The first serial port, 115200 baud.
    #[default]
    #[serde(rename = "ttyS0")]
    #[value(name = "ttyS0")]
    Serial,
    /// Screen and keyboard.
    #[serde(rename = "tty0")]
    #[value(name = "tty0")]
    Vga,
}

impl Console {
    /// Its Linux name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serial => "ttyS0",
            Self::Vga => "tty0",
        }
    }
}

/// The size of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Size {
    /// As small as sensible.
    #[default]
    Auto,
    /// So many bytes.
    Bytes(u64),
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match text.get(digits.len()..).unwrap_or_default() {
            "" | "B" => 1,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            "MB" | "mb" => 1_000_000,
            // Triton's image sizes (4gb, 8gb, …) are decimal.
            "GB" | "gb" => 1_000_000_000,
            _ => return Err(size_error(text)),
        };
        let count: Option<u64> = digits.parse().ok();
        count
            .and_then(|count| count.checked_mul(unit))
            .map(Self::Bytes)
            .ok_or_else(|| size_error(text))
    }
}

fn size_error(text: &str) -> String {
    format!("{text:?} is no size: give auto, or a number with MiB, GiB, MB or GB")
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Why a file is no usable description.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It is no JSON, or a value has the wrong form.
    #[error("{path}: {source}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// It has keys that nobody knows; all of them are told.
    #[error("{path}: {}", .keys.join("; "))]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is said of each key.
        keys: Vec<String>,
    },
}

impl Spec {
    /// Reads a file; relative paths in it start at its folder.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let syntax = |source| Error::Syntax { path: path.to_owned(), source };
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&text).map_err(syntax)?;
        let unknown = object.keys().filter(|key| !KEYS.contains(&key.as_str()));
        let keys: Vec<String> = unknown.map(|key| unknown_key(key)).collect();
        if !keys.is_empty() {
            return Err(Error::Keys { path: path.to_owned(), keys });
        }
        // Read again from the text, so that an error tells its line.
        let mut spec: Self = serde_json::from_str(&text).map_err(syntax)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for place in &mut spec.platform {
            *place = folder.join(&*place);
        }
        for place in [
            &mut spec.boot,
            &mut spec.runtime_dir,
            &mut spec.overlays,
            &mut spec.firmware,
            &mut spec.answer_file,
            &mut spec.authorized_keys,
            &mut spec.output,
        ] {
            *place = place.take().map(|place| folder.join(place));
        }
        Ok(spec)
    }

    /// What `self` leaves open, from `base`.
    #[must_use]
    pub fn or(self, base: Self) -> Self {
        Self {
            platform: if self.platform.is_empty() { base.platform } else { self.platform },
            boot: self.boot.or(base.boot),
            runtime_dir: self.runtime_dir.or(base.runtime_dir),
            overlays: self.overlays.or(base.overlays),
            firmware: self.firmware.or(base.firmware),
            answer_file: self.answer_file.or(base.answer_file),
            authorized_keys: self.authorized_keys.or(base.authorized_keys),
            output: self.output.or(base.output),
            compress: self.compress.or(base.compress),
            size: self.size.or(base.size),
            console: self.console.or(base.console),
            timeout: self.timeout.or(base.timeout),
        }
    }
}

fn unknown_key(key: &str) -> String {
    let nearest = KEYS.iter().map(|known| (distance(key, known), known)).min();
    match nearest {
        Some((steps, known)) if steps <= 3 => {
            format!("unknown key {key:?}, did you mean {known:?}?")
        }
        Some((_, known)) => format!(
            "unknown key {key:?} (the nearest one is {known:?}; all of them: {})",
            KEYS.join(", ")
        ),
        None => format!("unknown key {key:?}"),
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (above, to) in row.windows(2).zip(b.chars()) {
            if let [corner, above] = *above {
                left = (left + 1).min(above + 1).min(corner + usize::from(from != to));
                next.push(left);
            }
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<Spec, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("build.spec");
        fs::write(&path, text).unwrap();
        Spec::read(&path).map(|mut spec| {
            let strip = |path: PathBuf| path.strip_prefix(dir.path()).unwrap().to_owned();
            spec.answer_file = spec.answer_file.map(strip);
            spec
        })
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = spec(r#"{"answer-file": "a.json", "console": "tty0", "size": "8gb"}"#).unwrap();
        let flags = Spec { console: Some(Console::Serial), ..Spec::default() };
        let merged = flags.or(file);
        assert_eq!(merged.console, Some(Console::Serial));
        assert_eq!(merged.answer_file, Some(PathBuf::from("a.json")));
        assert_eq!(merged.size, Some(Size::Bytes(8_000_000_000)));
    }

    #[test]
    fn unknown_keys_are_told_with_the_nearest() {
        let error = spec(r#"{"answers-file": "x", "zones": {}}"#).unwrap_err().to_string();
        assert!(error.contains(r#""answers-file", did you mean "answer-file"?"#), "{error}");
        assert!(error.contains(r#""zones""#), "{error}");
        let error = spec("{\n \"size\": \"big\"}").unwrap_err().to_string();
        assert!(error.contains("is no size") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn every_field_is_a_known_key() {
        let all: serde_json::Map<_, _> =
            KEYS.iter().map(|key| ((*key).to_owned(), serde_json::Value::Null)).collect();
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(spec(&text).unwrap(), Spec::default());
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
