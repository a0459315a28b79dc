//! Which results are worth a write. Agents need some milliseconds for a new revision; to write "in progress" first would
//! double the writes when a thousand handlers come at once. Pure.

use std::collections::HashMap;
use std::time::Duration;

/// What is not final for so long is told.
const PATIENCE: Duration = Duration::from_secs(1);

/// Since when each handler's generation is not final.
#[derive(Debug, Default)]
pub struct Fresh {
    since: HashMap<String, (i64, Duration)>,
}

impl Fresh {
    /// Whether the status is to be written.
    pub fn is_told(&mut self, uid: &str, generation: i64, is_final: bool, now: Duration) -> bool {
        if is_final {
            self.since.remove(uid);
            return true;
        }
        match self.since.get(uid) {
            Some((of, since)) if *of == generation => now.saturating_sub(*since) >= PATIENCE,
            _ => {
                self.since.insert(uid.to_owned(), (generation, now));
                false
            }
        }
    }

    /// Forgets the objects that are gone, once there are more entries than objects.
    pub fn prune(&mut self, there: &[String]) {
        if self.since.len() > there.len() {
            self.since.retain(|uid, _| there.contains(uid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_at_once_and_progress_after_a_while() {
        let at = Duration::from_millis;
        let mut fresh = Fresh::default();
        assert!(!fresh.is_told("u", 1, false, at(0)));
        assert!(!fresh.is_told("u", 1, false, at(999)));
        assert!(fresh.is_told("u", 1, false, at(1000)));
        assert!(!fresh.is_told("u", 2, false, at(1100)), "another generation");
        assert!(fresh.is_told("u", 2, true, at(1101)));
        assert!(!fresh.is_told("u", 2, false, at(1102)));
    }
}
