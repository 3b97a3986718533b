//! The answers file as an image gets it.

use std::path::{Path, PathBuf};

use headnode_model::answers::{Answers, AnswersError, seal};
use headnode_model::config::Problems;

/// Why answers cannot go into an image. No value is told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They cannot be read.
    #[error("reading the answers file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// They are no JSON object.
    #[error("{path}: {source}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: AnswersError,
    },
    /// Their passwords cannot be used.
    #[error("{path}: {source}")]
    Secrets {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        source: Problems,
    },
}

/// How the passwords of an answers file go into an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Passwords {
    /// As hashes; our first boot takes them.
    #[default]
    Hashed,
    /// In clear, and the file byte for byte as it is: Triton's `prompt-config.sh`, which runs on
    /// SmartOS, reads `root_password` and `admin_password` and knows no hashes (C§2.2). Such an image
    /// gives its passwords to everybody who has it, and the digests in its manifest help to guess
    /// them; the user must ask for it (`--clear-answers`).
    Clear,
}

/// An answers file that was read.
#[derive(Clone)]
pub struct File {
    path: PathBuf,
    text: Vec<u8>,
    answers: Answers,
}

impl File {
    /// Reads an answers file.
    ///
    /// # Errors
    /// When it cannot be read, or is no JSON object.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        let text = std::fs::read(&path);
        let text = text.map_err(|source| Error::Read { path: path.clone(), source })?;
        match Answers::parse(&text) {
            Ok(answers) => Ok(Self { path, text, answers }),
            Err(source) => Err(Error::Syntax { path, source }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The answers as they were given.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// The content of `private/answers.json`.
    ///
    /// `seed` is what the salts follow from: it must be the same for the same image, differ from one
    /// image to the next, and hold nothing secret; the digest of the image's other files is all three.
    ///
    /// # Errors
    /// When the passwords cannot be used.
    pub fn stored(&self, passwords: Passwords, seed: &[u8]) -> Result<Vec<u8>, Error> {
        if passwords == Passwords::Clear {
            return Ok(self.text.clone());
        }
        let path = || self.path.clone();
        let sealed =
            seal(&self.answers, seed).map_err(|source| Error::Secrets { path: path(), source })?;
        let text = sealed.answers.text();
        text.map_err(|error| Error::Syntax { path: path(), source: error.into() })
    }

    /// Why SmartOS' own scripts have no use for it, with its passwords put into an image in this way.
    pub fn useless_on_smartos(&self, passwords: Passwords) -> Option<String> {
        (passwords == Passwords::Hashed).then(|| {
            format!(
                "the answers file {}: SmartOS' own scripts read the passwords in clear. Give \
                 --clear-answers to put them on the key so, or leave the file out",
                self.path.display()
            )
        })
    }
}

/// The content of `private/answers.json` for the answers file `path`, see [`File::stored`].
///
/// # Errors
/// When the file cannot be used.
pub fn read(path: &Path, passwords: Passwords, seed: &[u8]) -> Result<Vec<u8>, Error> {
    File::read(path)?.stored(passwords, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay_out_unless_they_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.json");
        let text = r#"{"root_password": "first-word", "admin_password": "second2word"}"#;
        std::fs::write(&path, text).unwrap();
        let sealed = read(&path, Passwords::Hashed, b"seed").unwrap();
        assert_eq!(sealed, read(&path, Passwords::Hashed, b"seed").unwrap());
        let sealed = String::from_utf8(sealed).unwrap();
        assert!(!sealed.contains("first-word") && !sealed.contains("second2word"), "{sealed}");
        assert_eq!(sealed.matches("$6$").count(), 2);
        assert_eq!(read(&path, Passwords::Clear, b"seed").unwrap(), text.as_bytes());
        for bad in [
            "\"first-word\"",
            "{\"root_password\": [\"first-word\"]}",
            "{\"root_password\": first-word",
        ] {
            std::fs::write(&path, bad).unwrap();
            for passwords in [Passwords::Hashed, Passwords::Clear] {
                if let Err(error) = read(&path, passwords, b"seed") {
                    let said = format!("{error} {error:?}");
                    assert!(
                        said.contains("answers.json") && !said.contains("first-word"),
                        "{said}"
                    );
                } else {
                    assert_eq!(passwords, Passwords::Clear);
                }
            }
        }
    }
}
