//! Texts for consoles, and pauses between tries.

use headnode_model::net::MacAddr;

/// Widest line of a menu on a console of 80 columns.
const WIDTH: usize = 70;
/// Most lines of a text that a machine gets.
const LINES: usize = 12;
/// Longest pause of a machine that waits for its platform or parameters, in seconds.
const LONGEST: u32 = 120;
/// Longest pause of a machine that waits for an operator who stands by, in seconds.
const LONGEST_HOLD: u32 = 60;
/// Seconds until the first new try.
const FIRST: u32 = 10;

/// A text that iPXE and GRUB print as it is: without their expansions, operators and comments.
pub(super) fn plain(text: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || " .,:/_-()='\"".contains(c);
    text.chars().map(|c| if kept(c) { c } else { ' ' }).collect()
}

/// A text in lines for a console, without what loaders interpret. A line break in it stays one: a
/// command that somebody is to type stands on a line of its own.
pub(super) fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in text.split('\n') {
        let mut line = String::new();
        for word in plain(part).split_whitespace() {
            if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines.retain(|line| !line.is_empty());
    lines.truncate(LINES);
    lines
}

/// What a machine waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Something that the headnode lacks.
    Mend,
    /// An operator's decision.
    Operator,
}

/// Seconds until a machine's next try: longer with each, and a quarter more or less so that the
/// machines of a rack that came up together do not all ask at the same moment.
pub(super) fn pause(mac: MacAddr, attempt: u32, wait: Wait) -> u32 {
    let longest = match wait {
        Wait::Mend => LONGEST,
        Wait::Operator => LONGEST_HOLD,
    };
    let doubled = FIRST.saturating_mul(1u32.checked_shl(attempt.min(16)).unwrap_or(u32::MAX));
    let pause = doubled.min(longest);
    // FNV-1a: the same on all machines, and different for neighbours.
    let bytes = mac.0.into_iter().chain(attempt.to_le_bytes());
    let hash = bytes
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let spread = pause / 2;
    pause - spread / 2 + (hash >> 8) % (spread + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_hold_nothing_that_ipxe_interprets() {
        assert_eq!(plain("a ${b} || c; #d\ne && f"), "a   b     c   d e    f");
        assert_eq!(lines("a ${b} || c:\nd e\n"), ["a b c:", "d e"]);
    }

    #[test]
    fn the_machines_of_a_rack_come_back_at_different_times() {
        let first: Vec<u32> =
            (0..200).map(|n| pause(MacAddr([2, 0, 0, 0, 0, n]), 0, Wait::Mend)).collect();
        assert!(first.iter().all(|pause| (8..=13).contains(pause)), "{first:?}");
        for pause in 8..=13 {
            let same = first.iter().filter(|p| **p == pause).count();
            assert!((10..70).contains(&same), "{pause}: {same}");
        }
    }

    proptest! {
        #[test]
        fn pauses_grow_and_end(mac: [u8; 6], attempt: u32) {
            let pause = |attempt, wait| pause(MacAddr(mac), attempt, wait);
            let now = pause(attempt, Wait::Mend);
            prop_assert!((8..=150).contains(&now), "{}", now);
            prop_assert!(pause(attempt, Wait::Operator) <= 75);
            prop_assert!(pause(attempt.saturating_add(5), Wait::Mend) >= now / 2);
        }

        #[test]
        fn lines_are_short_words_stay(text in "[ -~\n]{0,300}") {
            let lines = lines(&text);
            prop_assert!(lines.len() <= LINES);
            for line in &lines {
                prop_assert!(line.len() <= WIDTH || !line.contains(' '));
                prop_assert_eq!(line, &plain(line));
            }
        }
    }
}
