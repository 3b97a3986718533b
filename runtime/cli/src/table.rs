//! Tables for people: columns aligned, no lines.

/// Rows below their headings, without an end of line at the end; the last column is not padded. Control characters, which a machine
/// may put into its host name, are shown as `?` so that nobody rewrites an operator's terminal.
pub fn render(headings: &[&str], rows: &[Vec<String>]) -> String {
    let clean = |text: &str| -> String {
        text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    };
    let mut lines = vec![headings.iter().map(|heading| (*heading).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()));
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let cell = if cell.is_empty() { "-" } else { cell };
            row.push_str(&format!("{cell:<width$}  ", width = *width));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_are_aligned() {
        let rows = vec![vec!["a".into(), "long value".into()], vec!["bcd".into(), String::new()]];
        assert_eq!(render(&["N", "VALUE"], &rows), "N    VALUE\na    long value\nbcd  -");
        let evil = vec![vec!["a\x1b[2Jb\n".into()]];
        assert_eq!(render(&["N"], &evil), "N\na?[2Jb?");
    }

    proptest! {
        #[test]
        fn one_line_per_row(rows in proptest::collection::vec(proptest::collection::vec(".*", 2), 0..5)) {
            let rows: Vec<Vec<String>> = rows;
            prop_assert_eq!(render(&["A", "B"], &rows).lines().count(), rows.len() + 1);
        }
    }
}
