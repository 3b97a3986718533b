//! The bill of materials of an image: CycloneDX 1.6 JSON (ECMA-424), made of what the parts of a build
//! know anyway. The same parts give the same bytes.
//!
//! Own types for the part of the format that is used here: the crate `cyclonedx-bom` brings twenty
//! others, XML among them, and fills in random serial numbers and the present time.

pub mod crates;
pub mod parts;

use headnode_model::manifest::Manifest;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

pub use crates::Crate;
pub use parts::{DebianPackage, ZoneImage};

/// Everything that a bill of materials is made of.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The image's manifest: name, version, time, programs, firmware.
    pub manifest: &'a Manifest,
    /// Debian packages of all platforms.
    pub debian: &'a [DebianPackage],
    /// Crates that our programs are built from.
    pub crates: &'a [Crate],
    /// Zone images.
    pub images: &'a [ZoneImage],
}

/// A bill of materials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bom {
    #[serde(rename = "$schema")]
    schema: &'static str,
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    /// The parts, sorted by their references.
    pub components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Metadata {
    timestamp: String,
    tools: Tools,
    component: Component,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Tools {
    components: Vec<Component>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    depends_on: Vec<String>,
}

/// A part of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// `library`, `application`, `firmware`, `operating-system`, `container`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What tells it from all others of this bill.
    #[serde(rename = "bom-ref")]
    pub reference: String,
    /// Its name.
    pub name: String,
    /// Its version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// What it is, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its digests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hashes: Vec<Hash>,
    /// Its licences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub licenses: Vec<Licence>,
    /// Its package URL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub purl: String,
    /// Where its source is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub external_references: Vec<Reference>,
    /// What else is known of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<Property>,
}

/// A digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hash {
    /// `SHA-256` or `SHA-1`.
    pub alg: &'static str,
    /// In hex.
    pub content: String,
}

/// A licence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Licence {
    /// An SPDX expression.
    Expression(String),
    /// Something else that tells it.
    License {
        /// In words.
        name: String,
    },
}

/// Where more is to be found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reference {
    /// `source-distribution`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Where.
    pub url: String,
}

/// A named value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Property {
    /// Its name, `headnode:…`.
    pub name: &'static str,
    /// The value.
    pub value: String,
}

/// Why no bill of materials can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A list of parts cannot be read.
    #[error("{what}: {source}")]
    List {
        /// Which list.
        what: String,
        /// Where and what.
        source: serde_json::Error,
    },
    /// Cargo's lock file cannot be read.
    #[error("Cargo.lock: {0}")]
    Lock(#[from] Box<toml::de::Error>),
    /// Cargo does not tell about the crates.
    #[error("asking cargo for the licences of the crates: {0}")]
    Cargo(String),
    /// The manifest's time is none.
    #[error("the manifest was created at {0}, which is no time")]
    Created(i64),
    /// Two parts have one reference.
    #[error("two parts of the image are {0:?}: a bill of materials names each once")]
    Twice(String),
}

/// Makes the bill of materials of an image.
///
/// # Errors
/// When the manifest's time is out of range, or two parts have the same name and version.
pub fn bom(inputs: Inputs<'_>) -> Result<Bom, Error> {
    let manifest = inputs.manifest;
    let timestamp = timestamp(manifest.created)?;
    let root = Component {
        kind: "firmware",
        reference: "image".to_owned(),
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        ..Component::default()
    };
    let mut components: Vec<Component> = parts::platforms(manifest)
        .chain(parts::programs(manifest))
        .chain(parts::firmware(manifest))
        .chain(inputs.debian.iter().map(DebianPackage::component))
        .chain(inputs.crates.iter().map(Crate::component))
        .chain(inputs.images.iter().map(ZoneImage::component))
        .collect();
    components.sort_by(|a, b| a.reference.cmp(&b.reference));
    if let Some([first, _]) =
        components.windows(2).find(|pair| matches!(pair, [a, b] if a.reference == b.reference))
    {
        return Err(Error::Twice(first.reference.clone()));
    }
    let dependencies = vec![Dependency {
        reference: root.reference.clone(),
        depends_on: components.iter().map(|part| part.reference.clone()).collect(),
    }];
    let tool = Component {
        kind: "application",
        reference: "builder".to_owned(),
        name: "headnode".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Component::default()
    };
    let metadata = Metadata { timestamp, tools: Tools { components: vec![tool] }, component: root };
    let mut bom = Bom {
        schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
        bom_format: "CycloneDX",
        spec_version: "1.6",
        serial_number: String::new(),
        version: 1,
        metadata,
        components,
        dependencies,
    };
    bom.serial_number = serial(&bom, manifest)?;
    Ok(bom)
}

/// A bill of materials as it is stored.
///
/// # Errors
/// Never for those made here.
pub fn text(bom: &Bom) -> Result<Vec<u8>, Error> {
    let list = |source| Error::List { what: "the bill of materials".to_owned(), source };
    let mut text = serde_json::to_vec_pretty(bom).map_err(list)?;
    text.push(b'\n');
    Ok(text)
}

/// A time in the form of RFC 3339.
pub(crate) fn timestamp(seconds: i64) -> Result<String, Error> {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .ok_or(Error::Created(seconds))
}

/// The serial number, which must differ from bill to bill: it follows from the bill and the image.
fn serial(bom: &Bom, manifest: &Manifest) -> Result<String, Error> {
    let mut hash = Sha256::new().chain_update(text(bom)?);
    for file in &manifest.files {
        hash.update(file.path.as_bytes());
        hash.update([0]);
        hash.update(file.sha256.as_deref().unwrap_or_default());
    }
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    Ok(format!("urn:uuid:{}", uuid::Builder::from_random_bytes(bytes).into_uuid().hyphenated()))
}

/// Makes a part of a package URL safe (package URL specification, "Character encoding").
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
