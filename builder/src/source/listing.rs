//! What sources say about their files: Manta's directory listings and pointers, HTML indexes of web
//! servers, and names of builds (C§1.10).

use serde::Deserialize;

/// Entries of one page of a Manta listing.
pub const PAGE: usize = 1024;

/// An entry of a Manta directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Whether it is a directory.
    pub folder: bool,
    /// Its size in bytes, when it is an object.
    pub size: Option<u64>,
}

/// Reads a Manta listing: a JSON object on each line.
///
/// # Errors
/// When a line is none, or names something that would lead elsewhere.
pub fn manta(text: &str) -> Result<Vec<Item>, String> {
    #[derive(Deserialize)]
    struct Line {
        name: String,
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        size: Option<u64>,
    }
    let mut items = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let at = number + 1;
        let line: Line = serde_json::from_str(line)
            .map_err(|error| format!("line {at} of the listing is none of Manta's: {error}"))?;
        let Line { name, kind, size } = line;
        if !is_plain(&name) {
            return Err(format!("line {at} of the listing has the name {name:?}"));
        }
        let folder = match kind.as_str() {
            "directory" => true,
            "object" => false,
            _ => return Err(format!("line {at} of the listing has the type {kind:?}")),
        };
        items.push(Item { name, folder, size });
    }
    Ok(items)
}

/// Reads what a `<branch>-latest` object says: the path of a folder.
///
/// # Errors
/// When it is no path.
pub fn pointer(text: &str) -> Result<String, String> {
    let path = text.trim();
    let rest = path.strip_prefix('/').map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    if path.len() <= 1024 && rest.is_some_and(|rest| rest.split('/').all(is_plain)) {
        return Ok(path.trim_end_matches('/').to_owned());
    }
    let shown: String = path.chars().take(60).collect();
    Err(format!("it should hold the path of a folder, but holds {shown:?}"))
}

/// Names of files that an HTML index links to, in order, without those that lead elsewhere.
pub fn index(html: &str) -> Vec<String> {
    // The letters of HTML's own words may be of any case; positions stay the same.
    let lower = html.to_ascii_lowercase();
    let mut names: Vec<String> = Vec::new();
    for (at, word) in lower.match_indices("href=") {
        let mut rest = html.get(at + word.len()..).unwrap_or_default();
        let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''));
        let Some(quote) = quote else { continue };
        rest = rest.get(1..).unwrap_or_default();
        let Some(end) = rest.find(quote) else { break };
        let link = rest.get(..end).unwrap_or_default();
        let name = link.strip_prefix("./").unwrap_or(link);
        // Names of builds have no letters that an address must write as %xx.
        if crate::spec::form::is_name(name) && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(|c: char| c == '/' || c.is_control())
}

/// What a file of a build is called: `<base>-<branch>-….<ext>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// The beginning.
    pub base: String,
    /// The branch.
    pub branch: String,
    /// The end.
    pub ext: String,
}

impl Pattern {
    /// The version in a name that fits: branch, stamp, commit.
    pub fn version<'a>(&self, name: &'a str) -> Option<&'a str> {
        let Self { base, branch, ext } = self;
        let version = name.strip_prefix(base.as_str())?.strip_prefix('-')?;
        let version = version.strip_suffix(ext.as_str())?.strip_suffix('.')?;
        let rest = version.strip_prefix(branch.as_str())?.strip_prefix('-')?;
        (!rest.is_empty()).then_some(version)
    }

    /// The only name that fits.
    ///
    /// # Errors
    /// When none fits, or several do.
    pub fn only<'a, T>(
        &self,
        items: &'a [T],
        name: impl Fn(&'a T) -> &'a str,
    ) -> Result<(&'a T, &'a str), String> {
        let fits = items.iter().filter_map(|item| Some((item, self.version(name(item))?)));
        let fits: Vec<_> = fits.collect();
        match fits.as_slice() {
            [one] => Ok(*one),
            [] => Err(format!("it has no file {self}")),
            _ => {
                let names: Vec<&str> = fits.iter().map(|(item, _)| name(item)).collect();
                Err(format!("{} files are called {self}: {}", names.len(), names.join(", ")))
            }
        }
    }

    /// The newest name that fits: the last by order of letters, as stamps are.
    pub fn newest<'a>(&self, names: &'a [String]) -> Option<(&'a str, &'a str)> {
        names.iter().filter_map(|name| Some((name.as_str(), self.version(name)?))).max()
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-*.{}", self.base, self.branch, self.ext)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn manta_lines_are_read() {
        let text = r#"{"name":"sapi","type":"directory","mtime":"2018-01-01T00:00:00Z"}
{"name":"md5sums.txt","etag":"x","size":81,"type":"object","mtime":"2018-01-01T00:00:00Z"}
"#;
        let items = manta(text).unwrap();
        assert!(items[0].folder);
        assert_eq!((items[1].name.as_str(), items[1].size), ("md5sums.txt", Some(81)));
        assert!(manta("<html>").unwrap_err().contains("line 1"));
        assert!(manta(r#"{"name":"../x","type":"object"}"#).unwrap_err().contains("../x"));
        assert!(manta(r#"{"name":"x","type":"pipe"}"#).unwrap_err().contains("pipe"));
    }

    #[test]
    fn pointers_are_paths() {
        let path = "/Joyent_Dev/public/builds/sapi/master-20181203T230136Z";
        assert_eq!(pointer(&format!("{path}\n")).unwrap(), path);
        for bad in ["", "/", "relative", "/a/../b", "/a\n/b", "//a", "<html></html>"] {
            assert!(pointer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn indexes_of_nginx_and_apache_are_read() {
        let html = r#"<a href="../">../</a><a href="a-master-1.tgz">a</a> <A HREF='b.txt'>b</A>
            <a href="?C=N;O=D">Name</a><a href="/x/y">y</a><a href="./a-master-1.tgz">a</a>"#;
        assert_eq!(index(html), ["a-master-1.tgz", "b.txt"]);
    }

    #[test]
    fn builds_are_told_apart() {
        let pattern = |base: &str, ext: &str| Pattern {
            base: base.into(),
            branch: "master".into(),
            ext: ext.into(),
        };
        let name = "sapi-zfs-master-20150421T182802Z-g983d6be.zfs.gz";
        assert_eq!(
            pattern("sapi-zfs", "zfs.gz").version(name),
            Some("master-20150421T182802Z-g983d6be")
        );
        assert_eq!(pattern("sapi", "zfs.gz").version(name), None);
        assert_eq!(pattern("platform", "tgz").version("platform-debug-master-1.tgz"), None);
        let names = ["platform-master-2.tgz".to_owned(), "platform-master-1.tgz".to_owned()];
        assert_eq!(pattern("platform", "tgz").newest(&names).unwrap().1, "master-2");
        let error = pattern("platform", "tgz").only(&names, |name| name).unwrap_err();
        assert!(error.starts_with("2 files"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in any::<String>(), html in "(<a href=[\"']?[a-z./%]*[\"'>]? ?){0,9}") {
            let _ = manta(&text);
            for name in index(&text).iter().chain(&index(&html)) {
                prop_assert!(is_plain(name));
            }
            if let Ok(path) = pointer(&text) {
                let climbs = path.split('/').any(|part| part == "..");
                prop_assert!(path.starts_with('/') && !climbs, "{}", path);
            }
        }
    }
}
