//! The personal parts of the key that is built: each is there on every key, blank or with what the
//! build was given. What would be a file of the same name, wherever it comes from, becomes the part's
//! content.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context, bail};
use headnode_model::personal::{Part, SIZE};

use super::loader::Loader;
use crate::image::Content;
use crate::tree::Tree;

/// What the parts hold; without an entry they are blank.
pub(super) struct Slots {
    parts: Vec<Part>,
    contents: BTreeMap<Part, Vec<u8>>,
}

impl Slots {
    /// The parts that a key with this loader has, all blank.
    pub(super) fn new(loader: &Loader) -> Self {
        let console = match loader {
            Loader::Grub(_) => Part::GrubEnvironment,
            Loader::Illumos(_) => Part::LoaderConf,
        };
        let parts = vec![Part::Answers, Part::AuthorizedKeys, console];
        Self { parts, contents: BTreeMap::new() }
    }

    /// Whether a file is one of the parts, and has content already.
    pub(super) fn holds(&self, path: &str) -> bool {
        Part::of_path(path).is_some_and(|part| self.contents.contains_key(&part))
    }

    /// Takes a file when it is one of the parts, and tells whether it is.
    pub(super) fn take(&mut self, path: &str, content: &Content) -> anyhow::Result<bool> {
        let part = Part::of_path(path).filter(|part| self.parts.contains(part));
        let Some(part) = part else { return Ok(false) };
        let mut bytes = Vec::new();
        // More than fits is refused later; some of it is read so that this is seen.
        content
            .open()
            .and_then(|data| data.take(SIZE as u64 + 1).read_to_end(&mut bytes))
            .with_context(|| format!("reading the content of {path:?}"))?;
        part.fill(&bytes)?;
        if self.contents.insert(part, bytes).is_some() {
            bail!("two parts of the image bring the file {path:?}");
        }
        Ok(true)
    }

    /// Adds all parts to the key.
    pub(super) fn add(&self, tree: &mut Tree) -> anyhow::Result<()> {
        for part in &self.parts {
            let content = self.contents.get(part).map_or(part.blank(), Vec::as_slice);
            tree.set_personal(*part, content)?;
        }
        Ok(())
    }
}
