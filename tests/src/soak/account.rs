//! What is counted, and whether all is well.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::callers::{Outcome, Verdict};
use super::faults::{Fault, FaultKind};

/// Examples that are kept of what must not be.
const EXAMPLES: usize = 20;

/// The sum of a soak.
#[derive(Debug, Default)]
pub struct Account {
    /// Calls that came to an end.
    pub calls: u64,
    /// By what came of them: `ok`, a reason, or `lost`.
    pub outcomes: BTreeMap<String, u64>,
    /// By how the instance was got.
    pub starts: BTreeMap<String, u64>,
    /// Answers that are not those of their calls.
    pub wrong: Examples,
    /// Errors that are not ours or lack something.
    pub dishonest: Examples,
    /// Errors that no fault explains.
    pub unexplained: Examples,
    /// What was left behind.
    pub leaks: Vec<String>,
    /// What was done to it.
    pub faults: BTreeMap<&'static str, u64>,
    /// Calls that a fault cost, by what it had to be.
    costs: BTreeMap<&'static str, u64>,
    /// How long it took.
    pub time: Duration,
    /// The longest call.
    pub longest: Duration,
    memory: Value,
}

/// How many, and the first of them.
#[derive(Debug, Default)]
pub struct Examples {
    /// All.
    pub count: u64,
    /// The first.
    pub first: Vec<String>,
}

impl Examples {
    fn add(&mut self, one: String) {
        self.count += 1;
        if self.first.len() < EXAMPLES {
            self.first.push(one);
        }
    }

    fn json(&self) -> Value {
        json!({"count": self.count, "first": self.first})
    }
}

impl Account {
    /// Counts a call.
    pub fn add(&mut self, outcome: Outcome, faults: &[Fault]) {
        let Outcome { kind, began, ended, verdict, start } = outcome;
        self.calls += 1;
        self.longest = self.longest.max(ended.saturating_sub(began));
        if let Some(start) = start {
            *self.starts.entry(start).or_default() += 1;
        }
        let explained = |reason: &str| faults.iter().any(|fault| fault.explains(reason, began, ended));
        let (name, unexplained) = match verdict {
            Verdict::Right(name) => (name, None),
            Verdict::Wrong(what) => {
                self.wrong.add(what);
                ("wrong".to_owned(), None)
            }
            Verdict::Dishonest(what) => {
                self.dishonest.add(what);
                ("dishonest".to_owned(), None)
            }
            Verdict::Error(reason, message) => {
                let known = explained(&reason);
                let what = format!("{kind:?} at {began:.1?}–{ended:.1?}: {reason}: {message}");
                (format!("{reason} (fault)"), (!known).then_some(what))
            }
            Verdict::Lost(error) => {
                let known = explained("lost");
                (
                    "lost (fault)".to_owned(),
                    (!known).then(|| format!("{kind:?} at {began:.1?}–{ended:.1?}: {error}")),
                )
            }
        };
        if let Some(what) = unexplained {
            self.unexplained.add(what);
        }
        let cost = match name.as_str() {
            "function_crashed (fault)" => Some("crashed"),
            "lost (fault)" | "agent_unreachable (fault)" => Some("cut off"),
            _ => None,
        };
        if let Some(cost) = cost {
            *self.costs.entry(cost).or_default() += 1;
        }
        *self.outcomes.entry(name).or_default() += 1;
    }

    /// All calls have ended: a fault may have cost the calls that it met, and no more.
    pub fn finish(&mut self, faults: &[Fault], time: Duration, clients: usize, memory: Value) {
        (self.time, self.memory) = (time, memory);
        for fault in faults {
            *self.faults.entry(fault.kind.name()).or_default() += 1;
        }
        let count =
            |kinds: &[FaultKind]| faults.iter().filter(|fault| kinds.contains(&fault.kind)).count() as u64;
        let kills = count(&[FaultKind::Sandbox]);
        // A dying lard still listens for a moment: a client may lose the call after, too.
        let ends = (count(&[FaultKind::Worker]) + 2 * count(&[FaultKind::Lard])) * clients as u64;
        for (cost, most) in [("crashed", kills + ends), ("cut off", ends)] {
            let found = self.costs.get(cost).copied().unwrap_or(0);
            if found > most {
                self.unexplained
                    .add(format!("{found} calls were {cost}, where the faults explain {most} at most"));
            }
        }
    }

    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        let bad = self.wrong.count + self.dishonest.count + self.unexplained.count;
        bad == 0 && self.leaks.is_empty() && self.outcomes.get("ok").is_some_and(|count| *count > 0)
    }

    /// How it goes, in a line.
    pub fn line(&self, time: Duration, faults: usize) -> String {
        let seconds = time.as_secs_f64();
        let count = |examples: &Examples| examples.count;
        format!(
            "{seconds:6.0} s  {:>8} calls  {:6.0}/s  {faults:>5} faults  wrong {}  dishonest {}  unexplained {}",
            self.calls,
            self.calls as f64 / seconds,
            count(&self.wrong),
            count(&self.dishonest),
            count(&self.unexplained),
        )
    }

    /// Everything.
    pub fn json(&self) -> Value {
        json!({
            "good": self.is_good(),
            "seconds": self.time.as_secs_f64(),
            "calls": self.calls,
            "outcomes": self.outcomes,
            "starts": self.starts,
            "faults": self.faults,
            "longest_ms": self.longest.as_millis() as u64,
            "wrong": self.wrong.json(),
            "dishonest": self.dishonest.json(),
            "unexplained": self.unexplained.json(),
            "leaks": self.leaks,
            "memory": self.memory,
        })
    }
}
