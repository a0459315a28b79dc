//! How many instances a handler should have before they are asked for.
//!
//! Three things can be foreseen: the floor that the user has set; that a handler which is being called will need as many instances as it had
//! a moment ago, whatever became of them since (a crash, a timeout, a new revision); and that a handler whose instances are all busy, and
//! had to be given more during calls, will need another one. Instances beyond that are made by the calls that need them, and go when they
//! were idle for long, which is not decided here.

use std::time::Duration;

use crate::Time;

/// What was needed is taken to be needed again for so long after the last call.
pub const MEMORY: Duration = Duration::from_secs(10);

/// The bounds of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Instances that it has without calls.
    pub min: usize,
    /// Instances that it may have.
    pub max: usize,
    /// An instance that was idle for so long goes.
    pub idle_timeout: Duration,
}

/// What a handler has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Instances.
    pub all: usize,
    /// Those that are out on a call.
    pub running: usize,
    /// When it was last called, if it was and still has the instance.
    pub used: Option<Time>,
    /// Whether something was given up for want of memory lately, be it the node's or the cache's.
    pub is_tight: bool,
}

/// What is remembered of a handler between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scaling {
    /// The most that it had since it was last quiet.
    peak: usize,
    last: usize,
    used: Option<Time>,
}

impl Scaling {
    /// How many instances it should have.
    pub fn wanted(&mut self, now: Time, bounds: Bounds, seen: Now) -> usize {
        self.used = self.used.max(seen.used);
        let memory = MEMORY.min(bounds.idle_timeout);
        let is_called = self.used.is_some_and(|used| now.saturating_sub(used) < memory);
        // Where memory is wanted, only the floor is worth it.
        self.peak = if is_called && !seen.is_tight { self.peak.max(seen.all) } else { 0 };
        let grows = seen.all > self.last && self.last > 0;
        self.last = seen.all;
        let ahead = if grows && seen.running == seen.all && !seen.is_tight { seen.all + 1 } else { 0 };
        bounds.min.max(self.peak).max(ahead).min(bounds.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { min: 0, max: 10, idle_timeout: Duration::from_secs(600) };

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    fn seen(all: usize, running: usize, used: u64) -> Now {
        Now { all, running, used: Some(at(used)), is_tight: false }
    }

    const NOTHING: Now = Now { all: 0, running: 0, used: None, is_tight: false };

    #[test]
    fn the_floor_holds_without_calls_and_never_over_the_maximum() {
        let mut scaling = Scaling::default();
        assert_eq!(scaling.wanted(at(0), Bounds { min: 3, ..BOUNDS }, NOTHING), 3);
        assert_eq!(scaling.wanted(at(1), Bounds { min: 3, max: 2, ..BOUNDS }, NOTHING), 2);
        assert_eq!(scaling.wanted(at(2), BOUNDS, NOTHING), 0);
    }

    #[test]
    fn what_was_lost_is_replaced_while_calls_come() {
        let mut scaling = Scaling::default();
        assert_eq!(scaling.wanted(at(0), BOUNDS, seen(4, 2, 0)), 4);
        // A new revision: all are gone.
        assert_eq!(scaling.wanted(at(1), BOUNDS, NOTHING), 4);
        assert_eq!(scaling.wanted(at(9), BOUNDS, NOTHING), 4);
        // Nobody has called for long.
        assert_eq!(scaling.wanted(at(10), BOUNDS, NOTHING), 0);
        assert_eq!(scaling.wanted(at(11), BOUNDS, seen(1, 1, 11)), 1);
    }

    #[test]
    fn what_idles_out_is_not_replaced() {
        let mut scaling = Scaling::default();
        let short = Bounds { idle_timeout: Duration::from_secs(1), ..BOUNDS };
        assert_eq!(scaling.wanted(at(0), short, seen(4, 0, 0)), 4);
        assert_eq!(scaling.wanted(at(1), short, seen(0, 0, 0)), 0);
    }

    #[test]
    fn one_ahead_while_it_grows_and_all_are_busy() {
        let mut scaling = Scaling::default();
        // The first one is no growth: most handlers need no second.
        assert_eq!(scaling.wanted(at(0), BOUNDS, seen(1, 1, 0)), 1);
        assert_eq!(scaling.wanted(at(1), BOUNDS, seen(3, 3, 1)), 4);
        assert_eq!(scaling.wanted(at(2), BOUNDS, seen(4, 3, 2)), 4);
        assert_eq!(scaling.wanted(at(3), BOUNDS, seen(10, 10, 3)), 10);
    }

    #[test]
    fn where_memory_is_tight_only_the_floor_is_kept() {
        let mut scaling = Scaling::default();
        assert_eq!(scaling.wanted(at(0), BOUNDS, seen(4, 4, 0)), 4);
        let tight = Now { is_tight: true, ..seen(2, 2, 1) };
        assert_eq!(scaling.wanted(at(1), Bounds { min: 1, ..BOUNDS }, tight), 1);
    }
}
