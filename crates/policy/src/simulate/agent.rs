//! One simulated agent: slots, a queue, idle sandboxes and Zygotes. It knows no clock: whoever drives it, events or real
//! time, says when a job is over.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Scenario;
use crate::balance::{Costs, Report, Zygote};

/// How much a new value counts in a mean.
const NEW: f64 = 0.05;

/// How a call started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// In an idle sandbox.
    Warm,
    /// From a Zygote that has the packages.
    Fork,
    /// With their import.
    Import,
}

impl Start {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Warm, Self::Fork, Self::Import];

    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Fork => "fork",
            Self::Import => "import",
        }
    }
}

/// A call that waits or runs.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// The number of its handler.
    pub function: u32,
    /// The digest of its package set.
    pub packages: u64,
    /// When it arrived, in ms.
    pub arrived: f64,
    /// How long it runs, in ms.
    pub exec: f64,
    /// Who sent it: the agent does not care.
    pub tag: usize,
}

/// A job that got a slot.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// The job.
    pub job: Job,
    /// How it starts.
    pub start: Start,
    /// What the start takes, in ms.
    pub cost: f64,
}

/// The agent.
#[derive(Debug)]
pub struct Agent {
    slots: u32,
    room: usize,
    zygote_room: usize,
    fork: f64,
    import: f64,
    busy: u32,
    queue: VecDeque<Job>,
    /// Idle sandboxes by handler, each with its turn in the order of use.
    idle: HashMap<u32, Vec<u64>>,
    order: BTreeMap<u64, u32>,
    /// Calls in progress of each handler that ever had one.
    running: HashMap<u32, u32>,
    sandboxes: usize,
    /// Package sets with a Zygote, each with the turn of its last use.
    zygotes: BTreeMap<u64, u64>,
    /// The same for reports: made anew when one comes or goes.
    digests: Arc<[u64]>,
    turn: u64,
    /// Means of what was measured, in ms.
    call: f64,
    /// Of the calls of handlers that ran before, the share that found a sandbox: a mean.
    kept: f64,
    /// Calls that are over.
    pub served: u64,
}

impl Agent {
    /// One of a scenario.
    pub fn new(scenario: &Scenario) -> Self {
        Self {
            slots: scenario.slots,
            room: scenario.sandboxes,
            zygote_room: scenario.zygotes,
            fork: scenario.fork_ms,
            import: scenario.cold_ms,
            busy: 0,
            queue: VecDeque::new(),
            idle: HashMap::new(),
            order: BTreeMap::new(),
            running: HashMap::new(),
            sandboxes: 0,
            zygotes: BTreeMap::new(),
            digests: Arc::new([]),
            turn: 0,
            call: scenario.exec_ms,
            kept: 1.0,
            served: 0,
        }
    }

    /// Calls that run or wait.
    pub fn calls(&self) -> usize {
        self.busy as usize + self.queue.len()
    }

    /// A call comes.
    pub fn enqueue(&mut self, job: Job) {
        self.queue.push_back(job);
    }

    /// Gives a slot to the call that waits longest, if there are both.
    pub fn begin_next(&mut self) -> Option<Started> {
        if self.busy == self.slots {
            return None;
        }
        let job = self.queue.pop_front()?;
        self.busy += 1;
        let others = self.running.get(&job.function).copied();
        *self.running.entry(job.function).or_default() += 1;
        let start = self.start(&job);
        let cost = match start {
            Start::Warm => 0.0,
            Start::Fork => self.fork,
            Start::Import => self.import,
        };
        // Beside another call a handler needs one more, whatever was kept.
        if others.is_some() && start == Start::Warm || others == Some(0) {
            self.kept += NEW * (f64::from(u8::from(start == Start::Warm)) - self.kept);
        }
        self.call += NEW * (cost + job.exec - self.call);
        Some(Started { job, start, cost })
    }

    /// A call is over: its sandbox is idle.
    pub fn finish(&mut self, job: &Job) {
        self.busy -= 1;
        if let Some(running) = self.running.get_mut(&job.function) {
            *running -= 1;
        }
        self.served += 1;
        self.turn += 1;
        self.idle.entry(job.function).or_default().push(self.turn);
        self.order.insert(self.turn, job.function);
    }

    /// What it says with a reply.
    pub fn report(&self) -> Report {
        let time = |ms: f64| Duration::from_secs_f64(ms / 1000.0);
        Report {
            cpu: f64::from(self.busy) / f64::from(self.slots),
            memory: self.sandboxes as f64 / self.room as f64,
            inflight: self.calls() as u32,
            costs: Some(Costs {
                slots: self.slots,
                call: Some(time(self.call)),
                fork: Some(time(self.fork)),
                import: Some(time(self.import)),
                kept: Some(self.kept),
            }),
            zygotes: Some(
                self.digests.iter().map(|set| Zygote { set: *set, import: time(self.import) }).collect(),
            ),
        }
    }

    fn start(&mut self, job: &Job) -> Start {
        self.turn += 1;
        if let Some(turn) = self.idle.get_mut(&job.function).and_then(Vec::pop) {
            self.order.remove(&turn);
            return Start::Warm;
        }
        if self.sandboxes >= self.room {
            self.evict();
        }
        self.sandboxes += 1;
        if self.zygotes.insert(job.packages, self.turn).is_some() {
            return Start::Fork;
        }
        if self.zygotes.len() > self.zygote_room {
            let oldest = self.zygotes.iter().min_by_key(|(_, turn)| **turn).map(|(set, _)| *set);
            oldest.map(|set| self.zygotes.remove(&set));
        }
        self.digests = self.zygotes.keys().copied().collect();
        Start::Import
    }

    /// Gives up the sandbox that is idle longest. If all are busy there is one too many for a while.
    fn evict(&mut self) {
        let Some((turn, function)) = self.order.pop_first() else { return };
        if let Some(turns) = self.idle.get_mut(&function) {
            turns.retain(|other| *other != turn);
        }
        self.sandboxes -= 1;
    }
}
