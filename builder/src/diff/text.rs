//! Differences of small texts.

use headnode_model::answers::is_secret;
use headnode_model::paths;
use headnode_model::personal::Part;
use similar::TextDiff;

use crate::contents::{Contents, Entry};
use crate::source::platform::ROOT_PASSWORD;

/// Larger files are not shown line by line, in bytes.
const MAX_TEXT: u64 = 64 << 10;
/// More lines than this are cut off: a diff is for reading.
const MAX_LINES: usize = 200;

/// Files that are made of what the rest of the diff tells already.
const DERIVED: [&str; 3] = [paths::KEY_MANIFEST, "boot/grub/manifest.cfg", "boot/sums/"];
/// What the platform's stamp is called in texts.
const STAMP: &str = "<platform>";

/// Whether a file's content is never shown: it lies below a folder `private/`, or is the root password
/// of a SmartOS platform, which is in clear (C§1.10). Archives of others may have folders above that.
pub fn is_private(name: &str) -> bool {
    let mut parts = name.split(['/', '!']).map(str::to_ascii_lowercase).rev();
    let file = parts.next().unwrap_or_default();
    file.starts_with(ROOT_PASSWORD) || parts.any(|folder| folder == paths::KEY_PRIVATE)
}

/// What changed in a small text; `None` when it is no text, too large, private, personal, or
/// derived from other files. `stamps` are those of the platforms, which count as the same.
pub fn diff(
    name: &str,
    old: (&Contents, &Entry),
    new: (&Contents, &Entry),
    stamps: Option<&(String, String)>,
) -> Option<String> {
    // Mostly padding; that it changed is what there is to tell.
    let personal = Part::of_path(name).is_some();
    let derived = DERIVED.iter().any(|derived| name.starts_with(derived));
    if is_private(name) || personal || derived || name.ends_with("/packages.json") {
        return None;
    }
    let text = |(contents, entry): (&Contents, &Entry)| {
        let text = String::from_utf8(contents.small(entry, MAX_TEXT).ok()?).ok()?;
        (!text.contains('\0')).then_some(text)
    };
    Some(unified(name, &text(old)?, &text(new)?, stamps))
}

/// The lines that changed, in the unified format.
pub fn unified(name: &str, old: &str, new: &str, stamps: Option<&(String, String)>) -> String {
    let without = |text: &str, stamp: Option<&String>| match stamp {
        // In both cases, as the key's names are in lower case.
        Some(stamp) => text
            .replace(&stamp.to_ascii_uppercase(), STAMP)
            .replace(&stamp.to_ascii_lowercase(), STAMP),
        None => text.to_owned(),
    };
    let (old, new) =
        (without(old, stamps.map(|(old, _)| old)), without(new, stamps.map(|(_, new)| new)));
    if old == new {
        return "only the platform's stamp changed\n".to_owned();
    }
    let (old, new) = (hide(&old), hide(&new));
    if old == new {
        return "only values of secrets changed\n".to_owned();
    }
    let diff = TextDiff::from_lines(&old, &new);
    let mut text = diff
        .unified_diff()
        .context_radius(2)
        .header(&format!("a/{name}"), &format!("b/{name}"))
        .to_string();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        text = text.lines().take(MAX_LINES).map(|line| format!("{line}\n")).collect();
        text.push_str(&format!("… and {} more lines\n", lines - MAX_LINES));
    }
    text
}

/// A text without the values of assignments to keys named like secrets, and without anything that a
/// terminal would obey.
fn hide(text: &str) -> String {
    let line = |line: &str| {
        let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
        let body: String = body
            .chars()
            .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
            .collect();
        match body.split_once(['=', ':']) {
            Some((key, value)) if is_secret(key) && !value.trim().is_empty() => {
                format!("{key}=<hidden>{end}")
            }
            _ => format!("{body}{end}"),
        }
    };
    text.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_hidden_and_control_characters_do_nothing() {
        let text = unified(
            "config",
            "a=1\nroot_shadow='$6$x'\n",
            "a=2\nroot_shadow='$6$y'\n\u{1b}[2J\n",
            None,
        );
        assert!(text.contains("-a=1\n+a=2\n"), "{text}");
        assert!(!text.contains("$6$") && !text.contains('\u{1b}'), "{text}");
        let text = unified("config", "root_pw=x\n", "root_pw=y\n", None);
        assert_eq!(text, "only values of secrets changed\n");
    }

    #[test]
    fn what_is_private_is_so_wherever_it_lies() {
        for name in [
            "private/answers.json",
            "private/root.password.20260101t000000z",
            "x/private/answers.json",
            "./x/Private/deep/site.key",
            "key.cpio.zst!headnode-key/private/answers.json",
            "bundle/node.cpio.zst!private/x",
            "platform-20260101T000000Z/root.password",
            "root.password.20260101t000000z",
        ] {
            assert!(is_private(name), "{name}");
        }
        for name in
            ["private", "scripts/private", "privately/x", "x/root.pass", "root.password/x", ""]
        {
            assert!(!is_private(name), "{name}");
        }
    }

    #[test]
    fn the_platforms_stamp_counts_as_the_same() {
        let stamps = Some(&("20260101t000000z".to_owned(), "20260202t000000z".to_owned()));
        let text = unified(
            "x",
            "20260101T000000Z os/20260101t000000z\n",
            "20260202T000000Z os/20260202t000000z\n",
            stamps,
        );
        assert_eq!(text, "only the platform's stamp changed\n");
    }

    #[test]
    fn long_differences_are_cut() {
        let new: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        let text = unified("x", "", &new, None);
        assert!(text.ends_with("more lines\n") && text.lines().count() == MAX_LINES + 1);
    }

    proptest! {
        #[test]
        fn no_text_panics(old: String, new: String) {
            let _ = unified("x", &old, &new, None);
        }
    }
}
