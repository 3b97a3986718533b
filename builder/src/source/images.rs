//! Images of IMGAPI, and those that other images are made from.

use std::collections::BTreeMap;

use super::digest::Digest;
use super::folder::beside;
use super::imgmanifest::{self, ImageManifest};
use super::lock::Origin;
use super::resolve::{Asked, Resolver, Wanted};

/// Images that an image may be made from, one after the other.
const CHAIN: usize = 32;

impl Resolver<'_> {
    pub(super) fn in_imgapi(&self, asked: Asked<'_>) -> Result<Vec<Wanted>, String> {
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
}
