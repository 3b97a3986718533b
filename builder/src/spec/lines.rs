//! Where each value of a JSON text stands, which the JSON parser does not tell.

use std::collections::BTreeMap;

/// The way to a value: keys, and numbers of list items.
pub type Path = Vec<String>;

/// Lines of values, counted from 1.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The line in which a value's key (or the item) stands.
    pub lines: BTreeMap<Path, usize>,
    /// Keys that an object has a second time, and where.
    pub twice: Vec<(Path, usize)>,
}

/// Finds the places in a text that is well-formed JSON; of any other text, those before the fault.
pub fn places(text: &str) -> Places {
    let mut scan = Scan { text, at: 0, line: 1, found: Places::default() };
    // None marks the end of what can be read; what was found up to there stays.
    let _ = scan.value(&mut Vec::new(), 0);
    scan.found
}

/// Deeper than this the JSON parser refuses a text.
const DEPTH: usize = 128;

struct Scan<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    found: Places,
}

impl Scan<'_> {
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            match byte {
                b'\n' => self.line += 1,
                b' ' | b'\t' | b'\r' => {}
                _ => return Some(byte),
            }
            self.at += 1;
        }
    }

    fn eat(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn string(&mut self) -> Option<String> {
        self.eat(b'"')?;
        let start = self.at - 1;
        loop {
            match self.text.as_bytes().get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        serde_json::from_str(self.text.get(start..self.at)?).ok()
    }

    fn value(&mut self, path: &mut Path, depth: usize) -> Option<()> {
        if depth > DEPTH {
            return None;
        }
        match self.peek()? {
            b'{' => self.items(b'}', path, depth),
            b'[' => self.items(b']', path, depth),
            b'"' => self.string().map(|_| ()),
            _ => {
                let rest = self.text.get(self.at..)?;
                let end = rest.find([',', '}', ']', ' ', '\t', '\r', '\n']);
                self.at += end.unwrap_or(rest.len());
                Some(())
            }
        }
    }

    fn items(&mut self, end: u8, path: &mut Path, depth: usize) -> Option<()> {
        self.at += 1;
        let mut number = 0;
        while self.peek()? != end {
            if number > 0 {
                self.eat(b',')?;
            }
            self.peek()?;
            let line = self.line;
            path.push(if end == b'}' { self.string()? } else { number.to_string() });
            if end == b'}' {
                self.eat(b':')?;
            }
            if self.found.lines.insert(path.clone(), line).is_some() {
                self.found.twice.push((path.clone(), line));
            }
            self.value(path, depth + 1)?;
            path.pop();
            number += 1;
        }
        self.at += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(keys: &[&str]) -> Path {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn values_have_lines_and_doubles_are_found() {
        let text = "{\n \"a\": {\"b\\n\":\n1,\n\"c\": [true,\n {\"d\": \"x}\"}]},\n\"a\": null}";
        let found = places(text);
        assert_eq!(found.lines.get(&path(&["a", "b\n"])), Some(&2));
        assert_eq!(found.lines.get(&path(&["a", "c", "0"])), Some(&4));
        assert_eq!(found.lines.get(&path(&["a", "c", "1", "d"])), Some(&5));
        assert_eq!(found.twice, [(path(&["a"]), 6)]);
    }

    fn count(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Object(map) => map.values().map(|value| 1 + count(value)).sum(),
            serde_json::Value::Array(list) => list.iter().map(|value| 1 + count(value)).sum(),
            _ => 0,
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<Option<bool>>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<String>().prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_has_a_place(value in json()) {
            for text in [value.to_string(), format!("{value:#}")] {
                let found = places(&text);
                prop_assert_eq!(found.lines.len(), count(&value));
                prop_assert!(found.twice.is_empty());
            }
        }

        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            places(&text);
        }
    }
}
