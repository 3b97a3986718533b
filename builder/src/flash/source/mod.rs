//! Where the bytes of a flash come from: an image on this machine or at web servers, packed or not,
//! and what tells that they are the right ones.
//!
//! Nothing is written to disk on the way, and memory is bounded: raw images are read in place, others
//! through two short queues, so that network, unpacking and writing overlap.

mod ahead;
mod describe;
mod error;
mod local;
mod magic;
mod map;
mod parts;
mod place;
mod reader;
mod remote;

pub use crate::image::packing::{Packing, unpacker};
pub use error::Error;
pub use map::{Map, MapRange, Trust};
pub use place::Place;
pub use reader::Reader;

use std::io::{Cursor, Read as _};
use std::sync::Arc;

use headnode_model::manifest::Manifest;

use describe::{Described, Expected};
use local::Opened;
use remote::Remote;

use crate::manifest::signature::PublicKey;
use crate::source::digest::sha256;
use crate::source::http::{Http, Patience};

/// How much of a file is looked at when it is opened, in bytes: a whole block of zstd fits.
const HEAD: usize = 256 << 10;
/// How much of the image itself is looked at, in bytes.
const INNER: u64 = 8 << 10;

/// Told of what goes wrong and is tried again.
pub type Trouble = Arc<dyn Fn(&str) + Send + Sync>;

/// How an image is opened.
#[derive(Clone, Default)]
pub struct Options<'a> {
    /// The manifest, path or address; else it is looked for beside the image.
    pub manifest: Option<&'a str>,
    /// The block map, path or address; else it is looked for beside the image.
    pub bmap: Option<&'a str>,
    /// The list of digests, path or address; else it is looked for beside the image.
    pub sums: Option<&'a str>,
    /// The key that must have signed what vouches for the image.
    pub public_key: Option<&'a PublicKey>,
    /// Whether an image for which nothing vouches is accepted. What is there is checked nevertheless.
    pub unverified: bool,
    /// More addresses of the same file.
    pub mirrors: &'a [String],
    /// How patient transfers are.
    pub patience: Patience,
    /// Told of what goes wrong and is tried again.
    pub trouble: Option<Trouble>,
}

/// An image that was opened, and of which it is known what is to be written.
pub struct Source {
    input: Input,
    packing: Packing,
    place: String,
    name: String,
    manifest: Option<Manifest>,
    map: Map,
    trust: Trust,
    identity: String,
    says: String,
    file: Option<Expected>,
    content: Option<Expected>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("place", &self.place)
            .field("packing", &self.packing)
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

/// Where the file lies.
enum Input {
    Local(Opened),
    Remote(Box<Remote>),
}

impl Source {
    /// Opens an image: the path or address of a raw one, or of one packed by zstd, gzip, xz or bzip2, which
    /// is seen by its first bytes. Everything that vouches for it is read and compared; of the image,
    /// no more than its beginning.
    ///
    /// Our manifest says most, then a block map, then lists of digests. Lists are not asked for raw
    /// images whose every mapped range has a digest of its own. With a public key, only what it signed
    /// counts.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(what: &str, options: &Options<'_>) -> Result<Self, Error> {
        let http = Http::new(options.patience.clone());
        let place = Place::parse(what)?;
        let (input, head, places) = match &place {
            Place::File(_) if !options.mirrors.is_empty() => {
                let text = format!("mirrors are for addresses, and {place} is a file");
                return Err(Error::Usage(text));
            }
            Place::File(path) => {
                let opened = Opened::open(path)?;
                let mut head = vec![0; HEAD];
                let count = opened.read(0, &mut head)?;
                head.truncate(count);
                (Input::Local(opened), head, vec![place.clone()])
            }
            Place::Url(url) => {
                let urls = std::iter::once(url).chain(options.mirrors).cloned();
                let trouble = options.trouble.clone();
                let (remote, head) = Remote::open(http.clone(), urls, trouble, HEAD)?;
                let places = remote.urls().map(|url| Place::Url(url.to_owned())).collect();
                (Input::Remote(Box::new(remote)), head, places)
            }
        };
        let packing = Packing::of_head(&head);
        let inner = look(&place, packing, head)?;
        let packed = packing != Packing::None;
        let described = describe::describe(&places, packed, options, &http)?;
        let Described { manifest, map, says, file, content, trust, identity, map_identity } =
            described;
        let identity = identity.unwrap_or_else(|| {
            format!("file:{}", sha256((own(&input) + &map_identity).as_bytes()))
        });
        let mut map = map.unwrap_or(Map { size: None, ranges: None, sector_size: 512 });
        if !matches!(trust, Trust::Manifest { .. }) {
            map.sector_size = magic::sector_size(&inner);
        }
        let mut source = Self {
            input,
            packing,
            name: place.name(),
            place: place.to_string(),
            manifest,
            map,
            trust,
            identity,
            says,
            file,
            content,
        };
        if !packed {
            source.raw()?;
        }
        Ok(source)
    }

    /// What holds for raw images only: the file's size and digest are the image's.
    fn raw(&mut self) -> Result<(), Error> {
        if let (Some(one), Some(two)) = (&self.file, &self.content)
            && one.sha256 != two.sha256
        {
            return Err(Error::Contradiction {
                one: one.list.clone(),
                other: two.list.clone(),
                what: format!("{} is not packed, and they tell two digests of it", self.place),
            });
        }
        self.file = self.file.take().or(self.content.take());
        let found = match &mut self.input {
            Input::Local(opened) => Some(opened.size),
            Input::Remote(remote) => {
                if remote.size().is_none() {
                    remote.expect(self.map.size);
                }
                remote.size()
            }
        };
        match (found, self.map.size) {
            (Some(found), Some(size)) if found != size => {
                let (place, says) = (self.place.clone(), self.says.clone());
                Err(Error::Size { place, found, size, says })
            }
            (None, None) if self.file.is_none() && !self.is_framed() => Err(Error::NoImage {
                place: self.place.clone(),
                what: "sent without a length by its server, so that nobody could tell whether all \
                       of it came: fetch it first, and give the file's path"
                    .to_owned(),
            }),
            (found, _) => {
                self.map.size = found;
                Ok(())
            }
        }
    }

    fn is_framed(&self) -> bool {
        match &self.input {
            Input::Local(_) => true,
            Input::Remote(remote) => remote.is_framed(),
        }
    }

    /// Our manifest of it, when there is one.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// What is to be written.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// Names exactly this content and map, in letters that file names may have but `:`. Where nothing
    /// vouches for the image, it names the state of the file; where a server tells no state, it is
    /// another one each time.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What vouches for it.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Its file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is packed.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Size of the file as it lies there, in bytes.
    pub fn packed_size(&self) -> Option<u64> {
        match &self.input {
            Input::Local(opened) => Some(opened.size),
            Input::Remote(remote) => remote.size(),
        }
    }

    /// A reader from the image's beginning; there may be several.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn reader(&self) -> Result<Reader, Error> {
        Reader::new(self)
    }
}

/// Names the state of the file.
fn own(input: &Input) -> String {
    match input {
        Input::Local(opened) => opened.identity(),
        Input::Remote(remote) => match remote.validator() {
            Some(validator) => format!("{} {:?} {validator}", remote.url(), remote.size()),
            None => uuid::Uuid::new_v4().to_string(),
        },
    }
}

/// Refuses what can be no image; gives the beginning of the image itself.
fn look(place: &Place, packing: Packing, head: Vec<u8>) -> Result<Vec<u8>, Error> {
    let failed = |error: std::io::Error| Error::Damaged {
        place: place.to_string(),
        packing: packing.name(),
        offset: 0,
        why: error.to_string(),
    };
    let refused = |what: String| Error::NoImage { place: place.to_string(), what };
    let inner = match packing {
        Packing::None => head,
        _ => {
            let mut inner = Vec::new();
            let unpacker = unpacker(packing, Cursor::new(head)).map_err(failed)?;
            // It ends within the file: what is damaged is told when it is read.
            let _ = unpacker.take(INNER).read_to_end(&mut inner);
            if Packing::of_head(&inner) != Packing::None {
                return Err(refused("packed twice: unpack it once first".to_owned()));
            }
            inner
        }
    };
    match magic::refusal(&inner) {
        Some(what) if packing == Packing::None => Err(refused(what)),
        Some(what) => Err(refused(format!("packed by {}, and in it is {what}", packing.name()))),
        None => Ok(inner),
    }
}
