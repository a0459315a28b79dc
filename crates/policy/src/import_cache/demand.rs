//! Who started, and how often of late.

use std::collections::BTreeMap;

use super::set::Set;
use super::wish::{Footprint, Wish};
use crate::Time;

/// A set with less weight is forgotten: ten half-lives after a single start.
const FADED: f64 = 1.0 / 1024.0;

/// The starts of handlers that import the same.
#[derive(Debug)]
struct Starts {
    /// The last one's, for all of them.
    wish: Wish,
    /// Starts, each halved with every half-life since; as of `at`.
    weight: f64,
    at: Time,
}

impl Starts {
    fn weight(&self, now: Time, half_life: Time) -> f64 {
        let age = now.saturating_sub(self.at).as_secs_f64() / half_life.as_secs_f64().max(1e-3);
        self.weight * (-age).exp2()
    }
}

/// Weights by the set imported. Bounded: the weakest is forgotten.
#[derive(Debug)]
pub(super) struct Demand {
    half_life: Time,
    max: usize,
    sets: BTreeMap<Set, Starts>,
}

impl Demand {
    pub fn new(half_life: Time, max: usize) -> Self {
        Self { half_life, max: max.max(1), sets: BTreeMap::new() }
    }

    pub fn started(&mut self, wish: &Wish, now: Time) {
        if wish.imports.is_empty() {
            return;
        }
        let half_life = self.half_life;
        if let Some(starts) = self.sets.get_mut(&wish.imports) {
            starts.weight = starts.weight(now, half_life) + 1.0;
            starts.at = now;
            if starts.wish != *wish {
                starts.wish = wish.clone();
            }
            return;
        }
        if self.sets.len() >= self.max {
            self.forget_weakest(now);
        }
        self.sets.insert(wish.imports.clone(), Starts { wish: wish.clone(), weight: 1.0, at: now });
    }

    pub fn forget_faded(&mut self, now: Time) {
        let half_life = self.half_life;
        self.sets.retain(|_, starts| starts.weight(now, half_life) >= FADED);
    }

    /// Whether a set that could not be imported, and left this footprint, would have to do for somebody; or for nobody that is known.
    pub fn blames(&self, set: &Set, footprint: &Footprint) -> bool {
        let wishes = self.sets.values().map(|starts| &starts.wish);
        let mut concerned = wishes.filter(|wish| set.is_within(&wish.installed)).peekable();
        concerned.peek().is_none() || concerned.any(|wish| footprint.fits(wish))
    }

    /// Wishes with their weights, the strongest first.
    pub fn strongest(&self, now: Time) -> Vec<(&Wish, f64)> {
        let weigh = |starts: &Starts| starts.weight(now, self.half_life);
        let mut all: Vec<_> = self.sets.values().map(|starts| (&starts.wish, weigh(starts))).collect();
        // Stable, so equals stay in the order of their sets.
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }

    fn forget_weakest(&mut self, now: Time) {
        let weigh = |starts: &Starts| starts.weight(now, self.half_life);
        let weakest = self.sets.iter().min_by(|a, b| weigh(a.1).total_cmp(&weigh(b.1)));
        let weakest = weakest.map(|(set, _)| set.clone());
        weakest.and_then(|set| self.sets.remove(&set));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(package: u32) -> Wish {
        Wish::new([package], [package], [], [])
    }

    fn weights(demand: &Demand, second: u64) -> Vec<(u32, f64)> {
        let all = demand.strongest(Time::from_secs(second));
        all.into_iter().map(|(wish, weight)| (wish.imports()[0], weight)).collect()
    }

    #[test]
    fn a_start_counts_half_after_a_half_life() {
        let mut demand = Demand::new(Time::from_secs(60), 10);
        demand.started(&wish(1), Time::ZERO);
        demand.started(&wish(2), Time::from_secs(60));
        assert_eq!(weights(&demand, 60), [(2, 1.0), (1, 0.5)]);
        demand.started(&wish(1), Time::from_secs(60));
        assert_eq!(weights(&demand, 120), [(1, 0.75), (2, 0.5)]);
    }

    #[test]
    fn the_weakest_is_forgotten_for_a_new_one_and_the_faded_by_themselves() {
        let mut demand = Demand::new(Time::from_secs(60), 2);
        for (package, second) in [(1, 0), (1, 0), (2, 10), (3, 20)] {
            demand.started(&wish(package), Time::from_secs(second));
        }
        assert_eq!(weights(&demand, 20).iter().map(|(p, _)| *p).collect::<Vec<_>>(), [1, 3]);
        demand.forget_faded(Time::from_secs(640));
        assert_eq!(weights(&demand, 640).len(), 1);
        demand.forget_faded(Time::from_secs(700));
        assert_eq!(weights(&demand, 700), []);
    }

    #[test]
    fn who_imports_nothing_is_no_demand() {
        let mut demand = Demand::new(Time::from_secs(60), 2);
        demand.started(&Wish::new([1], [], [], []), Time::ZERO);
        assert_eq!(weights(&demand, 0), []);
    }
}
