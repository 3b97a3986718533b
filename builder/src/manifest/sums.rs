//! Lists of digests that `sha256sum -c` checks.

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
