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

/// The bytes of `private/answers.json` for the answers file `path`.
///
/// `seed` is what the salts follow from: it must be the same for the same image, differ from one
/// image to the next, and hold nothing secret; the digest of the image's other files is all three.
///
/// # Errors
/// When the file cannot be used.
pub fn read(path: &Path, passwords: Passwords, seed: &[u8]) -> Result<Vec<u8>, Error> {
    let text =
        std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let syntax = |source| Error::Syntax { path: path.to_owned(), source };
    let answers = Answers::parse(&text).map_err(syntax)?;
    if passwords == Passwords::Clear {
        return Ok(text);
    }
    let sealed =
        seal(&answers, seed).map_err(|source| Error::Secrets { path: path.to_owned(), source })?;
    sealed.answers.text().map_err(|error| syntax(error.into()))
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
