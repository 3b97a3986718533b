//! Personal parts: the files of an image that belong to a site, not to the image. Each has a fixed
//! size and lies in one piece, at a multiple of that size, so that it can be overwritten in place
//! without touching the file system around it: while a key is flashed, or in an image file.
//!
//! A part that holds less than its size is padded with what its readers skip. No manifest on the key
//! depends on what the parts hold, so the same image is the same for every site.

use crate::paths;

/// Bytes of every personal part, and what its place on the disk is a multiple of: the unit in which
/// images are mapped.
pub const SIZE: usize = 64 << 10;

/// How an environment block of GRUB begins; GRUB reads nothing that does not.
const ENVIRONMENT: &[u8] = b"# GRUB Environment Block\n";

/// A personal part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Answers to first boot's questions: a JSON object, without any when it is blank (then all is
    /// asked, C§2.1).
    Answers,
    /// Public keys that may log in as root.
    AuthorizedKeys,
    /// What GRUB's menu is told of the site: an environment block (GRUB manual, "The GRUB environment
    /// block"), which `grub-editenv` reads and writes.
    GrubEnvironment,
    /// What the illumos loader reads after `loader.conf`, and takes before what that says.
    LoaderConf,
}

/// Content that does not fit into its part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} would have {size} bytes, and an image has room for {SIZE} of it")]
pub struct TooLarge {
    /// The part.
    pub path: &'static str,
    /// Bytes of the content.
    pub size: usize,
}

impl Part {
    /// All of them. A key has one of the last two, that of its loader.
    pub const ALL: [Self; 4] =
        [Self::Answers, Self::AuthorizedKeys, Self::GrubEnvironment, Self::LoaderConf];

    /// Its file on the key.
    pub fn path(self) -> &'static str {
        match self {
            Self::Answers => paths::ANSWERS,
            Self::AuthorizedKeys => paths::AUTHORIZED_KEYS,
            Self::GrubEnvironment => paths::GRUB_ENVIRONMENT,
            Self::LoaderConf => paths::LOADER_CONF_LOCAL,
        }
    }

    /// The part that is this file of the key.
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.path() == path)
    }

    /// What it holds when nobody put anything there.
    pub fn blank(self) -> &'static [u8] {
        match self {
            Self::Answers => b"{}",
            Self::AuthorizedKeys | Self::LoaderConf => b"",
            Self::GrubEnvironment => ENVIRONMENT,
        }
    }

    fn padding(self) -> u8 {
        match self {
            Self::GrubEnvironment => b'#',
            _ => b'\n',
        }
    }

    /// The part's bytes, [`SIZE`] of them, for a content.
    ///
    /// # Errors
    /// When the content is larger.
    pub fn fill(self, content: &[u8]) -> Result<Vec<u8>, TooLarge> {
        if content.len() > SIZE {
            return Err(TooLarge { path: self.path(), size: content.len() });
        }
        let mut bytes = content.to_vec();
        bytes.resize(SIZE, self.padding());
        Ok(bytes)
    }

    /// The content within the part's bytes: without padding, and without white space before and
    /// behind it.
    pub fn content(self, bytes: &[u8]) -> &[u8] {
        match self {
            Self::GrubEnvironment => {
                let end = bytes.iter().rposition(|byte| *byte != b'#').map_or(0, |at| at + 1);
                bytes.get(..end).unwrap_or_default()
            }
            _ => bytes.trim_ascii(),
        }
    }

    /// Whether the bytes hold nothing of a site.
    pub fn is_blank(self, bytes: &[u8]) -> bool {
        self.content(bytes) == self.blank()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::Answers;
    use proptest::prelude::*;

    #[test]
    fn blank_parts_say_nothing_to_their_readers() {
        for part in Part::ALL {
            let bytes = part.fill(part.blank()).unwrap();
            assert_eq!(bytes.len(), SIZE);
            assert!(part.is_blank(&bytes));
            assert_eq!(Part::of_path(part.path()), Some(part));
        }
        let bytes = Part::Answers.fill(Part::Answers.blank()).unwrap();
        assert_eq!(Answers::parse(&bytes).unwrap(), Answers::default());
        let error = Part::Answers.fill(&[b' '; SIZE + 1]).unwrap_err().to_string();
        assert!(error.contains("65537") && error.contains("private/answers.json"), "{error}");
    }

    proptest! {
        #[test]
        fn content_comes_back(text in "[ -~\n]{0,200}") {
            for part in Part::ALL {
                let found = part.fill(text.as_bytes()).unwrap();
                let expected = match part {
                    Part::GrubEnvironment => text.trim_end_matches('#'),
                    _ => text.trim_matches(|c: char| c.is_ascii_whitespace()),
                };
                prop_assert_eq!(part.content(&found), expected.as_bytes());
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            for part in Part::ALL {
                let _ = part.is_blank(&bytes);
            }
        }
    }
}
