//! How long something that failed is left alone: doubling pauses, up to a cap, from the first again after a success.

use crate::Time;

/// The pause after the first failure.
pub const FIRST: Time = Time::from_millis(500);
/// The longest pause.
pub const CAP: Time = Time::from_secs(30);

/// The back-off of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Time,
    cap: Time,
    failures: u32,
    until: Time,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(FIRST, CAP)
    }
}

impl Backoff {
    /// Pauses from `first`, doubling up to `cap`.
    pub const fn new(first: Time, cap: Time) -> Self {
        Self { first, cap, failures: 0, until: Time::ZERO }
    }

    /// A failure. Failures during a pause are of the same cause (ten calls in flight when a server dies) and neither
    /// count nor lengthen it.
    pub fn fail(&mut self, now: Time) {
        if self.is_open(now) {
            return;
        }
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = (self.failures + 1).min(31);
        self.until = now + self.first.saturating_mul(factor).min(self.cap);
    }

    /// A success: all is forgotten.
    pub fn succeed(&mut self) {
        self.failures = 0;
        self.until = Time::ZERO;
    }

    /// Whether the pause lasts.
    pub fn is_open(&self, now: Time) -> bool {
        now < self.until
    }

    /// What is left of the pause.
    pub fn remaining(&self, now: Time) -> Time {
        self.until.saturating_sub(now)
    }

    /// Failures in a row, each after the pause of the one before.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn doubles_to_the_cap_and_starts_afresh() {
        let mut backoff = Backoff::new(s(1), s(5));
        let mut now = s(100);
        for pause in [1, 2, 4, 5, 5] {
            backoff.fail(now);
            assert_eq!(backoff.remaining(now), s(pause));
            now += s(pause);
            assert!(!backoff.is_open(now));
        }
        backoff.succeed();
        backoff.fail(now);
        assert_eq!(backoff.remaining(now), s(1));
    }

    #[test]
    fn failures_in_a_pause_count_once() {
        let mut backoff = Backoff::new(s(1), s(60));
        for _ in 0..10 {
            backoff.fail(s(0));
        }
        assert_eq!((backoff.failures(), backoff.remaining(s(0))), (1, s(1)));
    }

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff::default();
        for hour in 0..1000 {
            backoff.fail(s(hour * 3600));
            assert!(backoff.remaining(s(hour * 3600)) <= CAP);
        }
    }
}
