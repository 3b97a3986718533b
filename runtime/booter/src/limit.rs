//! Keeping one cause from filling the log.

use std::collections::HashMap;
use std::hash::Hash;

/// Most causes that are remembered; a flood of forged addresses must not eat the memory.
const REMEMBERED: usize = 1024;

/// Remembers which causes were logged lately.
#[derive(Debug)]
pub struct LogLimit<K> {
    pause: i64,
    logged: HashMap<K, i64>,
}

impl<K: Eq + Hash> LogLimit<K> {
    /// Each cause once in `pause` seconds.
    pub fn new(pause: i64) -> Self {
        Self { pause, logged: HashMap::new() }
    }

    /// Whether a cause is to be logged now (Unix seconds).
    pub fn pass(&mut self, cause: K, now: i64) -> bool {
        let pause = self.pause;
        let recent = |at: &i64| now.saturating_sub(*at).unsigned_abs() < pause.unsigned_abs();
        if self.logged.get(&cause).is_some_and(recent) {
            return false;
        }
        if self.logged.len() >= REMEMBERED {
            self.logged.retain(|_, at| recent(at));
        }
        if self.logged.len() >= REMEMBERED {
            return false;
        }
        self.logged.insert(cause, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_passes_once_per_pause_and_the_memory_is_bounded() {
        let mut limit = LogLimit::new(60);
        assert!(limit.pass(0, 0));
        assert!(!limit.pass(0, 59));
        assert!(limit.pass(0, 60));
        for cause in 1..10_000 {
            limit.pass(cause, 70);
        }
        assert!(limit.logged.len() <= REMEMBERED);
        assert!(limit.pass(5, 200));
    }
}
