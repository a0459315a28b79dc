//! One server after the other, whatever the key.

use super::fleet::Fitness;
use super::{Balance, Choice, Fleet, Ranking, ServerId};
use crate::Time;

/// The original's `RoundRobin`.
#[derive(Debug, Default)]
pub struct RoundRobin {
    fleet: Fleet,
    /// The index whose turn it is.
    next: usize,
}

impl Balance for RoundRobin {
    fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn fleet_mut(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    fn rank(&mut self, _key: &str, now: Time) -> Ranking {
        let states = self.fleet.states();
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

    fn took_over(&mut self, _key: &str, _server: ServerId) -> bool {
        false
    }

    fn assignments(&self) -> Vec<(String, ServerId)> {
        Vec::new()
    }
}
