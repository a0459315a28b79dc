//! Consistent hashing with bounded loads: a handler is where its name's hash puts it, unless that server already has
//! more than its bound of all calls; then it is at the next in its order.

use std::cmp::Reverse;

use super::{Balance, Choice, Key, Known, PolicyKind, Ranking, Settings};
use crate::Time;

/// By the handler's name, as long as the load allows it. The hash is rendezvous: a server that comes or goes moves
/// its own share only, and each handler has an order of servers of its own.
#[derive(Debug)]
pub struct BoundedLoads {
    settings: Settings,
    known: Known,
}

impl BoundedLoads {
    /// With what is known already.
    pub fn new(settings: Settings, known: Known) -> Self {
        Self { settings, known }
    }
}

impl Balance for BoundedLoads {
    fn kind(&self) -> PolicyKind {
        PolicyKind::BoundedLoads
    }

    fn known(&self) -> &Known {
        &self.known
    }

    fn known_mut(&mut self) -> &mut Known {
        &mut self.known
    }

    fn rank(&mut self, key: &Key<'_>, now: Time) -> Ranking {
        let fleet = &self.known.fleet;
        let hash = key.handler_hash();
        let calls = fleet.calls(now);
        let calls: Vec<f64> = fleet.states().iter().map(|state| calls(state) / state.share(now)).collect();
        // With the call that is to be placed.
        let total = calls.iter().sum::<f64>() + 1.0;
        let cap = (self.settings.bound * total / calls.len().max(1) as f64).ceil();
        let candidates = fleet.ranked(|index, state| {
            let over = calls[index] + 1.0 > cap;
            (state.fitness(now), over, Reverse(state.affinity(hash)))
        });
        Ranking { candidates, choice: Choice::Unbound }
    }
}
