//! Where an image and what describes it lie: on this machine, or at a web server.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use ureq::http::StatusCode;

use super::{Error, magic};
use crate::source::http::{self, Http};

/// Suffixes of packed files.
const PACKED: [&str; 6] = [".zst", ".zstd", ".gz", ".gzip", ".xz", ".bz2"];
/// Longer descriptions are not read, in bytes.
const MAX_SIZE: u64 = 64 << 20;

/// A path or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file of this machine.
    File(PathBuf),
    /// An address, `http` or `https`.
    Url(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(url) => write!(f, "{url}"),
        }
    }
}

impl Place {
    /// What a command line names.
    ///
    /// # Errors
    /// When it is an address of another kind than `http` and `https`.
    pub fn parse(what: &str) -> Result<Self, Error> {
        let scheme = what.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let plain = |scheme: &str| {
            !scheme.is_empty()
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
        };
        match scheme.as_deref() {
            Some("http" | "https") => Ok(Self::Url(what.to_owned())),
            Some(scheme) if plain(scheme) => Err(Error::Usage(format!(
                "{what}: only http:// and https:// addresses can be read; fetch it first and give \
                 the file's path"
            ))),
            _ => Ok(Self::File(PathBuf::from(what))),
        }
    }

    /// The address without query and fragment, and those.
    fn split(url: &str) -> (&str, &str) {
        url.split_at(url.find(['?', '#']).unwrap_or(url.len()))
    }

    /// Its last part, as lists of digests have it.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            Self::Url(url) => decoded(self::last(Self::split(url).0)),
        }
    }

    /// A file beside it, by a change to its name.
    pub fn beside(&self, rename: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::File(path) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                Self::File(path.with_file_name(rename(&name)))
            }
            Self::Url(url) => {
                let (path, query) = Self::split(url);
                let name = self::last(path);
                let folder = path.strip_suffix(name).unwrap_or(path);
                Self::Url(format!("{folder}{}{query}", rename(name)))
            }
        }
    }

    /// Reads a small text; `None` when it is not there.
    pub(super) fn text(&self, http: &Http) -> Result<Option<String>, Error> {
        match self {
            Self::Url(url) => match http.text(url, &[]) {
                // Some servers send a page that says so, as if all were well.
                Ok(text) => Ok(Some(text).filter(|text| !magic::is_page(text.as_bytes()))),
                Err(http::Error::Absent(_)) => Ok(None),
                // Object stores that do not list say so of every file that they do not have.
                Err(http::Error::Status {
                    status: StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED,
                    ..
                }) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Self::File(path) => {
                let failed = |source| Error::Read { place: self.to_string(), offset: 0, source };
                let file = match File::open(path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(failed(error)),
                };
                let mut text = String::new();
                file.take(MAX_SIZE + 1).read_to_string(&mut text).map_err(failed)?;
                if text.len() as u64 > MAX_SIZE {
                    return Err(Error::Description {
                        place: self.to_string(),
                        why: format!("it is longer than {MAX_SIZE} bytes"),
                    });
                }
                Ok(Some(text))
            }
        }
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// A name without what tells that it is packed.
pub(super) fn unpacked(name: &str) -> &str {
    PACKED.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

/// With `%20` and such undone; as it is when that is no text.
fn decoded(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let value = hex.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(value.unwrap_or(byte));
        rest = if value.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside() {
        let beside = |what: &str| {
            let place = Place::parse(what).unwrap();
            place.beside(|name| format!("{}.bmap", unpacked(name))).to_string()
        };
        assert_eq!(beside("a/b.img.xz"), "a/b.img.bmap");
        assert_eq!(beside("b.img"), "b.img.bmap");
        assert_eq!(beside("http://h/x/b.img.zst?a=/c#d"), "http://h/x/b.img.bmap?a=/c#d");
        let name = |what: &str| Place::parse(what).unwrap().name();
        assert_eq!(name("https://h/x/a%20b%C3%A4%.img?x=/y"), "a bä%.img");
        assert_eq!(name("x/%20"), "%20");
        assert_eq!(name("HTTP://h/a+b"), "a+b");
        assert!(matches!(Place::parse("ftp://h/a"), Err(Error::Usage(_))));
        assert!(matches!(Place::parse("./odd name://x"), Ok(Place::File(_))));
    }
}
