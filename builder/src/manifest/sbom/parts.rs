//! The parts of an image other than crates.

use headnode_model::manifest::Manifest;
use serde::Deserialize;

use super::{Component, Error, Hash, Licence, Property, Reference, Uuid, encode};

/// A package of a Debian platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebianPackage {
    /// The platform's stamp.
    pub platform: String,
    /// Debian's release: `bookworm`.
    pub suite: String,
    /// The package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// SHA-256 of the `.deb` in hex.
    pub sha256: String,
    /// Its licences, as Debian spells them.
    pub licences: Vec<String>,
    /// Where its copyright lies in the platform.
    pub copyright: Option<String>,
}

/// `packages.json`, as `headnode platform build` writes it.
#[derive(Debug, Deserialize)]
struct Packages {
    stamp: String,
    suite: String,
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    architecture: String,
    sha256: String,
    #[serde(default)]
    licences: Vec<String>,
    #[serde(default)]
    copyright: Option<String>,
}

impl DebianPackage {
    /// The packages that a platform's `packages.json` lists.
    ///
    /// # Errors
    /// When it is none.
    pub fn list(json: &[u8]) -> Result<Vec<Self>, Error> {
        let list: Packages = serde_json::from_slice(json)
            .map_err(|source| Error::List { what: "packages.json".to_owned(), source })?;
        let package = |p: Package| Self {
            platform: list.stamp.clone(),
            suite: list.suite.clone(),
            name: p.name,
            version: p.version,
            architecture: p.architecture,
            sha256: p.sha256,
            licences: p.licences,
            copyright: p.copyright,
        };
        Ok(list.packages.into_iter().map(package).collect())
    }

    pub(super) fn component(&self) -> Component {
        let named = |name: &String| Licence::License { name: name.clone() };
        let mut licenses: Vec<_> = self.licences.iter().map(named).collect();
        if let (true, Some(path)) = (licenses.is_empty(), &self.copyright) {
            licenses.push(named(&format!("see {path} in the platform")));
        }
        Component {
            kind: "library",
            reference: format!("deb:{}/{}:{}", self.platform, self.name, self.architecture),
            name: self.name.clone(),
            version: self.version.clone(),
            hashes: sha256(&self.sha256),
            licenses,
            purl: format!(
                "pkg:deb/debian/{}@{}?arch={}&distro={}",
                encode(&self.name),
                encode(&self.version),
                encode(&self.architecture),
                encode(&self.suite)
            ),
            properties: vec![Property { name: "headnode:platform", value: self.platform.clone() }],
            ..Component::default()
        }
    }
}

/// An image of a zone: what Triton's `*.imgmanifest` says of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ZoneImage {
    /// Its identifier.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `smartos`, `linux`, ….
    #[serde(default)]
    pub os: String,
    /// The image that it is made from.
    #[serde(default)]
    pub origin: Option<Uuid>,
    /// Its files.
    #[serde(default)]
    pub files: Vec<ZoneFile>,
}

/// A file of a zone image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ZoneFile {
    /// SHA-1 in hex.
    #[serde(default)]
    pub sha1: String,
}

impl ZoneImage {
    /// Reads an `*.imgmanifest`.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let list = |source| Error::List { what: "an image's manifest".to_owned(), source };
        serde_json::from_slice(json).map_err(list)
    }

    pub(super) fn component(&self) -> Component {
        let sha1 = self.files.iter().filter(|file| is_hex(&file.sha1, 40));
        let property = |name, value: String| Property { name, value };
        let mut properties = vec![property("headnode:image-uuid", self.uuid.to_string())];
        if !self.os.is_empty() {
            properties.push(property("headnode:image-os", self.os.clone()));
        }
        properties.extend(
            self.origin.map(|origin| property("headnode:image-origin", origin.to_string())),
        );
        Component {
            kind: "container",
            reference: format!("image:{}", self.uuid),
            name: self.name.clone(),
            version: self.version.clone(),
            hashes: sha1.map(|f| Hash { alg: "SHA-1", content: f.sha1.to_lowercase() }).collect(),
            purl: format!(
                "pkg:generic/{}@{}?uuid={}",
                encode(&self.name),
                encode(&self.version),
                self.uuid
            ),
            properties,
            ..Component::default()
        }
    }
}

/// The platforms that a manifest lists.
pub(super) fn platforms(manifest: &Manifest) -> impl Iterator<Item = Component> {
    manifest.platforms.iter().map(|platform| Component {
        kind: "operating-system",
        reference: format!("platform:{}", platform.stamp),
        name: platform.os.clone(),
        version: platform.stamp.to_string(),
        description: platform.description.clone(),
        ..Component::default()
    })
}

/// Our programs that a manifest lists.
pub(super) fn programs(manifest: &Manifest) -> impl Iterator<Item = Component> {
    manifest.services.iter().map(|service| Component {
        kind: "application",
        reference: format!("program:{}", service.name),
        name: service.name.clone(),
        version: service.version.clone(),
        hashes: sha256(&service.sha256),
        licenses: vec![Licence::Expression("MPL-2.0".to_owned())],
        ..Component::default()
    })
}

/// The loaders and firmware that a manifest lists.
pub(super) fn firmware(manifest: &Manifest) -> impl Iterator<Item = Component> {
    manifest.firmware.iter().map(|entry| {
        let url = entry.origin.starts_with("http://") || entry.origin.starts_with("https://");
        let origin = Reference { kind: "source-distribution", url: entry.origin.clone() };
        Component {
            kind: "firmware",
            reference: format!("firmware:{}", entry.path),
            name: entry.name.clone(),
            version: entry.version.clone(),
            hashes: sha256(&entry.sha256),
            licenses: vec![Licence::Expression(entry.licence.clone())],
            purl: format!("pkg:deb/debian/{}@{}", encode(&entry.package), encode(&entry.version)),
            external_references: url.then_some(origin).into_iter().collect(),
            properties: vec![Property { name: "headnode:path", value: entry.path.clone() }],
            ..Component::default()
        }
    })
}

/// A SHA-256 as a list of hashes; one that is none is left out, as the format has no place for it.
pub(super) fn sha256(hex: &str) -> Vec<Hash> {
    let good = is_hex(hex, 64);
    good.then(|| Hash { alg: "SHA-256", content: hex.to_lowercase() }).into_iter().collect()
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
