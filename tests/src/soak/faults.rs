//! What is done to the cluster, and which errors it explains.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Chance, Shared, WORKERS};
use crate::books::processes;
use crate::until;

/// Between two looks whether the next fault is due.
const LOOK: Duration = Duration::from_millis(5);
/// The longest that a process stands still, in milliseconds.
const FROZEN: u64 = 300;
/// What a fault has set off may show so much later.
const AFTER: Duration = Duration::from_secs(2);
/// After a lard or a worker has come back, lard may take it for dead so long.
const AFTER_RESTART: Duration = Duration::from_secs(10);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// SIGKILL of a process in a sandbox.
    Sandbox,
    /// SIGKILL of a Zygote.
    Zygote,
    /// A process in a sandbox, or a Zygote, stands still for a while.
    Freeze,
    /// SIGKILL of a worker, which is started again.
    Worker,
    /// SIGTERM of a worker, which is started again.
    Drain,
    /// SIGKILL of lard, which is started again.
    Lard,
}

/// How often each is, out of a hundred.
const MIX: [(u64, FaultKind); 6] = [
    (60, FaultKind::Sandbox),
    (12, FaultKind::Zygote),
    (22, FaultKind::Freeze),
    (2, FaultKind::Worker),
    (2, FaultKind::Drain),
    (2, FaultKind::Lard),
];

/// One that was done. Times are since the begin of the soak.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    began: Duration,
    /// None: it goes on.
    ended: Option<Duration>,
}

impl FaultKind {
    /// For the account.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox killed",
            Self::Zygote => "Zygote killed",
            Self::Freeze => "process frozen",
            Self::Worker => "worker killed",
            Self::Drain => "worker ended and started",
            Self::Lard => "lard killed",
        }
    }

    fn causes(self, reason: &str) -> bool {
        match self {
            Self::Sandbox => reason == "function_crashed",
            Self::Zygote => reason == "no_capacity",
            Self::Freeze => false,
            Self::Worker => matches!(reason, "agent_unreachable" | "no_capacity" | "lost"),
            Self::Drain => matches!(reason, "no_capacity" | "draining"),
            Self::Lard => reason == "lost",
        }
    }

    fn lasts(self) -> Duration {
        if matches!(self, Self::Worker | Self::Drain | Self::Lard) { AFTER_RESTART } else { AFTER }
    }
}

impl Fault {
    /// Whether it explains that a call had this reason between these times.
    pub fn explains(&self, reason: &str, began: Duration, ended: Duration) -> bool {
        let over = self.ended.map(|end| end + self.kind.lasts());
        self.kind.causes(reason) && self.began <= ended && over.is_none_or(|over| over >= began)
    }
}

/// Does them.
pub struct Injector {
    shared: Arc<Shared>,
    chance: Chance,
    rate: f64,
}

impl Injector {
    /// So many a call.
    pub fn new(shared: Arc<Shared>, chance: Chance, rate: f64) -> Self {
        Self { shared, chance, rate }
    }

    /// Until the soak is over.
    pub fn inject(mut self) -> Result<()> {
        let mut done = 0_u64;
        while !self.shared.is_over() {
            let due = self.shared.calls.load(Ordering::Relaxed) as f64 * self.rate;
            if (done as f64) < due {
                done += 1;
                self.one()?;
            } else {
                // Between two looks.
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    fn one(&mut self) -> Result<()> {
        let Some(kind) = self.chance.weighed(&MIX).copied() else { return Ok(()) };
        let worker = self.chance.below(u64::from(WORKERS)) as u16;
        let place = {
            let mut faults = self.shared.faults();
            faults.push(Fault { kind, began: self.shared.began.elapsed(), ended: None });
            faults.len() - 1
        };
        match kind {
            FaultKind::Sandbox => self.kill_one(worker, "s-"),
            FaultKind::Zygote => self.kill_one(worker, "z-"),
            FaultKind::Freeze => self.freeze_one(worker),
            FaultKind::Worker => self.restart(worker, Signal::SIGKILL)?,
            FaultKind::Drain => self.restart(worker, Signal::SIGTERM)?,
            FaultKind::Lard => self.restart_lard()?,
        }
        if let Some(fault) = self.shared.faults().get_mut(place) {
            fault.ended = Some(self.shared.began.elapsed());
        }
        Ok(())
    }

    fn victim(&mut self, worker: u16, prefix: &str) -> Option<Pid> {
        // A group may be gone before it is read: then there is no victim this time.
        let all = processes(&self.shared.cluster, worker, prefix).unwrap_or_default();
        self.chance.pick(&all).copied().map(Pid::from_raw)
    }

    fn kill_one(&mut self, worker: u16, prefix: &str) {
        if let Some(pid) = self.victim(worker, prefix) {
            // It may have ended by itself.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    fn freeze_one(&mut self, worker: u16) {
        let prefix = if self.chance.below(3) == 0 { "z-" } else { "s-" };
        let Some(pid) = self.victim(worker, prefix) else { return };
        if kill(pid, Signal::SIGSTOP).is_ok() {
            // This is the fault.
            std::thread::sleep(Duration::from_millis(self.chance.below(FROZEN)));
            let _ = kill(pid, Signal::SIGCONT);
        }
    }

    fn restart(&self, worker: u16, signal: Signal) -> Result<()> {
        let cluster = &self.shared.cluster;
        let pid = cluster.worker_pid(worker)?;
        cluster.signal_worker(worker, signal)?;
        cluster.wait_for_worker_end(pid)?;
        cluster.restart_worker(worker)
    }

    fn restart_lard(&self) -> Result<()> {
        let cluster = &self.shared.cluster;
        let pid = cluster.balancer_pid()?;
        kill(pid, Signal::SIGKILL)?;
        cluster.wait_for_worker_end(pid)?;
        // Its port may be held a moment longer by a connection that is being taken apart.
        until("lard again", || Ok(cluster.start_balancer().ok()))
    }
}
