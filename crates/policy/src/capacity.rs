//! How many calls a machine serves at once before one waits: as many as there are CPUs if calls compute all the time, more
//! if they wait for something else. What a call takes of the CPUs is learnt from those that were served while there was CPU
//! to spare: where there is none, calls that wait for it look as if they needed little.

/// Above this share of the CPUs in use nothing is learnt.
const SATURATED: f64 = 0.8;
/// With fewer calls in the mean nothing is learnt: what the machine does then it does for others.
const FEW: f64 = 0.02;
/// How much the newest interval counts.
const NEWEST: f64 = 0.1;
/// The most calls per CPU.
const MOST: f64 = 64.0;

/// What was learnt.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    cpus: f64,
    /// CPUs in use and calls in progress, in the mean.
    busy: f64,
    running: f64,
    slots: u32,
}

impl Capacity {
    /// Of a machine with so many CPUs.
    pub fn new(cpus: u32) -> Self {
        let cpus = cpus.max(1);
        Self { cpus: cpus.into(), busy: 0.0, running: 0.0, slots: cpus }
    }

    /// In an interval this share of all CPUs was in use (0 to 1), and so many calls were in progress in the mean.
    pub fn observe(&mut self, used: f64, running: f64) {
        if used > SATURATED || running < FEW {
            return;
        }
        self.busy += NEWEST * (used * self.cpus - self.busy);
        self.running += NEWEST * (running - self.running);
        // A call that takes more than a CPU is taken to take one: it gets less as well.
        let each = (self.busy / self.running).clamp(1.0 / MOST, 1.0);
        self.slots = (self.cpus / each).round() as u32;
    }

    /// Calls at once.
    pub fn slots(&self) -> u32 {
        self.slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples: impl IntoIterator<Item = (f64, f64)>) -> u32 {
        let mut capacity = Capacity::new(4);
        samples.into_iter().for_each(|(used, running)| capacity.observe(used, running));
        capacity.slots()
    }

    #[test]
    fn calls_that_compute_need_a_cpu_each_and_those_that_wait_less() {
        assert_eq!(after([]), 4);
        assert_eq!(after([(0.5, 2.0); 100]), 4, "two calls keep two CPUs busy");
        assert_eq!(after([(0.25, 10.0); 100]), 40, "ten calls keep one busy");
        assert_eq!(after([(0.0, 10.0); 100]), 256, "there is a limit");
        assert_eq!(after([(0.5, 0.5); 100]), 4, "others are busy, or a call takes several");
    }

    #[test]
    fn a_saturated_and_an_idle_machine_teach_nothing() {
        assert_eq!(after([(1.0, 100.0); 100]), 4, "a hundred calls that wait for four CPUs");
        let learnt = std::iter::repeat_n((0.25, 10.0), 100);
        assert_eq!(after(learnt.clone().chain(std::iter::repeat_n((1.0, 100.0), 100))), 40);
        assert_eq!(after(learnt.chain(std::iter::repeat_n((0.05, 0.0), 100))), 40);
    }
}
