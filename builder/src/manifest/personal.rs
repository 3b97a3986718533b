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

/// Looks at a personal part. The inner error is what is wrong with it.
///
/// # Errors
/// When the image cannot be read.
pub fn look(
    disk: &ImageFile,
    manifest: &Manifest,
    place: &Personal,
) -> io::Result<Result<Part, String>> {
    let Personal { path, offset, length, sha256 } = place;
    let end = offset.saturating_add(*length);
    if end > disk.size {
        return Ok(Err(format!("the image ends before byte {end}")));
    }
    let bytes = image::read(&disk.file, place)?;
    let built = sha256.as_deref() == Some(hex(Sha256::new().chain_update(&bytes)).as_str());
    let Some(kind) = Kind::of_path(path) else {
        // Of a newer version.
        let part = || Part {
            path: path.clone(),
            offset: *offset,
            length: *length,
            state: State::AsBuilt,
            holds: None,
        };
        let why = "it is not as built, and this program does not know what it may hold";
        return Ok(if built { Ok(part()) } else { Err(why.to_owned()) });
    };
    let held = match Held::read(kind, &bytes, os(manifest)) {
        Ok(held) => held,
        // The build takes what it is given.
        Err(why) if built => Held::Filled(why),
        Err(why) => return Ok(Err(why)),
    };
    let (state, holds) = match held {
        Held::Blank => (State::Blank, None),
        Held::Filled(holds) if built => (State::AsBuilt, Some(holds)),
        Held::Filled(holds) => (State::Personal, Some(holds)),
    };
    Ok(Ok(Part { path: path.clone(), offset: *offset, length: *length, state, holds }))
}
