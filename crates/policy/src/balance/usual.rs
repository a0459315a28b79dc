//! What calls cost in the fleet: the medians of what servers say, so that one that is far off moves nothing.

use super::{Costs, ServerState};
use crate::Time;

/// What is assumed of a server that does not say.
#[derive(Clone, Debug)]
pub(super) struct Usual {
    pub slots: f64,
    pub call: Time,
    pub fork: Time,
    pub import: Time,
    pub kept: f64,
}

impl Default for Usual {
    /// For fleets of which no server has measured anything yet.
    fn default() -> Self {
        Self {
            slots: 64.0,
            call: Time::from_millis(20),
            fork: Time::from_millis(3),
            import: Time::from_millis(150),
            kept: 1.0,
        }
    }
}

impl Usual {
    pub fn new(servers: &[ServerState]) -> Self {
        let said = |of: fn(Costs) -> Option<f64>| {
            median(servers.iter().filter_map(ServerState::costs).filter_map(of).collect())
        };
        let time = |of: fn(Costs) -> Option<f64>, default| said(of).map_or(default, Time::from_secs_f64);
        let default = Self::default();
        Self {
            slots: said(|costs| Some(f64::from(costs.slots.max(1)))).unwrap_or(default.slots),
            call: time(|costs| costs.call.as_ref().map(Time::as_secs_f64), default.call),
            fork: time(|costs| costs.fork.as_ref().map(Time::as_secs_f64), default.fork),
            import: time(|costs| costs.import.as_ref().map(Time::as_secs_f64), default.import),
            kept: said(|costs| costs.kept).unwrap_or(default.kept),
        }
    }

    /// How many calls a server serves at once.
    pub fn slots(&self, state: &ServerState) -> f64 {
        state.costs().map_or(self.slots, |costs| f64::from(costs.slots.max(1)))
    }
}

/// Of an even number the lower of the two in the middle.
fn median(mut numbers: Vec<f64>) -> Option<f64> {
    let middle = numbers.len().checked_sub(1)? / 2;
    Some(*numbers.select_nth_unstable_by(middle, f64::total_cmp).1)
}
