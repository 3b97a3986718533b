//! What lies beside an image and tells what it should be: our manifest, a block map, lists of
//! digests, and their signatures.

use headnode_model::manifest::Manifest;

use super::map::{Map, Trust, digest};
use super::place::{Place, unpacked};
use super::{Error, Options};
use crate::assemble::stem_of;
use crate::manifest::bmap::Bmap;
use crate::manifest::signature::{self, Signature, Status};
use crate::manifest::sums;
use crate::source::digest::sha256;
use crate::source::http::Http;

/// A digest that something should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    /// It, in hex.
    pub sha256: String,
    /// What says so.
    pub list: String,
}

/// What is known of an image.
#[derive(Debug)]
pub(super) struct Described {
    pub manifest: Option<Manifest>,
    pub map: Option<Map>,
    /// What the map comes from.
    pub says: String,
    /// Of the file as it lies there.
    pub file: Option<Expected>,
    /// Of its unpacked content.
    pub content: Option<Expected>,
    pub trust: Trust,
    /// Names the content; `None` when nothing does.
    pub identity: Option<String>,
    /// Names the map, where that does not name the content as well.
    pub map_identity: String,
}

/// A file that describes the image.
struct Document {
    place: String,
    text: String,
    status: Status,
}

/// Reads what is there. `places` are those of the image; the first one that answers counts.
pub(super) fn describe(
    places: &[Place],
    packed: bool,
    options: &Options<'_>,
    http: &Http,
) -> Result<Described, Error> {
    let mut finder = Finder { places, options, http, looked: Vec::new(), out: Vec::new() };
    let whole = |suffix: &'static str| move |name: &str| format!("{name}{suffix}");
    let raw = |suffix: &'static str| move |name: &str| format!("{}{suffix}", unpacked(name));
    let manifest =
        finder.find(options.manifest, &[&raw(".manifest.json"), &whole(".manifest.json")])?;
    let bmap = finder.find(
        options.bmap,
        &[&whole(".bmap"), &raw(".bmap"), &|name| format!("{}.bmap", stem_of(unpacked(name)))],
    )?;
    let mut described = Described {
        manifest: None,
        map: None,
        says: String::new(),
        file: None,
        content: None,
        trust: Trust::None,
        identity: None,
        map_identity: String::new(),
    };
    if let Some(Document { place, text, status }) = manifest {
        let wrong = |why: String| Error::Description { place: place.clone(), why };
        let manifest =
            Manifest::parse(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let image = manifest.image.as_ref().ok_or_else(|| {
            wrong(
                "it is the copy on a key, which does not know the image; the one that counts \
                   is written beside the image"
                    .to_owned(),
            )
        })?;
        described.map = Some(Map::of_image(image, &place)?);
        described.identity = Some(format!("manifest:{}", sha256(text.as_bytes())));
        described.trust = Trust::Manifest { place: place.clone(), signature: status };
        described.says = place;
        described.manifest = Some(manifest);
    }
    if let Some(Document { place, text, status }) = bmap {
        let failed = |source| Error::Bmap { place: place.clone(), source };
        let map = Map::of_bmap(&Bmap::parse(&text).map_err(failed)?, &place)?;
        let identity = format!("bmap:{}", sha256(text.as_bytes()));
        match &described.map {
            Some(first) => {
                if let Some(what) = first.contradiction(&map) {
                    return Err(Error::Contradiction { one: described.says, other: place, what });
                }
            }
            None => {
                if map.is_digested() {
                    described.identity = Some(identity);
                    described.trust = Trust::Bmap { place: place.clone(), signature: status };
                } else {
                    described.map_identity = format!("+{identity}");
                }
                described.map = Some(map);
                described.says = place;
            }
        }
    }
    // The digest of a raw image would need all of it to be read, and the ranges' own say as much.
    let digested = described.map.as_ref().is_some_and(Map::is_digested);
    if !digested || packed || options.sums.is_some() {
        sums_of(&mut described, &mut finder)?;
        if !digested && let Some(of) = described.file.as_ref().or(described.content.as_ref()) {
            described.identity = Some(format!("sums:{}{}", of.sha256, described.map_identity));
        }
    }
    if described.trust == Trust::None {
        let place = places.first().map(Place::to_string).unwrap_or_default();
        let looked = finder.looked;
        if let Some(key) = options.public_key {
            return Err(Error::NotSigned { place, key: key.id(), looked });
        }
        if !options.unverified {
            return Err(Error::Unverified { place, looked });
        }
    }
    Ok(described)
}

/// Takes what lists of digests say.
fn sums_of(described: &mut Described, finder: &mut Finder<'_, '_>) -> Result<(), Error> {
    let whole = |suffix: &'static str| move |name: &str| format!("{name}{suffix}");
    let own = [".sha256", ".sha256sum", ".SHA256SUMS"].map(whole);
    let stem = |name: &str| format!("{}.SHA256SUMS", stem_of(unpacked(name)));
    let common = |_: &str| "SHA256SUMS".to_owned();
    let candidates: [&dyn Fn(&str) -> String; 5] = [&own[0], &own[1], &own[2], &stem, &common];
    let name = finder.places.first().map(Place::name).unwrap_or_default();
    let explicit = finder.options.sums;
    let count = if explicit.is_some() { 1 } else { candidates.len() };
    let mut seen = Vec::new();
    for (number, candidate) in candidates.iter().take(count).enumerate() {
        let Some(found) = finder.find(explicit, &[*candidate])? else { continue };
        let Document { place, text, status } = found;
        if seen.contains(&place) {
            continue;
        }
        seen.push(place.clone());
        let list = sums::parse(&text);
        let wrong = |why| Error::Description { place: place.clone(), why };
        let mut of_file = sums::find(&list, &name).map_err(wrong)?;
        // A digest that stands alone is that of the file whose name the list has.
        if let ([one], None, true) = (&list[..], of_file, explicit.is_some() || number < 2) {
            of_file = one.name.is_none().then_some(one.sha256.as_str());
        }
        let bare = unpacked(&name);
        let of_content = match bare == name {
            true => None,
            false => sums::find(&list, bare).map_err(wrong)?,
        };
        if of_file.is_none() && of_content.is_none() {
            if explicit.is_some() {
                return Err(wrong(format!("it does not list {name}")));
            }
            continue;
        }
        // Which of the two a list has does not matter for what is checked; both are, where known.
        for (slot, found) in [(&mut described.file, of_file), (&mut described.content, of_content)]
        {
            let Some(found) = found.filter(|hex| digest(hex).is_some()) else { continue };
            match slot {
                Some(known) if known.sha256 != found => {
                    return Err(Error::Contradiction {
                        one: known.list.clone(),
                        other: place,
                        what: format!("their digests of {name} differ"),
                    });
                }
                Some(_) => {}
                None => *slot = Some(Expected { sha256: found.to_owned(), list: place.clone() }),
            }
        }
        if described.trust == Trust::None {
            described.trust = Trust::Sums { place, signature: status };
        }
    }
    Ok(())
}

/// Looks for files beside the image.
struct Finder<'a, 'o> {
    places: &'a [Place],
    options: &'a Options<'o>,
    http: &'a Http,
    looked: Vec<String>,
    /// Numbers of the places that do not answer.
    out: Vec<usize>,
}

impl Finder<'_, '_> {
    /// The first of the files that is there; that which was asked for must be. When a key was asked
    /// for, only what it signed counts.
    fn find(
        &mut self,
        explicit: Option<&str>,
        candidates: &[&dyn Fn(&str) -> String],
    ) -> Result<Option<Document>, Error> {
        if let Some(explicit) = explicit {
            let place = Place::parse(explicit)?;
            let text = place.text(self.http)?;
            let text = text.ok_or_else(|| Error::Missing(place.to_string()))?;
            let minisig = place.beside(signature_name).text(self.http)?;
            return match self.signed(&place, &text, minisig)? {
                Some(status) => Ok(Some(Document { place: place.to_string(), text, status })),
                None => Err(Error::NotSigned {
                    place: place.to_string(),
                    key: self.options.public_key.map_or(signature::KeyId([0; 8]), |key| key.id()),
                    looked: vec![place.beside(signature_name).to_string()],
                }),
            };
        }
        let mut tried = Vec::new();
        for candidate in candidates {
            let name = self.places.first().map(Place::name).unwrap_or_default();
            let renamed = candidate(&name);
            if tried.contains(&renamed) {
                continue;
            }
            tried.push(renamed);
            let Some((place, text)) = self.get(*candidate)? else { continue };
            let minisig = self.get(&|name| signature_name(&candidate(name)))?;
            if let Some(status) = self.signed(&place, &text, minisig.map(|(_, text)| text))? {
                return Ok(Some(Document { place: place.to_string(), text, status }));
            }
        }
        Ok(None)
    }

    /// Reads a file beside the image, at the first place that answers.
    fn get(&mut self, rename: &dyn Fn(&str) -> String) -> Result<Option<(Place, String)>, Error> {
        let mut failed = None;
        for (number, place) in self.places.iter().enumerate() {
            if self.out.contains(&number) {
                continue;
            }
            let place = place.beside(rename);
            match place.text(self.http) {
                Ok(text) => {
                    if text.is_none() {
                        self.looked.push(place.name());
                    }
                    return Ok(text.map(|text| (place, text)));
                }
                Err(error @ Error::Http(_)) => {
                    self.out.push(number);
                    failed = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// What is known of a file's signature; `None` when a key was asked for and there is none.
    fn signed(
        &self,
        place: &Place,
        text: &str,
        minisig: Option<String>,
    ) -> Result<Option<Status>, Error> {
        let bad =
            |source| Error::Signature { place: place.beside(signature_name).to_string(), source };
        let signature = minisig.map(|text| Signature::parse(&text)).transpose().map_err(bad)?;
        Ok(match (signature, self.options.public_key) {
            (None, None) => Some(Status::NotSigned),
            (None, Some(_)) => None,
            (Some(signature), None) => Some(Status::NotChecked { key_id: signature.key_id() }),
            (Some(signature), Some(key)) => {
                key.verify(text.as_bytes(), &signature).map_err(bad)?;
                let comment = signature.comment().to_owned();
                Some(Status::Signed { key_id: key.id(), comment })
            }
        })
    }
}

fn signature_name(name: &str) -> String {
    format!("{name}.minisig")
}
