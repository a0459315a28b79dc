//! Locality-aware request distribution: a key stays with its server, where its code, packages and Zygotes are warm,
//! until load says otherwise.
//!
//! The rules are the original's, its faults mended:
//! - a new key goes to the least loaded server;
//! - it moves to the least loaded when its server's load is `>= high` and that one's `< low`, or its server's load is
//!   `>= 2 * high`, or its server has `MaxConn` connections, or its server is set aside or gone;
//! - the key is the handler's name (the original took the whole path);
//! - a move is made only to a server that is better, so that an overloaded fleet does not trade handlers in circles;
//! - there is always a candidate (the original found none when all loads reached 1).
//!
//! Ties (loads in the same 5 %) go by rendezvous hash, where the original rotated: replicas of lard that see equal
//! loads agree without talking, and a restarted lard finds the handlers where they are warm.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::fleet::{Fitness, ServerState, fnv};
use super::{Balance, Choice, Fleet, MoveReason, Ranking, ServerId};
use crate::Time;
use crate::load::{Load, LoadFormula};

/// Keys that are remembered. Beyond that the half that was not asked for longest is forgotten: their next call is
/// placed like a new key's.
const MAX_KEYS: usize = 65_536;

/// LARD's parameters, by the names of the configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LardSettings {
    /// How load is computed.
    pub formula: LoadFormula,
    /// `LoadHigh`.
    pub high: f64,
    /// `LoadLow`.
    pub low: f64,
}

impl Default for LardSettings {
    fn default() -> Self {
        Self { formula: LoadFormula::default(), high: 0.4, low: 0.2 }
    }
}

#[derive(Debug)]
struct Assignment {
    server: ServerId,
    /// The number of the last ranking that asked for it.
    used: u64,
}

/// The original's `LARD`.
#[derive(Debug)]
pub struct Lard {
    settings: LardSettings,
    fleet: Fleet,
    map: HashMap<String, Assignment>,
    rankings: u64,
    max_keys: usize,
}

impl Lard {
    /// Without servers yet.
    pub fn new(settings: LardSettings) -> Self {
        Self { settings, fleet: Fleet::default(), map: HashMap::new(), rankings: 0, max_keys: MAX_KEYS }
    }

    /// Places a key from outside (the configuration's `RequestServerMap`).
    pub fn assign(&mut self, key: &str, server: ServerId) {
        if self.map.len() >= self.max_keys {
            self.forget_half();
        }
        self.map.insert(key.to_owned(), Assignment { server, used: self.rankings });
    }

    fn forget_half(&mut self) {
        let mut used: Vec<u64> = self.map.values().map(|a| a.used).collect();
        let middle = used.len() / 2;
        let (_, median, _) = used.select_nth_unstable(middle);
        let median = *median;
        self.map.retain(|_, a| a.used > median);
    }

    /// All servers, best first: fit before full before set aside, then by load, then by rendezvous.
    fn order(&self, key: &str, now: Time) -> Vec<ServerId> {
        let key_hash = fnv(key);
        let mut order: Vec<_> = self
            .fleet
            .states()
            .iter()
            .map(|state| (self.rank_of(state, now), Reverse(state.affinity(key_hash)), state.server.id))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, _, id)| id).collect()
    }

    fn rank_of(&self, state: &ServerState, now: Time) -> (Fitness, u8) {
        (state.fitness(now), self.load(state, now).step())
    }

    fn load(&self, state: &ServerState, now: Time) -> Load {
        state.load(self.settings.formula, now)
    }

    /// Why a key should leave `from` for `best`, if it should.
    fn reason_to_move(&self, from: ServerId, best: ServerId, now: Time) -> Option<MoveReason> {
        if from == best {
            return None;
        }
        let Some(target) = self.fleet.get(from) else { return Some(MoveReason::Unavailable) };
        let best = self.fleet.get(best)?;
        match (target.fitness(now), best.fitness(now)) {
            (Fitness::SetAside, Fitness::Fit | Fitness::Full) => return Some(MoveReason::Unavailable),
            (Fitness::Full, Fitness::Fit) => return Some(MoveReason::MaxConn),
            (Fitness::Fit, Fitness::Fit) => {}
            _ => return None,
        }
        let (load, least) = (self.load(target, now), self.load(best, now));
        if load.get() >= self.settings.high && least.get() < self.settings.low {
            Some(MoveReason::Imbalance)
        } else if load.get() >= 2.0 * self.settings.high && least.step() < load.step() {
            Some(MoveReason::Overload)
        } else {
            None
        }
    }
}

impl Balance for Lard {
    fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn fleet_mut(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    fn rank(&mut self, key: &str, now: Time) -> Ranking {
        self.rankings += 1;
        let mut candidates = self.order(key, now);
        let Some(&best) = candidates.first() else {
            return Ranking { candidates, choice: Choice::Unbound };
        };
        let current = self.map.get(key).map(|a| a.server);
        let choice = match current.map(|from| self.reason_to_move(from, best, now)) {
            None => Choice::Assigned,
            Some(Some(reason)) => Choice::Moved(reason),
            Some(None) => Choice::Kept,
        };
        match (choice, self.map.get_mut(key)) {
            (Choice::Kept, Some(assignment)) => {
                assignment.used = self.rankings;
                let place = candidates.iter().position(|id| *id == assignment.server).unwrap_or(0);
                candidates[..=place].rotate_right(1);
            }
            _ => self.assign(key, best),
        }
        Ranking { candidates, choice }
    }

    fn took_over(&mut self, key: &str, server: ServerId) -> bool {
        match self.map.get_mut(key) {
            Some(assignment) if assignment.server != server => {
                assignment.server = server;
                true
            }
            _ => false,
        }
    }

    fn assignments(&self) -> Vec<(String, ServerId)> {
        let mut all: Vec<_> = self.map.iter().map(|(key, a)| (key.clone(), a.server)).collect();
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::Server;
    use super::*;

    #[test]
    fn the_map_is_bounded_and_forgets_the_longest_unused() {
        let mut lard = Lard { max_keys: 4, ..Lard::new(LardSettings::default()) };
        lard.set_servers(vec![Server { id: ServerId(0), name: "a".into(), max_conn: None }]);
        for key in ["k0", "k1", "k2", "k3", "k0", "k4"] {
            lard.rank(key, Time::ZERO);
        }
        let keys: Vec<_> = lard.assignments().into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            ["k0", "k4"],
            "k1, k2 (the median) and below are forgotten; k3 too was before k0's second use"
        );
    }
}
