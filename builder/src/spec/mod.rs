//! What to build: one description, from files (`build.spec`, JSON as Triton's is, and what is laid
//! over it) and from the command line, whose flags win.

pub mod check;
pub mod form;
pub mod keys;
pub mod lines;
pub mod merge;
pub mod parts;
pub mod schema;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::image::output::Compression;
use merge::{Merged, Problem};
use parts::Parts;

/// The file that is read when no other is named and it exists.
pub const DEFAULT: &str = "build.spec";

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
    /// The image, or the folder for all files; by default out/headnode-<version>-<stamp>.img and so on
    #[arg(long, short, value_name = "FILE|DIR")]
    pub output: Option<PathBuf>,
    /// What to make, all from one tree: usb (a disk image), iso, pxe, qcow2, vmdk, tar; usb by default
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FORMAT,…")]
    #[serde(skip)]
    pub format: Vec<Format>,
    /// Sign the manifests and digests with this key, see `headnode key`
    #[arg(long = "sign", value_name = "KEY")]
    #[serde(skip)]
    pub signing_key: Option<PathBuf>,
    /// Put the answers' passwords on the key in clear, as Triton's own scripts need them
    #[arg(long)]
    #[serde(skip)]
    pub clear_answers: bool,
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
    /// Switch a feature of build.spec on; may be given several times
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    pub feature: Vec<String>,
    /// Switch a feature of build.spec off; may be given several times
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    pub no_feature: Vec<String>,
    /// What only the file can say: parts, where they come from, and more.
    #[arg(skip)]
    #[serde(skip)]
    pub parts: Parts,
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

/// What an image is made as.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Deserialize,
    serde::Serialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A raw disk image, for a USB key or a machine's disk.
    Usb,
    /// A disc image, which is good for a USB key too.
    Iso,
    /// Files for a boot server.
    Pxe,
    /// QEMU's disk format.
    Qcow2,
    /// VMware's disk format, and the machine that belongs to it.
    Vmdk,
    /// The key's files in a tar.
    Tar,
}

/// A console of the boot menu. The loader's names (C§1.11) and Linux's are the same ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
pub enum Console {
    /// The first serial port, 115200 baud.
    #[default]
    #[serde(rename = "ttyS0", alias = "ttya")]
    #[value(name = "ttyS0", alias = "ttya")]
    Serial,
    /// Screen and keyboard.
    #[serde(rename = "tty0", alias = "text", alias = "graphics", alias = "vga")]
    #[value(name = "tty0", aliases = ["text", "graphics", "vga"])]
    Vga,
    /// The second serial port.
    #[serde(rename = "ttyS1", alias = "ttyb")]
    #[value(name = "ttyS1", alias = "ttyb")]
    Serial2,
    /// The third serial port.
    #[serde(rename = "ttyS2", alias = "ttyc")]
    #[value(name = "ttyS2", alias = "ttyc")]
    Serial3,
    /// The fourth serial port.
    #[serde(rename = "ttyS3", alias = "ttyd")]
    #[value(name = "ttyS3", alias = "ttyd")]
    Serial4,
    /// The serial port that `serial-dev` names.
    #[serde(rename = "serial")]
    #[value(name = "serial")]
    SerialDev,
}

impl Console {
    /// Its Linux name; that of `serial-dev` is not known here and taken for the first port.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serial | Self::SerialDev => "ttyS0",
            Self::Vga => "tty0",
            Self::Serial2 => "ttyS1",
            Self::Serial3 => "ttyS2",
            Self::Serial4 => "ttyS3",
        }
    }

    /// The number of its serial port, from 0; none for the screen.
    pub fn unit(self) -> Option<u8> {
        match self {
            Self::Vga => None,
            Self::Serial | Self::SerialDev => Some(0),
            Self::Serial2 => Some(1),
            Self::Serial3 => Some(2),
            Self::Serial4 => Some(3),
        }
    }

    /// Its name for the illumos loader's `os_console`: `text` or `ttya` to `ttyd`.
    pub fn illumos(self) -> &'static str {
        match self {
            Self::Serial | Self::SerialDev => "ttya",
            Self::Vga => "text",
            Self::Serial2 => "ttyb",
            Self::Serial3 => "ttyc",
            Self::Serial4 => "ttyd",
        }
    }

    /// The console that is meant, when `serial-dev` is this; `ttyb` when it is not given (C§1.11).
    #[must_use]
    pub fn with_serial_dev(self, serial_dev: Option<&str>) -> Self {
        match (self, serial_dev) {
            (Self::SerialDev, Some("ttya")) => Self::Serial,
            (Self::SerialDev, Some("ttyc")) => Self::Serial3,
            (Self::SerialDev, Some("ttyd")) => Self::Serial4,
            (Self::SerialDev, _) => Self::Serial2,
            (other, _) => other,
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
    /// What it says is wrong; all of it is told.
    #[error("{}", text(.0))]
    Problems(Vec<Problem>),
}

fn text(problems: &[Problem]) -> String {
    match problems {
        [one] => one.to_string(),
        all => {
            let lines: Vec<String> = all.iter().map(|problem| format!("\n  {problem}")).collect();
            format!("{} things are wrong in the build.spec:{}", all.len(), lines.concat())
        }
    }
}

impl Spec {
    /// Reads a file and what is laid over it (`<file>.local`, `<file>.branches`); relative paths in
    /// a file start at its folder.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let merged = Merged::read(path)?;
        let spec = Self::of(&merged)?;
        for over in &merged.overrides {
            tracing::info!("overridden: {over}");
        }
        match check::fit(&spec, &merged) {
            problems if problems.is_empty() => Ok(spec),
            problems => Err(Error::Problems(problems)),
        }
    }

    /// What merged files say.
    ///
    /// # Errors
    /// When their form is wrong.
    pub fn of(merged: &Merged) -> Result<Self, Error> {
        if !merged.problems.is_empty() {
            return Err(Error::Problems(merged.problems.clone()));
        }
        let values = serde_json::Value::Object(merged.values.clone());
        // The tables are stricter than the types; a test holds them together.
        let wrong = |source| Error::Syntax { path: PathBuf::from(DEFAULT), source };
        let mut spec: Self = serde_json::from_value(values.clone()).map_err(wrong)?;
        spec.parts = serde_json::from_value(values).map_err(wrong)?;
        spec.format.clone_from(&spec.parts.formats);
        spec.signing_key.clone_from(&spec.parts.signing_key);
        let own = merged.values.iter().filter_map(|(name, value)| {
            let known = keys::TOP.iter().any(|key| key.name == name);
            let base = value.as_str().filter(|base| base.starts_with('/') || !known)?;
            Some((name.clone(), base.to_owned()))
        });
        spec.parts.bases = own.collect();
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
            format: if self.format.is_empty() { base.format } else { self.format },
            signing_key: self.signing_key.or(base.signing_key),
            clear_answers: self.clear_answers || base.clear_answers,
            compress: self.compress.or(base.compress),
            size: self.size.or(base.size),
            console: self.console.or(base.console),
            timeout: self.timeout.or(base.timeout),
            feature: [base.feature, self.feature].concat(),
            no_feature: [base.no_feature, self.no_feature].concat(),
            // No flag says anything of them.
            parts: base.parts,
        }
    }
}

#[cfg(test)]
mod tests;
