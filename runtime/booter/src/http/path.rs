//! From the target of a request to a file's name.

/// What a request's path means for the file server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilePath {
    /// Names that follow one another, joined by `/`: no `..`, nothing empty, never absolute.
    File(String),
    /// Well-formed, but never the name of a file.
    Nothing,
    /// Not a path: a `%` without two hexadecimal digits.
    Malformed,
}

/// The path of a target: without query, and without scheme and host when it has them (RFC 9112
/// §3.2.2). `None` for `*`, `host:port` and the like.
pub fn path_of(target: &str) -> Option<&str> {
    let target = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        rest.find(['/', '?']).map_or("/", |at| &rest[at..])
    };
    let path = target.split('?').next().unwrap_or_default();
    Some(if path.is_empty() { "/" } else { path })
}

/// The names in a path. Several slashes in a row are one, as clients that join URLs make them.
pub fn file_path(path: &str) -> FilePath {
    let mut names = String::with_capacity(path.len());
    let mut last_is_empty = true;
    for part in path.split('/') {
        last_is_empty = part.is_empty();
        if last_is_empty {
            continue;
        }
        if !names.is_empty() {
            names.push('/');
        }
        let from = names.len();
        if !decode(part, &mut names) {
            return FilePath::Malformed;
        }
        let name = &names[from..];
        if name == "." || name == ".." || name.contains(['/', '\0']) {
            return FilePath::Nothing;
        }
    }
    // A slash at the end names a folder.
    if last_is_empty { FilePath::Nothing } else { FilePath::File(names) }
}

/// Appends the text that a percent-encoded part stands for (RFC 3986 §2.1). Bytes that are not
/// UTF-8 become U+FFFD, which no file of ours has in its name.
fn decode(part: &str, out: &mut String) -> bool {
    if !part.contains('%') {
        out.push_str(part);
        return true;
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            rest.next().and_then(|d| char::from(d).to_digit(16)).and_then(|d| u8::try_from(d).ok())
        };
        let (Some(high), Some(low)) = (digit(), digit()) else { return false };
        bytes.push(high << 4 | low);
    }
    out.push_str(&String::from_utf8_lossy(&bytes));
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str) -> FilePath {
        FilePath::File(name.to_owned())
    }

    #[test]
    fn names_are_decoded_and_never_lead_out() {
        assert_eq!(file_path("/os/a%20b/c"), file("os/a b/c"));
        assert_eq!(file_path("//os///x"), file("os/x"));
        assert_eq!(file_path("/a/..."), file("a/..."));
        for path in ["/", "/os/", "/./a", "/a/..", "/%2e%2E/a", "/a%2fb", "/a%00", "/..", ""] {
            assert_eq!(file_path(path), FilePath::Nothing, "{path}");
        }
        for path in ["/%", "/a%2", "/%zz", "/%+1"] {
            assert_eq!(file_path(path), FilePath::Malformed, "{path}");
        }
    }

    #[test]
    fn the_path_is_found_in_each_form_of_target() {
        assert_eq!(path_of("/a?b=/c"), Some("/a"));
        assert_eq!(path_of("HTTP://h:80/a/b?c"), Some("/a/b"));
        assert_eq!(path_of("http://h"), Some("/"));
        assert_eq!(path_of("http://h?q"), Some("/"));
        assert_eq!(path_of("*"), None);
        assert_eq!(path_of("h:443"), None);
        assert_eq!(path_of("ftp://h/a"), None);
    }

    proptest! {
        #[test]
        fn no_path_leaves_its_folder(path in "(/|\\.|%2e|%2f|%|[a-z]|\\PC){0,40}") {
            if let FilePath::File(name) = file_path(&path) {
                prop_assert!(!name.is_empty() && !name.starts_with('/') && !name.ends_with('/'));
                prop_assert!(name.split('/').all(|n| !n.is_empty() && n != "." && n != ".."));
                prop_assert!(!name.contains('\0'));
            }
        }

        #[test]
        fn what_was_encoded_is_found(name in "[^/\\x00]{1,20}") {
            prop_assume!(name != "." && name != "..");
            let encoded: String = name.bytes().map(|b| format!("%{b:02x}")).collect();
            prop_assert_eq!(file_path(&format!("/{encoded}")), FilePath::File(name));
        }
    }
}
