//! When the agents are asked next: often while something is not final and moves, rarely else. Pure.

use std::time::Duration;

/// While something is not final.
const FAST: Duration = Duration::from_millis(120);
/// When what is not final has not moved for [`PATIENCE`].
const SLOW: Duration = Duration::from_secs(1);
/// When all is final: an agent may still come to another result (a ConfigMap that appears).
const IDLE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// The pace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    open: bool,
    moved: Duration,
}

impl Pace {
    /// Something that is watched changed.
    pub fn changed(&mut self, now: Duration) {
        self.moved = now;
    }

    /// A round ended: whether something is not final, and whether anything moved.
    pub fn ended(&mut self, now: Duration, open: bool, moved: bool) {
        self.open = open;
        if moved {
            self.moved = now;
        }
    }

    /// Time until the next round.
    pub fn pause(&self, now: Duration) -> Duration {
        match self.open {
            false => IDLE,
            true if now.saturating_sub(self.moved) < PATIENCE => FAST,
            true => SLOW,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_while_it_moves_slow_when_stuck_idle_when_final() {
        let at = Duration::from_secs;
        let mut pace = Pace::default();
        assert_eq!(pace.pause(at(0)), IDLE);
        pace.ended(at(1), true, true);
        assert_eq!(pace.pause(at(2)), FAST);
        pace.ended(at(32), true, false);
        assert_eq!(pace.pause(at(32)), SLOW);
        pace.changed(at(33));
        assert_eq!(pace.pause(at(34)), FAST);
        pace.ended(at(35), false, true);
        assert_eq!(pace.pause(at(35)), IDLE);
    }
}
