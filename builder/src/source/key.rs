//! What fetched parts become on the key (C§1.10).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::fetch::Artefact;
use super::imgmanifest::ImageManifest;
use super::lock::Kind;
use crate::image::Content;
use crate::spec::Spec;

/// What stands for a zone's image in SAPI's services.
const IMAGE_UUID: &str = "IMAGE_UUID";

/// Why parts cannot be put on the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {why}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// The files of the key that come from parts: path on the key, in lower case, and content. Images
/// with all that they are made from, zones, sdcadm, agents, tools, SAPI's configuration, and the
/// spec's extra files. Platforms, their boot files and iPXE are tarballs, which others unpack;
/// files whose names mean nothing to the key are left out as well.
///
/// # Errors
/// When a file cannot be read or is not what it should be.
pub fn key_files(artefacts: &[Artefact], spec: &Spec) -> Result<Vec<(String, Content)>, Error> {
    let mut files: BTreeMap<String, Content> = BTreeMap::new();
    let content = |artefact: &Artefact| Content::File {
        path: artefact.path.clone(),
        size: artefact.entry.size,
    };
    let mut uuids: BTreeMap<String, String> = BTreeMap::new();
    for artefact in artefacts {
        if let Some(Kind::ZoneManifest(zone)) = artefact.kind() {
            let manifest = ImageManifest::parse(&read(&artefact.path)?)
                .map_err(|why| Error::Form { path: artefact.path.clone(), why })?;
            files.insert(format!("zones/{zone}/image"), format!("{}\n", manifest.uuid).into());
            uuids.insert(zone, manifest.uuid);
        }
    }
    for artefact in artefacts {
        let place = match artefact.kind() {
            Some(Kind::ZoneManifest(zone)) => {
                uuids.get(&zone).map(|uuid| format!("images/{uuid}.imgmanifest"))
            }
            Some(Kind::ZoneImage(zone)) => {
                uuids.get(&zone).map(|uuid| format!("images/{uuid}.imgfile"))
            }
            Some(Kind::OriginManifest(uuid)) => Some(format!("images/{uuid}.imgmanifest")),
            Some(Kind::OriginImage(uuid)) => Some(format!("images/{uuid}.imgfile")),
            Some(Kind::File(_)) => match artefact.role().unwrap_or_default().as_str() {
                "sdcadm" => Some("sdcadm-install.sh".to_owned()),
                "agents" | "agents_md5" => {
                    Some(format!("ur-scripts/{}", artefact.file_name().to_lowercase()))
                }
                "tools" => Some("tools.tar.gz".to_owned()),
                "cn_tools" => Some("cn_tools.tar.gz".to_owned()),
                _ => None,
            },
            Some(Kind::Local(key)) => key.strip_prefix("extra-files.").map(str::to_owned),
            None => None,
        };
        if let Some(place) = place {
            files.insert(place, content(artefact));
        }
    }
    if let Some(folder) = &spec.parts.sapi_config {
        sapi(folder, &uuids, spec.parts.no_rabbit.unwrap_or_default(), &mut files)?;
    }
    Ok(files.into_iter().collect())
}

/// SAPI's application, services with their images filled in, and manifests.
fn sapi(
    folder: &Path,
    uuids: &BTreeMap<String, String>,
    no_rabbit: bool,
    files: &mut BTreeMap<String, Content>,
) -> Result<(), Error> {
    let path = folder.join("application.json");
    let form = |path: &Path, why: String| Error::Form { path: path.to_owned(), why };
    let mut application: Map<String, Value> =
        serde_json::from_str(&read(&path)?).map_err(|error| form(&path, error.to_string()))?;
    if no_rabbit {
        let metadata = application.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        let metadata = metadata.as_object_mut();
        let metadata = metadata.ok_or_else(|| form(&path, "metadata is no object".to_owned()))?;
        metadata.insert("no_rabbit".to_owned(), Value::Bool(true));
    }
    let text = serde_json::to_string_pretty(&application).unwrap_or_default() + "\n";
    files.insert("application.json".to_owned(), text.into());
    for part in ["services", "manifests"] {
        let below = folder.join(part);
        let mut found = Vec::new();
        walk(&below, part, &mut found)?;
        for (place, path) in found {
            let service = place.strip_prefix("services/").and_then(|rest| rest.split_once('/'));
            let uuid = service
                .filter(|(_, file)| *file == "service.json")
                .and_then(|(name, _)| uuids.get(name));
            let content = match uuid {
                Some(uuid) => read(&path)?.replace(IMAGE_UUID, uuid).into(),
                None => Content::of_file(&path)
                    .map_err(|source| Error::Read { path: path.clone(), source })?,
            };
            if files.insert(place.to_lowercase(), content).is_some() {
                let why = "another part has this name on the key, where all are in lower case";
                return Err(Error::Form { path, why: why.to_owned() });
            }
        }
    }
    Ok(())
}

/// All files below a folder, with their places on the key.
fn walk(folder: &Path, place: &str, found: &mut Vec<(String, PathBuf)>) -> Result<(), Error> {
    let wrong = |source| Error::Read { path: folder.to_owned(), source };
    for item in fs::read_dir(folder).map_err(wrong)? {
        let item = item.map_err(wrong)?;
        let place = format!("{place}/{}", item.file_name().to_string_lossy());
        let path = item.path();
        if path.is_dir() {
            walk(&path, &place, found)?;
        } else {
            found.push((place, path));
        }
    }
    Ok(())
}
