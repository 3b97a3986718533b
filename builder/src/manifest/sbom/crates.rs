//! The crates that our programs are built from: exactly those that cargo links for the target, with
//! their digests from `Cargo.lock` and their licences from their own manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use headnode_command::Command;
use serde::Deserialize;

use super::parts::sha256;
use super::{Component, Error, Licence, encode};
use crate::source::programs::{PROGRAMS, TARGET};

/// A crate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its archive in hex; absent for crates of this workspace.
    pub sha256: Option<String>,
    /// Its licence as an SPDX expression.
    pub licence: Option<String>,
    /// Where its source is.
    pub repository: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Debug, Deserialize)]
struct Locked {
    name: String,
    version: String,
    #[serde(default)]
    checksum: Option<String>,
}

/// What `cargo metadata` tells, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    #[serde(default)]
    license: Option<String>,
    #[serde(default)]
    repository: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    /// `build` and `dev`; absent for what is linked.
    kind: Option<String>,
}

impl Crate {
    /// The crates of our programs, asked from cargo in their workspace. It uses the network only for
    /// crates that were never fetched, as those of tests after a build.
    ///
    /// # Errors
    /// When cargo fails: a bill without licences must not look like a whole one.
    pub fn of_workspace(workspace: &Path) -> Result<Vec<Self>, Error> {
        let manifest = workspace.join("Cargo.toml");
        let output = Command::new("cargo")
            .args(["metadata", "--format-version", "1", "--locked"])
            .args(["--filter-platform", TARGET, "--manifest-path"])
            .arg(&manifest)
            .run()
            .map_err(|error| Error::Cargo(error.to_string()))?;
        let lock = std::fs::read_to_string(workspace.join("Cargo.lock"))
            .map_err(|error| Error::Cargo(format!("reading Cargo.lock: {error}")))?;
        let roots: Vec<_> = PROGRAMS.iter().map(|program| program.package).collect();
        Self::list(output.stdout.as_bytes(), &lock, &roots)
    }

    /// The crates that some packages are linked from, by cargo's metadata and lock file; sorted.
    ///
    /// # Errors
    /// When one of the texts cannot be read, or a package is not there.
    pub fn list(metadata: &[u8], lock: &str, roots: &[&str]) -> Result<Vec<Self>, Error> {
        let metadata: Metadata = serde_json::from_slice(metadata)
            .map_err(|source| Error::List { what: "cargo's metadata".to_owned(), source })?;
        let lock: Lock = toml::from_str(lock).map_err(Box::new)?;
        let checksums: BTreeMap<_, _> = lock
            .package
            .into_iter()
            .filter_map(|p| Some(((p.name, p.version), p.checksum?)))
            .collect();
        let nodes: BTreeMap<_, _> =
            metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let packages: BTreeMap<_, _> =
            metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
        let mut todo = Vec::new();
        for root in roots {
            let found = metadata.packages.iter().find(|package| package.name == *root);
            let missing = || Error::Cargo(format!("the workspace has no package {root}"));
            todo.push(found.ok_or_else(missing)?.id.as_str());
        }
        let mut seen = BTreeSet::new();
        let mut crates = BTreeSet::new();
        while let Some(id) = todo.pop() {
            if !seen.insert(id) {
                continue;
            }
            if let Some(package) = packages.get(id) {
                let key = (package.name.clone(), package.version.clone());
                crates.insert(Self {
                    sha256: checksums.get(&key).cloned(),
                    name: key.0,
                    version: key.1,
                    // The old way to write a choice (cargo's reference, "license").
                    licence: package.license.as_ref().map(|text| spdx(text)),
                    repository: package.repository.clone(),
                });
            }
            for dependency in nodes.get(id).iter().flat_map(|node| &node.deps) {
                if dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()) {
                    todo.push(&dependency.pkg);
                }
            }
        }
        Ok(crates.into_iter().collect())
    }

    pub(super) fn component(&self) -> Component {
        Component {
            kind: "library",
            reference: format!("crate:{}@{}", self.name, self.version),
            name: self.name.clone(),
            version: self.version.clone(),
            hashes: self.sha256.as_deref().map(sha256).unwrap_or_default(),
            licenses: self.licence.clone().map(Licence::Expression).into_iter().collect(),
            purl: format!("pkg:cargo/{}@{}", encode(&self.name), encode(&self.version)),
            external_references: self
                .repository
                .iter()
                .filter(|url| url.starts_with("https://"))
                .map(|url| super::Reference { kind: "vcs", url: url.clone() })
                .collect(),
            ..Component::default()
        }
    }
}

fn spdx(text: &str) -> String {
    text.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ")
}
