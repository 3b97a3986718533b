//! The image's file tree as data: paths, content by reference, digests.

pub mod bundle;
pub mod overlay;

use std::collections::BTreeMap;
use std::io::Read;

use headnode_model::manifest::File;
use headnode_model::paths::KEY_PRIVATE;
use headnode_model::personal::{Part, TooLarge};
use sha2::{Digest, Sha256};

use crate::image::Content;
use crate::image::copy::buffer_size;
use crate::image::output::hex;

/// Why a file cannot be part of the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is already taken.
    #[error("two parts of the image bring the file {0:?}")]
    Twice(String),
    /// The path has an upper-case letter.
    #[error(
        "{0:?}: names on the key must be lower-case, as systems that fold case see them (C§1.4)"
    )]
    Case(String),
    /// The content is larger than the place that it must fit into.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The content cannot be read.
    #[error("reading the content of {path:?}: {source}")]
    Read {
        /// The file's path on the key.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// The files of the key.
#[derive(Debug, Default)]
pub struct Tree {
    items: BTreeMap<String, Item>,
    /// Whether names may have upper-case letters.
    any_case: bool,
}

/// A file of the key.
#[derive(Debug)]
pub struct Item {
    /// What is in it.
    pub content: Content,
    /// SHA-256 in hex.
    pub sha256: String,
}

impl Tree {
    /// A tree for systems that tell upper from lower case.
    pub fn with_case() -> Self {
        Self { any_case: true, ..Self::default() }
    }

    /// Adds a file; its content is hashed now.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn add(
        &mut self,
        path: impl Into<String>,
        content: impl Into<Content>,
    ) -> Result<&Item, Error> {
        let (path, content) = (path.into(), content.into());
        self.check(&path)?;
        let sha256 =
            digest(&content).map_err(|source| Error::Read { path: path.clone(), source })?;
        Ok(self.items.entry(path).or_insert(Item { content, sha256 }))
    }

    /// Adds a file whose SHA-256 is known already.
    ///
    /// # Errors
    /// When its name cannot be had.
    pub fn add_hashed(
        &mut self,
        path: impl Into<String>,
        content: Content,
        sha256: String,
    ) -> Result<(), Error> {
        let path = path.into();
        self.check(&path)?;
        self.items.insert(path, Item { content, sha256 });
        Ok(())
    }

    /// Adds a personal part with this content, or puts another content into it.
    ///
    /// # Errors
    /// When there is another file of its name, or the content does not fit.
    pub fn set_personal(&mut self, part: Part, content: &[u8]) -> Result<(), Error> {
        let path = part.path();
        if !self.items.get(path).is_some_and(|item| item.content.is_personal()) {
            self.check(path)?;
        }
        let bytes = part.fill(content)?;
        let sha256 = hex(Sha256::new().chain_update(&bytes));
        let content = Content::Personal(bytes.into());
        self.items.insert(path.to_owned(), Item { content, sha256 });
        Ok(())
    }

    fn check(&self, path: &str) -> Result<(), Error> {
        if !self.any_case && path.chars().any(char::is_uppercase) {
            return Err(Error::Case(path.to_owned()));
        }
        if self.items.contains_key(path) {
            return Err(Error::Twice(path.to_owned()));
        }
        Ok(())
    }

    /// A file.
    pub fn get(&self, path: &str) -> Option<&Item> {
        self.items.get(path)
    }

    /// The files as a manifest lists them.
    pub fn manifest_files(&self) -> Vec<File> {
        let private = format!("{KEY_PRIVATE}/");
        let file = |(path, item): (&String, &Item)| File {
            path: path.clone(),
            size: item.content.size(),
            sha256: (!path.starts_with(&private) && !item.content.is_personal())
                .then(|| item.sha256.clone()),
        };
        self.items.iter().map(file).collect()
    }

    /// SHA-256 over the paths and digests of all files; of personal parts only the path counts, so
    /// that an image is the same for every site.
    pub fn digest(&self) -> Sha256 {
        let mut hash = Sha256::new();
        for (path, item) in &self.items {
            hash.update(path.as_bytes());
            hash.update([0]);
            if !item.content.is_personal() {
                hash.update(item.sha256.as_bytes());
            }
            hash.update([0]);
        }
        hash
    }

    /// The files with their content.
    pub fn files(&self) -> Vec<(String, Content)> {
        self.items.iter().map(|(path, item)| (path.clone(), item.content.clone())).collect()
    }
}

/// SHA-256 of a content, in hex.
///
/// # Errors
/// When it cannot be read.
pub fn digest(content: &Content) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut data = content.open()?;
    let mut buffer = vec![0; buffer_size(content)];
    loop {
        match data.read(&mut buffer)? {
            0 => return Ok(hex(hash)),
            count => hash.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}
