//! Admission, with its waiting: `policy::admission` decides, this lets calls wait for the decision. Each handler has a
//! gate of its own, for each may have its own number of instances; that many may wait in all is the gates' in common.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use openlambda_policy::admission::{Admission, Decision, Limits, Rejection, Ticket, Verdict};
use openlambda_telemetry::Drain;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Why a call does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full; when to come back.
    Full(Rejection, Duration),
    /// It waited as long as a call may.
    Expired(Duration),
    /// The worker is shutting down.
    Draining,
}

/// When a call comes back that found all queues full.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Makes gates.
#[derive(Debug)]
pub struct Gates {
    common: Arc<Common>,
    queue: usize,
}

/// What all gates share.
#[derive(Debug)]
struct Common {
    waiting: AtomicUsize,
    most_waiting: usize,
    timeout: Duration,
    drain: Drain,
    epoch: Instant,
}

/// Lets the calls of one handler run, or wait, or turns them away.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    running: usize,
    common: Arc<Common>,
}

#[derive(Debug)]
struct State {
    admission: Admission<()>,
    waiting: HashMap<Ticket, oneshot::Sender<Decision>>,
}

impl Gates {
    /// Gates at which up to `queue` calls of a handler wait, and `most_waiting` in all, each up to `timeout`; who
    /// waits is told when `drain` begins.
    pub fn new(queue: usize, most_waiting: usize, timeout: Duration, drain: Drain) -> Self {
        let waiting = AtomicUsize::new(0);
        let common = Common { waiting, most_waiting, timeout, drain, epoch: Instant::now() };
        Self { common: Arc::new(common), queue }
    }

    /// A gate that lets so many run at a time.
    pub fn make(&self, running: usize) -> Arc<Gate> {
        let limits = Limits {
            key_running: running,
            key_waiting: self.queue,
            running: usize::MAX,
            waiting: usize::MAX,
            timeout: self.common.timeout,
        };
        let state = State { admission: Admission::new(limits), waiting: HashMap::new() };
        Arc::new(Gate { state: Mutex::new(state), running, common: Arc::clone(&self.common) })
    }

    /// Calls that wait at all of them.
    pub fn waiting(&self) -> usize {
        self.common.waiting.load(Ordering::Relaxed)
    }
}

/// Leave to run. Dropping it lets the next one run.
#[derive(Debug)]
#[must_use = "the slot is free again when this is dropped"]
pub struct Slot {
    gate: Arc<Gate>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gate.finish();
    }
}

impl Gate {
    /// Asks to run; waits if it must, not beyond `deadline` if the call has one.
    pub async fn enter(self: &Arc<Self>, deadline: Option<Instant>) -> Result<Slot, Refusal> {
        let (ticket, receiver) = {
            let now = self.now();
            let mut state = self.state.lock();
            let own = deadline.map(|deadline| deadline.saturating_duration_since(self.common.epoch));
            match state.admission.request(&(), now, own) {
                Verdict::Run => return Ok(self.slot()),
                Verdict::Reject { reason: Rejection::TooLate, .. } => {
                    return Err(Refusal::Expired(Duration::ZERO));
                }
                Verdict::Reject { reason, retry_after } => return Err(Refusal::Full(reason, retry_after)),
                Verdict::Wait(ticket) if !self.common.let_wait() => {
                    state.admission.cancel(ticket);
                    return Err(Refusal::Full(Rejection::QueueFull, RETRY_AFTER));
                }
                Verdict::Wait(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    (ticket, receiver)
                }
            }
        };
        Waiting { gate: self, ticket, receiver: Some(receiver) }.wait(deadline).await
    }

    /// How many it lets run at a time.
    pub fn width(&self) -> usize {
        self.running
    }

    /// Calls that run and wait.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.admission.running(), state.admission.waiting())
    }

    fn now(&self) -> Duration {
        self.common.epoch.elapsed()
    }

    fn slot(self: &Arc<Self>) -> Slot {
        Slot { gate: Arc::clone(self) }
    }

    fn finish(&self) {
        let now = self.now();
        let mut state = self.state.lock();
        let decisions = state.admission.finish(&(), now);
        state.tell(decisions);
    }

    /// Time has passed: decides for those who waited too long.
    fn expire(&self) {
        let now = self.now();
        let mut state = self.state.lock();
        let decisions = state.admission.expire(now);
        state.tell(decisions);
    }
}

impl Common {
    /// Counts one more that waits, if it may.
    fn let_wait(&self) -> bool {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        if before >= self.most_waiting {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        before < self.most_waiting
    }
}

impl State {
    fn tell(&mut self, decisions: Vec<Decision>) {
        for decision in decisions {
            let (Decision::Run(ticket) | Decision::Expired(ticket)) = decision;
            if let Some(sender) = self.waiting.remove(&ticket) {
                // Nobody listens only if the call is being dropped; `Waiting` looks into the channel then.
                let _ = sender.send(decision);
            }
        }
    }
}

/// A call that waits. If it is dropped meanwhile (the client left), its place is given up.
struct Waiting<'a> {
    gate: &'a Arc<Gate>,
    ticket: Ticket,
    receiver: Option<oneshot::Receiver<Decision>>,
}

impl Waiting<'_> {
    async fn wait(mut self, deadline: Option<Instant>) -> Result<Slot, Refusal> {
        let since = Instant::now();
        let until = since + self.gate.common.timeout;
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        let drain = self.gate.common.drain.clone();
        let Some(receiver) = &mut self.receiver else { return Err(Refusal::Draining) };
        let decision = tokio::select! {
            decision = &mut *receiver => decision,
            () = drain.begun() => return Err(Refusal::Draining),
            () = tokio::time::sleep_until(until.into()) => {
                self.gate.expire();
                receiver.await
            }
        };
        self.receiver = None;
        match decision {
            Ok(Decision::Run(_)) => Ok(self.gate.slot()),
            Ok(Decision::Expired(_)) | Err(_) => Err(Refusal::Expired(since.elapsed())),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.common.waiting.fetch_sub(1, Ordering::Relaxed);
        let Some(mut receiver) = self.receiver.take() else { return };
        {
            let mut state = self.gate.state.lock();
            state.waiting.remove(&self.ticket);
            if state.admission.cancel(self.ticket) {
                return;
            }
        }
        // Decided in the meantime: a slot that nobody will use.
        if let Ok(Decision::Run(_)) = receiver.try_recv() {
            self.gate.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates() -> (Gates, Drain) {
        let drain = Drain::new();
        (Gates::new(1, 1, Duration::from_secs(10), drain.clone()), drain)
    }

    #[tokio::test(start_paused = true)]
    async fn one_runs_one_waits_one_is_turned_away() {
        let (gates, _) = gates();
        let (gate, other) = (gates.make(1), gates.make(1));
        let first = gate.enter(None).await.unwrap();
        let second = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(None).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(matches!(gate.enter(None).await, Err(Refusal::Full(Rejection::KeyQueueFull, _))));
        let slot = other.enter(None).await.unwrap();
        assert!(matches!(other.enter(None).await, Err(Refusal::Full(Rejection::QueueFull, _))));
        drop(slot);
        assert_eq!((gate.counts(), gates.waiting()), ((1, 1), 1));
        drop(first);
        assert_eq!(second.await.unwrap(), Ok(()));
        assert_eq!((gate.counts(), gates.waiting()), ((0, 0), 0));
    }

    #[tokio::test]
    async fn waiting_ends_at_the_deadline_at_drain_and_when_the_call_is_dropped() {
        let (gates, drain) = gates();
        let gate = gates.make(1);
        let slot = gate.enter(None).await.unwrap();
        let soon = Some(Instant::now() + Duration::from_millis(5));
        assert!(matches!(gate.enter(soon).await, Err(Refusal::Expired(_))));
        assert_eq!(gate.counts(), (1, 0));
        let dropped = tokio::time::timeout(Duration::from_millis(5), gate.enter(None)).await;
        assert!(dropped.is_err());
        assert_eq!(gate.counts(), (1, 0));
        drain.begin();
        assert!(matches!(gate.enter(None).await, Err(Refusal::Draining)));
        assert_eq!(gates.waiting(), 0);
        drop(slot);
        assert_eq!(gate.counts(), (0, 0));
    }
}
