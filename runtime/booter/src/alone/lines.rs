//! On which line of a TOML text a key is.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Lines by path, as `host.0.kernel`; sections and their keys.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Where each line begins, in bytes.
    begins: Vec<usize>,
    places: BTreeMap<String, usize>,
    /// Of each section that is a list: the names of its members.
    names: BTreeMap<String, Vec<String>>,
}

impl Lines {
    pub fn new(text: &str, document: &DeTable<'_>) -> Self {
        let begins = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
        let mut lines = Self { begins: begins.collect(), ..Self::default() };
        lines.walk("", document);
        lines
    }

    /// Without a document: lines of places only.
    pub fn of_text(text: &str) -> Self {
        Self::new(text, &DeTable::default())
    }

    /// The line of a place in the text, from 1.
    pub fn at(&self, span: &Range<usize>) -> usize {
        self.begins.partition_point(|begin| *begin <= span.start)
    }

    fn walk(&mut self, before: &str, table: &DeTable<'_>) {
        for (key, value) in table.iter() {
            let path = if before.is_empty() {
                key.get_ref().to_string()
            } else {
                format!("{before}.{}", key.get_ref())
            };
            let line = self.at(&key.span());
            self.places.insert(path.clone(), line);
            self.step(&path, value);
        }
    }

    fn step(&mut self, path: &str, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.walk(path, table),
            DeValue::Array(members) => {
                for (index, member) in members.iter().enumerate() {
                    let name = match member.get_ref() {
                        DeValue::Table(table) => {
                            table.get("name").and_then(|name| name.get_ref().as_str())
                        }
                        _ => None,
                    };
                    let name = name.unwrap_or_default().to_owned();
                    self.names.entry(path.to_owned()).or_default().push(name);
                    let member_path = format!("{path}.{index}");
                    let line = self.at(&member.span());
                    self.places.insert(member_path.clone(), line);
                    self.step(&member_path, member);
                }
            }
            _ => {}
        }
    }

    /// The line of a path or, when it is not in the text, of what it is in.
    pub fn of(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(line) = self.places.get(path) {
                return Some(*line);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    /// The line of a section's problem, whose key is for people: `admission.rule 2`,
    /// `network rack1: ranges`.
    pub fn of_problem(&self, key: &str) -> Option<usize> {
        let (start, field) = key.split_once(": ").unwrap_or((key, ""));
        let Some((section, member)) = start.split_once(' ') else { return self.of(key) };
        let number = member.parse::<usize>().ok().map(|number| number.saturating_sub(1));
        let named = || self.names.get(section)?.iter().position(|name| name == member);
        let index = number.or_else(named)?;
        self.of(&format!("{section}.{index}.{field}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_path_and_by_what_problems_call_them() {
        let text = "root = \"x\"\n\n[[network]]\nname = \"a\"\n[[network]]\nname = \"b\"\n\
            ranges = []\n[dhcp]\nmode = \"off\"\n[[host]]\nmac = \"m\"\n";
        let document = DeTable::parse(text).unwrap();
        let lines = Lines::new(text, document.get_ref());
        for (path, line) in [
            ("root", Some(1)),
            ("dhcp.mode", Some(9)),
            ("dhcp.other", Some(8)),
            ("network.1.ranges", Some(7)),
            ("host.0.mac", Some(11)),
            ("nothing", None),
        ] {
            assert_eq!(lines.of(path), line, "{path}");
        }
        for (key, line) in [
            ("network b: ranges", Some(7)),
            ("network 1: name", Some(4)),
            ("network b", Some(5)),
            ("dhcp.mode", Some(9)),
            ("network c: x", None),
        ] {
            assert_eq!(lines.of_problem(key), line, "{key}");
        }
    }
}
