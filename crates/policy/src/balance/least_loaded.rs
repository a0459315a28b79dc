//! The least loaded server, whatever the key.

use super::{Balance, Choice, Key, Known, PolicyKind, Ranking, Settings};
use crate::Time;

/// The servers by their load; equal ones take turns.
#[derive(Debug)]
pub struct LeastLoaded {
    settings: Settings,
    known: Known,
    /// The index that comes first among equals.
    turn: usize,
}

impl LeastLoaded {
    /// With what is known already.
    pub fn new(settings: Settings, known: Known) -> Self {
        Self { settings, known, turn: 0 }
    }
}

impl Balance for LeastLoaded {
    fn kind(&self) -> PolicyKind {
        PolicyKind::LeastLoaded
    }

    fn known(&self) -> &Known {
        &self.known
    }

    fn known_mut(&mut self) -> &mut Known {
        &mut self.known
    }

    fn rank(&mut self, _key: &Key<'_>, now: Time) -> Ranking {
        let fleet = &self.known.fleet;
        let loads = fleet.loads(self.settings.formula, now);
        let count = loads.len().max(1);
        let candidates = fleet.ranked(|index, state| {
            (state.fitness(now), loads[index].exact(), (index + count - self.turn % count) % count)
        });
        self.turn = (self.turn + 1) % count;
        Ranking { candidates, choice: Choice::Unbound }
    }
}
