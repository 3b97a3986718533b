//! From a build.spec to the files that it means: asks the sources which builds there are.

use std::fs;
use std::path::{Path, PathBuf};

use super::digest::{self, Digest};
use super::http::{Head, Http};
use super::imgmanifest::{ImageManifest, Packing};
use super::listing::{self, Pattern};
use super::lock::Origin;
use crate::spec::Spec;
use crate::spec::parts::{self, Env, Part, Source};

/// Folders within a build's folder in Manta that are looked into.
const DEPTH: usize = 4;

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
    pub(super) http: &'a Http,
    pub(super) spec: &'a Spec,
    pub(super) env: Env<'a>,
}

impl<'a> Resolver<'a> {
    /// A resolver for a spec.
    pub fn new(http: &'a Http, spec: &'a Spec, env: Env<'a>) -> Self {
        Self { http, spec, env }
    }

    pub(super) fn source(&self, asked: Asked<'_>) -> Source {
        self.spec.parts.override_all_sources.or(asked.part.source).unwrap_or_default()
    }

    pub(super) fn branch(&self, part: &Part) -> String {
        let branch = part.branch.as_ref().or(self.spec.parts.bits_branch.as_ref());
        branch.map_or_else(|| parts::BRANCH.to_owned(), Clone::clone)
    }

    pub(super) fn imgapi(&self) -> &str {
        let url = self.spec.parts.imgapi_url.as_deref().unwrap_or(parts::IMGAPI_URL);
        url.trim_end_matches('/')
    }

    pub(super) fn job(asked: Asked<'_>) -> &str {
        asked.part.jobname.as_deref().unwrap_or(asked.name)
    }

    pub(super) fn stamp(part: &Part) -> &str {
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
            Source::Manta => self.in_manta(asked)?,
            Source::Imgapi => self.in_imgapi(asked)?,
            Source::BitsDir => self.in_bits_dir(asked)?,
            Source::Http => self.in_http(asked)?,
            Source::Dir => self.in_dir(asked)?,
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
    pub(super) fn look_into(&self, wanted: &mut [Wanted]) -> Result<(), String> {
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

    fn in_manta(&self, asked: Asked<'_>) -> Result<Vec<Wanted>, String> {
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

    /// Part's name, file's name and version of the newest build among some names.
    pub(super) fn newest(
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

    fn in_http(&self, asked: Asked<'_>) -> Result<Vec<Wanted>, String> {
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

/// The name without its end, for want of a version.
pub(super) fn version_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
