//! Signatures in minisign's format, so that anybody can check an image with tools that are not ours
//! (format: <https://jedisct1.github.io/minisign/>, "Signature format" and "Key formats").
//!
//! Own code for the format, `ring` for Ed25519: the crate `minisign` mixes random bytes into its
//! signatures, so that the same image would be signed differently each time, and it panics on a
//! signature file whose last line is too short.

mod key;

pub use key::{PASSPHRASE_ENV, SecretKey, encrypted};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2b512, Digest as _};
use headnode_model::manifest::Manifest;
use serde::Serialize;
use sha2::Sha256;

use crate::image::output::hex;

/// The largest file that is looked at as a key or a signature, in bytes.
const MAX_FILE: u64 = 16 << 10;
/// What the first line of every file begins with.
const UNTRUSTED: &str = "untrusted comment: ";
/// What the signed comment's line begins with.
const TRUSTED: &str = "trusted comment: ";
/// Ed25519 over the message itself.
const LEGACY: [u8; 2] = *b"Ed";
/// Ed25519 over the message's BLAKE2b-512.
const PREHASHED: [u8; 2] = *b"ED";

/// Why something cannot be signed or checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is no public key.
    #[error("{0:?} is neither a file nor a minisign public key: {1}")]
    PublicKey(String, &'static str),
    /// It is no secret key.
    #[error("this is no minisign secret key: {0}")]
    SecretKey(&'static str),
    /// A secret key is encrypted, and there is no passphrase.
    #[error(
        "the secret key is encrypted: type its passphrase at a terminal, or set {PASSPHRASE_ENV}"
    )]
    Locked,
    /// The passphrase is wrong, or the key damaged.
    #[error("the passphrase is wrong, or the secret key is damaged")]
    Passphrase,
    /// It is no signature.
    #[error("this is no minisign signature: {0}")]
    Syntax(&'static str),
    /// Another key signed.
    #[error("signed by key {found}, not by {wanted}")]
    OtherKey {
        /// The id in the signature.
        found: KeyId,
        /// The id of the public key.
        wanted: KeyId,
    },
    /// What was signed is not what is there.
    #[error("the signature by key {0} is wrong: the manifest was changed after it was signed")]
    Wrong(KeyId),
    /// The comment was changed.
    #[error("the signature's trusted comment was changed after it was signed by key {0}")]
    WrongComment(KeyId),
    /// The comment cannot be held.
    #[error("a trusted comment is one line of at most 8192 bytes")]
    Comment,
    /// The manifest is none.
    #[error(transparent)]
    Manifest(#[from] headnode_model::manifest::ManifestError),
    /// The operating system gives no random numbers, or the key cannot be used.
    #[error("{0}")]
    Crypto(&'static str),
}

/// What tells keys apart; not secret, and not derived from the key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey {
    id: KeyId,
    key: [u8; 32],
}

impl PublicKey {
    /// Reads a public key from the text of a file, or from its line of Base64 alone.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |why| Error::PublicKey(text.lines().last().unwrap_or_default().to_owned(), why);
        let line = text.lines().map(str::trim).find(|line| is_data(line));
        let line = line.ok_or_else(|| bad("it is empty"))?;
        let bytes: [u8; 42] = decode(line).ok_or_else(|| bad("it is not 56 letters of Base64"))?;
        if bytes[..2] != LEGACY {
            return Err(bad("it is not for Ed25519"));
        }
        Ok(Self { id: KeyId(part(&bytes, 2)), key: part(&bytes, 10) })
    }

    /// Reads a public key as a command line gives it: the name of a file, or the key itself.
    ///
    /// # Errors
    /// When it is neither.
    pub fn from_argument(argument: &str) -> Result<Self, Error> {
        let path = Path::new(argument);
        if path.is_file() { Self::parse(&read_small(path)?) } else { Self::parse(argument) }
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key as one line of Base64, as `minisign -P` takes it.
    pub fn base64(&self) -> String {
        STANDARD.encode([&LEGACY[..], &self.id.0, &self.key].concat())
    }

    /// The text of its file.
    pub fn text(&self) -> String {
        format!("{UNTRUSTED}minisign public key {}\n{}\n", self.id, self.base64())
    }

    /// Checks that this key signed a message, and the signature's comment with it.
    ///
    /// # Errors
    /// When it did not.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), Error> {
        if signature.id != self.id {
            return Err(Error::OtherKey { found: signature.id, wanted: self.id });
        }
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, &self.key);
        let good = if signature.prehashed {
            key.verify(&Blake2b512::digest(message), &signature.signature)
        } else {
            key.verify(message, &signature.signature)
        };
        good.map_err(|_| Error::Wrong(self.id))?;
        key.verify(&signature.signed_comment(), &signature.comment_signature)
            .map_err(|_| Error::WrongComment(self.id))
    }
}

/// A signature as it was read; who made it is not known before it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    id: KeyId,
    prehashed: bool,
    signature: [u8; 64],
    comment: String,
    comment_signature: [u8; 64],
}

impl Signature {
    /// Reads a signature file.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut lines = text.lines();
        let mut line = |missing| lines.next().ok_or(Error::Syntax(missing));
        if !line("it is empty")?.starts_with(UNTRUSTED) {
            return Err(Error::Syntax("it does not begin with an untrusted comment"));
        }
        let bytes: [u8; 74] = decode(line("its second line is missing")?)
            .ok_or(Error::Syntax("its second line is not 100 letters of Base64"))?;
        let comment = line("its trusted comment is missing")?
            .strip_prefix(TRUSTED)
            .ok_or(Error::Syntax("its third line is no trusted comment"))?;
        let comment_signature = decode(line("its fourth line is missing")?)
            .ok_or(Error::Syntax("its fourth line is not 88 letters of Base64"))?;
        let prehashed = match [bytes[0], bytes[1]] {
            PREHASHED => true,
            LEGACY => false,
            _ => return Err(Error::Syntax("its algorithm is unknown")),
        };
        Ok(Self {
            id: KeyId(part(&bytes, 2)),
            prehashed,
            signature: part(&bytes, 10),
            comment: comment.to_owned(),
            comment_signature,
        })
    }

    /// The id of the key that it claims to be made with.
    pub fn key_id(&self) -> KeyId {
        self.id
    }

    /// Its trusted comment; to be believed only after [`PublicKey::verify`].
    pub fn comment(&self) -> &str {
        &self.comment
    }

    fn signed_comment(&self) -> Vec<u8> {
        [&self.signature[..], self.comment.as_bytes()].concat()
    }

    /// The text of its file.
    pub fn text(&self) -> String {
        let algorithm = if self.prehashed { PREHASHED } else { LEGACY };
        format!(
            "{UNTRUSTED}signature by key {}\n{}\n{TRUSTED}{}\n{}\n",
            self.id,
            STANDARD.encode([&algorithm[..], &self.id.0, &self.signature].concat()),
            self.comment,
            STANDARD.encode(self.comment_signature)
        )
    }
}

/// Signs a message: the same message, comment and key give the same signature.
///
/// # Errors
/// When the comment is not one line.
pub fn sign(message: &[u8], comment: &str, key: &SecretKey) -> Result<Signature, Error> {
    if comment.chars().any(char::is_control) || comment.len() > 8192 || comment.trim() != comment {
        return Err(Error::Comment);
    }
    let pair = key.pair()?;
    let raw = |message: &[u8]| part::<64>(pair.sign(message).as_ref(), 0);
    let mut signature = Signature {
        id: key.public().id,
        prehashed: true,
        signature: raw(&Blake2b512::digest(message)),
        comment: comment.to_owned(),
        comment_signature: [0; 64],
    };
    signature.comment_signature = raw(&signature.signed_comment());
    Ok(signature)
}

/// Signs a manifest: gives the text of the signature file, whose trusted comment names what was
/// signed and the manifest's SHA-256.
///
/// # Errors
/// When it is no manifest.
pub fn sign_manifest(text: &[u8], key: &SecretKey) -> Result<String, Error> {
    let manifest = Manifest::parse(text)?;
    let plain = |text: &str| -> String { text.chars().filter(|c| !c.is_control()).collect() };
    let comment = format!(
        "{} {} manifest sha256:{}",
        plain(manifest.name.trim()),
        plain(manifest.version.trim()),
        hex(Sha256::new().chain_update(text))
    );
    Ok(sign(text, &comment, key)?.text())
}

/// Where the signature of a manifest is: beside it, as `<manifest>.minisig`.
pub fn beside(manifest: &Path) -> PathBuf {
    let mut name = manifest.as_os_str().to_owned();
    name.push(".minisig");
    PathBuf::from(name)
}

/// What is known of a manifest's origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Status {
    /// There is no signature.
    NotSigned,
    /// There is one, but no public key was given.
    NotChecked {
        /// The key that the signature names.
        key_id: KeyId,
    },
    /// The given key signed the manifest.
    Signed {
        /// The key's id.
        key_id: KeyId,
        /// What the signer says of it.
        comment: String,
    },
    /// The signature is not what it should be.
    Bad {
        /// In which way.
        why: String,
    },
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSigned => write!(f, "not signed"),
            Self::NotChecked { key_id } => write!(
                f,
                "not checked (a signature of key {key_id} is there; give the key with --public-key)"
            ),
            Self::Signed { key_id, comment } => write!(f, "signed by key {key_id} ({comment})"),
            Self::Bad { why } => write!(f, "BAD: {why}"),
        }
    }
}

/// Checks the signature beside a manifest. With a public key, a missing signature is bad: else who
/// removes it would get any manifest accepted.
///
/// # Errors
/// When the signature cannot be read.
pub fn check(path: &Path, text: &[u8], key: Option<&PublicKey>) -> Result<Status, Error> {
    let file = beside(path);
    let signature = match read_small(&file) {
        Ok(text) => Signature::parse(&text),
        Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(match key {
                None => Status::NotSigned,
                Some(key) => {
                    let why = format!("it is not signed: {} is missing", file.display());
                    Status::Bad { why: format!("{why} (wanted: key {})", key.id) }
                }
            });
        }
        Err(error) => return Err(error),
    };
    let bad = |error: Error| Status::Bad { why: format!("{}: {error}", file.display()) };
    Ok(match (signature, key) {
        (Err(error), _) => bad(error),
        (Ok(signature), None) => Status::NotChecked { key_id: signature.id },
        (Ok(signature), Some(key)) => match key.verify(text, &signature) {
            Ok(()) => Status::Signed { key_id: key.id, comment: signature.comment },
            Err(error) => bad(error),
        },
    })
}

/// Reads a small text file.
fn read_small(path: &Path) -> Result<String, Error> {
    use io::Read as _;
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(failed(io::Error::other("it is far too large for a key or a signature")));
    }
    Ok(text)
}

/// Whether a line of a key file is the key's, not a comment's.
fn is_data(line: &str) -> bool {
    !line.is_empty() && !line.starts_with(UNTRUSTED.trim_end())
}

/// A line of Base64 that holds exactly `N` bytes.
fn decode<const N: usize>(line: &str) -> Option<[u8; N]> {
    STANDARD.decode(line.trim()).ok()?.try_into().ok()
}

/// `N` bytes from a place that is known to be inside.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

#[cfg(test)]
mod tests;
