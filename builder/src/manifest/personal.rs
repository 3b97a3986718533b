//! What is found in the personal parts of an image that is checked.

use std::fmt;
use std::io;

use headnode_model::manifest::{Manifest, Personal};
use headnode_model::personal::Part as Kind;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::image::output::hex;
use crate::image::reader::ImageFile;
use crate::personal::held::Held;
use crate::personal::{image, os};

/// A personal part that is in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its path on the key.
    pub path: String,
    /// Where it begins on the disk, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// Whether somebody put something there.
    pub state: State,
    /// What it holds, for people, when it is not blank; no secret.
    pub holds: Option<String>,
}

/// How a personal part relates to what was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing of a site is in it.
    Blank,
    /// It is what the build put there.
    AsBuilt,
    /// It is something else; or something private, whose digest no manifest tells.
    Personal,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Blank => "blank",
            State::AsBuilt => "as built",
            State::Personal => "personalised",
        };
        write!(f, "{}: {state}", self.path)?;
        self.holds.iter().try_for_each(|holds| write!(f, ", {holds}"))
    }
}

/// Looks at a personal part of an image. The inner error is what is wrong with it.
///
/// # Errors
/// When the image cannot be read.
pub fn look(
    disk: &ImageFile,
    manifest: &Manifest,
    place: &Personal,
) -> io::Result<Result<Part, String>> {
    let end = place.offset.saturating_add(place.length);
    if end > disk.size {
        return Ok(Err(format!("the image ends before byte {end}")));
    }
    Ok(judge(manifest, place, &image::read(&disk.file, place)?))
}

/// Judges the bytes of a personal part.
///
/// # Errors
/// What is wrong with them. No secret is told.
pub fn judge(manifest: &Manifest, place: &Personal, bytes: &[u8]) -> Result<Part, String> {
    let Personal { path, offset, length, sha256 } = place;
    let found = hex(Sha256::new().chain_update(bytes));
    let built = sha256.as_ref().is_some_and(|sha256| *sha256 == found);
    let (state, holds) = match Kind::of_path(path) {
        Some(kind) => match Held::read(kind, bytes, os(manifest)) {
            Ok(Held::Blank) => (State::Blank, None),
            Ok(Held::Filled(holds)) if built => (State::AsBuilt, Some(holds)),
            Ok(Held::Filled(holds)) => (State::Personal, Some(holds)),
            // A build takes what it is given.
            Err(why) if built => (State::AsBuilt, Some(why)),
            Err(why) => return Err(why),
        },
        // Of a newer version.
        None if built => (State::AsBuilt, None),
        None => {
            let why = "it is not as built, and this program does not know what it may hold";
            return Err(why.to_owned());
        }
    };
    Ok(Part { path: path.clone(), offset: *offset, length: *length, state, holds })
}
