//! What calls cost at this worker, as lard wants to know it: summed up as calls end, made into means a few times a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openlambda_api::load::Costs;
use openlambda_policy::capacity::Capacity;

use crate::metrics::StartKind;

/// How much the newest interval counts in a mean.
const NEWEST: f64 = 0.2;

/// The sums since the worker's start.
#[derive(Debug, Default)]
pub struct Spent {
    calls: Sum,
    forks: Sum,
    imports: Sum,
    kept: Sum,
}

#[derive(Debug, Default)]
struct Sum {
    micros: AtomicU64,
    count: AtomicU64,
}

impl Sum {
    fn add(&self, seconds: f64) {
        self.micros.fetch_add((seconds * 1e6) as u64, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (self.micros.load(Ordering::Relaxed), self.count.load(Ordering::Relaxed))
    }
}

impl Spent {
    /// A call is over: how it began, and the seconds of its phases (waiting, sandbox, load, handler).
    pub fn add(&self, kind: StartKind, [_, sandbox, load, handler]: [f64; 4]) {
        self.calls.add(sandbox + load + handler);
        match kind {
            StartKind::Warm | StartKind::Unpaused => {}
            StartKind::Zygote | StartKind::Spare => self.forks.add(sandbox + load),
            StartKind::Cold => self.imports.add(sandbox + load),
        }
    }

    /// A call of a handler that ran before found an instance of it, or none.
    pub fn kept(&self, kept: bool) {
        self.kept.add(f64::from(u8::from(kept)));
    }
}

/// Makes means of the sums.
#[derive(Debug)]
pub struct Meter {
    capacity: Capacity,
    calls: Mean,
    forks: Mean,
    imports: Mean,
    kept: Mean,
}

#[derive(Debug, Default)]
struct Mean {
    last: (u64, u64),
    millis: Option<f64>,
}

impl Mean {
    /// Takes in what was added since the last time; gives the seconds of it.
    fn update(&mut self, sum: &Sum) -> f64 {
        let now = sum.get();
        let (micros, count) = (now.0.saturating_sub(self.last.0), now.1.saturating_sub(self.last.1));
        self.last = now;
        if count > 0 {
            let newest = micros as f64 / 1000.0 / count as f64;
            self.millis = Some(self.millis.map_or(newest, |mean| mean + NEWEST * (newest - mean)));
        }
        micros as f64 / 1e6
    }
}

impl Meter {
    /// Of a machine with so many CPUs.
    pub fn new(cpus: u32) -> Self {
        Self {
            capacity: Capacity::new(cpus),
            calls: Mean::default(),
            forks: Mean::default(),
            imports: Mean::default(),
            kept: Mean::default(),
        }
    }

    /// An interval is over, in which this share of the CPUs was in use, 0 to 1.
    pub fn read(&mut self, spent: &Spent, used: f64, interval: Duration) -> Costs {
        let busy = self.calls.update(&spent.calls);
        self.forks.update(&spent.forks);
        self.imports.update(&spent.imports);
        self.kept.update(&spent.kept);
        // Calls that ended, by how long they took: in the mean as many as were in progress.
        self.capacity.observe(used, busy / interval.as_secs_f64().max(f64::MIN_POSITIVE));
        Costs {
            slots: Some(self.capacity.slots()),
            call_ms: self.calls.millis,
            fork_ms: self.forks.millis,
            import_ms: self.imports.millis,
            kept: self.kept.millis.map(|share| share / 1000.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_of_what_was_done_lately() {
        let (spent, mut meter) = (Spent::default(), Meter::new(2));
        let mut read = |spent: &Spent| meter.read(spent, 0.5, Duration::from_secs(1));
        assert_eq!(read(&spent), Costs { slots: Some(2), ..Costs::default() }, "nothing is known yet");
        // Waiting is not the call's.
        spent.add(StartKind::Warm, [9.0, 0.0, 0.0, 0.010]);
        spent.add(StartKind::Zygote, [9.0, 0.002, 0.001, 0.010]);
        spent.add(StartKind::Spare, [9.0, 0.001, 0.0, 0.010]);
        spent.add(StartKind::Cold, [9.0, 0.100, 0.050, 0.017]);
        let costs = read(&spent);
        let close =
            |got: Option<f64>, want: f64| assert!((got.unwrap() - want).abs() < 0.01, "{got:?} {want}");
        close(costs.call_ms, (10.0 + 13.0 + 11.0 + 167.0) / 4.0);
        close(costs.fork_ms, 2.0);
        close(costs.import_ms, 150.0);
        assert_eq!(read(&spent).call_ms, costs.call_ms, "an interval without calls changes nothing");
        spent.add(StartKind::Warm, [0.0, 0.0, 0.0, 0.0]);
        close(read(&spent).call_ms, 0.8 * costs.call_ms.unwrap());
        [true, true, false, true].into_iter().for_each(|kept| spent.kept(kept));
        close(read(&spent).kept, 0.75);
    }

    #[test]
    fn calls_that_wait_for_something_else_make_slots() {
        let (spent, mut meter) = (Spent::default(), Meter::new(2));
        let mut slots = 0;
        for _ in 0..200 {
            // Ten calls of a second in each second, and one CPU of two is busy.
            (0..10).for_each(|_| spent.add(StartKind::Warm, [0.0, 0.0, 0.0, 1.0]));
            slots = meter.read(&spent, 0.5, Duration::from_secs(1)).slots.unwrap();
        }
        assert_eq!(slots, 20);
    }
}
