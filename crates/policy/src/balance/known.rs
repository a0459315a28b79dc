//! What all policies know, and how they put servers in order.

use std::cmp::Reverse;

use super::fleet::{Fitness, ServerState};
use super::{Fleet, Homes, Key, MoveReason, ServerId, Settings};
use crate::Time;
use crate::load::Load;

/// The servers, and where keys are.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The servers.
    pub fleet: Fleet,
    /// Which key is where.
    pub homes: Homes,
}

/// The servers' fitness and load at one moment, and their order for one key.
pub(super) struct Standing<'a> {
    fleet: &'a Fleet,
    settings: Settings,
    now: Time,
    loads: Vec<Load>,
    /// The indices of the servers, best first: fit before full before set aside; then those with room (below `low`)
    /// before the others by their load; among equals one with a Zygote that has the packages; then by load; at last
    /// by rendezvous hash, so that replicas that see about equal loads agree without talking.
    order: Vec<usize>,
}

impl<'a> Standing<'a> {
    pub fn new(fleet: &'a Fleet, key: &Key<'_>, settings: Settings, now: Time) -> Self {
        let loads = fleet.loads(settings.formula, now);
        let hash = key.affinity();
        let order = fleet.sorted(|index, state| {
            let load = loads[index];
            let room = if load.get() < settings.low { 0 } else { 1 + load.step() };
            let has_zygote = key.packages.and_then(|set| state.zygote(set)).unwrap_or(false);
            (state.fitness(now), room, !has_zygote, load.step(), Reverse(state.affinity(hash)))
        });
        Self { fleet, settings, now, loads, order }
    }

    /// All servers, best first.
    pub fn candidates(&self) -> Vec<ServerId> {
        self.order.iter().map(|index| self.fleet.states()[*index].server.id).collect()
    }

    /// The best server.
    pub fn best(&self) -> Option<ServerId> {
        self.order.first().map(|index| self.fleet.states()[*index].server.id)
    }

    /// Of these servers the best and the worst.
    pub fn among(&self, servers: &[(ServerId, Time)]) -> Option<(ServerId, ServerId)> {
        let is_one = |id: &ServerId| servers.iter().any(|(server, _)| server == id);
        let ids = || self.order.iter().map(|index| self.fleet.states()[*index].server.id);
        Some((ids().find(is_one)?, ids().rev().find(is_one)?))
    }

    /// The original's rules: why a key should leave `from` (go beyond it) for the best server, if it should.
    pub fn reason_to_move(&self, from: ServerId) -> Option<MoveReason> {
        let best = *self.order.first()?;
        let Some((target, state)) = self.fleet.position(from) else { return Some(MoveReason::Unavailable) };
        if target == best {
            return None;
        }
        match (state.fitness(self.now), self.state(best).fitness(self.now)) {
            (Fitness::SetAside, Fitness::Fit | Fitness::Full) => return Some(MoveReason::Unavailable),
            (Fitness::Full, Fitness::Fit) => return Some(MoveReason::MaxConn),
            (Fitness::Fit, Fitness::Fit) => {}
            _ => return None,
        }
        let (load, least) = (self.loads[target], self.loads[best]);
        if load.get() >= self.settings.high && least.get() < self.settings.low {
            Some(MoveReason::Imbalance)
        } else if load.get() >= 2.0 * self.settings.high && least.step() < load.step() {
            Some(MoveReason::Overload)
        } else {
            None
        }
    }

    fn state(&self, index: usize) -> &ServerState {
        &self.fleet.states()[index]
    }
}

/// Puts one server before all others, whose order stays.
pub(super) fn first(candidates: &mut [ServerId], server: ServerId) {
    if let Some(place) = candidates.iter().position(|id| *id == server) {
        candidates[..=place].rotate_right(1);
    }
}
