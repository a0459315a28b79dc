//! The less loaded of two servers taken at random, whatever the key.

use super::{Balance, Choice, Key, Known, PolicyKind, Ranking, Settings};
use crate::Time;
use crate::hash::Random;

/// Two at random, the less loaded first; then the others in random order.
#[derive(Debug)]
pub struct PowerOfTwo {
    settings: Settings,
    known: Known,
    random: Random,
}

impl PowerOfTwo {
    /// With what is known already; `seed` is its chance.
    pub fn new(settings: Settings, known: Known, seed: u64) -> Self {
        Self { settings, known, random: Random::new(seed) }
    }
}

impl Balance for PowerOfTwo {
    fn kind(&self) -> PolicyKind {
        PolicyKind::PowerOfTwo
    }

    fn known(&self) -> &Known {
        &self.known
    }

    fn known_mut(&mut self) -> &mut Known {
        &mut self.known
    }

    fn rank(&mut self, _key: &Key<'_>, now: Time) -> Ranking {
        let fleet = &self.known.fleet;
        let draws: Vec<u64> = fleet.states().iter().map(|_| self.random.bits()).collect();
        let mut order = fleet.sorted(|index, state| (state.fitness(now), draws[index]));
        if let [first, second, ..] = &mut order[..] {
            let states = fleet.states();
            let equally_fit = states[*first].fitness(now) == states[*second].fitness(now);
            let loads = fleet.loads(self.settings.formula, now);
            if equally_fit && loads[*second].exact() < loads[*first].exact() {
                std::mem::swap(first, second);
            }
        }
        let candidates = order.into_iter().map(|index| fleet.states()[index].server.id).collect();
        Ranking { candidates, choice: Choice::Unbound }
    }
}
