//! build.spec with what is laid over it: `build.spec.local`, then `build.spec.branches`. Later
//! files win, key by key; where each value comes from and what it overrides is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path as FilePath, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::Error;
use super::form::{self, Finding};
use super::keys;
use super::lines::{self, Path};

/// What is laid over a build.spec, by the end of the file's name, in this order.
pub const OVER: [&str; 2] = ["local", "branches"];

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it stands; absent when it is about what is missing.
    #[serde(flatten)]
    pub origin: Option<Origin>,
    /// The key, its parts joined by dots.
    pub key: String,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if self.key.is_empty() {
            f.write_str(&self.text)
        } else {
            write!(f, "{}: {}", self.key, self.text)
        }
    }
}

/// A value that a later file replaces by another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Override {
    /// The key, its parts joined by dots.
    pub key: String,
    /// What it was.
    pub was: Value,
    /// Where it was.
    pub was_at: Origin,
    /// What counts.
    pub is: Value,
    /// Where that stands.
    pub is_at: Origin,
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, was, was_at, is, is_at } = self;
        write!(f, "{key}: {is} ({is_at}) instead of {was} ({was_at})")
    }
}

/// The files, merged.
#[derive(Debug, Default)]
pub struct Merged {
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
    /// The values that count.
    pub values: Map<String, Value>,
    /// Where they stand; only values that are no objects.
    pub origins: BTreeMap<Path, Origin>,
    /// What was overridden.
    pub overrides: Vec<Override>,
    /// What is wrong with the files' form.
    pub problems: Vec<Problem>,
}

impl Merged {
    /// Reads a build.spec and what is laid over it.
    ///
    /// # Errors
    /// When a file cannot be read or is no JSON object. What is wrong with the values is told in
    /// `problems`.
    pub fn read(base: &FilePath) -> Result<Self, Error> {
        let mut merged = Self::default();
        let mut unknown: Vec<(String, Origin)> = Vec::new();
        let mut paths = vec![base.to_owned()];
        for end in OVER {
            let mut name = base.as_os_str().to_owned();
            name.push(".");
            name.push(end);
            paths.push(PathBuf::from(name));
        }
        for (number, path) in paths.into_iter().enumerate() {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if number > 0 && error.kind() == std::io::ErrorKind::NotFound => {
                    continue;
                }
                Err(source) => return Err(Error::Read { path, source }),
            };
            merged.add(&path, &text, &mut unknown)?;
        }
        merged.judge_unknown(unknown);
        Ok(merged)
    }

    /// Merges texts instead of files; for tests and fuzzing.
    ///
    /// # Errors
    /// When one is no JSON object.
    pub fn of_texts<'a>(
        texts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Error> {
        let mut merged = Self::default();
        let mut unknown = Vec::new();
        for (name, text) in texts {
            merged.add(FilePath::new(name), text, &mut unknown)?;
        }
        merged.judge_unknown(unknown);
        Ok(merged)
    }

    fn add(
        &mut self,
        path: &FilePath,
        text: &str,
        unknown: &mut Vec<(String, Origin)>,
    ) -> Result<(), Error> {
        let mut values: Map<String, Value> = serde_json::from_str(text)
            .map_err(|source| Error::Syntax { path: path.to_owned(), source })?;
        let places = lines::places(text);
        let origin = |way: &[String]| Origin {
            file: path.to_owned(),
            line: places.lines.get(way).copied().unwrap_or(1),
        };
        let problem = |way: &[String], text: String| Problem {
            origin: Some(origin(way)),
            key: dotted(way),
            text,
        };
        for (way, line) in &places.twice {
            let origin = Some(Origin { file: path.to_owned(), line: *line });
            let text = "is there twice in this file".to_owned();
            self.problems.push(Problem { origin, key: dotted(way), text });
        }
        let mut findings = Vec::new();
        let folder = path.parent().unwrap_or(FilePath::new(""));
        let strange = form::check(&mut values, folder, &mut findings);
        self.problems
            .extend(findings.into_iter().map(|Finding { path, text }| problem(&path, text)));
        unknown.extend(strange.into_iter().map(|name| {
            let origin = origin(std::slice::from_ref(&name));
            (name, origin)
        }));
        let alias = |way: &[String]| -> Path {
            let (alias, meant) = keys::ALIAS;
            let own = vec![alias.to_owned()];
            if way == [meant] && places.lines.contains_key(&own) { own } else { way.to_owned() }
        };
        let mut over = Over { merged: self, origin: &|way| origin(&alias(way)), way: Vec::new() };
        let mut all = std::mem::take(&mut over.merged.values);
        over.merge(&mut all, values);
        self.values = all;
        self.files.push(path.to_owned());
        Ok(())
    }

    /// Unknown keys are fine when a part names them as its base in Manta.
    fn judge_unknown(&mut self, unknown: Vec<(String, Origin)>) {
        let named: Vec<&str> = ["zones", "files"]
            .iter()
            .filter_map(|list| self.values.get(*list)?.as_object())
            .flat_map(|parts| parts.values())
            .filter_map(|part| part.get("alt_manta_base")?.as_str())
            .collect();
        let mut problems = Vec::new();
        for (name, origin) in unknown {
            let text = match self.values.get(&name) {
                _ if !named.contains(&name.as_str()) => keys::unknown(&name, keys::TOP),
                None => continue,
                Some(Value::String(path)) if path.starts_with('/') => continue,
                Some(_) => "an alt_manta_base names it, so it must be a path in Manta".to_owned(),
            };
            problems.push(Problem { origin: Some(origin), key: name, text });
        }
        self.problems.extend(problems);
    }

    /// Where a value stands, or else what is around it.
    pub fn origin(&self, way: &[&str]) -> Option<Origin> {
        let way: Path = way.iter().map(|part| (*part).to_owned()).collect();
        let within =
            |(path, origin): (&Path, &Origin)| path.starts_with(&way).then(|| origin.clone());
        self.origins.iter().find_map(within)
    }
}

/// A way as text.
pub fn dotted(way: &[String]) -> String {
    way.join(".")
}

struct Over<'a> {
    merged: &'a mut Merged,
    origin: &'a dyn Fn(&[String]) -> Origin,
    way: Path,
}

impl Over<'_> {
    fn merge(&mut self, base: &mut Map<String, Value>, over: Map<String, Value>) {
        for (name, value) in over {
            self.way.push(name.clone());
            match (base.get_mut(&name), value) {
                (_, Value::Null) => {
                    if base.shift_remove(&name).is_some() {
                        let way = self.way.clone();
                        self.merged.origins.retain(|path, _| !path.starts_with(&way));
                    }
                }
                (Some(Value::Object(base)), Value::Object(over)) => self.merge(base, over),
                (Some(was), is) if was.is_object() || is.is_object() => {
                    // Told as a fault of form already when the key is known; here nothing is lost.
                    let origin = Some((self.origin)(&self.way));
                    let text = "is an object in one file and none in another".to_owned();
                    let key = dotted(&self.way);
                    self.merged.problems.push(Problem { origin, key, text });
                }
                (Some(was), is) => {
                    let is_at = (self.origin)(&self.way);
                    let was_at = self.merged.origins.insert(self.way.clone(), is_at.clone());
                    if let Some(was_at) = was_at.filter(|_| *was != is) {
                        let (key, was) = (dotted(&self.way), was.clone());
                        let is = is.clone();
                        self.merged.overrides.push(Override { key, was, was_at, is, is_at });
                    }
                    *was = is;
                }
                (None, Value::Object(over)) => {
                    let mut new = Map::new();
                    // An empty object says something too: a zone with nothing but defaults.
                    if over.is_empty() {
                        self.merged.origins.insert(self.way.clone(), (self.origin)(&self.way));
                    }
                    self.merge(&mut new, over);
                    base.insert(name, Value::Object(new));
                }
                (None, value) => {
                    self.merged.origins.insert(self.way.clone(), (self.origin)(&self.way));
                    base.insert(name, value);
                }
            }
            self.way.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn later_files_win_and_overrides_are_told() {
        let merged = Merged::of_texts([
            ("build.spec", "{\"bits-branch\": \"master\",\n \"zones\": {\"cnapi\": {}, \"napi\": {\"branch\": \"x\"}},\n\"no-rabbit\": \"true\"}"),
            ("build.spec.local", "{\"bits-branch\": \"release\", \"zones\": {\"napi\": {\"branch\": null}}}"),
            ("build.spec.branches", "{\n\"zones\": {\"cnapi\": {\"branch\": \"rfd67\"}}}"),
        ])
        .unwrap();
        assert_eq!(merged.problems, []);
        let text = serde_json::to_string(&merged.values).unwrap();
        assert_eq!(
            text,
            r#"{"bits-branch":"release","zones":{"cnapi":{"branch":"rfd67"},"napi":{}},"no-rabbit":true}"#
        );
        let told: Vec<String> = merged.overrides.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [r#"bits-branch: "release" (build.spec.local:1) instead of "master" (build.spec:1)"#]
        );
        let origin = merged.origin(&["zones", "cnapi", "branch"]).unwrap();
        assert_eq!(origin.to_string(), "build.spec.branches:2");
    }

    #[test]
    fn all_problems_are_told_with_their_places() {
        let merged = Merged::of_texts([
            (
                "build.spec",
                r#"{
                "zoens": {},
                "size": "big",
                "zones": {"CNAPI": {"brunch": "x"}, "napi": []},
                "joes-base": 3,
                "files": {"a": {"alt_manta_base": "joes-base", "file": {"base": "a/b"}}},
                "timeout": 70000,
                "timeout": "5"
            }"#,
            ),
            ("build.spec.local", r#"{"zones": 1}"#),
        ])
        .unwrap();
        let told: Vec<String> = merged.problems.iter().map(ToString::to_string).collect();
        for wanted in [
            "build.spec:2: zoens: unknown key \"zoens\", did you mean \"zones\"?",
            "build.spec:3: size: \"big\" is no size",
            "build.spec:4: zones.CNAPI: is no name on the key",
            "build.spec:4: zones.CNAPI.brunch: unknown key \"brunch\", did you mean \"branch\"?",
            "build.spec:4: zones.napi: [] is not an object",
            "build.spec:5: joes-base: an alt_manta_base names it",
            "build.spec:6: files.a.file.base: \"a/b\" is not a name",
            "build.spec:8: timeout: is there twice",
            "build.spec.local:1: zones: 1 is not an object",
        ] {
            assert!(told.iter().any(|text| text.starts_with(wanted)), "{wanted} in {told:#?}");
        }
    }

    proptest! {
        #[test]
        fn merging_with_nothing_changes_nothing(branch in "[a-z]{1,8}", count in 0u16..) {
            let text = format!(r#"{{"bits-branch": "{branch}", "timeout": {count}, "zones": {{"a": {{}}}}}}"#);
            let one = Merged::of_texts([("a", text.as_str())]).unwrap();
            let two = Merged::of_texts([("a", text.as_str()), ("b", "{}"), ("c", text.as_str())]).unwrap();
            prop_assert_eq!(&one.values, &two.values);
            prop_assert!(two.overrides.is_empty());
            prop_assert!(two.problems.is_empty());
        }

        #[test]
        fn any_text_is_survived(text in any::<String>(), json in r#"\{("(zones|files|size|features)": ?("[a-z]*"|[0-9]|\{\}|\[\]|null),? ?){0,3}\}"#) {
            let _ = Merged::of_texts([("a", text.as_str())]);
            let _ = Merged::of_texts([("a", json.as_str()), ("b", json.as_str())]);
        }
    }
}
