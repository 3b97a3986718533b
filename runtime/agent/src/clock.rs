//! The time of day, and pauses between tries.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Now, RFC 3339 with milliseconds, UTC.
pub fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let whole = now.replace_millisecond(now.millisecond()).unwrap_or(now);
    whole.format(&Rfc3339).unwrap_or_default()
}

/// The time of day for the console, UTC: `07:41:05`.
pub fn console_time() -> String {
    let now = OffsetDateTime::now_utc();
    format!("{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second())
}

/// Pauses between tries: each twice the one before, up to a limit, and each shortened by up to a
/// half at random, so that a thousand nodes that lost the headnode at once do not come back at
/// once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first` to `limit`.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, next: first }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.limit);
        // The keys of a `RandomState` are random; hashing nothing shows them.
        let random = RandomState::new().hash_one(0_u8) % 1000;
        pause.mul_f64(1.0 - 0.5 * (random as f64 / 1000.0))
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_never_below_half() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for full in [1, 2, 4, 5, 5] {
            let (pause, full) = (backoff.pause(), Duration::from_secs(full));
            assert!(pause <= full && pause >= full / 2, "{pause:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_secs(1));
    }

    #[test]
    fn times_are_rfc_3339() {
        assert!(OffsetDateTime::parse(&now(), &Rfc3339).is_ok());
    }
}
