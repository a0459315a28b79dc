//! A fleet of agents and a stream of calls, simulated: how well a policy does before it meets a user.
//!
//! The policies are the same code that serves. All chance comes from a seed: equal scenarios have equal outcomes. An
//! agent has slots, a queue, idle sandboxes and Zygotes, both given up least recently used first (`agent`); a call
//! costs nothing to start in an idle sandbox of its handler, a fork where a Zygote has its packages, and an import
//! elsewhere. What the policy knows of an agent is what came with the replies so far.

mod agent;
mod outcome;
mod run;
mod workload;

pub use agent::{Agent, Job, Start, Started};
pub use outcome::Outcome;
pub use run::run;
pub use workload::{Arrivals, Invocation, calls};

use crate::balance::{PolicyKind, Settings};

/// `LoadLow` that makes T_low one call per slot where `LoadHigh` makes T_high 2.6: the paper's ratio, 25 to 65.
const PAPER_LOW: f64 = 0.15;

/// What is simulated. Times are in milliseconds.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The policy.
    pub policy: PolicyKind,
    /// Its parameters.
    pub settings: Settings,
    /// How many agents there are.
    pub agents: u32,
    /// How many calls an agent serves at once.
    pub slots: u32,
    /// How many sandboxes an agent has room for, busy ones included.
    pub sandboxes: usize,
    /// How many Zygotes an agent has room for, besides the root.
    pub zygotes: usize,
    /// How many handlers there are.
    pub functions: u32,
    /// The exponent of their popularity.
    pub zipf: f64,
    /// How many package sets they share.
    pub package_sets: u32,
    /// The mean time that a handler runs; exponentially distributed.
    pub exec_ms: f64,
    /// A start from a Zygote that has the packages.
    pub fork_ms: f64,
    /// A start for which the packages are imported.
    pub cold_ms: f64,
    /// When calls come.
    pub arrivals: Arrivals,
    /// How many replicas of lard share the calls, each with a policy of its own.
    pub replicas: usize,
    /// How many calls there are; the first fifth warms up and is not counted.
    pub requests: usize,
    /// How many calls a closed loop keeps under way, if not as many as LARD's own experiment.
    pub under_way: Option<usize>,
    /// Whether lard knows from the beginning which packages a handler needs, or from its first answer on.
    pub declared: bool,
    /// What determines all chance.
    pub seed: u64,
}

impl Scenario {
    /// The scenario that others are variations of: 4 slots, 64 sandboxes and 12 Zygotes an agent, 2,000 handlers of
    /// 100 package sets, Zipf 0.9, 20 ms, a closed loop.
    pub fn new(policy: PolicyKind, agents: u32) -> Self {
        Self {
            policy,
            settings: Settings { low: PAPER_LOW, ..Settings::default() },
            agents,
            slots: 4,
            sandboxes: 64,
            zygotes: 12,
            functions: 2000,
            zipf: 0.9,
            package_sets: 100,
            exec_ms: 20.0,
            fork_ms: 3.0,
            cold_ms: 150.0,
            arrivals: Arrivals::Closed,
            replicas: 1,
            requests: 100_000,
            under_way: None,
            declared: true,
            seed: 7,
        }
    }
}

#[cfg(test)]
mod tests;
