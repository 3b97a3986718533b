//! Lists of digests that `sha256sum -c` checks.

use std::fs::File;
use std::io::Read;
use std::path::Path;

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

/// The digest of an image, in hex, in the list that its build wrote beside it; `None` when there is no
/// such list, or it does not have the image.
pub fn listed(image: &Path) -> Option<String> {
    let name = image.file_name()?.to_str()?;
    let list = image.with_file_name(format!("{}.SHA256SUMS", stem_of(name)));
    let mut text = String::new();
    File::open(list).ok()?.take(MAX_SIZE).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| {
        let (digest, listed) = line.split_once("  ")?;
        (listed == name && is_hex(digest, 64)).then(|| digest.to_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::digest;
    use std::process::Command;

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
