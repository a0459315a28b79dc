//! The calls: which handler, when, for how long.

use super::Scenario;
use crate::hash::{Random, mix};

/// When calls come.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// A new one as soon as one is over: as many are under way as LARD's own experiment admits,
    /// (n - 1) · T_high + T_low - 1 with the thresholds at 2.6 and 1 per slot. It measures throughput.
    Closed,
    /// At random (Poisson), so many that running alone, without waits and starts, keeps this share of all slots busy.
    Open(f64),
    /// As recorded, in order of time; handlers and run times are the recording's too.
    Trace(Vec<Invocation>),
}

/// A recorded call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Invocation {
    /// When it came, in ms.
    pub at_ms: f64,
    /// The number of its handler.
    pub function: u32,
    /// How long it ran.
    pub exec_ms: f64,
}

/// LARD's T_high per slot; T_low is one per slot.
const HIGH_PER_SLOT: f64 = 2.6;

impl Scenario {
    /// Calls that a closed loop keeps under way.
    pub fn admitted(&self) -> usize {
        if let Some(under_way) = self.under_way {
            return under_way;
        }
        let slots = f64::from(self.slots);
        let admitted = f64::from(self.agents.saturating_sub(1)) * HIGH_PER_SLOT * slots + slots;
        (admitted as usize).saturating_sub(1).max(1)
    }

    /// The mean pause between two calls of an open loop.
    pub(super) fn pause_ms(&self, busy: f64) -> f64 {
        self.exec_ms / (busy * f64::from(self.agents) * f64::from(self.slots))
    }

    /// The digest of a handler's package set. Popularity and packages are independent of each other.
    pub fn packages(&self, function: u32) -> u64 {
        let hash = mix(u64::from(function).wrapping_add(0x9e37_79b9_7f4a_7c15));
        mix(hash % u64::from(self.package_sets.max(1)))
    }
}

/// Calls for a driver of its own: without end, each with the number of its handler and how long it runs, in ms. The same, one
/// after the other, as those of a simulated closed loop: which handlers come is not what two runs shall differ by.
pub fn calls(scenario: &Scenario) -> impl Iterator<Item = (u32, f64)> + use<> {
    let popularity = Popularity::new(scenario.functions, scenario.zipf);
    let (mut random, exec_ms, replicas) = (Random::new(scenario.seed), scenario.exec_ms, scenario.replicas);
    std::iter::repeat_with(move || {
        let call = popularity.call(&mut random, exec_ms);
        // The simulation draws a replica of lard for it.
        random.below(replicas);
        call
    })
}

/// Draws handlers by Zipf's law.
pub(super) struct Popularity {
    cumulated: Vec<f64>,
}

impl Popularity {
    pub fn new(functions: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut cumulated: Vec<f64> = (1..=functions)
            .map(|rank| {
                sum += f64::from(rank).powf(-exponent);
                sum
            })
            .collect();
        cumulated.iter_mut().for_each(|value| *value /= sum);
        Self { cumulated }
    }

    /// The handler of a call, and how long it runs.
    pub fn call(&self, random: &mut Random, exec_ms: f64) -> (u32, f64) {
        (self.draw(random), random.exponential(exec_ms))
    }

    fn draw(&self, random: &mut Random) -> u32 {
        let value = random.unit();
        let rank = self.cumulated.partition_point(|bound| *bound < value);
        rank.min(self.cumulated.len().saturating_sub(1)) as u32
    }
}
