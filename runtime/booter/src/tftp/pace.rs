//! How fast one address is served.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How late a timer may be without loss of speed.
const SLACK: Duration = Duration::from_millis(10);

/// What all transfers of one address may send.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// When `bytes` may be sent at `rate` bytes per second, which is counted as done.
    pub fn reserve(&self, bytes: usize, rate: u64, now: Instant) -> Instant {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = now.checked_sub(SLACK).unwrap_or(now);
        // A new client has saved up nothing.
        let start = next.map_or(now, |next| next.max(floor));
        *next = Some(start + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
        start
    }

    /// Whether all that was sent is paid for.
    pub fn idle(&self, now: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|next| next <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_costs_what_the_rate_says_also_when_timers_are_late() {
        let (pace, begin) = (Pace::default(), Instant::now());
        let mut now = begin;
        for _ in 0..100 {
            now = now.max(pace.reserve(1000, 100_000, now)) + Duration::from_millis(1);
        }
        let took = now - begin;
        assert!((990..=1010).contains(&took.as_millis()), "{took:?}");
        assert!(!pace.idle(begin));
        // An hour of silence gives no credit.
        let later = now + Duration::from_secs(3600);
        assert!(pace.idle(later));
        pace.reserve(2000, 100_000, later);
        assert!(pace.reserve(1, 100_000, later) > later);
    }
}
