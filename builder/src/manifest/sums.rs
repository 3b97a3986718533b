//! Lists of digests that `sha256sum -c` checks.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::assemble::stem_of;
use crate::spec::form::is_hex;

/// Longer lists are not read, in bytes.
const MAX_SIZE: u64 = 1 << 20;

/// The text of a list: name and SHA-256 in hex of each file, in the order given.
pub fn text<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, sha256) in files {
        // GNU's way of telling names that would break the lines.
        let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        if escaped != name {
            text.push('\\');
        }
        text.push_str(&format!("{sha256}  {escaped}\n"));
    }
    text
}

/// The list that a build wrote beside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Where it is.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// The image's SHA-256 in it, in hex.
    pub sha256: String,
}

/// The list that its build wrote beside an image; `None` when there is no such list, or it does not have
/// the image.
pub fn beside(image: &Path) -> Option<List> {
    let name = image.file_name()?.to_str()?;
    let stem = stem_of(name);
    // A build calls the files for boot servers so; the list belongs to all that it made.
    [Some(stem), stem.strip_suffix("-pxe")].into_iter().flatten().find_map(|stem| {
        let path = image.with_file_name(format!("{stem}.SHA256SUMS"));
        let mut text = String::new();
        File::open(&path).ok()?.take(MAX_SIZE).read_to_string(&mut text).ok()?;
        let sha256 = text.lines().find_map(|line| {
            let (digest, listed) = line.split_once("  ")?;
            (listed == name && is_hex(digest, 64)).then(|| digest.to_lowercase())
        })?;
        Some(List { path, text, sha256 })
    })
}

/// What a list says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The file's name as it is listed, maybe with folders; `None` for a digest that stands alone.
    pub name: Option<String>,
    /// Its SHA-256 in hex, in lower case.
    pub sha256: String,
}

/// Reads a list as `sha256sum`, `sha256sum --tag`, BSD's `sha256` and many release pages write it.
/// Lines of another form (comments, digests of other kinds, a signature around it all) are skipped.
pub fn parse(text: &str) -> Vec<Listed> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Listed> {
    let line = line.trim_end_matches('\r');
    let (escaped, line) = match line.strip_prefix('\\') {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (digest, name) = match line.strip_prefix("SHA256 (") {
        Some(rest) => {
            let (name, digest) = rest.rsplit_once(") = ")?;
            (digest.trim(), Some(name).filter(|name| !name.is_empty()))
        }
        None => {
            // The digest's length is known: names may begin with blanks.
            let (digest, rest) = line.split_at_checked(64)?;
            let name = match rest.is_empty() {
                true => rest,
                false => {
                    let rest = rest.strip_prefix([' ', '\t'])?;
                    rest.strip_prefix([' ', '*']).unwrap_or(rest)
                }
            };
            (digest, Some(name).filter(|name| !name.is_empty()))
        }
    };
    let sha256 = digest.to_ascii_lowercase();
    if !is_hex(&sha256, 64) {
        return None;
    }
    let name = match (name, escaped) {
        (Some(name), true) => Some(unescaped(name)?),
        (name, _) => name.map(str::to_owned),
    };
    Some(Listed { name, sha256 })
}

/// A name with GNU's escapes undone; `None` when there are others.
fn unescaped(name: &str) -> Option<String> {
    let mut plain = String::with_capacity(name.len());
    let mut letters = name.chars();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            letter => letter,
        });
    }
    Some(plain)
}

/// The digest of a file in a list, in hex: by its name, of which folders do not count.
///
/// # Errors
/// When the list has two digests for the name.
pub fn find<'a>(list: &'a [Listed], name: &str) -> Result<Option<&'a str>, String> {
    let mut found: Option<&str> = None;
    for listed in list {
        let last = listed.name.as_deref().and_then(|name| name.rsplit('/').next());
        if last != Some(name) {
            continue;
        }
        if found.is_some_and(|found| found != listed.sha256) {
            return Err(format!("it has two digests for {name:?}"));
        }
        found = Some(&listed.sha256);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::digest;
    use proptest::prelude::*;
    use std::process::Command;

    #[test]
    fn lists_of_sha256sum_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let names = [" a.img", "with blank", "with\nnew line", "back\\slash", "*star", "a) = b"];
        for name in names {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        for options in [&[][..], &["--tag"], &["--binary"]] {
            let mut command = Command::new("sha256sum");
            command.args(options).arg("--").args(names).current_dir(dir.path());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let list = parse(std::str::from_utf8(&output.stdout).unwrap());
            for name in names {
                let expected = digest(&name.into()).unwrap();
                assert_eq!(find(&list, name).unwrap(), Some(expected.as_str()), "{name:?}");
            }
            assert_eq!(list.len(), names.len());
            assert_eq!(find(&list, "other").unwrap(), None);
        }
    }

    #[test]
    fn other_lines_are_skipped() {
        let (a, b) = ("AB".repeat(32), "cd".repeat(32));
        let text = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# x\n{a}\n{a}  ./x.img\r\n\
             SHA512 (x.img) = {b}{b}\nSHA256 (y.img) = {b}\n{b}  z/\n\\{b}  odd\\x\n{a}x\n"
        );
        let list = parse(&text);
        let a = a.to_lowercase();
        assert_eq!(list[0], Listed { name: None, sha256: a.clone() });
        assert_eq!(find(&list, "x.img").unwrap(), Some(a.as_str()));
        assert_eq!(find(&list, "y.img").unwrap(), Some(b.as_str()));
        assert_eq!(list.len(), 4);
        let twice = parse(&format!("{a}  x\n{b}  d/x\n"));
        assert!(find(&twice, "x").unwrap_err().contains("two digests"));
    }

    proptest! {
        #[test]
        fn any_list_is_survived(text in any::<String>(), name in "[ *a\\\\\n\r()=]{1,9}") {
            for listed in parse(&text) {
                prop_assert!(is_hex(&listed.sha256, 64));
            }
            let sha256 = "0a".repeat(32);
            let text = super::text([(name.as_str(), sha256.as_str())]);
            let expected = Listed { name: Some(name), sha256 };
            prop_assert_eq!(parse(&text), vec![expected]);
        }
    }

    #[test]
    fn sha256sum_checks_it() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a.img", "with blank", "with\nnew line", "back\\slash"];
        let mut list = Vec::new();
        for name in names {
            std::fs::write(dir.path().join(name), name).unwrap();
            list.push((name, digest(&name.into()).unwrap()));
        }
        let text = text(list.iter().map(|(name, digest)| (*name, digest.as_str())));
        std::fs::write(dir.path().join("SHA256SUMS"), text).unwrap();
        let check = || {
            let mut command = Command::new("sha256sum");
            command.args(["--strict", "-c", "SHA256SUMS"]).current_dir(dir.path());
            command.output().unwrap()
        };
        let output = check();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).matches(": OK").count(), names.len());
        std::fs::write(dir.path().join("back\\slash"), "other").unwrap();
        assert!(!check().status.success());
    }
}
