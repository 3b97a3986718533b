//! A diff for people: tables for a terminal, and Markdown for release notes.

use std::fmt::{self, Display, Write as _};

use super::{Change, Diff, File, Files, Sets};
use crate::progress::bytes;

/// Lists that are longer are cut in release notes.
const MAX_NOTES: usize = 40;

/// Shows a diff as tables.
pub struct Table<'a>(pub &'a Diff);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let diff = self.0;
        if diff.same {
            return writeln!(f, "the same in {} files", diff.files.same);
        }
        if let Some((old, new)) = versions(&diff.version) {
            writeln!(f, "Version {old} → {new}")?;
        }
        if diff.size.old != diff.size.new {
            writeln!(f, "Size {} → {}", bytes(diff.size.old), bytes(diff.size.new))?;
        }
        for (title, set) in sets(diff) {
            table(f, title, set)?;
        }
        files(f, &diff.files)
    }
}

fn versions(version: &Change<Option<String>>) -> Option<(&str, &str)> {
    (version.old != version.new).then(|| {
        (version.old.as_deref().unwrap_or("(none)"), version.new.as_deref().unwrap_or("(none)"))
    })
}

fn sets(diff: &Diff) -> [(&'static str, &Sets); 5] {
    [
        ("Platforms", &diff.platforms),
        ("Packages", &diff.packages),
        ("Programs", &diff.programs),
        ("Boot loaders and firmware", &diff.firmware),
        ("Partitions", &diff.partitions),
    ]
}

fn table(f: &mut fmt::Formatter<'_>, title: &str, set: &Sets) -> fmt::Result {
    if set.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}")?;
    let names = set.added.keys().chain(set.removed.keys()).chain(set.changed.keys());
    let width = names.map(|name| name.chars().count()).max().unwrap_or(0).min(40);
    for (name, value) in &set.removed {
        writeln!(f, "  - {name:<width$}  {value}")?;
    }
    for (name, value) in &set.added {
        writeln!(f, "  + {name:<width$}  {value}")?;
    }
    for (name, Change { old, new }) in &set.changed {
        writeln!(f, "  ~ {name:<width$}  {old} → {new}")?;
    }
    Ok(())
}

fn files(f: &mut fmt::Formatter<'_>, files: &Files) -> fmt::Result {
    writeln!(
        f,
        "Files: {} added, {} removed, {} changed, {} the same",
        files.added.len(),
        files.removed.len(),
        files.changed.len(),
        files.same
    )?;
    for (name, size) in &files.removed {
        writeln!(f, "  - {:>11}  {name}", bytes(*size))?;
    }
    for (name, size) in &files.added {
        writeln!(f, "  + {:>11}  {name}", bytes(*size))?;
    }
    for (name, file) in &files.changed {
        writeln!(f, "  ~ {:>11}  {name} ({})", bytes(file.size.new), growth(file))?;
    }
    for (name, diff) in texts(files) {
        // A unified diff names its file itself.
        let named = if diff.starts_with("--- ") { "" } else { name };
        write!(f, "\n{named}{}{diff}", if named.is_empty() { "" } else { ": " })?;
    }
    Ok(())
}

/// Files whose changed lines are told.
fn texts(files: &Files) -> impl Iterator<Item = (&str, &String)> {
    files.changed.iter().filter_map(|(name, file)| Some((name.as_str(), file.diff.as_ref()?)))
}

/// By how much a file grew or shrank, or why it could not be compared.
fn growth(file: &File) -> String {
    let Change { old, new } = file.size;
    match &file.problem {
        Some(problem) => format!("not compared: {problem}"),
        None if new > old => format!("+{}", bytes(new - old)),
        None if new < old => format!("-{}", bytes(old - new)),
        None => "same size".to_owned(),
    }
}

/// Release notes: what changed, in Markdown.
///
/// # Errors
/// Never: it writes to memory.
pub fn notes(diff: &Diff) -> Result<String, fmt::Error> {
    let mut text = String::new();
    match versions(&diff.version) {
        Some((old, new)) => writeln!(text, "## Changes from {} to {}\n", code(old), code(new))?,
        None => writeln!(text, "## Changes\n")?,
    }
    if diff.same {
        writeln!(text, "Nothing changed.")?;
        return Ok(text);
    }
    for (title, set) in sets(diff) {
        if set.is_empty() {
            continue;
        }
        writeln!(text, "### {title}\n")?;
        let changed = set.changed.iter().map(|(name, change)| {
            format!("{}: {} → {}", code(name), code(&change.old), code(&change.new))
        });
        let added = set.added.iter().map(|(n, v)| format!("new: {} {}", code(n), code(v)));
        let removed = set.removed.iter().map(|(n, v)| format!("gone: {} {}", code(n), code(v)));
        list(&mut text, changed.chain(added).chain(removed).collect())?;
    }
    let files = &diff.files;
    writeln!(text, "### Files\n")?;
    writeln!(
        text,
        "{} added, {} removed, {} changed, {} the same.\n",
        files.added.len(),
        files.removed.len(),
        files.changed.len(),
        files.same
    )?;
    let changed = files.changed.iter().map(|(name, file)| {
        format!("changed: {} ({}, {})", code(name), bytes(file.size.new), growth(file))
    });
    let added = files.added.iter().map(|(n, size)| format!("new: {} ({})", code(n), bytes(*size)));
    let removed = files.removed.keys().map(|n| format!("gone: {}", code(n)));
    list(&mut text, changed.chain(added).chain(removed).collect())?;
    for (_, diff) in texts(files).filter(|(_, diff)| diff.starts_with("--- ")) {
        // A fence longer than any in the text cannot be ended by it.
        let run = |line: &str| line.split(|c| c != '`').map(str::len).max().unwrap_or(0);
        let longest = diff.lines().map(run).max().unwrap_or(0);
        let fence = "`".repeat(longest.max(2) + 1);
        writeln!(text, "{fence}diff\n{diff}{fence}\n")?;
    }
    Ok(text)
}

fn list(text: &mut String, mut lines: Vec<String>) -> fmt::Result {
    let all = lines.len();
    lines.truncate(MAX_NOTES);
    for line in &lines {
        writeln!(text, "- {line}")?;
    }
    if all > lines.len() {
        writeln!(text, "- … and {} more", all - lines.len())?;
    }
    writeln!(text)
}

/// A name that Markdown takes as it is.
fn code(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    if name.contains('`') { format!("`` {name} ``") } else { format!("`{name}`") }
}
