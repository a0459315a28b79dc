//! Admission, with its waiting: `policy::admission` decides, this lets calls wait for the decision.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_policy::admission::{Admission, Decision, Limits, Rejection, Ticket, Verdict};
use openlambda_telemetry::Drain;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A handler, for the policies.
pub type Key = u64;

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

/// Lets calls run, or wait, or turns them away.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    epoch: Instant,
    timeout: Duration,
    drain: Drain,
}

#[derive(Debug)]
struct State {
    admission: Admission<Key>,
    waiting: HashMap<Ticket, oneshot::Sender<Decision>>,
}

/// Leave to run. Dropping it lets the next one run.
#[derive(Debug)]
#[must_use = "the slot is free again when this is dropped"]
pub struct Slot {
    gate: Arc<Gate>,
    key: Key,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gate.finish(self.key);
    }
}

impl Gate {
    /// A gate with these bounds; who waits is told when `drain` begins.
    pub fn new(limits: Limits, drain: Drain) -> Arc<Self> {
        let state = State { admission: Admission::new(limits), waiting: HashMap::new() };
        Arc::new(Self { state: Mutex::new(state), epoch: Instant::now(), timeout: limits.timeout, drain })
    }

    /// Asks to run; waits if it must, not beyond `deadline` if the call has one.
    pub async fn enter(self: &Arc<Self>, key: Key, deadline: Option<Instant>) -> Result<Slot, Refusal> {
        let (ticket, receiver) = {
            let now = self.epoch.elapsed();
            let mut state = self.state.lock();
            let own = deadline.map(|deadline| deadline.saturating_duration_since(self.epoch));
            match state.admission.request(&key, now, own) {
                Verdict::Run => return Ok(self.slot(key)),
                Verdict::Reject { reason: Rejection::TooLate, .. } => {
                    return Err(Refusal::Expired(Duration::ZERO));
                }
                Verdict::Reject { reason, retry_after } => return Err(Refusal::Full(reason, retry_after)),
                Verdict::Wait(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    (ticket, receiver)
                }
            }
        };
        Waiting { gate: self, key, ticket, receiver: Some(receiver) }.wait(deadline).await
    }

    /// Calls of a handler that run and wait.
    pub fn of_key(&self, key: Key) -> (usize, usize) {
        self.state.lock().admission.of_key(&key)
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.state.lock().admission.waiting()
    }

    fn slot(self: &Arc<Self>, key: Key) -> Slot {
        Slot { gate: Arc::clone(self), key }
    }

    fn finish(&self, key: Key) {
        let now = self.epoch.elapsed();
        let mut state = self.state.lock();
        let decisions = state.admission.finish(&key, now);
        state.tell(decisions);
    }

    /// Time has passed: decides for those who waited too long.
    fn expire(&self) {
        let now = self.epoch.elapsed();
        let mut state = self.state.lock();
        let decisions = state.admission.expire(now);
        state.tell(decisions);
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
    key: Key,
    ticket: Ticket,
    receiver: Option<oneshot::Receiver<Decision>>,
}

impl Waiting<'_> {
    async fn wait(mut self, deadline: Option<Instant>) -> Result<Slot, Refusal> {
        let since = Instant::now();
        let until = since + self.gate.timeout;
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        let drain = self.gate.drain.clone();
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
            Ok(Decision::Run(_)) => Ok(self.gate.slot(self.key)),
            Ok(Decision::Expired(_)) | Err(_) => Err(Refusal::Expired(since.elapsed())),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
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
            self.gate.finish(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(timeout: Duration) -> (Arc<Gate>, Drain) {
        let drain = Drain::new();
        let limits = Limits { key_running: 1, key_waiting: 1, running: 10, waiting: 10, timeout };
        (Gate::new(limits, drain.clone()), drain)
    }

    #[tokio::test(start_paused = true)]
    async fn one_runs_one_waits_one_is_turned_away() {
        let (gate, _) = gate(Duration::from_secs(10));
        let first = gate.enter(1, None).await.unwrap();
        let second = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(1, None).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(matches!(gate.enter(1, None).await, Err(Refusal::Full(Rejection::KeyQueueFull, _))));
        assert!(gate.enter(2, None).await.is_ok());
        assert_eq!(gate.of_key(1), (1, 1));
        drop(first);
        assert_eq!(second.await.unwrap(), Ok(()));
        assert_eq!(gate.of_key(1), (0, 0));
    }

    #[tokio::test]
    async fn waiting_ends_at_the_deadline_at_drain_and_when_the_call_is_dropped() {
        let (gate, drain) = gate(Duration::from_secs(10));
        let slot = gate.enter(1, None).await.unwrap();
        let soon = Some(Instant::now() + Duration::from_millis(5));
        assert!(matches!(gate.enter(1, soon).await, Err(Refusal::Expired(_))));
        assert_eq!(gate.of_key(1), (1, 0));
        let dropped = tokio::time::timeout(Duration::from_millis(5), gate.enter(1, None)).await;
        assert!(dropped.is_err());
        assert_eq!(gate.of_key(1), (1, 0));
        drain.begin();
        assert!(matches!(gate.enter(1, None).await, Err(Refusal::Draining)));
        assert_eq!(gate.waiting(), 0);
        drop(slot);
        assert_eq!(gate.of_key(1), (0, 0));
    }
}
