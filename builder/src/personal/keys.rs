//! Public keys that may log in, as OpenSSH writes them (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").

use std::path::Path;

use ssh_key::AuthorizedKeys;

use crate::image::Content;
use std::io::Read as _;

/// Larger files hold no keys, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// How literal keys begin; a file of such a name is given with its folder.
const LITERAL: [&str; 3] = ["ssh-", "ecdsa-", "sk-"];

/// The lines of an `authorized_keys` for some arguments, each a key or a file of keys. A line that
/// comes twice is taken once.
///
/// # Errors
/// All arguments that are neither.
pub fn gather(arguments: &[String]) -> Result<String, Vec<String>> {
    let mut text = String::new();
    let mut problems = Vec::new();
    for argument in arguments {
        let literal = LITERAL.iter().any(|begin| argument.starts_with(begin))
            && argument.contains(char::is_whitespace);
        let (name, found) = if literal {
            ("the key given".to_owned(), Ok(argument.clone()))
        } else {
            (argument.clone(), read(Path::new(argument)))
        };
        let found = found.and_then(|found| check(&found).map(|_| found));
        match found {
            Err(problem) => problems.push(format!("{name}: {problem}")),
            Ok(found) => {
                for line in found.lines().map(str::trim).filter(|line| !line.is_empty()) {
                    if !text.lines().any(|known| known == line) {
                        text.push_str(line);
                        text.push('\n');
                    }
                }
            }
        }
    }
    if problems.is_empty() { Ok(text) } else { Err(problems) }
}

fn read(path: &Path) -> Result<String, String> {
    let content = Content::of_file(path).map_err(|error| error.to_string())?;
    if content.size() > MAX_FILE {
        return Err("it is too large for a file of public keys".to_owned());
    }
    let mut text = String::new();
    let opened = content.open().and_then(|mut file| file.read_to_string(&mut text));
    opened.map_err(|error| error.to_string())?;
    if text.contains("PRIVATE KEY-----") {
        // It must not go anywhere.
        return Err("this is a private key: give the file beside it that ends with .pub".to_owned());
    }
    Ok(text)
}

/// Checks lines of `authorized_keys` and counts the keys.
///
/// # Errors
/// When a line is no key, or there is none.
pub fn check(text: &str) -> Result<usize, String> {
    let mut count = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.chars().any(char::is_control) {
            return Err(format!("line {number} holds control characters"));
        }
        if let Some(Err(error)) = AuthorizedKeys::new(line).next() {
            return Err(format!(
                "line {number} is no public key as OpenSSH writes them (ssh-ed25519 AAAA…): {error}"
            ));
        }
        count += 1;
    }
    if count == 0 { Err("there is no key in it".to_owned()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "ssh-ed25519 \
        AAAAC3NzaC1lZDI1NTE5AAAAIJcJ8lLJqIDhjbeJ0cnDp7C8GA2s4YyRy4GQCy5oVDVm someone";

    #[test]
    fn keys_and_files_of_keys_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id.pub");
        let options = format!("# mine\n\nfrom=\"10.0.0.0/8\",no-pty {KEY}\r\n{KEY}\n");
        std::fs::write(&file, options).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let text = gather(&[KEY.to_owned(), file.clone()]).unwrap();
        assert_eq!(text, format!("{KEY}\n# mine\nfrom=\"10.0.0.0/8\",no-pty {KEY}\n"));
        assert_eq!(check(&text), Ok(2));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let cut = KEY.split_at(40).0.to_owned();
        let other = KEY.replace("ssh-ed25519 ", "ssh-rsa ");
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n";
        let arguments = [
            (file("private", private), "private key"),
            (file("empty", "# none\n"), "no key"),
            (file("text", "hello\n"), "line 1 is no public key"),
            (cut, "line 1 is no public key"),
            (other, "line 1 is no public key"),
            (dir.path().join("missing").to_str().unwrap().to_owned(), "No such file"),
            (format!("{KEY}\u{1b}[2J"), "control characters"),
        ];
        for (argument, word) in &arguments {
            let problems = gather(std::slice::from_ref(argument)).unwrap_err();
            assert!(problems[0].contains(word), "{argument}: {problems:?}");
            assert!(!problems[0].contains("c2VjcmV0"), "{problems:?}");
        }
        let all = arguments.map(|(argument, _)| argument);
        assert_eq!(gather(&all).unwrap_err().len(), all.len());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,80}", line in "(ssh-rsa|from=\"[^\"]{0,9}\"?) ?[A-Za-z0-9+/= ]{0,80}") {
            let _ = check(&text);
            let _ = check(&line);
        }
    }
}
