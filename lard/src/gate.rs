//! Admission in the whole: at most `MaxConn` calls in flight, or `MaxConnPerServer` times the agents there are; the
//! others wait in a bounded queue, not for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_policy::admission::{Admission, Decision, Limits, Rejection, Ticket, Verdict};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::settings::Settings;

/// Why a call was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// The queue is full.
    #[error(
        "{running} calls run and {waiting} wait, which is all that lard's limits of connections and its queue allow"
    )]
    QueueFull {
        /// Calls that run.
        running: usize,
        /// Calls that wait.
        waiting: usize,
        /// When to come back.
        retry_after: Duration,
    },
    /// It waited too long.
    #[error(
        "waited {waited:?} for one of the {running} calls to end that lard's limits of connections allow"
    )]
    TooLong {
        /// How long it waited.
        waited: Duration,
        /// Calls that run.
        running: usize,
    },
}

struct State {
    admission: Admission<()>,
    waiting: HashMap<Ticket, oneshot::Sender<bool>>,
}

/// The gate; `None` inside if there is no limit.
pub struct Gate {
    state: Option<Mutex<State>>,
    /// The limit is so much times the agents.
    per_agent: Option<usize>,
    epoch: Instant,
    timeout: Duration,
}

impl Gate {
    /// A gate as the settings want it.
    pub fn new(settings: &Settings) -> Self {
        let per_agent = settings.max_conn_per_agent.filter(|_| settings.max_conn.is_none());
        let state = settings.max_conn.or(per_agent).map(|running| {
            let limits = Limits {
                key_running: usize::MAX,
                key_waiting: usize::MAX,
                running,
                waiting: settings.queue_length,
                timeout: settings.queue_timeout,
            };
            Mutex::new(State { admission: Admission::new(limits), waiting: HashMap::new() })
        });
        Self { state, per_agent, epoch: Instant::now(), timeout: settings.queue_timeout }
    }

    /// There are so many agents now. With none the limit is that of one: who is in can wait for it.
    pub fn agents(&self, count: usize) {
        let (Some(state), Some(per_agent)) = (&self.state, self.per_agent) else { return };
        let mut state = state.lock();
        let decisions =
            state.admission.set_running_limit(per_agent.saturating_mul(count.max(1)), self.epoch.elapsed());
        state.tell(decisions);
    }

    /// Calls that run and wait; zeros if they are not limited.
    pub fn counts(&self) -> (usize, usize) {
        self.state.as_ref().map_or((0, 0), |state| {
            let admission = &state.lock().admission;
            (admission.running(), admission.waiting())
        })
    }

    /// Waits for a place. If the caller stops waiting its place in the queue is free.
    pub async fn enter(self: &Arc<Self>) -> Result<Option<Permit>, NotAdmitted> {
        let Some(state) = &self.state else { return Ok(None) };
        let (ticket, decision) = {
            let mut state = state.lock();
            match state.admission.request(&(), self.epoch.elapsed(), None) {
                Verdict::Run => return Ok(Some(Permit(Arc::clone(self)))),
                Verdict::Wait(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    (ticket, receiver)
                }
                Verdict::Reject { reason: _, retry_after } => {
                    let (running, waiting) = (state.admission.running(), state.admission.waiting());
                    return Err(NotAdmitted::QueueFull { running, waiting, retry_after });
                }
            }
        };
        let mut place = Place { gate: Arc::clone(self), ticket, decision };
        match tokio::time::timeout(self.timeout, &mut place.decision).await {
            Ok(Ok(true)) => Ok(Some(Permit(Arc::clone(self)))),
            // Decided against at the last moment, or not decided: dropping the place settles it.
            _ => Err(NotAdmitted::TooLong { waited: self.timeout, running: self.counts().0 }),
        }
    }

    fn leave(&self) {
        let Some(state) = &self.state else { return };
        let mut state = state.lock();
        let decisions = state.admission.finish(&(), self.epoch.elapsed());
        state.tell(decisions);
    }
}

impl State {
    fn tell(&mut self, decisions: Vec<Decision>) {
        for decision in decisions {
            let (ticket, runs) = match decision {
                Decision::Run(ticket) => (ticket, true),
                Decision::Expired(ticket) => (ticket, false),
            };
            if let Some(sender) = self.waiting.remove(&ticket) {
                // The receiver cannot be gone: a place that is dropped is taken out of the queue, under this lock.
                let _ = sender.send(runs);
            }
        }
    }
}

/// The metric label of a rejection at the gate.
pub fn label(error: &NotAdmitted) -> &'static str {
    match error {
        NotAdmitted::QueueFull { .. } => Rejection::QueueFull.as_str(),
        NotAdmitted::TooLong { .. } => "queue_timeout",
    }
}

/// A place in the queue.
struct Place {
    gate: Arc<Gate>,
    ticket: Ticket,
    decision: oneshot::Receiver<bool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(state) = &self.gate.state {
            let mut state = state.lock();
            state.waiting.remove(&self.ticket);
            state.admission.cancel(self.ticket);
        }
        // Allowed to run, but nobody looked: hand it on.
        if self.decision.try_recv() == Ok(true) {
            self.gate.leave();
        }
    }
}

/// A call's right to run; dropped when it is over.
pub struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Permit")
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use openlambda_config::BalancerConfig;
    use serde_json::json;

    use super::*;

    fn gate(max_conn: Option<usize>, queue_length: usize, queue_timeout: Duration) -> Arc<Gate> {
        let config = BalancerConfig::from_value(&json!({}), "x".as_ref()).unwrap();
        Arc::new(Gate::new(&Settings { max_conn, queue_length, queue_timeout, ..Settings::from(&config) }))
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn without_a_limit_all_enter() {
        let gate = gate(None, 0, LONG);
        assert!(gate.enter().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_next_in_the_queue_runs_when_one_ends() {
        let gate = gate(Some(1), 1, LONG);
        let first = gate.enter().await.unwrap();
        let second = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        assert_eq!(gate.counts(), (1, 1));
        assert!(matches!(gate.enter().await, Err(NotAdmitted::QueueFull { running: 1, waiting: 1, .. })));
        drop(first);
        second.await.unwrap().unwrap();
        assert_eq!(gate.counts(), (0, 0));
    }

    #[tokio::test]
    async fn agents_that_come_make_room() {
        let config = BalancerConfig::from_value(&json!({"MaxConnPerServer": 1}), "x".as_ref()).unwrap();
        let gate = Arc::new(Gate::new(&Settings::from(&config)));
        let _first = gate.enter().await.unwrap().unwrap();
        let second = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await.map(drop) }
        });
        tokio::task::yield_now().await;
        gate.agents(0);
        assert_eq!(gate.counts(), (1, 1));
        gate.agents(2);
        second.await.unwrap().unwrap();
        assert_eq!(gate.counts(), (1, 0));
    }

    #[tokio::test]
    async fn who_waits_too_long_is_turned_away() {
        let gate = gate(Some(1), 1, Duration::from_millis(10));
        let _first = gate.enter().await.unwrap();
        assert!(matches!(gate.enter().await, Err(NotAdmitted::TooLong { .. })));
        assert_eq!(gate.counts(), (1, 0));
    }

    #[tokio::test]
    async fn a_place_given_to_one_who_left_is_handed_on() {
        let gate = gate(Some(1), 2, LONG);
        let first = gate.enter().await.unwrap();
        let mut gone = Box::pin(gate.enter());
        assert!(gone.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(first);
        assert_eq!(gate.counts(), (1, 0));
        drop(gone);
        assert_eq!(gate.counts(), (0, 0));
    }
}
