//! How long to wait before something is sent again (RFC 6298).

use std::time::Duration;

/// Before the first measurement. RFC 6298 says 1 s, for the Internet; a boot that has lost its
/// first block should not stall as long.
const FIRST: Duration = Duration::from_millis(500);
/// Least wait beyond the mean round trip: firmware polls its NIC, some as seldom as ten times a
/// second.
const LEAST: Duration = Duration::from_millis(100);
/// What timers are exact to.
const TICK: Duration = Duration::from_millis(2);
/// Mean round trip of those who are looked out for: firmware that polls, on a fast network with nobody else.
const IMMINENT: Duration = Duration::from_micros(50);
/// Longest wait.
const MOST: Duration = Duration::from_secs(5);

/// The retransmission timer of one transfer.
#[derive(Debug)]
pub struct Rto {
    /// What the client has asked for (RFC 2349); nothing is measured then.
    fixed: Option<Duration>,
    /// Mean round trip, and mean deviation from it.
    measured: Option<(Duration, Duration)>,
    /// How often the wait was doubled since the last measurement.
    doubled: u32,
}

impl Rto {
    /// A timer; `fixed` when the client has chosen.
    pub fn new(fixed: Option<Duration>) -> Self {
        Self { fixed, measured: None, doubled: 0 }
    }

    /// How long to wait now.
    pub fn wait(&self) -> Duration {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let once = self.measured.map_or(FIRST, |(mean, deviation)| mean + LEAST.max(deviation * 4));
        once.saturating_mul(1 << self.doubled.min(6)).min(MOST)
    }

    /// The wait was in vain: the next is twice as long.
    pub fn in_vain(&mut self) {
        self.doubled = self.doubled.saturating_add(1);
    }

    /// A round trip of something that was sent once (Karn: what was sent twice tells nothing).
    pub fn measure(&mut self, round_trip: Duration) {
        self.doubled = 0;
        self.measured = Some(match self.measured {
            None => (round_trip, round_trip / 2),
            Some((mean, deviation)) => {
                let off = mean.abs_diff(round_trip);
                ((mean * 7 + round_trip) / 8, (deviation * 3 + off) / 4)
            }
        });
    }

    /// How long it is worth to look for an answer without pause before waiting for it: not at all unless
    /// answers come sooner than a processor falls asleep and wakes up.
    pub fn imminent(&self) -> Option<Duration> {
        let (mean, _) = self.measured.filter(|(mean, _)| *mean <= IMMINENT)?;
        Some(mean * 2)
    }

    /// After which time an answer that has come so far always did. When there is a hint of a loss,
    /// no more than this need be waited.
    pub fn soon(&self) -> Duration {
        let usual = |(mean, deviation): (Duration, Duration)| mean + mean.max(deviation * 4);
        self.measured.map_or(FIRST, usual) + TICK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn waits_follow_the_round_trips_and_double_until_the_next_one() {
        let mut rto = Rto::new(None);
        assert_eq!(rto.wait(), FIRST);
        rto.measure(ms(200));
        assert_eq!(rto.wait(), ms(600));
        for _ in 0..50 {
            rto.measure(ms(200));
        }
        assert_eq!(rto.wait(), ms(300));
        assert_eq!(rto.soon(), ms(402));
        rto.in_vain();
        rto.in_vain();
        assert_eq!(rto.wait(), ms(1200));
        for _ in 0..50 {
            rto.in_vain();
        }
        assert_eq!(rto.wait(), MOST);
        for _ in 0..100 {
            rto.measure(Duration::ZERO);
        }
        assert!((LEAST..ms(101)).contains(&rto.wait()), "{:?}", rto.wait());
    }

    #[test]
    fn answers_are_looked_out_for_when_they_come_at_once() {
        let mut rto = Rto::new(None);
        assert_eq!(rto.imminent(), None);
        rto.measure(Duration::from_micros(20));
        assert_eq!(rto.imminent(), Some(Duration::from_micros(40)));
        for _ in 0..20 {
            rto.measure(Duration::from_micros(200));
        }
        assert_eq!(rto.imminent(), None);
    }

    #[test]
    fn a_clients_own_choice_stays() {
        let mut rto = Rto::new(Some(ms(3000)));
        rto.in_vain();
        rto.measure(ms(1));
        assert_eq!(rto.wait(), ms(3000));
    }
}
