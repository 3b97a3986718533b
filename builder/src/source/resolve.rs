//! From a build.spec to the files that it means: asks the sources which builds there are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::digest::{self, Digest};
use super::http::{Head, Http};
use super::imgmanifest::{self, ImageManifest, Packing};
use super::listing::{self, Pattern};
use super::lock::Origin;
use crate::spec::Spec;
use crate::spec::parts::{self, Env, Part, Source};

/// How addresses of files of this machine begin.
const FILE: &str = "file:";
/// Folders within a build's folder in Manta that are looked into.
const DEPTH: usize = 4;
/// Images that an image may be made from, one after the other.
const CHAIN: usize = 32;

/// A file that is wanted and where it is.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name, see [`super::lock::Entry::name`].
    pub name: String,
    /// What the spec asked for.
    pub asked: String,
    /// What kind of place it is in.
    pub source: Origin,
    /// Its version.
    pub version: String,
    /// Its address.
    pub url: String,
    /// Its size in bytes, when the source says.
    pub size: Option<u64>,
    /// The digest that the source publishes.
    pub digest: Option<Digest>,
    /// The SHA-256 that it must have.
    pub sha256: Option<String>,
    /// What the server says of it, when it has no digest. It may change until it is fetched.
    pub head: Option<Head>,
    /// The image that it is made from.
    pub origin: Option<String>,
    /// How it is packed, when that is to be tested.
    pub packing: Option<Packing>,
    /// The file itself, when it came with the answer.
    pub bytes: Option<Vec<u8>>,
    /// Where it is, when it is a file of this machine.
    pub path: Option<PathBuf>,
}

impl Wanted {
    pub(super) fn new(name: String, asked: &str, source: Origin, url: String) -> Self {
        Self {
            name,
            asked: asked.to_owned(),
            source,
            version: String::new(),
            url,
            size: None,
            digest: None,
            sha256: None,
            head: None,
            origin: None,
            packing: None,
            bytes: None,
            path: None,
        }
    }
}

/// A zone or file of the spec.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its name in the spec.
    pub name: &'a str,
    /// What the spec says of it.
    pub part: &'a Part,
    /// Whether it is a zone.
    pub zone: bool,
}

/// An object in Manta.
struct Found {
    name: String,
    path: String,
    size: Option<u64>,
}

/// Asks sources for parts.
pub struct Resolver<'a> {
    http: &'a Http,
    spec: &'a Spec,
    env: Env<'a>,
}

impl<'a> Resolver<'a> {
    /// A resolver for a spec.
    pub fn new(http: &'a Http, spec: &'a Spec, env: Env<'a>) -> Self {
        Self { http, spec, env }
    }

    fn source(&self, asked: Asked<'_>) -> Source {
        self.spec.parts.override_all_sources.or(asked.part.source).unwrap_or_default()
    }

    fn branch(&self, part: &Part) -> String {
        let branch = part.branch.as_ref().or(self.spec.parts.bits_branch.as_ref());
        branch.map_or_else(|| parts::BRANCH.to_owned(), Clone::clone)
    }

    fn imgapi(&self) -> &str {
        let url = self.spec.parts.imgapi_url.as_deref().unwrap_or(parts::IMGAPI_URL);
        url.trim_end_matches('/')
    }

    fn job(asked: Asked<'_>) -> &str {
        asked.part.jobname.as_deref().unwrap_or(asked.name)
    }

    fn stamp(part: &Part) -> &str {
        part.build_timestamp.as_deref().unwrap_or("latest")
    }

    /// Manta's address and the folder of all builds of a part's job.
    fn manta(&self, asked: Asked<'_>) -> (String, String) {
        let all = &self.spec.parts;
        let own = asked.part.alt_manta_base.as_ref().and_then(|key| all.bases.get(key));
        let base = own.or(all.manta_base_path.as_ref()).map_or(parts::MANTA_BASE, String::as_str);
        let url = all.manta_url.as_deref().unwrap_or(parts::MANTA_URL);
        let folder = format!("{}/{}", base.trim_end_matches('/'), Self::job(asked));
        (url.trim_end_matches('/').to_owned(), folder)
    }

    /// What is asked for, in words that change when the spec's wish does.
    pub fn asked(&self, asked: Asked<'_>) -> String {
        let part = asked.part;
        let branch = self.branch(part);
        let stamp = Self::stamp(part);
        let file = part.file.as_ref().map(|file| format!(" {}.{}", file.base, file.ext));
        let file = file.unwrap_or_default();
        match self.source(asked) {
            Source::Manta => {
                let (url, folder) = self.manta(asked);
                format!("manta {url}{folder} {branch} {stamp}{file}")
            }
            Source::Imgapi => {
                let uuid = part.uuid.as_deref().unwrap_or_default();
                let channel = part.channel.as_deref().unwrap_or_default();
                let job = Self::job(asked);
                format!("imgapi {} {uuid} {job} {channel}", self.imgapi()).trim_end().to_owned()
            }
            Source::BitsDir => format!("bits-dir {} {branch} {stamp}{file}", Self::job(asked)),
            Source::Http => {
                let url = part.url.as_deref().unwrap_or_default();
                format!("http {url} {branch}{file}")
            }
            // Where the folder is differs from machine to machine.
            Source::Dir => format!("dir {branch}{file}"),
        }
    }

    /// The names that a part has in the lock file.
    pub fn names(asked: Asked<'_>) -> Vec<String> {
        let name = asked.name;
        if asked.zone {
            vec![format!("zone.{name}.imgmanifest"), format!("zone.{name}.imgfile")]
        } else {
            vec![format!("file.{name}")]
        }
    }

    fn patterns(&self, asked: Asked<'_>) -> Vec<Pattern> {
        let branch = self.branch(asked.part);
        let pattern =
            |base: String, ext: &str| Pattern { base, branch: branch.clone(), ext: ext.to_owned() };
        if asked.zone {
            let base = format!("{}-zfs", Self::job(asked));
            return vec![pattern(base.clone(), "imgmanifest"), pattern(base, "zfs.gz")];
        }
        let file = asked.part.file.clone().unwrap_or_default();
        vec![pattern(file.base, &file.ext)]
    }

    /// The files of a part, without the images that it is made from.
    ///
    /// # Errors
    /// What is wrong, without the part's name.
    pub fn part(&self, asked: Asked<'_>) -> Result<Vec<Wanted>, String> {
        let mut wanted = match self.source(asked) {
            Source::Manta => self.from_manta(asked)?,
            Source::Imgapi => self.from_imgapi(asked)?,
            Source::BitsDir => self.from_bits_dir(asked)?,
            Source::Http => self.from_http(asked)?,
            Source::Dir => self.from_dir(asked)?,
        };
        if asked.zone {
            self.look_into(&mut wanted)?;
        }
        for file in wanted.iter_mut().filter(|_| !asked.zone) {
            file.sha256.clone_from(&asked.part.sha256);
        }
        Ok(wanted)
    }

    /// Reads a zone's manifest, which tells what its image is and what that is made from.
    fn look_into(&self, wanted: &mut [Wanted]) -> Result<(), String> {
        let [manifest, image] = wanted else { return Ok(()) };
        let text = match (&manifest.bytes, &manifest.path) {
            (Some(bytes), _) => String::from_utf8_lossy(bytes).into_owned(),
            (None, Some(path)) => fs::read_to_string(path)
                .map_err(|error| format!("reading {}: {error}", path.display()))?,
            (None, None) => {
                let text = self.http.text(&manifest.url, &[]).map_err(|error| error.to_string())?;
                manifest.bytes = Some(text.clone().into_bytes());
                text
            }
        };
        let read = ImageManifest::parse(&text).map_err(|why| format!("{}: {why}", manifest.url))?;
        if let (Some(told), Some(listed)) = (read.size, image.size)
            && told != listed
        {
            let url = &image.url;
            return Err(format!("{url}: it has {listed} bytes, its manifest says {told}"));
        }
        image.size = image.size.or(read.size);
        image.digest.get_or_insert(Digest::Sha1(read.sha1));
        image.packing = Some(read.packing);
        manifest.origin = read.origin;
        Ok(())
    }

    fn from_manta(&self, asked: Asked<'_>) -> Result<Vec<Wanted>, String> {
        let (url, job) = self.manta(asked);
        let text = |path: &str| {
            self.http.text(&format!("{url}{path}"), &[]).map_err(|error| error.to_string())
        };
        let latest = format!("{job}/{}-{}", self.branch(asked.part), Self::stamp(asked.part));
        let folder = match &asked.part.build_timestamp {
            Some(_) => latest,
            None => {
                listing::pointer(&text(&latest)?).map_err(|why| format!("{url}{latest}: {why}"))?
            }
        };
        let sums_path = format!("{folder}/md5sums.txt");
        let sums = digest::sums(&text(&sums_path)?, 32)
            .map_err(|why| format!("{url}{sums_path}: {why}"))?;
        let mut files = Vec::new();
        self.walk(&url, &folder, DEPTH, &mut files)?;
        let what = self.asked(asked);
        let mut all = Vec::new();
        for (pattern, name) in self.patterns(asked).iter().zip(Self::names(asked)) {
            let (found, version) = pattern
                .only(&files, |found| &found.name)
                .map_err(|why| format!("{url}{folder}: {why}"))?;
            let Found { name: file_name, path, size } = found;
            let md5 = sums.iter().find(|(name, _)| name == file_name).map(|(_, md5)| md5);
            let md5 =
                md5.ok_or_else(|| format!("{url}{sums_path}: it has no digest for {file_name}"))?;
            let mut wanted = Wanted::new(name, &what, Origin::Manta, format!("{url}{path}"));
            version.clone_into(&mut wanted.version);
            wanted.size = *size;
            wanted.digest = Some(Digest::Md5(md5.clone()));
            all.push(wanted);
        }
        Ok(all)
    }

    /// All objects below a folder of Manta.
    fn walk(
        &self,
        url: &str,
        folder: &str,
        depth: usize,
        files: &mut Vec<Found>,
    ) -> Result<(), String> {
        let mut marker = String::new();
        loop {
            let page = format!("{url}{folder}?limit={}{marker}", listing::PAGE);
            let text = self.http.text(&page, &[]).map_err(|error| error.to_string())?;
            let items = listing::manta(&text).map_err(|why| format!("{url}{folder}: {why}"))?;
            let full = items.len() >= listing::PAGE;
            let last = items.last().map(|item| item.name.clone()).unwrap_or_default();
            // A marker is the first of the next page again.
            let again = usize::from(!marker.is_empty());
            for item in items.into_iter().skip(again) {
                let path = format!("{folder}/{}", item.name);
                if !item.folder {
                    files.push(Found { name: item.name, path, size: item.size });
                } else if depth > 0 {
                    self.walk(url, &path, depth - 1, files)?;
                }
            }
            if !full {
                return Ok(());
            }
            let next = format!("&marker={last}");
            if next == marker {
                return Err(format!("{url}{folder}: its listing does not end"));
            }
            marker = next;
        }
    }

    fn from_imgapi(&self, asked: Asked<'_>) -> Result<Vec<Wanted>, String> {
        let uuid = asked.part.uuid.as_deref().unwrap_or_default();
        let channel = asked.part.channel.as_deref();
        let (manifest, wanted) =
            self.image(uuid, channel, &self.asked(asked), Self::names(asked))?;
        // As Triton's build: a wrong UUID is seen by the name.
        let job = Self::job(asked);
        if manifest.name != job {
            return Err(format!(
                "image {uuid} is called {:?}, not {job:?}: give another uuid, or a jobname",
                manifest.name
            ));
        }
        Ok(wanted)
    }

    /// An image of IMGAPI: its manifest, and both files.
    fn image(
        &self,
        uuid: &str,
        channel: Option<&str>,
        asked: &str,
        names: Vec<String>,
    ) -> Result<(ImageManifest, Vec<Wanted>), String> {
        let query = |channel: &str| format!("?channel={channel}");
        let base = format!("{}/images/{uuid}", self.imgapi());
        let url = format!("{base}{}", channel.map(query).unwrap_or_default());
        let text =
            self.http.text(&url, &[("accept-version", "~2")]).map_err(|error| error.to_string())?;
        let manifest = ImageManifest::parse(&text).map_err(|why| format!("{url}: {why}"))?;
        if manifest.uuid != uuid {
            return Err(format!("{url}: it answers with image {}", manifest.uuid));
        }
        let for_key = imgmanifest::for_key(&text).map_err(|why| format!("{url}: {why}"))?;
        // Of any channel: the file is asked for in one that has it.
        let file_channel = match channel {
            Some("*") => manifest.channels.first().map(String::as_str),
            channel => channel,
        };
        let file_url = format!("{base}/file{}", file_channel.map(query).unwrap_or_default());
        let mut names = names.into_iter();
        let mut next = |url| {
            let name = names.next().unwrap_or_default();
            let mut wanted = Wanted::new(name, asked, Origin::Imgapi, url);
            wanted.version.clone_from(&manifest.version);
            wanted
        };
        let mut first = next(url);
        first.origin.clone_from(&manifest.origin);
        first.bytes = Some(for_key);
        let mut second = next(file_url);
        second.size = manifest.size;
        second.digest = Some(Digest::Sha1(manifest.sha1.clone()));
        second.packing = Some(manifest.packing);
        Ok((manifest, vec![first, second]))
    }

    /// The images that a zone's image is made from, but not those that are in `have` already.
    ///
    /// # Errors
    /// When one is missing or they go round in a circle.
    pub fn origins(
        &self,
        zone: &str,
        from: &Wanted,
        have: &mut BTreeMap<String, Wanted>,
    ) -> Result<(), String> {
        let mut way: Vec<String> = Vec::new();
        let mut origin = from.origin.clone();
        let folder = from.path.as_ref().and_then(|path| path.parent());
        while let Some(uuid) = origin {
            if way.contains(&uuid) {
                way.push(uuid);
                return Err(format!(
                    "the images that zone {zone} is made from go round in a circle: {}",
                    way.join(" → ")
                ));
            }
            if way.len() >= CHAIN {
                return Err(format!("zone {zone} is made from more than {CHAIN} images"));
            }
            let before =
                way.last().map_or_else(|| format!("zone {zone}"), |uuid| format!("image {uuid}"));
            way.push(uuid.clone());
            let names = ["imgmanifest", "imgfile"].map(|end| format!("image.{uuid}.{end}"));
            if let Some(known) = names.first().and_then(|name| have.get(name)) {
                origin = known.origin.clone();
                continue;
            }
            let beside = folder.and_then(|folder| beside(folder, &uuid, &names));
            let wanted = match beside {
                Some(mut wanted) => {
                    self.look_into(&mut wanted)?;
                    wanted.to_vec()
                }
                None => {
                    let found = self.image(&uuid, Some("*"), "", names.to_vec());
                    let missing = |why| {
                        format!("image {uuid}, which {before} is made from, is missing: {why}")
                    };
                    found.map_err(missing)?.1
                }
            };
            origin = wanted.first().and_then(|manifest| manifest.origin.clone());
            have.extend(wanted.into_iter().map(|wanted| (wanted.name.clone(), wanted)));
        }
        Ok(())
    }

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

    fn from_bits_dir(&self, asked: Asked<'_>) -> Result<Vec<Wanted>, String> {
        let above = self.bits(asked)?;
        let mut wanted = self.from_folder(asked, &above.join(Self::job(asked)))?;
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

    fn from_dir(&self, asked: Asked<'_>) -> Result<Vec<Wanted>, String> {
        let path = asked.part.path.as_deref().unwrap_or(Path::new(""));
        if asked.zone || path.is_dir() {
            return self.from_folder(asked, path);
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
    fn from_folder(&self, asked: Asked<'_>, folder: &Path) -> Result<Vec<Wanted>, String> {
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

    /// Part's name, file's name and version of the newest build among some names.
    fn newest(
        &self,
        asked: Asked<'_>,
        names: &[String],
        place: &str,
    ) -> Result<Vec<(String, String, String)>, String> {
        let mut all: Vec<(String, String, String)> = Vec::new();
        for (pattern, name) in self.patterns(asked).iter().zip(Self::names(asked)) {
            let (file, version) = pattern
                .newest(names)
                .ok_or_else(|| format!("{place}: it has no file {pattern}"))?;
            if let Some((_, other, told)) = all.first()
                && told != version
            {
                return Err(format!("{place}: {other} and {file} are of different builds"));
            }
            all.push((name, file.to_owned(), version.to_owned()));
        }
        Ok(all)
    }

    fn from_http(&self, asked: Asked<'_>) -> Result<Vec<Wanted>, String> {
        let url = asked.part.url.as_deref().unwrap_or_default();
        let what = self.asked(asked);
        let told = |error: super::http::Error| error.to_string();
        let Some(folder) = url.strip_suffix('/') else {
            let names = Self::names(asked);
            let name = names.into_iter().next().unwrap_or_default();
            let mut wanted = Wanted::new(name, &what, Origin::Http, url.to_owned());
            let path = url.split(['?', '#']).next().unwrap_or_default();
            wanted.version = version_of(Path::new(path));
            self.head(&mut wanted)?;
            return Ok(vec![wanted]);
        };
        let names = listing::index(&self.http.text(url, &[]).map_err(told)?);
        let newest = self.newest(asked, &names, url)?;
        let sums = |name: &str, digits| -> Result<Vec<(String, String)>, String> {
            let at = format!("{folder}/{name}");
            let text = self.http.text_if_there(&at).map_err(told)?.unwrap_or_default();
            digest::sums(&text, digits).map_err(|why| format!("{at}: {why}"))
        };
        let (sha256, md5) = (sums("SHA256SUMS", 64)?, sums("md5sums.txt", 32)?);
        let of = |sums: &[(String, String)], name: &str| {
            sums.iter().find(|(known, _)| known == name).map(|(_, hex)| hex.clone())
        };
        let mut all = Vec::new();
        for (name, file, version) in newest {
            let mut wanted = Wanted::new(name, &what, Origin::Http, format!("{folder}/{file}"));
            wanted.version = version;
            let good = of(&sha256, &file).map(Digest::Sha256);
            wanted.digest = good.or_else(|| of(&md5, &file).map(Digest::Md5));
            if wanted.digest.is_none() {
                self.head(&mut wanted)?;
            }
            all.push(wanted);
        }
        Ok(all)
    }

    fn head(&self, wanted: &mut Wanted) -> Result<(), String> {
        let head = self.http.head(&wanted.url).map_err(|error| error.to_string())?;
        wanted.head = Some(head);
        Ok(())
    }
}

/// A file of this machine. Its address is its name alone: a lock file is for all machines.
pub(super) fn file(name: String, asked: &str, path: &Path, version: String) -> Wanted {
    let mut wanted = Wanted::new(name, asked, Origin::File, format!("{FILE}{}", version_of(path)));
    wanted.version = version;
    wanted.path = Some(path.to_owned());
    wanted
}

/// The name without its end, for want of a version.
fn version_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// An image that lies beside the one that is made from it.
fn beside(folder: &Path, uuid: &str, names: &[String; 2]) -> Option<[Wanted; 2]> {
    let [manifest, image] =
        ["imgmanifest", "imgfile"].map(|end| folder.join(format!("{uuid}.{end}")));
    let [first, second] = names;
    (manifest.is_file() && image.is_file()).then(|| {
        [(first, manifest), (second, image)]
            .map(|(name, path)| file(name.clone(), "", &path, uuid.to_owned()))
    })
}
