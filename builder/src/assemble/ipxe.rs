//! iPXE as a build.spec's part `ipxe`: a tarball whose programs win over Debian's (C§1.10).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use headnode_model::manifest::Firmware;

use crate::image::Content;
use crate::source::firmware::Entry;
use crate::source::platform::tarball::{self, Item};

/// What makes a tarball one of iPXE: any of its programs.
const PROGRAMS: [&str; 4] = ["ipxe.lkrn", "ipxe.efi", "undionly.kpxe", "snponly.efi"];
/// Where it lies on the key, and the only folder that it may bring.
pub(super) const FOLDER: &str = "boot";

/// The tarball.
#[derive(Debug, Clone)]
pub struct Tarball {
    /// Where it is on this machine.
    pub path: PathBuf,
    /// What it is called where it comes from.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// iPXE, unpacked.
pub(super) struct Ipxe {
    tarball: Tarball,
    /// Its files, by path below [`FOLDER`].
    pub files: BTreeMap<String, Item>,
}

/// Unpacks it into the folder `into`, which it makes.
pub(super) fn unpack(tarball: &Tarball, into: &Path) -> anyhow::Result<Ipxe> {
    let shown = tarball.path.display();
    fs::create_dir(into).with_context(|| format!("unpacking {shown}"))?;
    let files = tarball::unpack_gzip(&tarball.path, into, &|_| false, &mut |_| ())
        .with_context(|| format!("unpacking {shown}"))?;
    let below = |path: &str| {
        let path = path.to_lowercase();
        path.strip_prefix(FOLDER)
            .and_then(|rest| rest.strip_prefix('/'))
            .unwrap_or(&path)
            .to_owned()
    };
    let mut named = BTreeMap::new();
    for (path, item) in files {
        if named.insert(below(&path), item).is_some() {
            bail!("{shown} holds {path} and the same within {FOLDER}/: which one is meant?");
        }
    }
    if !PROGRAMS.iter().any(|name| named.contains_key(*name)) {
        bail!("{shown} is no tarball of iPXE: it holds none of {}", PROGRAMS.join(", "));
    }
    Ok(Ipxe { tarball: tarball.clone(), files: named })
}

impl Ipxe {
    /// Its program that stands for one of the catalogue.
    pub(super) fn program(&self, entry: &Entry) -> Option<&Item> {
        let name = entry.file.as_ref()?.file_name()?.to_str()?;
        self.files.get(name).filter(|_| PROGRAMS.contains(&name))
    }

    /// How a manifest lists its program in the place of the catalogue's.
    pub(super) fn listed(&self, entry: &Entry, item: &Item) -> Firmware {
        Firmware {
            name: entry.name.clone(),
            package: self.tarball.name.clone(),
            version: self.tarball.version.clone(),
            licence: entry.licence.clone(),
            origin: "https://github.com/TritonDataCenter/ipxe".to_owned(),
            path: entry.path.clone(),
            size: item.size,
            sha256: item.sha256.clone(),
        }
    }
}

/// A file of it as content of the key.
pub(super) fn content(item: &Item) -> Content {
    Content::File { path: item.place.clone(), size: item.size }
}
