//! Calls that no agent has: while all of them are being replaced, or lard has only just started, they wait for one
//! instead of failing. Only where agents come and go by themselves; so many calls, and so long, as the queue allows.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::settings::Settings;

/// An agent may also come back without anybody saying so: each waiting call looks again after this time.
const PACE: Duration = Duration::from_secs(1);

/// Where calls wait for an agent.
pub struct Hold {
    /// Counts the changes of the set of agents.
    changes: watch::Sender<u64>,
    waiting: AtomicUsize,
    places: usize,
}

/// A state of the set of agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(u64);

impl Hold {
    /// As the settings want it.
    pub fn new(settings: &Settings) -> Self {
        let places = if settings.agents_come_and_go { settings.queue_length } else { 0 };
        Self { changes: watch::Sender::new(0), waiting: AtomicUsize::new(0), places }
    }

    /// The state before agents are tried: who waits with it misses no change.
    pub fn now(&self) -> Seen {
        Seen(*self.changes.borrow())
    }

    /// There are other agents now.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A place to wait; none if all are taken.
    pub fn place(&self) -> Option<Place<'_>> {
        let taken = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            (waiting < self.places).then_some(waiting + 1)
        });
        taken.ok().map(|_| Place(self))
    }
}

/// A call's place among those that wait.
pub struct Place<'a>(&'a Hold);

impl Place<'_> {
    /// Waits until it is worth another try, but not beyond `end`: then false.
    pub async fn wait(&self, seen: Seen, end: Instant) -> bool {
        let mut changes = self.0.changes.subscribe();
        let pause = end.min(Instant::now() + PACE);
        // The sender is ours: it is not gone.
        let changed = timeout_at(pause, changes.wait_for(|count| *count != seen.0)).await.is_ok();
        changed || Instant::now() < end
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use openlambda_config::BalancerConfig;
    use serde_json::json;

    use super::*;

    fn hold(places: usize, agents_come_and_go: bool) -> Hold {
        let config = BalancerConfig::from_value(&json!({}), "x".as_ref()).unwrap();
        Hold::new(&Settings { queue_length: places, agents_come_and_go, ..Settings::from(&config) })
    }

    #[test]
    fn places_are_bounded() {
        let two = hold(2, true);
        let (first, _second) = (two.place().unwrap(), two.place().unwrap());
        assert!(two.place().is_none());
        drop(first);
        assert!(two.place().is_some());
        assert_eq!(two.waiting(), 1);
        assert!(hold(2, false).place().is_none(), "with fixed agents nobody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_not_missed_and_time_ends_it() {
        let hold = hold(1, true);
        let place = hold.place().unwrap();
        let (begun, seen) = (Instant::now(), hold.now());
        hold.changed();
        assert!(place.wait(seen, begun + Duration::from_secs(9)).await);
        assert_eq!(Instant::now(), begun, "it had come before the wait began");
        let seen = hold.now();
        assert!(place.wait(seen, begun + Duration::from_secs(9)).await, "it looks again now and then");
        assert_eq!(Instant::now(), begun + PACE);
        assert!(!place.wait(seen, begun + PACE + PACE / 2).await);
    }
}
