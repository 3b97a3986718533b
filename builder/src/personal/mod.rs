//! What a site puts into an image without building it anew: answers to first boot's questions, keys
//! for logging in, the console. They go into the image's personal parts (`headnode_model::personal`),
//! files with fixed places on the disk that the manifest lists apart from all others.
//!
//! [`Site`] is what the user gives, [`Wishes`] what was read of it and found good, [`Patch`] the bytes
//! at their places: `headnode customize` writes them into an image file, `headnode flash` over what it
//! writes to a key.

pub mod console;
pub mod copy;
pub mod held;
pub mod image;
pub mod keys;

use std::fmt;
use std::path::PathBuf;

use headnode_model::config::Problem;
use headnode_model::manifest::{Image, Manifest, Personal};
use headnode_model::paths;
use headnode_model::personal::{Part, SIZE};
use headnode_model::questions::{self, Facts};
use sha2::{Digest as _, Sha256};

use crate::answers::{self, Passwords};
use crate::image::output::hex;
use crate::source::platform::Kind;
use crate::spec::Console;

/// What a site wants of an image.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// The answers file.
    pub answers: Option<PathBuf>,
    /// How its passwords are stored.
    pub passwords: Passwords,
    /// Who may log in as root: files of public keys, or the keys themselves. They replace those that
    /// the image has.
    pub ssh_keys: Vec<String>,
    /// The console.
    pub console: Option<Console>,
    /// Whether what is not given is made blank; otherwise it stays as it is in the image.
    pub clear: bool,
}

/// Everything that is wrong with what a site wants. No secret is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refused(pub Vec<String>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the image cannot be personalised:\n  {}", self.0.join("\n  "))
    }
}

/// What a site wants, read from its files.
#[derive(Clone)]
pub struct Wishes {
    answers: Option<answers::File>,
    passwords: Passwords,
    keys: Option<String>,
    console: Option<Console>,
    clear: bool,
}

/// The bytes of a personal part.
#[derive(Clone, PartialEq, Eq)]
pub struct Patch {
    /// Its path on the key.
    pub path: String,
    /// Where it begins on the disk, in bytes.
    pub offset: u64,
    /// All of its bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the bytes: there may be passwords in them.
        write!(f, "Patch({} at byte {})", self.path, self.offset)
    }
}

impl Site {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.answers.is_none() && self.ssh_keys.is_empty() && self.console.is_none() && !self.clear
    }

    /// Reads the files, and checks what can be checked without the image: first boot's rules for
    /// answers, but for those that depend on the machine, and that keys are keys.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn read(&self) -> Result<Wishes, Refused> {
        let mut problems = Vec::new();
        let answers = self.answers.as_deref().and_then(|path| match answers::File::read(path) {
            Ok(file) => {
                let outcome = questions::evaluate(file.answers(), &Facts::default());
                let sealed = match file.stored(self.passwords, &[]) {
                    Err(answers::Error::Secrets { source, .. }) => source.0,
                    Err(error) => {
                        problems.push(error.to_string());
                        Vec::new()
                    }
                    Ok(_) => Vec::new(),
                };
                let mut all = outcome.problems;
                for problem in sealed {
                    if all.iter().all(|known| known.key != problem.key) {
                        all.push(problem);
                    }
                }
                let told = |problem: Problem| format!("{}: {problem}", path.display());
                problems.extend(all.into_iter().map(told));
                Some(file)
            }
            Err(error) => {
                problems.push(error.to_string());
                None
            }
        });
        let keys = (!self.ssh_keys.is_empty()).then(|| keys::gather(&self.ssh_keys));
        let keys = keys.transpose().unwrap_or_else(|bad| {
            problems.extend(bad);
            None
        });
        if !problems.is_empty() {
            return Err(Refused(problems));
        }
        let (passwords, console, clear) = (self.passwords, self.console, self.clear);
        Ok(Wishes { answers, passwords, keys, console, clear })
    }
}

impl Wishes {
    /// The parts of an image that change, with their new bytes, sorted by offset. The same wishes give
    /// the same bytes for the same image.
    ///
    /// # Errors
    /// All that is wrong: what the image has no place for, and what does not fit.
    pub fn patches(&self, manifest: &Manifest) -> Result<Vec<Patch>, Refused> {
        let image = manifest.image.as_ref();
        let places = image.map(|image| image.personal.as_slice()).unwrap_or_default();
        if places.is_empty() {
            let why = "its manifest lists no personal parts: an older version built it, and it must be \
                       built anew for this";
            return Err(Refused(vec![why.to_owned()]));
        }
        let mut contents = Vec::new();
        let mut problems = Vec::new();
        if self.clear {
            let parts = places.iter().filter_map(|place| Part::of_path(&place.path));
            contents.extend(parts.map(|part| (part, part.blank().to_vec())));
        }
        if let Some(file) = &self.answers {
            let smartos = os(manifest) == Some(Kind::SmartOs);
            let useless = file.useless_on_smartos(self.passwords).filter(|_| smartos);
            match (useless, file.stored(self.passwords, &seed(manifest))) {
                (Some(problem), _) => problems.push(problem),
                (None, Ok(text)) => contents.push((Part::Answers, text)),
                (None, Err(error)) => problems.push(error.to_string()),
            }
        }
        if let Some(keys) = &self.keys {
            contents.push((Part::AuthorizedKeys, keys.clone().into_bytes()));
        }
        if let Some(console) = self.console {
            match console::content(console, places, os(manifest)) {
                Ok(content) => contents.push(content),
                Err(problem) => problems.push(problem),
            }
        }
        let mut patches: Vec<Patch> = Vec::new();
        for (part, content) in contents {
            match patch(part, &content, places) {
                Ok(new) => {
                    patches.retain(|patch| patch.path != new.path);
                    patches.push(new);
                }
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(Refused(problems));
        }
        patches.sort_by_key(|patch| patch.offset);
        Ok(patches)
    }

    /// What the user should know of the answers, although nothing is wrong: questions that first boot
    /// will ask on its console, keys that nobody reads.
    pub fn notes(&self) -> Vec<String> {
        let Some(file) = &self.answers else { return Vec::new() };
        let outcome = questions::evaluate(file.answers(), &Facts::default());
        let mut notes = Vec::new();
        for key in &outcome.unknown {
            notes.push(format!("{}: nobody reads the key {key:?}", file.path().display()));
        }
        if !outcome.missing.is_empty() {
            let keys: Vec<_> = outcome.missing.iter().map(|question| question.key).collect();
            notes.push(format!("first boot will ask on its console for {}", keys.join(", ")));
        }
        notes
    }
}

/// What the salts of passwords follow from: the digest of the manifest on the key, which lists
/// everything but the personal parts, so that a build and what comes after it make the same.
fn seed(manifest: &Manifest) -> Vec<u8> {
    let listed = manifest.file(paths::KEY_MANIFEST).and_then(|file| file.sha256.as_deref());
    listed.unwrap_or_default().as_bytes().to_vec()
}

/// What an image boots.
pub(crate) fn os(manifest: &Manifest) -> Option<Kind> {
    let os = manifest.platforms.first()?.os.as_str();
    [Kind::Linux, Kind::SmartOs].into_iter().find(|kind| kind.name() == os)
}

fn patch(part: Part, content: &[u8], places: &[Personal]) -> Result<Patch, String> {
    let path = part.path();
    let Some(place) = places.iter().find(|place| place.path == path) else {
        return Err(format!("the image has no place for {path}"));
    };
    if place.length != SIZE as u64 {
        let length = place.length;
        return Err(format!("{path} has {length} bytes in the image, this program knows {SIZE}"));
    }
    let bytes = part.fill(content).map_err(|error| error.to_string())?;
    Ok(Patch { path: path.to_owned(), offset: place.offset, bytes })
}

/// The digest of a personal part as a manifest or a block map may tell it: none of what is private
/// and not blank, as it would help to guess passwords.
pub fn telling(path: &str, sha256: String) -> Option<String> {
    let private = path.strip_prefix(paths::KEY_PRIVATE).is_some_and(|rest| rest.starts_with('/'));
    let blank = || {
        let part = Part::of_path(path)?;
        Some(hex(Sha256::new().chain_update(part.fill(part.blank()).ok()?)))
    };
    (!private || blank().as_ref() == Some(&sha256)).then_some(sha256)
}

/// The image's description with the digests that its personal parts have once they are patched.
pub fn patched(image: &Image, patches: &[Patch]) -> Image {
    let mut image = image.clone();
    for place in &mut image.personal {
        if let Some(patch) = patches.iter().find(|patch| patch.path == place.path) {
            place.sha256 = telling(&place.path, hex(Sha256::new().chain_update(&patch.bytes)));
        }
    }
    image
}

#[cfg(test)]
mod tests;
