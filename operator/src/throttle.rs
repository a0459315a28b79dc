//! A rate limit of our own: the API server is not ours alone.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// So many per second, after a burst.
#[derive(Debug)]
pub struct Throttle {
    begun: Instant,
    bucket: Mutex<Bucket>,
}

impl Throttle {
    /// `per_second` in the long run, `burst` at once.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { begun: Instant::now(), bucket: Mutex::new(Bucket::new(per_second, burst)) }
    }

    /// Waits for one's turn.
    pub async fn turn(&self) {
        let wait = self.bucket.lock().take(self.begun.elapsed());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// The time at which the next one is due if all keep to the rate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    interval: Duration,
    ahead: Duration,
    due: Duration,
}

impl Bucket {
    fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, ahead: interval * burst.max(1), due: Duration::ZERO }
    }

    /// Takes a place; the answer is how long to wait for it.
    fn take(&mut self, now: Duration) -> Duration {
        self.due = self.due.max(now) + self.interval;
        self.due.saturating_sub(now + self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_rest_keeps_the_rate() {
        let mut bucket = Bucket::new(100, 10);
        let now = Duration::from_secs(5);
        let waits: Vec<u128> = (0..13).map(|_| bucket.take(now).as_millis()).collect();
        assert_eq!(waits[..10], [0; 10]);
        assert_eq!(waits[10..], [10, 20, 30]);
        assert_eq!(bucket.take(now + Duration::from_secs(1)), Duration::ZERO);
    }
}
