//! One server after the other, whatever the key.

use super::fleet::Fitness;
use super::{Balance, Choice, Key, Known, PolicyKind, Ranking};
use crate::Time;

/// The original's `RoundRobin`.
#[derive(Debug, Default)]
pub struct RoundRobin {
    known: Known,
    /// The index whose turn it is.
    next: usize,
}

impl RoundRobin {
    /// With what is known already.
    pub fn new(known: Known) -> Self {
        Self { known, next: 0 }
    }
}

impl Balance for RoundRobin {
    fn kind(&self) -> PolicyKind {
        PolicyKind::RoundRobin
    }

    fn known(&self) -> &Known {
        &self.known
    }

    fn known_mut(&mut self) -> &mut Known {
        &mut self.known
    }

    fn rank(&mut self, _key: &Key<'_>, now: Time) -> Ranking {
        let states = self.known.fleet.states();
        let count = states.len();
        let mut order: Vec<(Fitness, usize)> = (0..count)
            .map(|offset| (self.next + offset) % count)
            .map(|index| (states[index].fitness(now), index))
            .collect();
        // Stable: among equally fit servers the turn decides.
        order.sort_by_key(|(fitness, _)| *fitness);
        let candidates = order.iter().map(|(_, index)| states[*index].server.id).collect();
        if let Some((_, first)) = order.first() {
            self.next = (first + 1) % count;
        }
        Ranking { candidates, choice: Choice::Unbound }
    }
}
