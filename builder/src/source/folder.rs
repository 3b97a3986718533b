//! Parts from folders of this machine: bits-dir and plain ones.

use std::fs;
use std::path::{Path, PathBuf};

use super::digest::{self, Digest};
use super::lock::Origin;
use super::resolve::{Asked, Resolver, Wanted, version_of};
use crate::spec::parts::{self, Source};

/// How addresses of files of this machine begin.
const FILE: &str = "file:";

impl Resolver<'_> {
    /// The folder of a build in the bits-dir.
    fn bits(&self, asked: Asked<'_>) -> Result<PathBuf, String> {
        let set = (self.env)(parts::BITS_DIR_ENV).filter(|path| !path.is_empty());
        let root = set.map(PathBuf::from).or_else(|| self.spec.parts.bits_dir.clone());
        let root = root.ok_or_else(|| {
            let variable = parts::BITS_DIR_ENV;
            format!("source bits-dir needs the folder: set {variable} or the key bits-dir")
        })?;
        let build = format!("{}-{}", self.branch(asked.part), Self::stamp(asked.part));
        Ok(root.join(Self::job(asked)).join(build))
    }

    /// Where a file of a part that lies on this machine is, by the name that is locked.
    ///
    /// # Errors
    /// When the folder is not known.
    pub fn place(&self, asked: Asked<'_>, url: &str) -> Result<PathBuf, String> {
        let name = url.strip_prefix(FILE).unwrap_or(url);
        match self.source(asked) {
            Source::BitsDir => Ok(self.bits(asked)?.join(Self::job(asked)).join(name)),
            _ => {
                let path = asked.part.path.clone().unwrap_or_default();
                Ok(if path.is_dir() { path.join(name) } else { path })
            }
        }
    }

    pub(super) fn in_bits_dir(&self, asked: Asked<'_>) -> Result<Vec<Wanted>, String> {
        let above = self.bits(asked)?;
        let mut wanted = self.in_folder(asked, &above.join(Self::job(asked)))?;
        let sums_path = above.join("md5sums.txt");
        // A folder made by hand has none.
        if let Ok(text) = fs::read_to_string(&sums_path) {
            let sums =
                digest::sums(&text, 32).map_err(|why| format!("{}: {why}", sums_path.display()))?;
            for file in &mut wanted {
                let name = file.url.strip_prefix(FILE).unwrap_or_default();
                let md5 = sums.iter().find(|(known, _)| known == name);
                file.digest = md5.map(|(_, md5)| Digest::Md5(md5.clone()));
            }
        }
        Ok(wanted)
    }

    pub(super) fn in_dir(&self, asked: Asked<'_>) -> Result<Vec<Wanted>, String> {
        let path = asked.part.path.as_deref().unwrap_or(Path::new(""));
        if asked.zone || path.is_dir() {
            return self.in_folder(asked, path);
        }
        if !path.is_file() {
            return Err(format!("there is no file {}", path.display()));
        }
        let what = self.asked(asked);
        let one = |name| file(name, &what, path, version_of(path));
        Ok(Self::names(asked).into_iter().map(one).collect())
    }

    /// The newest files of a folder that are called as the part's are; those of a zone belong to
    /// one build.
    fn in_folder(&self, asked: Asked<'_>, folder: &Path) -> Result<Vec<Wanted>, String> {
        let wrong =
            |error: std::io::Error| format!("reading the folder {}: {error}", folder.display());
        let mut names = Vec::new();
        for item in fs::read_dir(folder).map_err(wrong)? {
            names.extend(item.map_err(wrong)?.file_name().into_string());
        }
        let what = self.asked(asked);
        self.newest(asked, &names, &folder.display().to_string())?
            .into_iter()
            .map(|(name, file_name, version)| {
                let path = folder.join(file_name);
                Ok(file(name, &what, &path, version))
            })
            .collect()
    }
}

/// A file of this machine. Its address is its name alone: a lock file is for all machines.
pub(super) fn file(name: String, asked: &str, path: &Path, version: String) -> Wanted {
    let mut wanted = Wanted::new(name, asked, Origin::File, format!("{FILE}{}", version_of(path)));
    wanted.version = version;
    wanted.path = Some(path.to_owned());
    wanted
}

/// An image that lies beside the one that is made from it.
pub(super) fn beside(folder: &Path, uuid: &str, names: &[String; 2]) -> Option<[Wanted; 2]> {
    let [manifest, image] =
        ["imgmanifest", "imgfile"].map(|end| folder.join(format!("{uuid}.{end}")));
    let [first, second] = names;
    (manifest.is_file() && image.is_file()).then(|| {
        [(first, manifest), (second, image)]
            .map(|(name, path)| file(name.clone(), "", &path, uuid.to_owned()))
    })
}
