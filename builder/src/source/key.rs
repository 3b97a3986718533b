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

/// SAPI's application, on the key.
const APPLICATION: &str = "application.json";
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
    let filling = Filling::new(artefacts, spec)?;
    let uuids = &filling.uuids;
    for (zone, uuid) in uuids {
        files.insert(format!("zones/{zone}/image"), format!("{uuid}\n").into());
    }
    let content = |artefact: &Artefact| Content::File {
        path: artefact.path.clone(),
        size: artefact.entry.size,
    };
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
        sapi(folder, &filling, &mut files)?;
    }
    Ok(files.into_iter().collect())
}

/// What a build fills into SAPI's configuration.
#[derive(Debug, Clone, Default)]
pub struct Filling {
    /// The images of zones, by their names.
    uuids: BTreeMap<String, String>,
    /// Whether the application is told that there is no RabbitMQ.
    no_rabbit: bool,
}

impl Filling {
    /// What these parts and this spec say.
    ///
    /// # Errors
    /// When a zone's manifest cannot be read or is none.
    pub fn new(artefacts: &[Artefact], spec: &Spec) -> Result<Self, Error> {
        let mut uuids = BTreeMap::new();
        for artefact in artefacts {
            if let Some(Kind::ZoneManifest(zone)) = artefact.kind() {
                let manifest = ImageManifest::parse(&read(&artefact.path)?)
                    .map_err(|why| Error::Form { path: artefact.path.clone(), why })?;
                uuids.insert(zone, manifest.uuid);
            }
        }
        Ok(Self { uuids, no_rabbit: spec.parts.no_rabbit.unwrap_or_default() })
    }

    /// The content of a file for this place on the key: as it is, or filled in where the build does so.
    ///
    /// # Errors
    /// When the file cannot be read or is not what it should be.
    pub fn content(&self, place: &str, path: &Path) -> Result<Content, Error> {
        if place == APPLICATION {
            return self.application(path);
        }
        let service = place.strip_prefix("services/").and_then(|rest| rest.split_once('/'));
        let uuid = service
            .filter(|(_, file)| *file == "service.json")
            .and_then(|(name, _)| self.uuids.get(name));
        match uuid {
            Some(uuid) => Ok(read(path)?.replace(IMAGE_UUID, uuid).into()),
            None => Content::of_file(path)
                .map_err(|source| Error::Read { path: path.to_owned(), source }),
        }
    }

    fn application(&self, path: &Path) -> Result<Content, Error> {
        let form = |why: String| Error::Form { path: path.to_owned(), why };
        let mut application: Map<String, Value> =
            serde_json::from_str(&read(path)?).map_err(|error| form(error.to_string()))?;
        if self.no_rabbit {
            let metadata =
                application.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
            let metadata = metadata.as_object_mut();
            let metadata = metadata.ok_or_else(|| form("metadata is no object".to_owned()))?;
            metadata.insert("no_rabbit".to_owned(), Value::Bool(true));
        }
        Ok((serde_json::to_string_pretty(&application).unwrap_or_default() + "\n").into())
    }
}

/// SAPI's application, services with their images filled in, and manifests.
fn sapi(
    folder: &Path,
    filling: &Filling,
    files: &mut BTreeMap<String, Content>,
) -> Result<(), Error> {
    let application = filling.content(APPLICATION, &folder.join(APPLICATION))?;
    files.insert(APPLICATION.to_owned(), application);
    for part in ["services", "manifests"] {
        let below = folder.join(part);
        let mut found = Vec::new();
        walk(&below, part, &mut found)?;
        for (place, path) in found {
            let content = filling.content(&place, &path)?;
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
