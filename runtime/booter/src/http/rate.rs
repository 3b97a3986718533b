//! How many bytes a client may have per second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shortest time in bytes of which a client gets its share: short enough that firmware sees a
/// steady stream, long enough that few calls are made.
const SLICE: Duration = Duration::from_millis(20);
/// Fewest bytes at a time.
const LEAST: u64 = 1460;

/// A token bucket that all connections of one address share. Its rate is given with each call, so
/// that a change of the settings counts at once.
#[derive(Debug, Default)]
pub(super) struct Bucket(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    tokens: u64,
    filled: Instant,
}

impl Bucket {
    /// Takes up to `want` bytes, or tells how long to wait for the next ones.
    pub(super) fn take(&self, want: u64, rate: u64, now: Instant) -> Result<u64, Duration> {
        let most = most(rate);
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = guard.get_or_insert(State { tokens: most, filled: now });
        let elapsed = now.saturating_duration_since(state.filled);
        let new = bytes_in(rate, elapsed);
        if new > 0 {
            state.tokens = (state.tokens + new).min(most);
            // Not `now`: what has come of the next byte would be lost each time.
            state.filled += time_of(new, rate);
        }
        let wanted = want.min(most);
        if state.tokens < wanted.min(LEAST.min(most)) || state.tokens == 0 {
            let missing = wanted.saturating_sub(state.tokens).max(1);
            return Err(time_of(missing, rate).max(Duration::from_millis(1)));
        }
        let got = wanted.min(state.tokens);
        state.tokens -= got;
        Ok(got)
    }

    /// Gives back what was taken and not sent.
    pub(super) fn give_back(&self, bytes: u64, rate: u64) {
        if let Some(state) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            state.tokens = (state.tokens + bytes).min(most(rate));
        }
    }
}

/// Most bytes that a bucket holds.
fn most(rate: u64) -> u64 {
    bytes_in(rate, SLICE).max(LEAST)
}

fn time_of(bytes: u64, rate: u64) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

fn bytes_in(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_rate_and_no_more() {
        for rate in [1 << 10, 100 << 10, 100 << 20] {
            let bucket = Bucket::default();
            let (begun, mut now, mut sent) = (Instant::now(), Instant::now(), 0);
            let end = begun + Duration::from_secs(10);
            while now < end {
                match bucket.take(1 << 20, rate, now) {
                    Ok(got) => sent += got,
                    Err(wait) => now += wait,
                }
            }
            let expected = rate * 10;
            assert!(sent <= expected + most(rate) * 2, "{sent} at {rate}");
            assert!(sent * 10 >= expected * 9, "{sent} at {rate}");
        }
    }

    #[test]
    fn what_was_not_sent_can_be_taken_again() {
        let (bucket, now) = (Bucket::default(), Instant::now());
        let got = bucket.take(1 << 20, 1 << 20, now).unwrap();
        assert!(bucket.take(1, 1 << 20, now).is_err());
        bucket.give_back(got, 1 << 20);
        assert_eq!(bucket.take(1 << 20, 1 << 20, now), Ok(got));
    }
}
