//! What Triton's build.spec says besides what the command line has flags for: which parts go into
//! the image and where they come from (C§1.10).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::keys;
use super::{Format, Spec};

/// Where builds are published when the file does not say.
pub const MANTA_URL: &str = "https://us-central.manta.mnx.io";
/// The folder of all builds in there.
pub const MANTA_BASE: &str = "/Joyent_Dev/public/builds";
/// The IMGAPI that has the images and their origins.
pub const IMGAPI_URL: &str = "https://updates.tritondatacenter.com";
/// The branch when none is named.
pub const BRANCH: &str = "master";
/// The environment variable that tells the folder for source bits-dir.
pub const BITS_DIR_ENV: &str = "SOURCE_BITS_DIR";

/// A way to look up environment variables; tests give their own.
pub type Env<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// The process's environment.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Parts {
    /// Core services that are zone images.
    pub zones: BTreeMap<String, Part>,
    /// Parts that are single files.
    pub files: BTreeMap<String, Part>,
    /// Switches.
    pub features: BTreeMap<String, Feature>,
    /// Branch of all parts that do not name one.
    pub bits_branch: Option<String>,
    /// Folder for source bits-dir.
    pub bits_dir: Option<PathBuf>,
    /// Folder of all builds in Manta.
    pub manta_base_path: Option<String>,
    /// Manta's address.
    pub manta_url: Option<String>,
    /// IMGAPI's address.
    pub imgapi_url: Option<String>,
    /// Source of every part.
    pub override_all_sources: Option<Source>,
    /// Kind of the platform in `platform`.
    pub platform_kind: Option<PlatformKind>,
    /// Several platforms.
    pub platforms: Vec<PlatformChoice>,
    /// Bundle of the control services.
    pub control_bundle: Option<PathBuf>,
    /// More files: path on the key, file of this machine.
    pub extra_files: BTreeMap<String, PathBuf>,
    /// Folder with SAPI's `application.json`, `services/` and `manifests/`.
    pub sapi_config: Option<PathBuf>,
    /// Checkout of Triton's sdc-headnode, a folder or a tarball.
    pub sdc_headnode: Option<PathBuf>,
    /// Formats to make.
    pub formats: Vec<Format>,
    /// Key that signs the manifest.
    pub signing_key: Option<PathBuf>,
    /// Serial port of the illumos loader, `ttya` to `ttyd`.
    pub serial_dev: Option<String>,
    /// Whether processors use their hardware threads.
    #[serde(rename = "smt_enabled")]
    pub smt_enabled: Option<bool>,
    /// Whether the menu boots from the network by default, see [`crate::boot::smartos::Options::ipxe`].
    pub ipxe: Option<bool>,
    /// Where the network installer of SmartOS finds the disc's archive elsewhere.
    pub iso_url: Option<String>,
    /// `metadata.no_rabbit` of the SAPI application.
    pub no_rabbit: Option<bool>,
    /// Memory of the VMware machine, in MiB.
    pub coal_memsize: Option<u64>,
    /// Processors of the VMware machine.
    pub coal_numvcpus: Option<u64>,
    /// Disk for the pool of the VMware machine, in GiB.
    pub coal_zpool_disk_size: Option<u64>,
    /// Serial ports of the VMware machine.
    pub coal_enable_serial: Option<bool>,
    /// Where its first serial port goes.
    pub coal_serial0_path: Option<String>,
    /// Where its second serial port goes.
    pub coal_serial1_path: Option<String>,
    /// VMware Fusion's version.
    #[serde(rename = "vmware_version")]
    pub vmware_version: Option<u64>,
    /// Top-level keys of the user's own: Manta folders that an `alt_manta_base` names.
    #[serde(skip)]
    pub bases: BTreeMap<String, String>,
}

/// A switch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Feature {
    /// Whether it is on when nothing else says so.
    pub enabled: Option<bool>,
    /// The environment variable that switches it.
    pub env: Option<String>,
}

/// A zone or a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Part {
    /// Name under which it is built.
    pub jobname: Option<String>,
    /// Branch it is built from.
    pub branch: Option<String>,
    /// Where it comes from.
    pub source: Option<Source>,
    /// The image in IMGAPI.
    pub uuid: Option<String>,
    /// The channel in IMGAPI.
    pub channel: Option<String>,
    /// Top-level key that holds the Manta folder.
    pub alt_manta_base: Option<String>,
    /// This build instead of the latest.
    pub build_timestamp: Option<String>,
    /// Only when this feature is on.
    pub if_feature: Option<String>,
    /// Only when this feature is off.
    pub if_not_feature: Option<String>,
    /// Address for source http.
    pub url: Option<String>,
    /// Place for source dir.
    pub path: Option<PathBuf>,
    /// What its file is called.
    pub file: Option<FileName>,
    /// The digest that it must have.
    pub sha256: Option<String>,
}

/// What a build calls a file: `<base>-<branch>-….<ext>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FileName {
    /// The beginning.
    pub base: String,
    /// The end.
    pub ext: String,
}

/// Where a part comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Manta's directories.
    #[default]
    Manta,
    /// IMGAPI, by UUID.
    Imgapi,
    /// A folder laid out as Triton's builds lay out their bits.
    BitsDir,
    /// A file or folder by HTTP(S).
    Http,
    /// A file or folder of this machine.
    Dir,
}

/// A kind of platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlatformKind {
    /// illumos, `platform/i86pc`.
    Smartos,
    /// Linux, `platform/x86_64`.
    Linux,
}

/// One of several platforms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PlatformChoice {
    /// A tarball of this machine.
    pub path: Option<PathBuf>,
    /// Or the entry of `files` that is the tarball.
    pub file: Option<String>,
    /// What it is.
    pub kind: Option<PlatformKind>,
    /// Whether it boots by default.
    pub default: bool,
}

/// A switch, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Switch {
    /// Whether it is on.
    pub on: bool,
    /// What decided: `flag`, an environment variable's name, or `file`.
    pub by: String,
}

impl Spec {
    /// The features and what decided each: flags before environment variables before files.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn features(&self, env: Env<'_>) -> Result<BTreeMap<String, Switch>, Vec<String>> {
        let mut problems = Vec::new();
        let mut switches = BTreeMap::new();
        let known = &self.parts.features;
        for (flags, flag) in [(&self.feature, "--feature"), (&self.no_feature, "--no-feature")] {
            for name in flags.iter().filter(|name| !known.contains_key(*name)) {
                problems.push(unknown_feature(&format!("{flag} {name}"), name, known));
            }
        }
        for (name, feature) in known {
            let flags = (self.feature.contains(name), self.no_feature.contains(name));
            let variable = feature.env.as_ref().and_then(|variable| {
                let text = env(variable)?.trim().to_lowercase();
                (!text.is_empty()).then_some((variable, text))
            });
            let switch = match (flags, variable) {
                ((true, true), _) => {
                    problems.push(format!("feature {name:?} is switched on and off by flags"));
                    continue;
                }
                ((true, false), _) => Switch { on: true, by: "flag".to_owned() },
                ((false, true), _) => Switch { on: false, by: "flag".to_owned() },
                (_, Some((variable, text))) => match text.as_str() {
                    "yes" | "y" | "1" | "true" => Switch { on: true, by: variable.clone() },
                    "no" | "n" | "0" | "false" => Switch { on: false, by: variable.clone() },
                    _ => {
                        problems.push(format!(
                            "the environment variable {variable} is {text:?}, which does not \
                             switch feature {name:?}: it must be yes, y, 1, true, no, n, 0 or false"
                        ));
                        continue;
                    }
                },
                // A feature that does not say is told by `check`.
                _ => Switch { on: feature.enabled.unwrap_or_default(), by: "file".to_owned() },
            };
            switches.insert(name.clone(), switch);
        }
        if problems.is_empty() { Ok(switches) } else { Err(problems) }
    }
}

impl Part {
    /// Whether it takes part in the build.
    pub fn wanted(&self, features: &BTreeMap<String, Switch>) -> bool {
        let on = |name: &String| features.get(name).is_some_and(|switch| switch.on);
        self.if_feature.as_ref().is_none_or(on) && !self.if_not_feature.as_ref().is_some_and(on)
    }
}

/// What is said of a feature that nobody defines.
pub fn unknown_feature(place: &str, name: &str, known: &BTreeMap<String, Feature>) -> String {
    let near = keys::nearest(name, known.keys().map(String::as_str));
    match (near, known.is_empty()) {
        (Some(near), _) => format!("{place}: unknown feature {name:?}, did you mean {near:?}?"),
        (None, true) => format!("{place}: unknown feature {name:?}: the spec defines no features"),
        (None, false) => {
            let all: Vec<&str> = known.keys().map(String::as_str).collect();
            format!("{place}: unknown feature {name:?} (there are: {})", all.join(", "))
        }
    }
}
