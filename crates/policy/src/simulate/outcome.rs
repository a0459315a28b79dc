//! What came out.

use super::agent::{Agent, Start};

/// How a policy did, the warm-up left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Calls per second.
    pub throughput: f64,
    /// The share of calls that found an idle sandbox of their handler.
    pub hit_rate: f64,
    /// The share that a Zygote was forked for.
    pub fork_rate: f64,
    /// From arrival to the beginning of the handler: waiting and starting, in ms; the mean.
    pub start_mean_ms: f64,
    /// The same, the median.
    pub start_p50_ms: f64,
    /// The same, of 100 calls the second longest.
    pub start_p99_ms: f64,
    /// Calls of the agent that served most, over the mean.
    pub balance: f64,
    /// Keys that moved, or got one more server.
    pub moves: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    warm: u64,
    forked: u64,
    imported: u64,
    waits: Vec<f64>,
    pub moves: u64,
    since: f64,
    pub done: u64,
}

impl Tally {
    /// Counts from this moment on, in ms.
    pub fn from(since: f64) -> Self {
        Self { since, ..Self::default() }
    }

    /// Counts a start and what it took from the arrival on, in ms.
    pub fn started(&mut self, start: Start, wait: f64) {
        self.waits.push(wait);
        match start {
            Start::Warm => self.warm += 1,
            Start::Fork => self.forked += 1,
            Start::Import => self.imported += 1,
        }
    }

    pub fn outcome(mut self, agents: &[Agent], now: f64) -> Outcome {
        self.waits.sort_unstable_by(f64::total_cmp);
        let count = self.waits.len();
        let quantile = |q: f64| self.waits.get((count.saturating_sub(1) as f64 * q) as usize).copied();
        let of_all = |part: u64| part as f64 / (count.max(1)) as f64;
        let most = agents.iter().map(|agent| agent.served).max().unwrap_or(0);
        let mean = agents.iter().map(|agent| agent.served).sum::<u64>() as f64 / agents.len().max(1) as f64;
        Outcome {
            throughput: self.done as f64 / (now - self.since).max(f64::MIN_POSITIVE) * 1000.0,
            hit_rate: of_all(self.warm),
            fork_rate: of_all(self.forked),
            start_mean_ms: self.waits.iter().sum::<f64>() / count.max(1) as f64,
            start_p50_ms: quantile(0.5).unwrap_or(0.0),
            start_p99_ms: quantile(0.99).unwrap_or(0.0),
            balance: most as f64 / mean.max(1.0),
            moves: self.moves,
        }
    }
}
